#!/usr/bin/env bash
# Debian's own kernel in a virtual machine without KVM, for what this host's kernel lacks: pktgen and IPVS.
#
# The guest sees this host's files, read-only, through 9p; what it writes to /tmp, /run and /var is gone at the end, except what
# it writes to /run/out. Its kernel and modules come from Debian's package, unpacked, not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin

readonly CACHE=$PWD/target/guest
# What a console of the guest needs before it can see the host's files.
readonly ROOT_MODULES=(virtio_pci 9pnet_virtio 9p)
# What it is for.
readonly MODULES=(veth pktgen ip_vs ip_vs_sh nf_tables nft_hash nft_fwd_netdev)

usage() {
    cat <<'END'
usage: scripts/guest.sh [--out DIR] [--minutes N] [COMMAND...]

Boots Debian's kernel (package linux-image-amd64) in qemu, by software emulation, with the modules pktgen, ip_vs, veth and
nf_tables, runs COMMAND there as root in this directory, and exits as it did. Without COMMAND: scripts/bench.sh with the
kernel's pktgen and IPVS among the peers, which writes its report below DIR.

  --out DIR     the guest's /run/out: what it leaves behind (default: perf/reports)
  --minutes N   stop the guest after so long (default: 30)

Speeds in the guest compare only with each other: emulation is some 20 times slower than the machine.
Needs scripts/setup.sh --bench, and no root.
END
}

die() { echo "error: $*" >&2; exit 1; }

# The kernel's package, unpacked once.
fetch_kernel() {
    local package
    package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
    [[ -n $package ]] || die "apt-cache knows no linux-image-amd64: run apt-get update"
    release=${package#linux-image-}
    if [[ ! -e $CACHE/$release/boot/vmlinuz-$release ]]; then
        echo "guest: fetching $package" >&2
        rm -rf "${CACHE:?}/$release" "$CACHE/part"
        mkdir -p "$CACHE/part"
        (cd "$CACHE/part" && apt-get -qq download "$package" 2>"$CACHE/log") || { cat "$CACHE/log" >&2; die "cannot fetch $package"; }
        dpkg -x "$CACHE/part/$package"_*.deb "$CACHE/part/root"
        depmod -b "$CACHE/part/root" "$release"
        mv "$CACHE/part/root" "$CACHE/$release"
        rm -rf "$CACHE/part"
    fi
}

# The modules, those they need first: paths.
with_dependencies() { # MODULE...
    local module
    for module in "$@"; do
        modprobe -d "$CACHE/$release" -S "$release" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++'
}

make_initramfs() {
    local module
    mkdir -p "$work/root"/{bin,modules,host,proc,sys,dev}
    cp "$(command -v busybox)" "$work/root/bin/busybox"
    while read -r module; do
        cp "$module" "$work/root/modules/"
        echo "/modules/${module##*/}"
    done < <(with_dependencies "${ROOT_MODULES[@]}") >"$work/root/modules/list"
    with_dependencies "${MODULES[@]}" >"$work/root/modules/later"
    printf '%q ' "$@" >"$work/root/command"
    cat >"$work/root/init" <<END
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in \$(cat /modules/list); do insmod \$module; done
nineP() { mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,\$1 "\$2" "\$3"; }
nineP ro,cache=loose host /host
for module in \$(cat /modules/later); do insmod /host\$module; done
mount -t proc proc /host/proc
mount -t sysfs sys /host/sys
mount -t bpf bpf /host/sys/fs/bpf
mount -t devtmpfs dev /host/dev
ln -s /proc/self/fd /host/dev/fd
for directory in tmp run var/tmp var/lib; do mount -t tmpfs tmpfs /host/\$directory; done
mkdir -p /host/run/out /host/run/netns
nineP rw,cache=none out /host/run/out
ip link set lo up
echo "cd $PWD && HOME=/tmp TERM=dumb PATH=$PATH \$(cat /command)" >/host/run/command
chroot /host /bin/bash /run/command </dev/null
echo \$? >/host/run/out/.status
sync
poweroff -f
END
    chmod 755 "$work/root/init"
    (cd "$work/root" && find . | cpio --quiet -o -H newc) | gzip -1 >"$work/initramfs"
}

boot() {
    local share='security_model=none,multidevs=remap'
    timeout --foreground "$((minutes * 60))" qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 3072 \
        -display none -nic none -no-reboot -serial stdio -monitor none \
        -kernel "$CACHE/$release/boot/vmlinuz-$release" -initrd "$work/initramfs" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off" \
        -virtfs "local,path=/,mount_tag=host,readonly=on,$share" -virtfs "local,path=$out,mount_tag=out,$share"
}

out=perf/reports minutes=30
while (($# > 0)); do
    case $1 in
        --out) out=${2:?--out wants a directory}; shift 2 ;;
        --minutes) minutes=${2:?--minutes wants a number}; shift 2 ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) break ;;
    esac
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || { usage >&2; exit 2; }
for tool in qemu-system-x86_64 busybox cpio modprobe; do
    command -v "$tool" >/dev/null || die "no $tool: run scripts/setup.sh --bench"
done
if (($# == 0)); then
    [[ -n ${ONEIP_BUILT-} ]] || cargo build --quiet --release --bin oneip --example reflector --example report
    # The trials are long enough that starting them is not most of the time.
    set -- env ONEIP_BUILT="${ONEIP_BUILT-target/release}" scripts/bench.sh --no-build --generator pktgen --seconds 1 \
        --parts throughput,loss,memory --duts oneip,nftables,routing,ipvs,ipvs-ops --out /run/out
fi

mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d)
trap 'rm -rf "$work" "$out/.status"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
fetch_kernel
make_initramfs "$@"
echo "guest: kernel $release" >&2
boot || die "the guest did not end within $minutes minutes"
[[ -s $out/.status ]] || die "the guest's kernel did not come to the command's end"
newest=$(cd "$out" && find . -maxdepth 1 -name '*-guest' -newer "$work/initramfs" -printf '%f\n' | tail -1)
if [[ -n $newest && $out == "$PWD/perf/reports" ]]; then
    sed -i "s|^Newest in the guest: .*|Newest in the guest: [$newest](reports/$newest/report.md)|" perf/README.md
fi
exit "$(<"$out/.status")"
