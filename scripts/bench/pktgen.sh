#!/usr/bin/env bash
# One load from the kernel's pktgen, as JSON with the keys of `oneip pktgen --json`. After the kernel's sample scripts
# (samples/pktgen): a device on the thread of a core, a source address range, a fixed destination.
#
# The frames that came back are those that the receiving interface counted: pktgen's own have no sequence for us to check, and no
# time stamp that we read, so that `duplicates`, `reordered`, `corrupt` and `latency_ns` are null.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/bench/pktgen.sh INTERFACE RECEIVE MAC ADDRESS PORT FIRST CLIENTS ORDER SIZE RATE SECONDS CORE

Sends UDP frames from INTERFACE for SECONDS and counts those that come to RECEIVE. FIRST: the first of CLIENTS source addresses,
taken in ORDER random or sequential; over IPv6 pktgen has one. SIZE in bytes, with FCS. RATE in frames a second; 0: as many as
go. Needs root and the module pktgen.
END
}

if (($# != 12)); then usage >&2; exit 2; fi
readonly interface=$1 receive=$2 mac=$3 address=$4 port=$5 first=$6 clients=$7 order=$8 size=$9 rate=${10} seconds=${11} core=${12}
readonly PROC=/proc/net/pktgen
[[ -e $PROC/pgctrl ]] || modprobe -q pktgen 2>/dev/null || { echo "error: this kernel has no pktgen (modprobe pktgen)" >&2; exit 1; }

set_pktgen() { # FILE COMMAND
    echo "$2" >"$PROC/$1" 2>/dev/null || { echo "error: pktgen refuses \"$2\" ($PROC/$1)" >&2; exit 1; }
}

last_address() { # FIRST COUNT
    local a b c d
    IFS=. read -r a b c d <<<"$1"
    local number=$(((a << 24) + (b << 16) + (c << 8) + d + $2 - 1))
    echo "$((number >> 24)).$((number >> 16 & 255)).$((number >> 8 & 255)).$((number & 255))"
}

arrived() { cat "/sys/class/net/$receive/statistics/rx_packets"; }

readonly device=$interface@$core
set_pktgen pgctrl reset
set_pktgen "kpktgend_$core" "add_device $device"
set_pktgen "$device" "count 0"
set_pktgen "$device" "clone_skb 0"
# Without the four bytes of FCS, as pktgen counts.
set_pktgen "$device" "pkt_size $((size - 4))"
set_pktgen "$device" "dst_mac $mac"
set_pktgen "$device" "udp_src_min 40000"
set_pktgen "$device" "udp_src_max 40000"
set_pktgen "$device" "udp_dst_min $port"
set_pktgen "$device" "udp_dst_max $port"
if [[ $address == *:* ]]; then
    set_pktgen "$device" "dst6 $address"
    set_pktgen "$device" "src6 $first"
else
    set_pktgen "$device" "dst_min $address"
    set_pktgen "$device" "dst_max $address"
    set_pktgen "$device" "src_min $first"
    set_pktgen "$device" "src_max $(last_address "$first" "$clients")"
    if [[ $order == random ]]; then set_pktgen "$device" "flag IPSRC_RND"; fi
fi
if ((rate > 0)); then set_pktgen "$device" "ratep $rate"; fi

before=$(arrived)
# "start" comes back when all has been sent, which is when somebody says "stop".
(echo start >"$PROC/pgctrl") 2>/dev/null &
sleep "$seconds"
set_pktgen pgctrl stop
wait
sleep 0.2
received=$(($(arrived) - before))

# "Result: OK: 1000133(c999733+d400) usec, 93071 (60byte,0frags)"
result=$(<"$PROC/$device")
[[ $result =~ Result:\ OK:\ ([0-9]+)\([^\)]*\)\ usec,\ ([0-9]+) ]] || { echo "error: pktgen: ${result##*Result: }" >&2; exit 1; }
awk -v us="${BASH_REMATCH[1]}" -v sent="${BASH_REMATCH[2]}" -v received="$received" -v rate="$rate" -v size="$size" 'BEGIN {
    s = us / 1e6
    lost = sent > received ? sent - received : 0
    printf "{\"sent\":%d,\"received\":%d,\"lost\":%d,\"duplicates\":null,\"reordered\":null,\"corrupt\":null,\"seconds\":%.3f,", sent, received, lost, s
    printf "\"offered_pps\":%d,\"sent_pps\":%d,\"received_pps\":%d,\"received_bps\":%d,", rate, sent / s, received / s, received / s * (size - 4) * 8
    printf "\"lag_ns\":null,\"latency_ns\":null,\"by_mac\":null}\n" }'
