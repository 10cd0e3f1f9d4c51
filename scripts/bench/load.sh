# The load: one trial is frames at a rate for a time, and what came back of them. Three generators, one form of answer.
#
# What a trial sends: $family (4 or 6), $size (bytes with FCS, or imix), $clients source addresses in $order, to udp/80 and
# $ports - 1 ports behind it.

family=4 size=64 clients=$CLIENTS order=random ports=1
# Where the latency of a trial goes as an interval log; empty: nowhere.
hlog=''

# Of the last trial. Without a latency, the percentiles are empty.
sent=0 received=0 lost=0 sent_pps=0 received_pps=0 p50='' p99='' answer=''

# What has no figure in a dry run passes without loss.
readonly DRY_ANSWER='{"sent":1,"received":1,"lost":0,"seconds":1,"offered_pps":1000000,"sent_pps":1000000,"received_pps":1000000}'

generate() { # RATE SECONDS: JSON
    local answer
    answer=$("generate_$generator" "$@") || die "the generator failed${answer:+: $answer}"
    if [[ -n $dry_run ]]; then answer=$DRY_ANSWER; fi
    echo "$answer"
}

generate_oneip() {
    local options=(--interface "$tester_interface" --to "$dut_mac" --address "$(cluster "$family")" --first-client "$(first_client)"
        --clients "$clients" --order "$order" --size "$size" --duration "$2" --core "$generator_cores" --json)
    local port
    for ((port = 80; port < 80 + ports; port++)); do options+=(--port "udp/$port"); done
    if (($1 > 0)); then options+=(--rate "$1"); fi
    if [[ $receive_interface != "$tester_interface" ]]; then options+=(--receive "$receive_interface"); fi
    # On a box the log is the other host's, and is fetched.
    local log=$hlog
    if [[ -n $hlog && -n $interface ]]; then log=/tmp/oneip-bench.hlog; fi
    if [[ -n $log ]]; then options+=(--hlog "$log"); fi
    at_tester "$tester_oneip" pktgen "${options[@]}" || return
    if [[ $log != "$hlog" ]]; then
        if [[ -n $dry_run ]]; then at_tester cat "$log"; else at_tester cat "$log" >"$hlog"; fi
    fi
}

generate_pktgen() {
    local words=("$tester_interface" "$receive_interface" "$dut_mac" "$(cluster "$family")" 80 "$(first_client)" "$clients" "$order" \
        "$size" "$1" "$2" "$generator_core")
    if [[ -n $interface ]]; then
        command_ ssh "$peer" "bash -s -- ${words[*]}" <scripts/bench/pktgen.sh
    else
        at_tester scripts/bench/pktgen.sh "${words[@]}"
    fi
}

# testpmd has no rate: it sends as fast as it can. Its source addresses are 256 of one network.
generate_dpdk() {
    local words=("$tester_interface" "$receive_interface" "$dut_mac" "$(cluster 4)" 80 "$(first_client)" "$size" "$2" \
        "$generator_core,$dut_core")
    if [[ -n $interface ]]; then
        command_ ssh "$peer" "bash -s -- ${words[*]}" <scripts/bench/testpmd.sh
    else
        at_tester scripts/bench/testpmd.sh "${words[@]}"
    fi
}

first_client() {
    if ((family == 6)); then echo "$FIRST6"
    elif ((clients > 131072)); then echo 10.0.0.1
    else echo "$FIRST4"; fi
}

# One trial.
trial() { # PART RATE [SECONDS]
    local given
    # Said here: where it is asked whether a rate holds, nothing ends by itself.
    given=$(generate "$2" "${3:-$seconds}") || die "without an answer there is nothing to measure"
    account "$1" "$2" "$given"
}

# An answer, into the variables above and a line of trials.csv.
account() { # PART RATE ANSWER
    local values name
    answer=$3
    values=$(jq -r '[.sent, .received, .lost + (.corrupt // 0), .sent_pps, .received_pps, .duplicates, .reordered, .corrupt, .seconds, .lag_ns.p99,
        (.latency_ns | .count, .min, .mean, .p50, .p90, .p99, .p999, .p9999, .max)]
        | map(if type == "number" then . * 1000 | round / 1000 else . end) | join(",")' <<<"$answer") && [[ -n $values ]] || die "not the generator's JSON: '$answer'"
    IFS=, read -r sent received lost sent_pps received_pps _ _ _ _ _ _ _ _ p50 _ p99 _ <<<"$values"
    for name in sent_pps received_pps; do printf -v "$name" '%.0f' "${!name}"; done
    row trials "$1,$dut,$family,$size,$clients,$2,$values"
}

# Whether of the frames sent no more were lost than the tolerance says.
lossless() { awk -v lost="$lost" -v sent="$sent" -v most="$loss" 'BEGIN { exit !(sent > 0 && lost / sent * 100 <= most) }'; }

# Whether a rate can be carried without loss: one of $attempts trials says so. More than one, because now and then the host takes a
# core away for some ms, longer than any ring lasts. Not even that loses 3 %: then one trial is enough.
holds() { # PART RATE
    local attempt
    for ((attempt = 0; attempt < attempts; attempt++)); do
        trial "$1" "$2"
        if lossless; then return; fi
        if ((lost * 100 > sent * 3)); then break; fi
    done
    return 1
}

# RFC 2544, section 26.1: the highest rate at which the DUT loses nothing (or so little as is tolerated). First as fast as the
# generator goes; then near what came through, in steps of 15 % until one rate holds and a faster one does not; then by
# halves, until what is left is 3 % or RATES were tried. Into $throughput, frames a second that arrived, 0 if no rate
# held, and $held, what that trial sent and lost; $limit says whether it was the DUT or the generator that went no faster;
# $overload is what came through of all that the generator had.
search() { # PART RATES
    local low=0 high rate rates
    throughput=0 limit=dut held=,
    trial "$1" 0
    overload=$received_pps
    if lossless; then throughput=$received_pps limit=generator held=$sent,$lost; return; fi
    # It knows no other rate.
    if [[ $generator == dpdk ]]; then return; fi
    high=$sent_pps
    rate=$((received_pps * 97 / 100))
    for ((rates = 1; rates < $2 && rate > 0; rates++)); do
        if holds "$1" "$rate"; then
            low=$sent_pps throughput=$received_pps held=$sent,$lost
            # The generator's own limit, below what was asked for.
            if ((sent_pps < rate * 97 / 100)); then limit=generator; return; fi
        else
            high=$rate
        fi
        if (((high - low) * 100 < high * 3)); then break; fi
        rate=$(((low + high) / 2))
        if ((low == 0)); then rate=$((high * 9 / 10)); elif ((rate > low * 115 / 100)); then rate=$((low * 115 / 100)); fi
    done
}
