# The devices under test: `start_NAME` sets one up on its cable, and `unfair_NAME` says what the comparison with oneip hides.
# All of them take the same frames in at dut0 and send the same number out there again.

readonly ALL_DUTS=(oneip oneip-xdp oneip-ipip reflector macswap nftables routing ipvs ipvs-ops oneip-dpdk testpmd-af_xdp testpmd-af_packet)

# Why a DUT cannot be had here; nothing if it can.
lacks() { # DUT
    case $1 in
        nftables) command -v nft >/dev/null || echo "no nft: scripts/setup.sh --bench" ;;
        ipvs*)
            if ! command -v ipvsadm >/dev/null; then echo "no ipvsadm: scripts/setup.sh --bench"
            elif [[ ! -e /proc/net/ip_vs ]] && ! modprobe -q ip_vs 2>/dev/null; then echo "this kernel has no IPVS: scripts/guest.sh has it"; fi ;;
        oneip-dpdk) [[ -x $ONEIP_DPDK || -n $dry_run ]] || echo "no $ONEIP_DPDK: scripts/setup.sh --dpdk, and build" ;;
        testpmd*) command -v dpdk-testpmd >/dev/null || echo "no dpdk-testpmd: scripts/setup.sh --bench" ;;
        macswap) command -v clang >/dev/null || echo "no clang: scripts/setup.sh" ;;
    esac
    if [[ -n $interface && ! $1 =~ ^(oneip|oneip-xdp|oneip-ipip|reflector)$ ]]; then echo "in the lab only"; fi
}

# ---- oneip ----

# Service n listens on udp/(80 + n), over IPv4; one alone has a twin over IPv6.
write_configuration() { # SERVICES SERVERS CORES [ENGINE [DELIVER]]
    cat <<END
[cluster]
hash_key = "a1b2c3d4e5f60718293a4b5c6d7e8f90"

[dispatcher]
interface = "${interface:-dut0}"
engine = "${4:-af_xdp}"
pins = "$work/bpf/$dut"
$(if [[ -z $interface && ${4-} != xdp ]]; then echo "cores = [$3]"; fi)

[admin]
socket = "$work/$dut.sock"
state = "$work/$dut.json"
END
    awk -v services="$1" -v servers="$2" -v mac="$receive_mac" -v cluster4="$CLUSTER4" -v cluster6="$CLUSTER6" \
        -v deliver="${5:-l2}" '
        function service(name, address, port,    n) {
            printf "\n[[service]]\nname = \"%s\"\naddress = \"%s\"\nports = [\"udp/%d\"]\ndeliver = \"%s\"\n", name, address, port, deliver
            for (n = 1; n <= servers; n++) {
                printf "[[service.server]]\nname = \"server%d\"\naddress = \"192.0.%d.%d\"\n", n, 2 + (n + 10) / 256, (n + 10) % 256
                printf "mac = \"%s\"\n", mac ? mac : sprintf("02:00:00:01:%02x:%02x", n / 256, n % 256)
            }
        }
        BEGIN {
            for (s = 0; s < services; s++) service("web4-" s, cluster4, 80 + s)
            if (services == 1) service("web6-0", cluster6, 80)
        }'
}

cluster() { if (($1 == 4)); then echo "$CLUSTER4"; else echo "$CLUSTER6"; fi; }

start_oneip() { # [SERVICES [SERVERS [CORES]]]
    write_configuration "${1:-1}" "${2:-$SERVERS}" "${3:-$dut_core}" >"$work/$dut.toml"
    rm -f "$work/$dut.json"
    run_oneip
}

run_oneip() { spawn '^ready' "$ONEIP" run -c "$work/$dut.toml" --json --hlog "$work/$dut.hlog" "$@"; } # [OPTION]...

unfair_oneip() {
    echo "It polls: its core is fully used at any load. Its worker has a core; the frame's way into the ring runs on the generator's."
}

# ---- oneip, to servers at the other end of a tunnel ----

start_oneip_ipip() {
    write_configuration 1 "$SERVERS" "$dut_core" af_xdp ipip >"$work/$dut.toml"
    rm -f "$work/$dut.json"
    run_oneip
}

unfair_oneip_ipip() {
    echo "The same as oneip, which wraps each frame in an outer IPv4 header (\`deliver = \"ipip\"\`): 20 bytes more, and a checksum, for each."
}

# ---- oneip's program in the kernel, and what a program there costs at least ----

start_oneip_xdp() {
    write_configuration 1 "$SERVERS" "$dut_core" xdp >"$work/$dut.toml"
    rm -f "$work/$dut.json"
    run_oneip
}

unfair_oneip_xdp() {
    echo "It needs no core of its own: it runs where the NIC's interrupts come, here on the generator's core. For it and against it: the same."
}

start_macswap() {
    clang -target bpf -O2 -Wall -Werror -I"/usr/include/$(uname -m)-linux-gnu" -c perf/bench/macswap.bpf.c -o "$work/macswap.o"
    at_dut ip link set dut0 xdpdrv object "$work/macswap.o" section xdp
}

unfair_macswap() {
    echo "For it: an XDP program that swaps two addresses, decides nothing and counts nothing. Against it: nothing; same driver, same core as oneip-xdp."
}

# ---- a bare AF_XDP reflector: what the I/O itself allows ----

start_reflector() { spawn '^ready' "$REFLECTOR" "${interface:-dut0}" --core "$dut_core" "$CLUSTER4" "$CLUSTER6"; }

unfair_reflector() {
    echo "For it: it decides nothing, looks at no header but the MACs it swaps, keeps no counters and no histogram. Against it: nothing; same XDP program, same rings, same core."
}

