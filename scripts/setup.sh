#!/usr/bin/env bash
# Installs what oneip's build and its tests need on a Debian 12 that has Rust. Silent when nothing is missing.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/setup.sh [--dpdk] [--guest] [--browser] [--bench] [--package] [--help]

Installs the missing ones of the packages that the build and the tests need (see the table in
this file). Nothing missing: does nothing and says nothing. Needs root only when something is missing.
  --dpdk   also what a build with --features dpdk needs
  --guest  also what scripts/guest.sh needs (it fetches its kernels itself, and qemu too where the host's is too old)
  --browser  also the browser that tests look at the page with
  --bench  also what scripts/bench.sh measures beside oneip
  --package  also what scripts/package.sh needs, and the tests of the package
END
}

# package | what shows that it is there: a command, or a file
needed() {
    cat <<'END'
gcc             gcc
libc6-dev       /usr/include/stdio.h
pkg-config      pkg-config
clang           clang
protobuf-compiler protoc
libprotobuf-dev /usr/include/google/protobuf/descriptor.proto
iproute2        ip
ethtool         ethtool
iputils-ping    ping
tcpdump         tcpdump
tshark          tshark
procps          sysctl
nginx-light     nginx
curl            curl
prometheus      promtool
jq              jq
dropbear-bin    dropbear
openssh-client  ssh
openssl         openssl
ca-certificates /etc/ssl/certs/ca-certificates.crt
python3         python3
groff-base      groff
systemd         /lib/systemd/systemd-journald
nftables        nft
bird2           bird
frr             /usr/lib/frr/bgpd
keepalived      keepalived
etcd-server     etcd
etcd-client     etcdctl
libcap2-bin     setcap
util-linux      setpriv
END
    [[ -z $dpdk$bench ]] || echo "libdpdk-dev     /usr/include/dpdk/rte_ethdev.h"
    [[ -z $dpdk || -z $guest ]] || echo "dpdk            dpdk-devbind.py"
    [[ -z $browser ]] || echo "chromium        chromium"
    [[ -z $package ]] || cat <<'END'
lintian         lintian
shellcheck      shellcheck
logrotate       /usr/sbin/logrotate
dpkg-dev        dpkg-shlibdeps
END
    [[ -z $guest ]] || cat <<'END'
busybox-static  busybox
cpio            cpio
kmod            modprobe
xz-utils        xz
END
    [[ -z $bench ]] || cat <<'END'
dpdk-dev        dpdk-testpmd
ipvsadm         ipvsadm
python3         python3
valgrind        valgrind
END
}

missing() {
    local name probe
    while read -r name probe; do
        if [[ $probe == /* ]]; then
            [[ -e $probe ]] || echo "$name"
        else
            command -v "$probe" >/dev/null || echo "$name"
        fi
    done < <(needed)
}

# Debian starts a service when it installs it; policy-rc.d is its way to say no. An existing policy is put back afterwards.
POLICY=/usr/sbin/policy-rc.d
work=
restore_policy() {
    if [[ -e $work/policy ]]; then mv "$work/policy" "$POLICY"; else rm -f "$POLICY"; fi
    rm -rf "$work"
}

install_packages() {
    work=$(mktemp -d)
    trap restore_policy EXIT
    trap 'exit 130' INT TERM
    if [[ -e $POLICY ]]; then mv "$POLICY" "$work/policy"; fi
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"

    export DEBIAN_FRONTEND=noninteractive
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=120)
    if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; } >"$work/log" 2>&1; then
        cat "$work/log" >&2
        echo "error: apt-get could not install: $*" >&2
        exit 1
    fi
    # The tests run their own: a service that was installed just now shall not come up at the next boot either.
    local name
    for name in "$@"; do
        case $name in
            nginx-light) update-rc.d nginx disable >/dev/null 2>&1 || true ;;
            prometheus) update-rc.d prometheus disable >/dev/null 2>&1 || true ;;
            bird2) update-rc.d bird disable >/dev/null 2>&1 || true ;;
            frr) update-rc.d frr disable >/dev/null 2>&1 || true ;;
            keepalived) update-rc.d keepalived disable >/dev/null 2>&1 || true ;;
            etcd-server) update-rc.d etcd disable >/dev/null 2>&1 || true ;;
        esac
    done
}

dpdk='' guest='' browser='' bench='' package=''
for option in "$@"; do
    case $option in
        --dpdk) dpdk=yes ;;
        --guest) guest=yes ;;
        --browser) browser=yes ;;
        --bench) bench=yes ;;
        --package) package=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

PATH=$PATH:/usr/sbin:/sbin
mapfile -t packages < <(missing)
if ((${#packages[@]} > 0)); then
    if ((EUID != 0)); then
        echo "error: packages are missing; install them with:" >&2
        echo "  sudo apt-get install --no-install-recommends ${packages[*]}" >&2
        exit 1
    fi
    echo "setup: installing ${packages[*]}"
    install_packages "${packages[@]}"
fi

if ! command -v cargo >/dev/null; then
    echo "error: cargo is not in PATH; install Rust first: https://rustup.rs" >&2
    exit 1
fi
if [[ -n $package ]] && ! command -v cargo-deb >/dev/null; then
    echo "setup: installing cargo-deb"
    # Unoptimised: built in half a minute of one core, and it mostly waits for xz.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features cargo-deb@3.8.0
fi
