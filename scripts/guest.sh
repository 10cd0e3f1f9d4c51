#!/usr/bin/env bash
# Debian's own kernels in a virtual machine without KVM, for what this host lacks: pktgen and IPVS, and NICs whose drivers have zero copy.
#
# The guest sees this host's files, read-only, through 9p; what it writes to /tmp, /run and /var, and with --systemd anywhere, is gone at the
# end, except what it writes to /run/out. Kernel and modules come from Debian's packages, unpacked, not installed; so does qemu where the host's lacks the NIC.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin

readonly CACHE=$PWD/target/guest
# What a console of the guest needs before it can see the host's files.
readonly ROOT_MODULES=(virtio_pci 9pnet_virtio 9p overlay)

usage() {
    cat <<'END'
usage: scripts/guest.sh [OPTION]... [COMMAND...]
       scripts/guest.sh --nic NIC --lab P [OPTION]... [COMMAND...]
       scripts/guest.sh --systemd [OPTION]... COMMAND...

Boots a kernel of Debian's in qemu, by software emulation, runs COMMAND there as root in this directory, and exits as it did.

Without --nic: the kernel has pktgen, IPVS, veth and nf_tables. Without COMMAND it runs scripts/bench.sh with the kernel's pktgen and IPVS
among the peers, which writes its report below DIR.

With --nic: the guest is the dispatcher, or a server, of the lab P that scripts/lab.sh made (default of both: oneip). Its interface lan0 is on the lab's LAN
in place of the lab's own host, with its addresses. /run/P-lab is the lab's folder, with a BPF file system of the guest's on /run/P-lab/bpf, and qemu's
monitor at guest-monitor ("set_link n0 off" takes the NIC's link away). Without COMMAND it says "the guest is up" and runs what comes on the standard input by
bash: modprobe there knows the kernel's modules, and lay_network lays the interfaces again when their driver has been away.

With --systemd: this host's own Debian, which systemd boots, up to basic.target and none of this host's services. COMMAND may install, change and
remove whatever it likes: it writes to memory.

  --nic NIC       igb, virtio, e1000e or vmxnet3
  --host HOST     of the lab, whose place it takes: dispatcher (default), or a server, such as web3
  --second-lan    there are two of that NIC: lan1 is on the lab's bridge br1, in place of the lab's own port dispatcher1, as 198.18.5.2 and 2001:db8:5::2
  --dpdk          the NIC is bound to vfio-pci, behind an IOMMU that qemu emulates; lan0 is a tap with its addresses. There are 512 MiB of
                  huge pages, and /run/dpdk-port has the NIC's PCI address (of two, each in a line)
  --iommu         there is that IOMMU; a NIC but virtio has the PCI address 0000:03:00.0
  --lab P         the lab (default: oneip)
  --queues N      of the NIC, whose workers share the guest's two cores: igb and virtio up to 8 (default: 2; e1000e and vmxnet3 have their own number)
  --mtu N         of lan0 (default: 1500)
  --kernel SUITE  Debian's suite that the kernel comes from (default: this host's own; with --nic trixie-backports, whose igb and virtio have zero copy)
  --modules M,M   modules of the kernel's besides those
  --fetch         fetch the kernel, and qemu where it is wanted, and run nothing
  --out DIR       the guest's /run/out: what it leaves behind (default: perf/reports; with --nic and --systemd a folder that is removed)
  --minutes N     stop the guest after so long (default: 30)

Speeds in the guest compare only with each other: emulation is some 20 times slower than the machine.
Needs scripts/setup.sh --guest; root only for --nic and --systemd.
END
}

die() { echo "error: $*" >&2; exit 1; }
wrong() { echo "error: $*; see scripts/guest.sh --help" >&2; exit 2; }

# ---- packages of a suite that this host does not use, without touching its lists ----

