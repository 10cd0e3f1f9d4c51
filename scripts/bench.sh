#!/usr/bin/env bash
# Measures the dispatcher after RFC 2544, beside what one would use instead, and writes a report.
#
# Here: the arguments, the order of things, and the end. The rest, in reading order:
#   bench/lab.sh    the cables, and whose turn it is      bench/duts.sh   the devices under test
#   bench/load.sh   a trial, and the search by trials     bench/parts.sh  what is measured
#   bench/flood.sh  clients beside a flood
#   bench/facts.sh  the host's facts                      perf/report     reads all that and writes report.md and the plots
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin

usage() {
    cat <<'END'
usage: scripts/bench.sh [OPTION]...             in a lab of veth cables on this host: under 5 minutes
       scripts/bench.sh --interface ETH --peer HOST --peer-interface ETH [OPTION]...    on a real box
       scripts/bench.sh --compare A B           two reports side by side

Builds oneip, measures it and others under the same load by turns, and writes perf/reports/<date>-<commit>/: report.md with
plots, and the raw figures. Needs root; scripts/setup.sh --bench installs what it uses.

  --generator G      oneip (default): oneip pktgen; pktgen: the kernel's (module pktgen); dpdk: testpmd, which knows no rate, so
                     that only overload is measured
  --parts LIST       of throughput,latency,loss,cost,growth,memory,change,flood (default: all but flood, which takes 5 minutes more); throughput
                     is measured always
  --duts LIST        of oneip,oneip-xdp,oneip-ipip,reflector,macswap,nftables,routing,ipvs,ipvs-ops,oneip-dpdk,testpmd-af_xdp,
                     testpmd-af_packet (default: all that there are here); oneip is always among them
  --loss PERCENT     frames that may be lost in a trial that counts as lossless (default: 0.1)
  --seconds S        length of a trial (default: 0.25)
  --full             trials of 10 s, 5 rounds, all of RFC 2544's frame sizes: two hours or so
  --smoke            a run of seconds, to see whether it runs at all; its figures mean nothing
  --out DIR          write the report below DIR (default: perf/reports)
  --no-build         use what target/release has, or the folder in the environment variable ONEIP_BUILT
  --dry-run          print every command instead

On a real box, this host is the dispatcher. HOST is reached by ssh as root; it generates, is the router and the servers in one, and
counts what comes back:
  --interface ETH        the dispatcher's interface, on this host
  --peer HOST            the other host, as ssh knows it
  --peer-interface ETH   its interface towards the dispatcher
  --peer-receive ETH     its interface that counts (default: the same one, on a cable without a switch)
  --peer-oneip PATH      oneip on it (default: oneip)
END
}

die() { echo "error: $*" >&2; exit 1; }
wrong() { echo "error: $*; see scripts/bench.sh --help" >&2; exit 2; }

readonly PARTS=(throughput latency loss cost growth memory change flood) USUAL=(throughput latency loss cost growth memory change)
readonly CLIENTS=100000 SERVERS=16
readonly LAB=${ONEIP_LAB:-bench}
BUILT=$(realpath -m "${ONEIP_BUILT:-target/release}")
readonly BUILT ONEIP=$BUILT/oneip ONEIP_DPDK=$BUILT/oneip-dpdk REFLECTOR=$BUILT/examples/reflector REPORT=$BUILT/examples/report

arguments=$* generator=oneip wanted_parts='' wanted_duts='' loss=0.1 seconds=0.25 latency_seconds=0.7 rounds=3 attempts=3 out=perf/reports
dry_run='' smoke='' full='' compare=() build=yes interface='' peer='' tester_interface='' receive_interface='' tester_oneip=oneip
while (($# > 0)); do
    case $1 in
        --compare) (($# == 3)) || wrong "--compare needs two reports"; compare=("$2" "$3"); break ;;
        --dry-run) dry_run=yes ;;
        --full) full=yes seconds=10 latency_seconds=30 rounds=5 ;;
        --smoke) smoke=yes seconds=0.1 latency_seconds=0.1 rounds=1 attempts=1 ;;
        --no-build) build='' ;;
        -h | --help) usage; exit 0 ;;
        --generator | --parts | --duts | --loss | --seconds | --out | --interface | --peer | --peer-interface | --peer-receive | --peer-oneip)
            (($# >= 2)) || wrong "$1 needs a value"
            case $1 in
                --generator) generator=$2 ;;
                --parts) wanted_parts=$2 ;;
                --duts) wanted_duts=$2 ;;
                --loss) loss=$2 ;;
                --seconds) seconds=$2 ;;
                --out) out=$2 ;;
                --interface) interface=$2 ;;
                --peer) peer=$2 ;;
                --peer-interface) tester_interface=$2 ;;
                --peer-receive) receive_interface=$2 ;;
                --peer-oneip) tester_oneip=$2 ;;
            esac
            shift ;;
        *) wrong "no such option: $1" ;;
    esac
    shift