# ---- the kernel ----

# Where no XDP program is attached, the receive ring that frames from XDP come through is there with GRO on; UDP is not merged.
lay_kernel_cable() {
    lay_cable
    at_dut bash -c "ethtool -K dut0 gro on >/dev/null"
}

start_nftables() {
    input="table netdev bench {
    chain ingress {
        type filter hook ingress device dut0 priority 0;
        ip daddr $CLUSTER4 ether daddr set jhash ip saddr mod $SERVERS seed 0x5eed map { $(nft_servers) } ether saddr set $DUT_MAC fwd to dut0
        ip6 daddr $CLUSTER6 ether daddr set jhash ip6 saddr mod $SERVERS seed 0x5eed map { $(nft_servers) } ether saddr set $DUT_MAC fwd to dut0
    }
}" at_dut nft -f -
}

nft_servers() {
    local server
    for ((server = 1; server <= SERVERS; server++)); do printf '%d : %s, ' $((server - 1)) "$(server_mac $server)"; done
}

unfair_nftables() {
    echo "For it: the frame never leaves the kernel, where copy-mode AF_XDP copies it twice and makes system calls; with a zero-copy NIC it is the other way round. No checks of headers, no failover order, no weights, no latency histogram. Against it: it shares the generator's core, where the others have one of their own (RPS, which gives it the other core, made it three times slower in a trial: frames wait, and are lost, in its backlog)."
}

# Next hops by a hash over source and destination address: the kernel's own stateless way to spread clients.
start_routing() {
    local server hops4='' hops6=''
    at_dut sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.fib_multipath_hash_policy=0
    for ((server = 1; server <= SERVERS; server++)); do
        hops4+=" nexthop via $(server_address $server) dev dut0"
        hops6+=" nexthop via 2001:db8:2::1:$server dev dut0"
    done
    input="$(neighbours)
route add $CLUSTER4/32$hops4
route add $CLUSTER6/128$hops6" at_dut ip -batch -
}

neighbours() {
    local server
    for ((server = 1; server <= SERVERS; server++)); do
        echo "neighbour replace $(server_address $server) lladdr $(server_mac $server) dev dut0 nud permanent"
        echo "neighbour replace 2001:db8:2::1:$server lladdr $(server_mac $server) dev dut0 nud permanent"
    done
}

unfair_routing() {
    echo "For it: it never leaves the kernel, and forgets every client's server when a next hop goes. Against it: it shares the generator's core, and does what a router must and a dispatcher need not: route look-ups, TTL, checksums, neighbour states."
}

start_ipvs() { # [ipvsadm's option for the service]
    local server servers=''
    for ((server = 1; server <= SERVERS; server++)); do
        servers+="
-a -u $CLUSTER4:80 -r $(server_address $server):80 -g"
    done
    input="$(neighbours)
address add $CLUSTER4/32 dev lo" at_dut ip -batch -
    input="-A -u $CLUSTER4:80 -s sh ${1-}$servers" at_dut ipvsadm -R
}

start_ipvs_ops() { start_ipvs --ops; }

unfair_ipvs() {
    echo "For it: it never leaves the kernel. Against it: it shares the generator's core, and keeps a connection for each client and port, which source hashing does not need; \`ipvs-ops\` beside it schedules each packet anew."
}

unfair_ipvs_ops() {
    echo "For it: it never leaves the kernel; each packet is scheduled by itself. Against it: it shares the generator's core, makes a connection for each packet and forgets it again, and passes all of the kernel's input path."
}

# ---- oneip's other port, on what DPDK makes of the same kind of socket ----

start_oneip_dpdk() {
    {
        write_configuration 1 "$SERVERS" "$dut_core" dpdk
        cat <<END

[dpdk]
port = "net_af_xdp0,iface=dut0"
eal = ["--no-huge", "-m", "256"]
descriptors = 2048
exception = "none"
END
    } >"$work/$dut.toml"
    rm -f "$work/$dut.json"
    spawn '^ready' "$ONEIP_DPDK" run -c "$work/$dut.toml" --json --hlog "$work/$dut.hlog"
}

unfair_oneip_dpdk() {
    echo "The same dispatcher behind DPDK's driver for AF_XDP, as testpmd-af_xdp has it. For it: nothing. Against it: mbufs that it must fill and copy from."
}

# ---- DPDK's own forwarder: packet moving alone ----

start_testpmd() { # VDEV
    # The lowest core is for its command line, which sleeps; it forwards on the DUT's.
    spawn 'Logical Core .* forwards packets' stdbuf -oL dpdk-testpmd --no-huge -m 256 --no-pci --no-telemetry --no-shconf \
        --file-prefix "$LAB-$dut" -l "$generator_core,$dut_core" --main-lcore "$generator_core" --vdev="$1" -- \
        --forward-mode=macswap --auto-start --total-num-mbufs=16384 --rxd=2048 --txd=2048 --burst=64 --stats-period=3600
}

start_testpmd_af_xdp() { start_testpmd "net_af_xdp0,iface=dut0"; }
start_testpmd_af_packet() { start_testpmd "net_af_packet0,iface=dut0"; }

unfair_testpmd_af_xdp() {
    echo "For it: it swaps two addresses and decides nothing. Against it: mbufs that it must fill and copy from, and one more process thread on the generator's core, asleep."
}

unfair_testpmd_af_packet() {
    echo "For it: it swaps two addresses and decides nothing. Against it: the kernel's packet sockets, which copy each frame twice; that is what DPDK has where the driver knows no XDP."
}
