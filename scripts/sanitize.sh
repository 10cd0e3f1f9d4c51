#!/usr/bin/env bash
# The DPDK shim with sanitizers: a program in C that calls every function of it, compiled with AddressSanitizer and UBSan.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1-} in
    '') ;;
    -h | --help) echo "usage: scripts/sanitize.sh      exit 0: nothing was found, or it says that there is no libdpdk (scripts/setup.sh --dpdk)"; exit 0 ;;
    *) echo "usage: scripts/sanitize.sh" >&2; exit 2 ;;
esac
pkg-config --exists libdpdk || { echo "SKIPPED: the shim was not sanitized: there is no libdpdk (scripts/setup.sh --dpdk)"; exit 0; }
readonly program=target/shim
mkdir -p target
read -ra flags < <(pkg-config --cflags libdpdk)
# What it leaves behind itself in DPDK, which keeps memory until the process ends, is no leak of the shim's.
cc -g -O1 -Wall -fsanitize=address,undefined -fno-sanitize=alignment -fno-sanitize-recover=all "${flags[@]}" tests/dpdk/shim.c src/port/dpdk/shim.c -o "$program" \
    -lrte_eal -lrte_ethdev -lrte_mbuf -lrte_mempool -lrte_ring -lrte_net_ring
ASAN_OPTIONS=detect_leaks=0 "$program" --no-huge -m 64 --no-pci --no-telemetry --no-shconf --vdev=net_ring0