done

# ---- what is asked for, and whether it can be ----

numbers='^[0-9]+(\.[0-9]+)?$'
[[ $loss =~ $numbers && $seconds =~ $numbers ]] || wrong "--loss and --seconds want numbers"
[[ $generator =~ ^(oneip|pktgen|dpdk)$ ]] || wrong "--generator is oneip, pktgen or dpdk, not $generator"
if [[ -n $interface$peer$tester_interface ]]; then
    [[ -n $interface && -n $peer && -n $tester_interface ]] || wrong "--interface, --peer and --peer-interface go together"
fi
IFS=, read -ra parts <<<"${wanted_parts:-$(IFS=,; echo "${USUAL[*]}")}"
for part in "${parts[@]}"; do [[ " ${PARTS[*]} " == *" $part "* ]] || wrong "no such part: $part"; done
for script in lab duts load parts flood facts; do
    # shellcheck source=/dev/null
    source "scripts/bench/$script.sh"
done
IFS=, read -ra asked <<<"${wanted_duts:-$(IFS=,; echo "${ALL_DUTS[*]}")}"
wanted() { [[ " oneip ${asked[*]} " == *" $1 "* ]]; } # DUT
for name in "${asked[@]}"; do [[ " ${ALL_DUTS[*]} " == *" $name "* ]] || wrong "no such device under test: $name"; done