# Of this host's own suite: the host's lists.
apt_of() { # SUITE COMMAND...
    local suite=$1 folder=$CACHE/apt/$1 command=$2 mirror
    shift 2
    if [[ $suite == "$own_suite" ]]; then "$command" "$@"; return; fi
    if [[ ! -e $folder/fresh ]]; then
        mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' | awk -v suite="$own_suite" '$1 == suite { print $2; exit }')
        [[ -n $mirror ]] || die "this host's apt has no source for $own_suite, and so no place to fetch $suite from"
        mkdir -p "$folder"/{lists,archives}/partial
        # Its own suite too: what the other one's packages need may be there.
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$own_suite" "$mirror" "$suite" >"$folder/sources"
        echo "guest: reading the packages of $suite" >&2
        options_of "$folder"
        apt-get -qq "${options[@]}" update >"$CACHE/log" 2>&1 || { cat "$CACHE/log" >&2; die "cannot read the packages of $suite"; }
        touch "$folder/fresh"
    fi
    options_of "$folder"
    "$command" "${options[@]}" -t "$suite" "$@"
}

options_of() { # FOLDER
    options=(-o "Dir::Etc::sourcelist=$1/sources" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::Lists=$1/lists" -o "Dir::Cache=$1"
        -o "Dir::Cache::archives=$1/archives" -o APT::Sandbox::User=root)
}

unpack() { # FOLDER PACKAGE-FILE...
    local folder=$1 file
    shift
    for file in "$@"; do dpkg -x "$file" "$folder"; done
}

# The kernel's packages, unpacked once: all in one, or split in three.
fetch_kernel() { # SUITE
    local package name found=()
    package=$(apt_of "$1" apt-cache show --no-all-versions linux-image-amd64 2>/dev/null | sed -nE 's/^Depends:.*(linux-image-[^ ,]*[0-9][^ ,]*-amd64).*/\1/p')
    [[ -n $package ]] || die "apt knows no linux-image-amd64 of $1: run apt-get update"
    release=${package#linux-image-}
    if [[ ! -e $CACHE/$release/vmlinuz ]]; then
        echo "guest: fetching the kernel $release" >&2
        rm -rf "${CACHE:?}/$release" "$CACHE/part"
        mkdir -p "$CACHE/part/root"
        for name in image binary modules base; do
            if apt_of "$1" apt-cache show "linux-$name-$release" 2>/dev/null | grep ^Filename >/dev/null; then found+=("linux-$name-$release"); fi
        done
        (cd "$CACHE/part" && apt_of "$1" apt-get -qq download "${found[@]}" >"$CACHE/log" 2>&1) || { cat "$CACHE/log" >&2; die "cannot fetch ${found[*]}"; }
        unpack "$CACHE/part/root" "$CACHE/part"/*.deb
        if [[ ! -e $CACHE/part/root/lib ]]; then ln -s usr/lib "$CACHE/part/root/lib"; fi
        for name in "boot/vmlinuz-$release" "lib/modules/$release/vmlinuz"; do
            if [[ -e $CACHE/part/root/$name ]]; then ln -s "$name" "$CACHE/part/root/vmlinuz"; fi
        done
        depmod -b "$CACHE/part/root" "$release"
        mv "$CACHE/part/root" "$CACHE/$release"
        rm -rf "$CACHE/part"
    fi
}

# A qemu that has the NIC: the host's, or that of its suite's backports, beside it.
find_qemu() { # DEVICE
    qemu=(qemu-system-x86_64)
    if command -v qemu-system-x86_64 >/dev/null && has_device "$1"; then return; fi
    local folder=$CACHE/qemu suite=$own_suite-backports
    if [[ ! -e $folder ]]; then
        echo "guest: fetching a qemu that has $1" >&2
        apt_of "$suite" apt-get -qq -y --download-only --no-install-recommends install qemu-system-x86 >"$CACHE/log" 2>&1 ||
            { cat "$CACHE/log" >&2; die "this host has no qemu with $1, and $suite gives none"; }
        rm -rf "$CACHE/part"
        unpack "$CACHE/part" "$CACHE/apt/$suite/archives"/*.deb
        mv "$CACHE/part" "$folder"
    fi
    qemu=(env "LD_LIBRARY_PATH=$folder/usr/lib/x86_64-linux-gnu:$folder/lib/x86_64-linux-gnu" "$folder/usr/bin/qemu-system-x86_64"
        -L "$folder/usr/share/qemu" -L "$folder/usr/share/seabios")
    has_device "$1" || die "no qemu here has $1: $("${qemu[@]}" --version 2>&1 | head -1)"
}

has_device() { "${qemu[@]}" -device help 2>/dev/null | grep "^name \"$1\"" >/dev/null; } # DEVICE

# ---- the guest ----

# The modules, those they need first: names of files in the initramfs, where they are put.
with_dependencies() { # MODULE...
    local module path
    for module in "$@"; do
        modprobe -d "$CACHE/$release" -S "$release" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' | while read -r path; do
        module=${path##*/} module=${module%.xz}
        case $path in
            *.xz) xz -dc "$path" >"$work/root/modules/$module" ;;
            *) cp "$path" "$work/root/modules/" ;;
        esac
        echo "/modules/$module"
    done
}

