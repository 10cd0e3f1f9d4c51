# Clients beside a flood: scripts/lab.sh's network, whose servers answer, and a flood from its router.

readonly FLOOD_LAB=$LAB-flood FLOOD_RUN=/run/$LAB-flood-lab FLOOD_CLUSTER=203.0.113.80 FLOOD_CLUSTER6=2001:db8:80::80
readonly FLOODS=(syn_random syn_24 udp_closed dear nat)

flood_in() { local host=$1; shift; do_ ip netns exec "$FLOOD_LAB-$host" "$@"; }
flood_script() { do_ env ONEIP_LAB="$FLOOD_LAB" ONEIP="$ONEIP" scripts/lab.sh "$@"; }

# With limits: of each /16, more SYNs and packets than the canary sends, and few of what is dear to read. The flood's million addresses are in 16
# of them, and the canary in another.
flood_configuration() { # LIMITS
    local limit=''
    if [[ $1 == on ]]; then
        limit='[service.limit]\nper_source = { prefix_v4 = 16, packets = 20000, syn = 1000, burst = 1000 }\n'
        printf '[limit.odd]\nfragments = 200\nicmp = 200\noptions = 200\n\n'
    fi
    awk -v limit="$limit" '/^\[\[service\.server\]\]/ && !done[service] { printf limit; done[service] = 1 }
        /^\[\[service\]\]/ { service++ } { print }' "$FLOOD_RUN/oneip.toml"
}

# As fast as can be, or RATE frames a second.
flood_of() { # WHAT RATE SECONDS
    local what=$1 send=(flood_in router "$ONEIP" pktgen --interface lan0 --to 02:00:00:00:00:02 --address $FLOOD_CLUSTER --method af_xdp
        --duration "$3" --json)
    if (($2 > 0)); then send+=(--rate "$2"); fi
    case $what in
        syn_random) "${send[@]}" --port tcp/80 --syn --clients 1000000 ;;
        syn_24) "${send[@]}" --port tcp/80 --syn --clients 256 ;;
        udp_closed) "${send[@]}" --port udp/9 --clients 1000000 ;;
        nat) "${send[@]}" --port tcp/80 --clients 1 ;;
        dear) flood_in router python3 perf/bench/dear.py lan0 02:00:00:00:00:02 $FLOOD_CLUSTER6 "$2" "$3" ;;
        none) sleep "$3" ;;
    esac
}

# GETs, a connection each, one after the other: how many were answered, p50 and p99 in microseconds.
canary() { # GETS SECONDS
    timeout "$2" ip netns exec "$FLOOD_LAB-client" curl -s -o /dev/null -w '%{http_code} %{time_total}\n' -H 'Connection: close' --max-time 8 \
        "http://$FLOOD_CLUSTER/?[1-$1]" >"$work/canary" 2>/dev/null || true
    sort -k2n "$work/canary" | awk '$1 == 200 { t[++n] = $2 * 1e6 }
        END { printf "%d %.0f %.0f\n", n, n ? t[int((n + 1) / 2)] : 0, n ? t[int(n * 0.99 + 0.999999)] : 0 }'
}

part_flood() {
    local name engine limits
    if [[ -n $interface ]]; then say "flood: in the lab only"; return; fi
    if [[ -n $dry_run ]]; then
        flood_script up --engine xdp
        for name in "${FLOODS[@]}"; do flood_of "$name" 0 12; done
        return
    fi
    for name in "${duts[@]}"; do signal STOP "$name"; done
    for engine in xdp af_xdp; do
        flood_script up --engine "$engine" >/dev/null
        for limits in off on; do floods "$engine" "$limits"; done
        flood_script down >/dev/null
    done
}

# Every flood, in a lab that stands, at a dispatcher of its own.
floods() { # ENGINE LIMITS
    local engine=$1 limits=$2 what gets=1000 seconds_=12 rate=0 sent answered p50 p99 download flood_pid
    if [[ -n $smoke ]]; then gets=20 seconds_=3 rate=5000; fi
    flood_configuration "$limits" >"$work/flood.toml"
    do_ install -m 600 "$work/flood.toml" "$FLOOD_RUN/flood.toml"
    ip netns exec "$FLOOD_LAB-dispatcher" "$ONEIP" run -c "$FLOOD_RUN/flood.toml" --json 2>"$work/flood.err" >"$work/flood.account" &
    pid[flood]=$!
    for _ in $(seq 200); do ! grep -q '^ready' "$work/flood.err" || break; sleep 0.05; done
    grep -q '^ready' "$work/flood.err" || die "the dispatcher to be flooded does not start: $(<"$work/flood.err")"
    for what in none "${FLOODS[@]}"; do
        flood_of "$what" $rate $seconds_ >"$work/flood.json" 2>"$work/flood.said" &
        flood_pid=$!
        flood_in client curl -s --limit-rate $((22000000 / seconds_)) --max-time $((seconds_ + 8)) -o "$work/big" "http://$FLOOD_CLUSTER/big" &
        download=$!
        sleep 0.5
        read -r answered p50 p99 < <(canary $gets $((seconds_ - 2)))
        wait "$flood_pid" || die "no flood: $(<"$work/flood.said")"
        if wait "$download" && cmp -s "$work/big" "$FLOOD_RUN/big"; then download=whole; else download=broken; fi
        sent=$(jq -r '.sent / .seconds | round' "$work/flood.json" 2>/dev/null || true)
        sent=${sent:-0}
        say "flood, $engine, limits $limits, $what at $(kilo $sent) kpps: $answered GETs, p50 $((p50 / 1000)) ms, p99 $((p99 / 1000)) ms, download $download"
        row flood "$engine,$limits,$what,$sent,$gets,$answered,$p50,$p99,$download"
    done
    kill -TERM "${pid[flood]}"
    wait "${pid[flood]}" || true
    unset "pid[flood]"
}