if ((${#compare[@]} > 0)); then
    cargo build --quiet --release --example report
    exec "$REPORT" --compare "${compare[@]}"
fi
[[ -n $dry_run ]] || ((EUID == 0)) || die "network namespaces need root: sudo scripts/bench.sh"
for tool in jq ethtool; do command -v "$tool" >/dev/null || die "no $tool: run scripts/setup.sh --bench"; done

# Where the commands of a dry run go, past what captures output.
exec 3>&1
start=$SECONDS
say() { printf '[%3d s] %s\n' $((SECONDS - start)) "$*" >&2; }
kilo() { awk -v n="$1" 'BEGIN { printf "%.0f", n / 1000 }'; }
micro() { awk -v n="$1" 'BEGIN { if (n == "") print "-"; else printf "%.1f", n / 1000 }'; }

# Runs a command; in a dry run it is printed instead.
do_() { if [[ -n $dry_run ]]; then echo "$*"; else "$@"; fi; }

# A line of a table; its head comes first.
row() { # TABLE LINE
    [[ -n $dry_run ]] || echo "$2" >>"$report/$1.csv"
}
heads() {
    local latency=count,min,mean,p50,p90,p99,p999,p9999,max
    row trials "part,dut,family,size,clients,rate,sent,received,lost,sent_pps,received_pps,duplicates,reordered,corrupt,seconds,lag_p99,$latency"
    row throughput dut,family,size,round,pps,limit,sent,lost
    row latency "dut,load,rate,sent,lost,$latency"
    row tail load,oneip,reflector
    row loss dut,load,sent_pps,received_pps
    row cost scenario,stage,value
    row instructions scenario,stage,value
    row growth what,n,pps,rss_kib
    row memory services,servers,rss_kib
    row change dut,what,rate,sent,lost,ms,late
    row flood engine,limits,flood,pps,gets,answered,p50_us,p99_us,download
}

mapfile -t cores < <(taskset -cp $$ | sed 's/.*: //' | tr , '\n' | while IFS=- read -r first last; do seq "$first" "${last:-$first}"; done)
readonly generator_core=${cores[0]} dut_core=${cores[-1]}
# Those that `oneip pktgen` sends from.
generator_cores=$generator_core
if [[ -n $interface ]]; then
    receive_interface=${receive_interface:-$tester_interface}
    dut_mac=$(cat "/sys/class/net/$interface/address" 2>/dev/null) || die "no interface $interface here"
    receive_mac=''
    if [[ $receive_interface != "$tester_interface" && -z $dry_run ]]; then
        receive_mac=$(ssh "$peer" cat "/sys/class/net/$receive_interface/address") || die "no interface $receive_interface on $peer"
    fi
else
    tester_interface=tester0 receive_interface=tester0 tester_oneip=$ONEIP receive_mac='' dut_mac=$DUT_MAC
    for name in /run/netns/"$LAB"-*; do
        [[ ! -e $name || -n $dry_run ]] || die "there is a namespace ${name##*/}: another bench runs, or one was killed (ip netns delete ${name##*/})"
    done
fi

# ---- the run ----

if [[ -n $build ]]; then
    echo "building oneip (release) ..." >&2
    do_ cargo build --quiet --release --bin oneip --example reflector --example report
    # In a folder of its own, so that neither build undoes the other.
    if wanted oneip-dpdk && pkg-config --exists libdpdk; then
        do_ cargo build --quiet --release --features dpdk --bin oneip --target-dir target/dpdk
        do_ install target/dpdk/release/oneip "$ONEIP_DPDK"
    fi
    if [[ " ${parts[*]} " == *" cost "* && -z $dry_run ]]; then cargo bench --quiet --no-run --bench turn 2>/dev/null; fi
    start=$SECONDS
fi
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
if [[ -n $(git status --porcelain --untracked-files=no -- src build.rs Cargo.lock 2>/dev/null) ]]; then commit+=-changed; fi
load_before=$(cut -d' ' -f1 /proc/loadavg)
report=$out/$(date -u +%F)-$commit
if grep -q 'QEMU TCG' /proc/cpuinfo; then report+=-guest; fi
if [[ -n $smoke ]]; then report+=-smoke; fi
# An earlier report of that name stays until there is a whole one.
finished=$report report=$out/unfinished/${report##*/}
come_first
work=$(mktemp -d)
: >"$work/commands.txt"
trap take_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if [[ -z $dry_run ]]; then
    rm -rf "$report"
    mkdir -p "$report/hlog"
    # Programs in the kernel are kept there, and forgotten with it.
    mkdir "$work/bpf"
    mount -t bpf bpf "$work/bpf"
fi
heads

declare -A left_out
for name in "${ALL_DUTS[@]}"; do
    if ! wanted "$name"; then left_out[$name]="not asked for"; else left_out[$name]=$(lacks "$name"); fi
    if [[ -n ${left_out[$name]} ]]; then
        if [[ ${left_out[$name]} != 'not asked for' ]]; then say "without $name: ${left_out[$name]}"; fi
        continue
    fi
    duts+=("$name")
    if [[ -n $interface ]]; then continue; fi
    dut=$name
    case $name in nftables | routing | ipvs* | testpmd-af_packet) lay_kernel_cable ;; *) lay_cable ;; esac
    "start_${name//-/_}"
    signal STOP "$name"
done
dut=''
# Those that are worth more than 64-byte frames.
size_duts=()
for name in oneip oneip-xdp reflector testpmd-af_xdp nftables; do if [[ " ${duts[*]} " == *" $name "* ]]; then size_duts+=("$name"); fi; done

for part in "${PARTS[@]}"; do
    if [[ $part == throughput || " ${parts[*]} " == *" $part "* ]]; then "part_$part"; fi
done
[[ -z $dry_run ]] || exit 0
write_facts
say "measured; writing the report"
"$REPORT" "$report"
rm -rf "$finished"
mv "$report" "$finished"
rmdir --ignore-fail-on-non-empty "$out/unfinished"
if [[ $out == perf/reports && -z $smoke ]]; then
    sed -i "s|^Newest: .*|Newest: [${finished##*/}](reports/${finished##*/}/report.md)|" perf/README.md
fi
say "done: $finished/report.md"