make_initramfs() {
    mkdir -p "$work/root"/{bin,modules,host,proc,sys,dev}
    cp "$(command -v busybox)" "$work/root/bin/busybox"
    with_dependencies "${ROOT_MODULES[@]}" >"$work/root/modules/list"
    with_dependencies "${modules[@]}" >"$work/root/modules/later"
    {
        echo "cd $PWD"
        echo "export HOME=/tmp TERM=dumb PATH=$PATH"
        if [[ -n $nic ]]; then network; fi
        printf '%q ' "$@"
    } >"$work/root/command"
    if [[ -n $systemd ]]; then units; fi
    cat >"$work/root/init" <<END
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in \$(cat /modules/list); do insmod \$module; done
nineP() { mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,\$1 "\$2" "\$3"; }
for module in \$(cat /modules/later); do insmod \$module; done
if [ -n "$systemd" ]; then
    mkdir /lower /memory
    nineP ro,cache=loose host /lower
    mount -t tmpfs tmpfs /memory
    mkdir /memory/upper /memory/work
    mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work overlay /host
    mount -t tmpfs tmpfs /host/run
    mkdir -p /host/run/out /host/run/systemd/system /host/run/tmpfiles.d
    # Else it would empty /tmp, where this directory may be.
    touch /host/run/tmpfiles.d/tmp.conf
    nineP rw,cache=none out /host/run/out
    cp /command /host/run/command
    cp /units/* /host/run/systemd/system/
    # It is no container any more.
    rm -f /host/.dockerenv
    umount /proc
    mount -o move /dev /host/dev
    exec switch_root /host /lib/systemd/systemd
fi
nineP ro,cache=loose host /host
mount -t proc proc /host/proc
mount -t sysfs sys /host/sys
mount -t bpf bpf /host/sys/fs/bpf
mount -t devtmpfs dev /host/dev
ln -s /proc/self/fd /host/dev/fd
# This directory may be below one of those.
mkdir /here
mount -o bind "/host$PWD" /here
for directory in tmp run var/tmp var/lib; do mount -t tmpfs tmpfs /host/\$directory; done
mkdir -p "/host$PWD"
mount -o bind /here "/host$PWD"
mkdir -p /host/run/out /host/run/netns
nineP rw,cache=none out /host/run/out
if [ -n "$lab_folder" ]; then
    mkdir -p /host$lab_folder
    nineP rw,cache=none lab /host$lab_folder
    mount -t bpf bpf /host$lab_folder/bpf
fi
ip link set lo up
cp /command /host/run/command
console=/dev/null
if [ -n "$interactive" ]; then
    console=/dev/ttyS1
    stty raw -echo <\$console
    exec >\$console 2>&1
fi
chroot /host /bin/bash /run/command <\$console
echo \$? >/host/run/out/.status
sync
poweroff -f
END
    chmod 755 "$work/root/init"
    (cd "$work/root" && find . | cpio --quiet -o -H newc) | gzip -1 >"$work/initramfs"
}

# What systemd boots: the command, when its own services are there.
units() {
    mkdir "$work/root/units"
    cat >"$work/root/units/guest.target" <<'END'
[Unit]
Requires=basic.target guest.service
After=basic.target
AllowIsolate=yes
END
    cat >"$work/root/units/guest.service" <<'END'
[Unit]
After=basic.target

[Service]
Type=oneshot
TimeoutStartSec=infinity
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/bash /run/command
ExecStopPost=/bin/sh -c 'echo "$EXIT_STATUS" >/run/out/.status; sync; systemctl poweroff --force --force'
END
}

# Commands that make the NIC that of a host of the lab, and those of the second NIC, if there is one.
network() {
    cat <<END
mount -t tmpfs tmpfs /run/netns
sysctl -qw net.ipv4.conf.{all,default}.{send_redirects,accept_redirects}=0 net.ipv6.conf.{all,default}.{accept_dad,accept_ra}=0
modprobe() { command modprobe -d "$CACHE/$release" "\$@"; }
lay_network() {
$(network_of lan0 "$mac" 192.0.2 2001:db8:2)
$([[ -z $second ]] || network_of lan1 "$SECOND_MAC" 198.18.5 2001:db8:5)
ip route add default via 192.0.2.1
ip route add default via 2001:db8:2::1
}
export -f modprobe lay_network
lay_network
END
}

network_of() { # NAME MAC IPV4-NETWORK IPV6-NETWORK
    cat <<END
for path in /sys/class/net/*; do
    if [[ -e \$path/device && \$(<"\$path/address") == $2 ]]; then ip link set "\${path##*/}" name $1; fi
