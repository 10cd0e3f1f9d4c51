#!/usr/bin/env bash
# One load from DPDK's testpmd, as JSON with the keys of `oneip pktgen --json`. It sends as fast as it can from 256 addresses;
# the frames that came back are those that the receiving interface counted.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/bench/testpmd.sh INTERFACE RECEIVE MAC ADDRESS PORT FIRST SIZE SECONDS CORES

Sends UDP frames from INTERFACE (by net_af_packet) for SECONDS and counts those that come to RECEIVE. FIRST: the first source
address. SIZE in bytes, with FCS. CORES: one for its command line, one to send. Needs root and Debian's package dpdk-dev.
END
}

if (($# != 9)); then usage >&2; exit 2; fi
readonly interface=$1 receive=$2 mac=$3 address=$4 port=$5 first=$6 size=$7 seconds=$8 cores=$9
count() { cat "/sys/class/net/$1/statistics/$2"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkfifo "$work/input"
first_sent=$(count "$interface" tx_packets) first_received=$(count "$receive" rx_packets)
dpdk-testpmd --no-huge -m 128 --no-pci --no-telemetry --no-shconf \
    --file-prefix "testpmd-$$" -l "$cores" --main-lcore "${cores##*,}" --vdev="net_af_packet0,iface=$interface" -- \
    --forward-mode=txonly --auto-start --total-num-mbufs=8192 --txonly-multi-flow --txpkts=$((size - 4)) --eth-peer=0,"$mac" \
    --tx-ip="$first,$address" --tx-udp="40000,$port" <"$work/input" >"$work/out" 2>&1 &
testpmd=$!
# Its end is the end of its input.
exec 3>"$work/input"
for ((tries = 0; tries < 500; tries++)); do
    (($(count "$interface" tx_packets) == first_sent)) || break
    kill -0 $testpmd 2>/dev/null || break
    sleep 0.01
done
# Rates are of the time in which it sends for sure: how long it takes to come up and to end is nobody's rate. Losses are of all.
start=$EPOCHREALTIME sent=$(count "$interface" tx_packets) received=$(count "$receive" rx_packets)
sleep "$seconds"
end=$EPOCHREALTIME sent=$(($(count "$interface" tx_packets) - sent)) received=$(($(count "$receive" rx_packets) - received))
echo >&3
exec 3>&-
wait $testpmd || { cat "$work/out" >&2; echo "error: testpmd failed" >&2; exit 1; }
# Stragglers.
sleep 0.3
all_sent=$(($(count "$interface" tx_packets) - first_sent)) all_received=$(($(count "$receive" rx_packets) - first_received))
awk -v all_sent=$all_sent -v all_received=$all_received -v sent="$sent" -v received="$received" -v s="$(awk "BEGIN { print $end - $start }")" \
    -v size="$size" 'BEGIN {
    lost = all_sent > all_received ? all_sent - all_received : 0
    printf "{\"sent\":%d,\"received\":%d,\"lost\":%d,\"duplicates\":null,\"reordered\":null,\"corrupt\":null,\"seconds\":%.3f,", all_sent, all_received, lost, s
    printf "\"offered_pps\":0,\"sent_pps\":%d,\"received_pps\":%d,\"received_bps\":%d,", sent / s, received / s, received / s * (size - 4) * 8
    printf "\"lag_ns\":null,\"latency_ns\":null,\"by_mac\":null}\n" }'
