#!/usr/bin/env bash
# What a flood of other servers' frames costs a server of broadcast-based dispatch: the filter, beside the kernel's nearest rule.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH=$PATH:/usr/sbin:/sbin

readonly ONEIP=${ONEIP:-target/release/oneip} CORE=1 ADDRESS=203.0.113.80
readonly A=oneip-flood-a B=oneip-flood-b

usage() {
    cat <<'END'
usage: perf/bench/flood.sh [ROUNDS [FRAMES]]     (default: 5 rounds of 3000000 frames)

Two network namespaces and a cable. `oneip pktgen` sends 64-byte frames of a million clients to the broadcast address from one, on one
core; the other, which is server 1 of 64 and so has one client in 64, drops nearly all of them, on the same core:
  floor      an XDP program that drops everything, in the driver: what sending alone costs
  native     `oneip filter`, in the driver
  generic    `oneip filter`, in the kernel, behind any driver
  nft        netdev ingress: ip daddr ADDRESS jhash ip saddr mod 64 seed 7 != 1 drop
  prerouting the same in the hook where an iptables rule with -m cluster stands (without its connection tracking)
By turns; the median of each is printed: the core's busy time by frame, and what is left of that without the floor.
Needs root, nftables and clang. environment: ONEIP (default: target/release/oneip)
END
}

case ${1-} in -h | --help) usage; exit 0 ;; esac
rounds=${1:-5} frames=${2:-3000000}
[[ $rounds =~ ^[0-9]+$ && $frames =~ ^[0-9]+$ ]] || { usage >&2; exit 2; }
((EUID == 0)) || { echo "error: network namespaces need root" >&2; exit 1; }
command -v nft >/dev/null || { echo "error: nft is missing: apt-get install nftables" >&2; exit 1; }
[[ -x $ONEIP ]] || { echo "error: no binary at $ONEIP: cargo build --release" >&2; exit 1; }

work=$(mktemp -d)
clean() {
    trap '' INT TERM
    ip netns del $A 2>/dev/null || true
    ip netns del $B 2>/dev/null || true
    ! mountpoint -q "$work/bpf" || umount "$work/bpf"
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

in_b() { ip netns exec $B "$@"; }

lay_cable() {
    ip netns add $A
    ip netns add $B
    ip link add a0 netns $A numrxqueues 1 numtxqueues 1 type veth peer name b0 netns $B numrxqueues 1 numtxqueues 1
    ip -n $A link set a0 up
    ip -n $B link set b0 up
    ip -n $B address add 192.0.2.1/24 dev b0
    ip -n $B link set lo up
    ip -n $B address add $ADDRESS/32 dev lo
    # Without GRO's NAPI on both ends, a cable carries no XDP frames to an end without a program.
    in_b ethtool -K b0 gro on >/dev/null
}

configure() { # native or generic
    cat <<END
[cluster]
hash_key = "000102030405060708090a0b0c0d0e0f"
[filter]
interface = "b0"
xdp = "$1"
pins = "$work/bpf"
hold_ms = 0
[admin]
socket = "$work/oneip.sock"
state = "$work/state.json"
[[service]]
name = "dns"
address = "$ADDRESS"
ports = ["udp/53"]
drain_s = 0
END
    for n in $(seq 1 64); do
        printf '[[service.server]]\nname = "s%d"\naddress = "192.0.2.%d"\n' "$n" "$n"
    done
}

# ---- the ways to drop: each is set up, and taken down again ----

floor_up() { ip -n $B link set dev b0 xdpdrv obj "$work/drop.o" sec xdp; }
floor_down() { ip -n $B link set dev b0 xdpdrv off; }

filter=''
filter_up() { # native or generic
    configure "$1" >"$work/$1.toml"
    setsid ip netns exec $B "$ONEIP" filter -c "$work/$1.toml" --server s1 --json >"$work/account" 2>"$work/log" &
    filter=$!
    for _ in $(seq 200); do ! grep -q '^ready' "$work/log" || return 0; sleep 0.02; done
    cat "$work/log" >&2
    exit 1
}
filter_down() {
    kill -TERM "$filter"
    wait "$filter"
    in_b "$ONEIP" filter -c "$work/$1.toml" --detach >/dev/null
}
native_up() { filter_up native; }
native_down() { filter_down native; }
generic_up() { filter_up generic; }
generic_down() { filter_down generic; }

rule() { echo "ip daddr $ADDRESS jhash ip saddr mod 64 seed 7 != 1 counter drop"; }
nft_up() {
    in_b nft "add table netdev flood; add chain netdev flood in { type filter hook ingress device b0 priority 0; }; \
        add rule netdev flood in $(rule)"
}
nft_down() { in_b nft delete table netdev flood; }
prerouting_up() {
    in_b nft "add table ip flood; add chain ip flood in { type filter hook prerouting priority raw; }; add rule ip flood in $(rule)"
}
prerouting_down() { in_b nft delete table ip flood; }

# Busy time of the core, in hundredths of a second: all but idle and waiting.
busy() { awk -v cpu="cpu$CORE" '$1 == cpu { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }

measure() { # NAME
    local before after json
    "$1_up"
    before=$(busy)
    json=$(ip netns exec $A taskset -c $CORE "$ONEIP" pktgen --interface a0 --to ff:ff:ff:ff:ff:ff --address $ADDRESS --port udp/53 \
        --clients 1000000 --size 64 --count "$frames" --method xdp --core $CORE --json)
    after=$(busy)
    "$1_down"
    [[ $json =~ \"sent\":([0-9]+) ]] || { echo "error: pktgen said: $json" >&2; exit 1; }
    echo "$1 $(((after - before) * 10000000 / BASH_REMATCH[1]))" >>"$work/figures"
}

mkdir "$work/bpf"
mount -t bpf bpf "$work/bpf"
clang -target bpf -O2 -Wall -I"/usr/include/$(uname -m)-linux-gnu" -c perf/bench/drop.bpf.c -o "$work/drop.o"
lay_cable
for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds" >&2
    for way in floor native generic nft prerouting; do measure "$way"; done
done

median() { awk -v way="$1" '$1 == way { print $2 }' "$work/figures" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
floor=$(median floor)
printf '%-12s %10s %14s %24s\n' '' 'ns a frame' 'without floor' 'frames a CPU second, so'
for way in floor native generic nft prerouting; do
    ns=$(median "$way")
    own=$((ns - floor))
    printf '%-12s %10d %14d %24s\n' "$way" "$ns" "$own" "$( ((own > 0)) && echo $((1000000000 / own)) || echo -)"
done