done
sysctl -qw net.ipv4.conf.$1.{send_redirects,accept_redirects}=0 net.ipv6.conf.$1.{accept_dad,accept_ra}=0
sysctl -qw net.ipv6.conf.$1.keep_addr_on_down=1
ethtool -K $1 gro off rxvlan off txvlan off tso off 2>/dev/null
if [[ -n "$(only_with "$nic" igb virtio)" ]]; then ethtool -L $1 combined $queues 2>/dev/null; fi
if [[ -n "$dpdk" ]]; then
    echo 256 >/proc/sys/vm/nr_hugepages
    port=\$(basename "\$(realpath /sys/class/net/$1/device)")
    # virtio's interface is on a device of its own below the PCI device.
    if [[ \$port == virtio* ]]; then port=\$(basename "\$(realpath /sys/class/net/$1/device/..)"); fi
    echo "\$port" >>/run/dpdk-port
    echo vfio-pci >/sys/bus/pci/devices/\$port/driver_override
    echo "\$port" >/sys/bus/pci/devices/\$port/driver/unbind
    echo "\$port" >/sys/bus/pci/drivers_probe
    ip tuntap add dev $1 mode tap
    ip link set $1 address $2
    sysctl -qw net.ipv4.conf.$1.{send_redirects,accept_redirects}=0 net.ipv6.conf.$1.{accept_dad,accept_ra}=0 net.ipv6.conf.$1.keep_addr_on_down=1
fi
ip link set $1 mtu $mtu up
ip address add $3.$number/24 dev $1
ip address add $4::$number/64 dev $1 nodad
# igb's link takes seconds.
for ((tries = 0; tries < 300; tries++)); do if [[ -n "$dpdk" || \$(</sys/class/net/$1/carrier) == 1 ]]; then break; fi; sleep 0.1; done
END
}

only_with() { local word=$1; shift; if [[ " $* " == *" $word "* ]]; then echo yes; fi; } # WORD OF...

# The guest's end of the lab's LAN, and of its second: a tap in the place of the lab's own host.
plug_in() {
    local kind='mode tap' at
    [[ -e /run/netns/$lab-lan ]] || die "there is no lab $lab: scripts/lab.sh --name $lab up"
    [[ -z $second || -n $(ip -n "$lab-lan" link show br1 2>/dev/null) ]] || die "the lab $lab has no second LAN, br1"
    if [[ $nic == virtio ]]; then kind+=' multi_queue'; fi
    for at in "" ${second:+1}; do
        ip -n "$lab-lan" link set "$host$at" nomaster
        # shellcheck disable=SC2086
        ip -n "$lab-lan" tuntap add "guest${at:-0}" $kind
        ip -n "$lab-lan" link set "guest${at:-0}" master "br${at:-0}" up
    done
}

unplug() {
    local at
    for at in "" ${second:+1}; do
        ip -n "$lab-lan" link delete "guest${at:-0}" 2>/dev/null || true
        ip -n "$lab-lan" link set "$host$at" master "br${at:-0}" 2>/dev/null || true
    done
}

