# What is measured, part by part. Each writes a CSV into the report's folder; perf/report reads them.

# The rate that loads are given in percent of: what oneip forwards of 64-byte frames over IPv4 without loss.
base=0

# Median of whole numbers.
median() { printf '%s\n' "$@" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# Round after round, each DUT in each round, so that all see the same moods of the machine.
part_throughput() {
    local round dut_ rates=() overloads=()
    family=4 size=64
    for ((round = 1; round <= rounds; round++)); do
        for dut_ in "${duts[@]}"; do
            if ((round > 1)); then measure_anew "$dut_"; fi
            throughput_of "$dut_" "$round" 6
            if [[ $dut_ == oneip ]]; then rates+=("$throughput") overloads+=("$overload"); fi
        done
    done
    base=$(median "${rates[@]}")
    ((base + $(median "${overloads[@]}") > 0)) || die "nothing comes back from oneip: $(<"$work/oneip.err")"
    if ((base == 0)); then
        # Too busy a host: half of what came through, at least.
        base=$(($(median "${overloads[@]}") / 2))
        say "no rate without loss in most rounds: something else uses this machine; loads are in percent of $(kilo "$base") kpps"
    fi
    local sizes4=(256 1024 1518 imix) sizes6=(84 1518 imix)
    if [[ -n $full ]]; then sizes4=(128 256 512 1024 1280 1518 imix) sizes6=(84 128 256 512 1024 1280 1518 imix); fi
    if [[ -n $smoke ]]; then sizes4=(1518) sizes6=(); fi
    # pktgen has one client over IPv6, and testpmd no rate.
    if [[ $generator != oneip ]]; then sizes4=(1518) sizes6=(); fi
    for size in "${sizes4[@]}"; do
        for dut_ in "${size_duts[@]}"; do throughput_of "$dut_" 1 4; done
    done
    family=6
    for size in "${sizes6[@]}"; do
        for dut_ in "${size_duts[@]}"; do throughput_of "$dut_" 1 4; done
    done
    family=4 size=64
}

throughput_of() { # DUT ROUND TRIALS
    measure "$1"
    search throughput "$3"
    say "throughput, IPv$family, $size B, round $2: $1 $(kilo "$throughput") kpps$(if [[ $limit != dut ]]; then echo ', all that the generator has'; fi)"
    row throughput "$1,$family,$size,$2,$throughput,$limit,$held"
}

# Idle, and at parts of oneip's throughput: the same loads for all.
part_latency() {
    local load rate dut_
    for load in idle 10 50 90 99; do
        if [[ $load == idle ]]; then rate=1000; else rate=$((base * load / 100)); fi
        for dut_ in "${duts[@]}"; do
            measure "$dut_"
            hlog=$report/hlog/$dut_-$load.hlog
            trial latency "$rate" "$latency_seconds"
            hlog=''
            say "latency, $load: $dut_ p50 $(micro "$p50"), p99 $(micro "$p99") us, lost $lost"
            row latency "$dut_,$load,$rate,$sent,$lost,$(latency_values)"
        done
        # Idle there are too few frames for it, and near the limit it is the queue's.
        if [[ $load =~ ^(10|50|90)$ && " ${duts[*]} " == *" reflector "* ]]; then tails "$load" "$rate"; fi
    done
}

# Short trials of oneip and the reflector by turns, of some processes of each. Each begins every second turn, lest it is always the same
# that meets what the host does twice a second.
tails() { # LOAD RATE
    local round dut_ pair=(oneip reflector)
    local -A tail
    for ((round = 0; round < 4 * rounds; round++)); do
        for dut_ in "${pair[@]}"; do
            if ((round % 4 == 0)); then measure_anew "$dut_"; else measure "$dut_"; fi
            trial tail "$2" "$(awk -v s="$latency_seconds" 'BEGIN { print s / 10 }')"
            tail[$dut_]=$p99
        done
        pair=("${pair[1]}" "${pair[0]}")
        # A generator that sees no latency has none to compare.
        if [[ ${tail[oneip]}/${tail[reflector]} =~ ^[0-9.]+/[0-9.]+$ ]]; then row tail "$1,${tail[oneip]},${tail[reflector]}"; fi
    done
}

latency_values() {
    jq -r '[.latency_ns | .count, .min, .mean, .p50, .p90, .p99, .p999, .p9999, .max]
        | map(if type == "number" then round else . end) | join(",")' <<<"$answer"
}

part_loss() {
    local load dut_ loads=(50 100 125 150 200 max)
    # It knows one load alone.
    if [[ $generator == dpdk ]]; then loads=(max); fi
    for load in "${loads[@]}"; do
        for dut_ in "${size_duts[@]}"; do
            measure "$dut_"
            if [[ $load == max ]]; then trial loss 0; else trial loss $((base * load / 100)); fi
            say "overload, $load: $dut_ $(kilo "$sent_pps") kpps in, $(kilo "$received_pps") out"
            row loss "$dut_,$load,$sent_pps,$received_pps"
        done
    done
}

# Where a frame's time goes, in memory; and what a worker does for a frame on its interface.
part_cost() {
    say "cost per frame: cargo bench --bench turn"
    # A filter that none of criterion's names has: the stages alone.
    command_ cargo bench --quiet --bench turn -- stages-only >"$work/turn.out" 2>&1 || { cat "$work/turn.out" >&2; die "the bench failed"; }
    sed -nE 's|^(.*[^ ]) +turn +([0-9.]+) ns/frame, floor +([0-9.]+), .*|\1;turn;\2\n\1;floor;\3|p
        s|^(.*[^ ]) +receive ([0-9.]+), parse and match ([0-9.]+), hash and look up ([0-9.]+), rewrite ([0-9.]+), transmit ([0-9.]+) ns/frame|\1;receive;\2\n\1;parse and match;\3\n\1;hash and look up;\4\n\1;rewrite;\5\n\1;transmit;\6|p' \
        "$work/turn.out" | sed 's/, / - /g; s/,//g; s/;/,/g' | while read -r line; do row cost "$line"; done
    if command -v valgrind >/dev/null; then
        sed -nE 's|^(.*[^ ]) +turn .* ns/frame.*|\1|p' "$work/turn.out" | while read -r scenario; do count_instructions "$scenario"; done
    else
        say "cost per frame: no instructions stage by stage, since there is no valgrind: scripts/setup.sh --bench"
    fi
    if perf stat -e instructions true 2>&1 | grep -qE '[0-9] +instructions'; then instructions; else
        say "cost per frame: no instructions of the running dispatcher, since perf counts none here"
    fi
}

# By valgrind, which counts all that is executed, and knows no AVX-512. Its lines are by function and source file; the largest of a
# function has the others in it.
count_instructions() { # SCENARIO
    local runner=CARGO_TARGET_$(uname -m | tr '[:lower:]' '[:upper:]')_UNKNOWN_LINUX_GNU_RUNNER
    command_ env "$runner=valgrind --tool=callgrind --callgrind-out-file=$work/callgrind.out" \
        cargo bench --quiet --bench turn -- "counted=$1" >"$work/counted.out" 2>&1 || { cat "$work/counted.out" >&2; die "the bench failed under valgrind"; }
    if [[ -n $dry_run ]]; then return; fi
    local scenario=${1//, / - }
    callgrind_annotate --inclusive=yes --threshold=100 "$work/callgrind.out" 2>/dev/null |
        awk -v scenario="${scenario//,/}" -v frames="$(sed -nE 's/.*: ([0-9]+) frames$/\1/p' "$work/counted.out")" '
            match($0, /turn::(Steps::(receive|parse_and_match|hash_and_look_up|rewrite|transmit)|Bench::turns)/) && !/=>|\(below/ {
                name = substr($0, RSTART, RLENGTH); sub(/.*::/, "", name); gsub(/_/, " ", name); sub(/^turns$/, "turn", name)
                gsub(/,/, "", $1)
                if ($1 + 0 > most[name] + 0) most[name] = $1 + 0
            }
            END { for (name in most) printf "%s,%s,%.1f\n", scenario, name, most[name] / frames }' |
        sort | while read -r line; do row instructions "$line"; done
}

# At half of the throughput a polling worker also counts its empty turns; at the full rate hardly any.
instructions() {
    local event
    measure oneip
    [[ -n $dry_run ]] || perf stat -x, -e instructions:u,instructions:k -p "${pid[oneip]}" -o "$work/perf.out" -- sleep "$seconds" &
    trial cost $((base * 99 / 100))
    wait $! || true
    if [[ -n $dry_run ]]; then return; fi
    for event in instructions:u instructions:k; do
        row cost "oneip run,$event,$(awk -F, -v event=$event -v pps="$received_pps" -v s="$seconds" '$3 == event { printf "%.0f", $1 / (pps * s) }' "$work/perf.out")"
    done
}

# ---- growth, on a cable and with a dispatcher of its own ----

part_growth() {
    local n
    open_growth
    for n in 1 64 4096; do grow services $n $n 3; done
    for n in 3 100 1000; do grow servers $n 1 $n; done
    for n in 1 1000 1000000 10000000; do
        clients=$n
        grow clients $n 1 "$SERVERS"
    done
    clients=$CLIENTS
    if ((${#cores[@]} < 4)) || [[ -n $interface ]]; then
        say "growth by workers: not measured; it is in the lab alone, and needs a core for each worker and each sender"
    else
        for ((n = 1; 2 * n <= ${#cores[@]}; n *= 2)); do grow_workers "$n"; done
    fi
}

open_growth() { # [QUEUES]
    if [[ -n $interface ]]; then
        if [[ -n $dut ]]; then stop "$dut"; fi
        dut=growth
        return
    fi
    dut=growth${1-}
    if [[ " ${duts[*]} " != *" $dut "* ]]; then
        lay_cable "${1-}"
        duts+=("$dut")
    fi
}

# Each sender has a core, whose number says which queue its frames come in on (veth_select_rxq, drivers/net/veth.c); so that each queue,
# and its worker on another core, has one sender.
grow_workers() { # N
    local senders=$generator_cores
    open_growth "$1"
    generator_cores=$(IFS=,; echo "${cores[*]:0:$1}")
    grow workers "$1" 1 "$SERVERS" "$(IFS=,; echo "${cores[*]: -$1}")"
    generator_cores=$senders
}

grow() { # WHAT N SERVICES SERVERS [CORES]
    start_growth "${@:3}"
    # As many ports as services, up to what a command line should hold.
    ports=$(($3 < 1024 ? $3 : 1024))
    search growth 4
    row growth "$1,$2,$throughput,$(resident)"
    say "growth, $2 $1: $(kilo "$throughput") kpps, $(resident) KiB"
    ports=1
    stop "$dut"
}

start_growth() {
    local other
    for other in "${duts[@]}"; do if [[ $other != "$dut" ]]; then signal STOP "$other"; fi; done
    start_oneip "$@"
}

resident() { if [[ -n $dry_run ]]; then echo 0; else awk '/^VmRSS/ { print $2 }' "/proc/${pid[$dut]}/status"; fi; }

# What takes memory besides: without load.
part_memory() {
    local services servers
    open_growth
    while read -r services servers; do
        start_growth "$services" "$servers"
        row memory "$services,$servers,$(resident)"
        say "memory: $services services of $servers servers: $(resident) KiB"
        stop "$dut"
    done <<<$'1 3\n1 1000\n256 3\n256 64'
}

# ---- changes under load ----

# At half of the throughput, so that what is lost is lost to the change.
part_change() {
    local name
    for name in none disable enable reload takeover kill; do change oneip "$name"; done
    if [[ " ${duts[*]} " != *" oneip-xdp "* ]]; then return; fi
    for name in none reload takeover kill; do change oneip-xdp "$name"; done
}

# In the second of three seconds of load.
change() { # DUT NAME
    local rate=$((base / 2)) began ms late='' load second=1
    measure "$1"
    if [[ -n $smoke ]]; then second=0.3; fi
    generate "$rate" "$(awk "BEGIN { print 3 * $second }")" >"$work/answer" &
    load=$!
    [[ -n $dry_run ]] || sleep "$second"
    began=${EPOCHREALTIME/[.,]/}
    "change_$2"
    ms=$(((${EPOCHREALTIME/[.,]/} - began + 500) / 1000))
    # What comes to the server after the order was answered. It is worked out later, so as not to take a core from the load.
    if [[ $2 == disable ]]; then
        ctl status --json
        cp "$work/ctl.out" "$work/answered.json"
    fi
    wait "$load" || die "the load failed"
    if [[ $2 == disable ]]; then
        ctl status --json
        late=$(($(frames_to server1 "$work/ctl.out") - $(frames_to server1 "$work/answered.json")))
    fi
    account change "$rate" "$(<"$work/answer")"
    say "change, $1, $2: $ms ms, $lost of $sent frames lost$(if [[ -n $late ]]; then echo ", $late to the server after the answer"; fi)"
    row change "$1,$2,$rate,$sent,$lost,$ms,$late"
}

# What the host takes.
change_none() { :; }
change_disable() { ctl disable server1; }
change_enable() { ctl enable server1; }
# A server more.
change_reload() {
    write_configuration 1 $((SERVERS + 1)) "$dut_core" "$(if [[ $dut == oneip-xdp ]]; then echo xdp; fi)" >"$work/$dut.toml"
    ctl reload
}
# A new process beside the old one, as an upgrade has it.
change_takeover() {
    local old=${pid[$dut]-}
    run_oneip --takeover
    [[ -n $dry_run ]] || wait "$old" || die "the old process failed: $(<"$work/$dut.err")"
}
change_kill() {
    signal KILL "$dut"
    [[ -n $dry_run ]] || wait "${pid[$dut]}" 2>/dev/null || true
    run_oneip
}

ctl() { at_dut "$ONEIP" ctl --socket "$work/$dut.sock" "$@" >"$work/ctl.out" 2>&1 || { cat "$work/ctl.out" >&2; die "oneip ctl $* failed"; }; }

frames_to() { # SERVER STATUS
    if [[ -n $dry_run ]]; then echo 0; return; fi
    jq --arg server "$1" '[.services[].servers[] | select(.name == $server) | .frames] | add' "$2"
}