# The arguments of a NIC of that number.
qemu_nic() { # NUMBER MAC
    case $nic in
        virtio)
            device+=(-netdev "tap,id=n$1,ifname=guest$1,script=no,downscript=no,queues=$VIRTIO_QUEUES"
                -device "virtio-net-pci,netdev=n$1,mac=$2,mq=on,vectors=$((2 * VIRTIO_QUEUES + 2)),iommu_platform=on,disable-legacy=on,romfile=") ;;
        *)
            device+=(-netdev "tap,id=n$1,ifname=guest$1,script=no,downscript=no" -device "pcie-root-port,id=nic$1,chassis=$((1 + 3 * $1)),slot=$((1 + $1)),addr=0x1$((2 + $1))"
                -device "$nic,bus=nic$1,netdev=n$1,mac=$2,romfile=") ;;
    esac
}

boot() {
    local share='security_model=none,multidevs=remap' device place=() machine=() serial=(-serial stdio) monitor=none
    if [[ -n $interactive ]]; then serial=(-serial "file:$out/console" -serial stdio); fi
    device=(-nic none)
    if [[ -n $nic ]]; then
        place=(ip netns exec "$lab-lan")
        device=()
        qemu_nic 0 "$mac"
        [[ -z $second ]] || qemu_nic 1 "$SECOND_MAC"
        device+=(-virtfs "local,path=$lab_folder,mount_tag=lab,$share")
        monitor=unix:$lab_folder/guest-monitor,server=on,wait=off
    fi
    # Two ports without a device, with a bus each, stand before the NIC's.
    if [[ -n $iommu ]]; then
        machine=(-device intel-iommu,intremap=on -device pcie-root-port,id=spare1,chassis=2,addr=0x10
            -device pcie-root-port,id=spare2,chassis=3,addr=0x11)
    fi
    timeout --foreground "$((minutes * 60))" "${place[@]}" "${qemu[@]}" -machine q35 "${machine[@]}" -accel tcg,thread=multi -cpu max -smp 2 -m 3072 \
        -display none -no-reboot "${serial[@]}" -monitor "$monitor" \
        -kernel "$CACHE/$release/vmlinuz" -initrd "$work/initramfs" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off${iommu:+ intel_iommu=on}${systemd:+ systemd.unit=guest.target systemd.show_status=no systemd.mask=proc-sys-fs-binfmt_misc.automount systemd.mask=systemd-binfmt.service fstab=no}" \
        -virtfs "local,path=/,mount_tag=host,readonly=on,$share" -virtfs "local,path=$out,mount_tag=out,$share" "${device[@]}"
}

own_suite=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
readonly own_suite SECOND_MAC=02:00:00:00:05:02 VIRTIO_QUEUES=8
out='' minutes=30 nic='' host=dispatcher second='' dpdk='' iommu='' systemd='' lab=oneip queues=2 mtu=1500 suite='' fetch='' interactive='' lab_folder='' more=()
while (($# > 0)); do
    case $1 in
        --out | --minutes | --nic | --host | --lab | --queues | --mtu | --kernel | --modules)
            (($# >= 2)) || wrong "$1 needs a value"
            case $1 in
                --modules) IFS=, read -ra more <<<"$2" ;;
                --out) out=$2 ;;
                --minutes) minutes=$2 ;;
                --nic) nic=$2 ;;
                --host) host=$2 ;;
                --lab) lab=$2 ;;
                --queues) queues=$2 ;;
                --mtu) mtu=$2 ;;
                --kernel) suite=$2 ;;
            esac
            shift 2 ;;
        --fetch) fetch=yes; shift ;;
        --dpdk) dpdk=yes iommu=yes; shift ;;
        --iommu) iommu=yes; shift ;;
        --second-lan) second=yes; shift ;;
        --systemd) systemd=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) wrong "no such option: $1" ;;
        *) break ;;
    esac
done
[[ $minutes =~ ^[1-9][0-9]*$ && $queues =~ ^[1-8]$ && $mtu =~ ^[1-9][0-9]*$ ]] || wrong "--minutes, --queues and --mtu want numbers"
[[ $nic =~ ^(|igb|virtio|e1000e|vmxnet3)$ ]] || wrong "--nic is igb, virtio, e1000e or vmxnet3, not $nic"
[[ -n $own_suite ]] || die "this is no Debian: the kernel comes from its packages"
[[ -z $nic || -z $systemd ]] || wrong "--nic or --systemd"
case $host in
    dispatcher) number=2 ;;
    web[1-4]) number=1${host#web} ;;
    *) wrong "--host is dispatcher, or web1 to web4, not $host" ;;
esac
mac=$(printf '02:00:00:00:00:%02d' $number)
[[ $host == dispatcher || -z $second$dpdk ]] || wrong "--second-lan and --dpdk are for the dispatcher"
[[ -z $iommu$second || -n $nic ]] || wrong "--dpdk, --iommu and --second-lan need --nic"
[[ -z $systemd || -n $fetch ]] || (($# > 0)) || wrong "--systemd needs a command"
[[ -z $systemd$nic || -n $fetch ]] || ((EUID == 0)) || die "--nic and --systemd need root"
for tool in busybox cpio modprobe xz apt-get; do
    command -v "$tool" >/dev/null || die "no $tool: run scripts/setup.sh --guest"
done
mkdir -p "$CACHE"
# One at a time fetches.
exec {fetching}>"$CACHE/lock"
flock "$fetching"
if [[ -n $nic ]]; then
    modules=(igb virtio_net e1000e vmxnet3 veth nf_tables "${more[@]}")
    if [[ -n $iommu ]]; then modules+=(tun); fi
    if [[ -n $dpdk ]]; then modules+=(vfio_pci); fi
    lab_folder=/run/$lab-lab
    suite=${suite:-trixie-backports}
    # What is no terminal bash just runs, and neither prompts nor echoes.
    if (($# == 0)); then interactive=yes; set -- bash -c 'echo the guest is up; exec bash < <(cat)'; fi
    find_qemu "$(if [[ $nic == virtio ]]; then echo virtio-net-pci; else echo "$nic"; fi)"
elif [[ -n $systemd ]]; then
    [[ -e /lib/systemd/systemd ]] || die "this host has no systemd to boot: apt-get install systemd"
    modules=(veth bridge autofs4 "${more[@]}")
    suite=${suite:-$own_suite}
    find_qemu virtio-net-pci
else
    modules=(veth pktgen ip_vs ip_vs_sh nf_tables nft_hash nft_fwd_netdev "${more[@]}")
    out=${out:-perf/reports} suite=${suite:-$own_suite}
    find_qemu virtio-net-pci
fi
fetch_kernel "$suite"
exec {fetching}>&-
if [[ -n $fetch ]]; then exit; fi
if (($# == 0)); then
    [[ -n ${ONEIP_BUILT-} ]] || cargo build --quiet --release --bin oneip --example reflector --example report
    # The trials are long enough that starting them is not most of the time.
    set -- env ONEIP_BUILT="${ONEIP_BUILT-target/release}" scripts/bench.sh --no-build --generator pktgen --seconds 1 \
        --parts throughput,loss,memory --duts oneip,nftables,routing,ipvs,ipvs-ops --out /run/out
fi

work=$(mktemp -d)
out=${out:-$work/out}
mkdir -p "$out"
out=$(realpath "$out")
finish() {
    rm -rf "$work" "$out/.status"
    [[ -z $nic ]] || unplug
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
make_initramfs "$@"
[[ -z $nic ]] || plug_in
echo "guest: kernel $release" >&2
boot || { (($? == 124)) && die "the guest did not end within $minutes minutes" || die "qemu could not run the guest"; }
[[ -s $out/.status ]] || die "the guest stopped before the command ended"
status=$(<"$out/.status")
newest=$(cd "$out" && find . -maxdepth 1 -name '*-guest' -newer "$work/initramfs" -printf '%f\n' | tail -1)
if [[ -n $newest && $out == "$PWD/perf/reports" ]]; then
    sed -i "s|^Newest in the guest: .*|Newest in the guest: [$newest](reports/$newest/report.md)|" perf/README.md
fi
exit "$status"
