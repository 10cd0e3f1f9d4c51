#!/usr/bin/env bash
# The main job on real traffic: curl - router - `oneip run` (on AF_XDP, or in the kernel) - nginx, which answers the clients directly; or, with
# --broadcast, curl - router - every server's `oneip filter` - the one nginx that has the client.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin

export ONEIP_LAB=${ONEIP_LAB:-demo}
readonly RUN=/run/$ONEIP_LAB-lab
readonly CONFIG=$RUN/oneip.toml
readonly BUILT=${ONEIP-}
export ONEIP=${BUILT:-target/release/oneip}
readonly ONEIP
readonly CLUSTER4=203.0.113.80 CLUSTER6=2001:db8:80::80
readonly LAB=scripts/lab.sh

usage() {
    cat <<'END'
usage: scripts/demo.sh [--broadcast | [--engine NAME] [--deliver WAY]] [--keep]

Installs what is missing (scripts/setup.sh), builds oneip, makes a network in network namespaces (scripts/lab.sh), lets 210
IPv4 and 210 IPv6 clients fetch from three web servers behind one address, and checks what they get. Everything is taken
down again, on failure and Ctrl-C too. Needs root. Exit 0 only if everything held.

  --broadcast    no dispatcher: the router broadcasts, and a filter on each server keeps only its own clients
  --engine NAME  af_xdp (default), or xdp: the dispatcher inside the kernel
  --deliver WAY  the servers are behind the router: ipip, gue, gre or l3dsr brings packets there, and decap takes it apart
  --keep         leave the network and what dispatches up, to play with

environment: ONEIP_LAB  name of the network (default: demo)
             ONEIP      a binary to show, instead of building one
END
}

die() { echo "error: $*" >&2; exit 1; }

# ---- what is printed ----

bold='' green='' red='' plain=''
if [[ -t 1 && -z ${NO_COLOR-} ]]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# A sentence, and whether it is true.
failed=0
claim() { # SENTENCE GOT WANTED
    if [[ $2 == "$3" ]]; then
        printf '  %-76s %sok%s\n' "$1" "$green" "$plain"
    else
        printf '  %-76s %sFAILED: %s, not %s%s\n' "$1" "$red" "$2" "$3" "$plain"
        failed=1
    fi
}

# ---- what dispatches: a dispatcher, or filters ----

start() { if [[ -n $broadcast ]]; then start_filters "$@"; else start_dispatcher "$@"; fi; }
stop() { rest; if [[ -n $broadcast ]]; then stop_filters "$@"; else stop_dispatcher "$@"; fi; }

# What a connection says last comes before the counters are read.
rest() {
    local end=$((SECONDS + 60))
    while ((SECONDS < end)) && [[ -n $("$LAB" exec client ss -Htn state connected exclude time-wait) ]]; do sleep 0.1; done
}

dispatcher='' counted=''
start_dispatcher() { # [OPTION]...
    counted=$(driver_count)
    # Else it would be the last one's `ready` that is found below.
    : >"$RUN/dispatcher.log"
    # A session of its own: Ctrl-C is for this script, which takes down the whole network.
    setsid "$LAB" exec dispatcher "$ONEIP" run -c "$CONFIG" --json "$@" >"$RUN/account.json" 2>"$RUN/dispatcher.log" &
    dispatcher=$!
    wait_for "$dispatcher" "$RUN/dispatcher.log"
}

wait_for() { # PROCESS LOG
    local end=$((SECONDS + 60))
    while ((SECONDS < end)); do
        if grep -q '^ready' "$2"; then return; fi
        kill -0 "$1" 2>/dev/null || break
        sleep 0.02
    done
    cat "$2" >&2
    die "oneip did not start"
}

filters=()
start_filters() { # [OPTION]...
    local server
    filters=()
    for server in web1 web2 web3; do
        : >"$RUN/$server.log"
        setsid "$LAB" exec "$server" "$ONEIP" filter -c "$RUN/$server.toml" --json "$@" >"$RUN/$server.account" 2>"$RUN/$server.log" &
        filters+=($!)
    done
    for server in 1 2 3; do wait_for "${filters[server - 1]}" "$RUN/web$server.log"; done
    # A server that comes up takes its clients when others must have given them up: `hold_ms`, a second where nothing is checked.
    grep -q 'taken over' "$RUN/web1.log" || sleep 1.2
}

# Stops them, whose programs stay on the interfaces, and keeps their accounts.
stop_filters() { # NAME
    local server json key others figures
    for server in 1 2 3; do
        kill -TERM "${filters[server - 1]}"
        wait "${filters[server - 1]}" || { cat "$RUN/web$server.log" >&2; die "the filter of web$server failed"; }
        json=$(<"$RUN/web$server.account")
        figures=()
        for key in frames forwarded passed; do
            [[ $json =~ \"$key\":([0-9]+) ]] || die "no $key in the counters of web$server: $json"
            figures+=("${BASH_REMATCH[1]}")
        done
        # A reason for which nothing was dropped is not named: both transfers may have been to this server.
        others=0
        if [[ $json =~ \"other_server\":([0-9]+) ]]; then others=${BASH_REMATCH[1]}; fi
        figures+=("$others")
        accounts+=("$1 web$server ${figures[*]}")
    done
}

# Frames that came to the interface while an XDP program was attached: the driver's own count, since it was made.
driver_count() { "$LAB" exec dispatcher ethtool -S lan0 | awk '/rx_queue_.*_xdp_packets:/ { n += $2 } END { print n + 0 }'; }

# Stops it and keeps its account under a name, for the end.
accounts=()
stop_dispatcher() { # NAME
    local json dropped=0 reason name key figures=()
    kill -INT "$dispatcher"
    wait "$dispatcher" || { cat "$RUN/dispatcher.log" >&2; die "the dispatcher failed"; }
    json=$(<"$RUN/account.json")
    for key in frames forwarded passed p50 p90 p99 p99.9 max; do
        [[ $json =~ \"$key\":([0-9]+) ]] || die "no $key in the dispatcher's counters: $json"
        figures+=("${BASH_REMATCH[1]}")
    done
    [[ $json =~ \"dropped\":\{([^}]*)\} ]] || die "no drops in the dispatcher's counters: $json"
    for reason in ${BASH_REMATCH[1]//,/ }; do dropped=$((dropped + ${reason##*:})); done
    accounts+=("$1 $dropped $(($(driver_count) - counted)) ${figures[*]}")
}

# ---- the clients ----

clients() { # 4 or 6
    "$LAB" exec client ip -br "-$1" address show dev wan0 scope global | tr ' ' '\n' | sed -n 's|/[0-9]*$||p'
}

# Every client address fetches the page over a connection of its own: lines of "CLIENT SERVER".
fetch() { # URL CLIENTS
    local client separator=''
    while read -r client; do
        printf '%surl = "%s"\ninterface = "%s"\nwrite-out = "%s %%header{x-server}\\n"\n' "$separator" "$1" "$client" "$client"
        printf 'output = "/dev/null"\nfail\nsilent\nconnect-timeout = 10\nmax-time = 20\n'
        separator=$'next\n'
    done <"$2" >"$RUN/curl.config"
    timeout 120 "$LAB" exec client curl -K "$RUN/curl.config" || true
}

# What `oneip lookup` says: the same lines.
lookup() { # SERVICE CLIENTS [OPTION]...
    "$ONEIP" lookup -c "$CONFIG" --service "$1" "${@:3}" <"$2" | awk '{ print $1, $2 }'
}

lines() { wc -l <"$1"; }
common() { comm -12 <(sort "$1") <(sort "$2") | wc -l; }

fetch_and_look_up() { # NAME [OPTION]...: into $RUN/NAME.web and $RUN/NAME.web6
    fetch "http://$CLUSTER4/" "$RUN/clients4" >"$RUN/$1.web"
    fetch "http://[$CLUSTER6]/" "$RUN/clients6" >"$RUN/$1.web6"
    lookup web "$RUN/clients4" "${@:2}" >"$RUN/$1.web.lookup"
    lookup web6 "$RUN/clients6" "${@:2}" >"$RUN/$1.web6.lookup"
}

claim_lookup() { # NAME COMMAND
    local service all
    for service in web web6; do
        all=$(lines "$RUN/$1.$service.lookup")
        claim "$service: all $all clients got the server that $2 names" "$(common "$RUN/$1.$service" "$RUN/$1.$service.lookup")" "$all"
    done
}

# ---- the parts of the demonstration ----

pages() {
    local service server slots share count all
    title "Every client address fetches a page"
    start
    fetch_and_look_up pages
    stop pages
    printf '  %-8s %-8s %9s %9s %9s\n' service server requests expected share
    while read -r service server slots share; do
        all=$(lines "$RUN/pages.$service.lookup")
        count=$(grep -c " $server\$" "$RUN/pages.$service" || true)
        awk -v service="$service" -v server="$server" -v count="$count" -v share="$share" -v all="$all" 'BEGIN {
            printf "  %-8s %-8s %9d %9.1f %7.3f %%\n", service, server, count, all * share / 100, share }'
    done < <("$ONEIP" check -c "$CONFIG" | awk '/^service/ { sub(":", "", $2); service = $2; next }
        /%$/ { print service, $1, $(NF - 2), $(NF - 1) }')
    claim_lookup pages "\`oneip lookup\`"
}

transfers() {
    local original
    title "20 MiB up and down, compared by SHA-256"
    original=$(checksum <"$RUN/big")
    start
    transfer web "$CLUSTER4" "$(sed -n 1p "$RUN/clients4")"
    transfer web6 "[$CLUSTER6]" "$(sed -n 2p "$RUN/clients6")"
    stop transfers
}

transfer() { # SERVICE HOST CLIENT
    local server
    server=$(lookup "$1" <(echo "$3") | cut -d' ' -f2)
    "$LAB" exec client curl -sS --max-time 60 --interface "$3" -T "$RUN/big" -o /dev/null "http://$2/upload/demo" || true
    claim "$1: upload from $3 to $server" "$(cat "$RUN/$server/upload/demo" | checksum)" "$original"
    claim "$1: download from $server to $3" \
        "$("$LAB" exec client curl -sS --max-time 60 --interface "$3" "http://$2/big" | checksum)" "$original"
}

checksum() { sha256sum | cut -c1-16; }

without_web2() {
    local service theirs to1 to3 others
    title "The same with web2 taken as down: \`--down web2\`"
    start --down web2
    fetch_and_look_up moved --down web2
    stop without-web2
    for service in web web6; do
        # Of each client: where it was, where it is now.
        join <(sort "$RUN/pages.$service") <(sort "$RUN/moved.$service") >"$RUN/moves"
        read -r theirs to1 to3 others < <(awk '
            $2 == "web2" { theirs++; to[$3]++ }
            $2 != "web2" && $2 != $3 { others++ }
            END { print theirs + 0, to["web1"] + 0, to["web3"] + 0, others + 0 }' "$RUN/moves")
        claim "$service: web2's $theirs clients moved, $to1 to web1 and $to3 to web3" $((to1 + to3)) "$theirs"
        claim "$service: no other client moved" "$others" 0
    done
    claim_lookup moved "\`oneip lookup --down web2\`"
}

filters_account() {
    local entry name server frames kept passed others balanced='' shared=0
    title "The filters' accounts"
    printf '  %-14s %-8s %9s = %9s + %9s + %6s\n' '' server 'frames in' kept "others'" passed
    for entry in "${accounts[@]}"; do
        read -r name server frames kept passed others <<<"$entry"
        printf '  %-14s %-8s %9s   %9s   %9s   %6s\n' "$name" "$server" "$frames" "$kept" "$others" "$passed"
        balanced+="$((kept + others + passed - frames)) "
        shared=$((shared + 2 * kept - others))
    done
    claim "frames in = kept + dropped as another server's + passed" "$balanced" "0 0 0 0 0 0 0 0 0 "
    claim "of each frame to a cluster address, one server of three kept it" "$shared" 0
}

account() {
    local entry name dropped driver frames forwarded passed p50 p90 p99 p999 max balanced='' counted=''
    title "The dispatcher's account"
    printf '  %-14s %9s = %9s + %7s + %6s %20s\n' '' 'frames in' forwarded dropped passed 'the driver counted'
    for entry in "${accounts[@]}"; do
        read -r name dropped driver frames forwarded passed p50 p90 p99 p999 max <<<"$entry"
        printf '  %-14s %9s   %9s   %7s   %6s %20s\n' "$name" "$frames" "$forwarded" "$dropped" "$passed" "$driver"
        balanced+="$((forwarded + dropped + passed - frames)) "
        counted+="$((driver - frames)) "
    done
    claim "frames in = forwarded + dropped + passed" "$balanced" "0 0 0 "
    claim "the interface's driver counted as many frames in" "$counted" "0 0 0 "

    title "Dispatch latency in microseconds, from a frame's arrival at the driver to its hand-over"
    printf '  %-14s %9s %9s %9s %9s %9s\n' '' p50 p90 p99 p99.9 max
    for entry in "${accounts[@]}"; do
        read -r name dropped driver frames forwarded passed p50 p90 p99 p999 max <<<"$entry"
        awk -v name="$name" -v list="$p50 $p90 $p99 $p999 $max" 'BEGIN {
            printf "  %-14s", name
            for (i = 1; i <= split(list, ns, " "); i++) printf " %9.1f", ns[i] / 1000
            print "" }'
    done
    echo "  (all hosts share $(nproc) cores here; a bulk transfer fills the rings, and its frames wait in them)"
}

leave_up() {
    start
    kept=yes
    cat <<END
The network stays up, and $(if [[ -n $broadcast ]]; then echo the filters run; else echo the dispatcher runs; fi) in it.

  get in       ONEIP_LAB=$ONEIP_LAB $LAB shell client        (or isp router lan web1 web2 web3, or dispatcher if there is one)
  try          ONEIP_LAB=$ONEIP_LAB $LAB exec client curl --interface 198.51.100.77 http://$CLUSTER4/
  look up      $ONEIP lookup -c $CONFIG 198.51.100.77
  look around  ONEIP_LAB=$ONEIP_LAB $LAB status
  remove       ONEIP_LAB=$ONEIP_LAB $LAB down
END
}

# Whatever ends the script takes down what it made.
mine='' kept=''
take_down() {
    trap '' INT TERM HUP
    if [[ -n $mine && -z $kept ]]; then
        "$LAB" down
        echo "The network is taken down." >&2
    fi
}

keep='' broadcast='' engine='' deliver=''
while (($#)); do
    case $1 in
        --broadcast) broadcast=yes; shift ;;
        --engine)
            engine=${2-}
            [[ $engine == af_xdp || $engine == xdp ]] || die "--engine needs af_xdp or xdp"
            shift 2 ;;
        --deliver)
            deliver=${2-}
            [[ $deliver =~ ^(ipip|gue|gre|l3dsr)$ ]] || die "--deliver needs ipip, gue, gre or l3dsr"
            shift 2 ;;
        --keep) keep=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
[[ -z $broadcast || -z $engine$deliver ]] || die "with --broadcast there is no dispatcher, and so no --engine and no --deliver"
((EUID == 0)) || die "network namespaces need root: sudo scripts/demo.sh"
[[ ! -e $RUN && ! -e /run/netns/$ONEIP_LAB-client ]] ||
    die "a network \"$ONEIP_LAB\" is up already; remove it: ONEIP_LAB=$ONEIP_LAB $LAB down"

scripts/setup.sh
if [[ -z $BUILT ]]; then
    echo "building oneip (release) ..."
    if [[ -t 2 ]]; then cargo build --release; else cargo build --release --quiet; fi
fi

trap take_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
start=$SECONDS
mine=yes
"$LAB" up ${broadcast:+--broadcast} ${engine:+--engine "$engine"} ${deliver:+--deliver "$deliver"} >/dev/null
clients 4 >"$RUN/clients4"
clients 6 >"$RUN/clients6"
picture_of_filters() {
    cat <<END

  client ---- isp ---- router ---+--- web1    a filter each, and nginx; answers through the router
  $(lines "$RUN/clients4") IPv4,                      +--- web2
  $(lines "$RUN/clients6") IPv6                       +--- web3    the router sends to all of them: ff:ff:ff:ff:ff:ff

  each a network namespace; cluster addresses $CLUSTER4 (web) and $CLUSTER6 (web6)
END
}

picture() {
    cat <<END

  client ---- isp ---- router ---+--- dispatcher    oneip (${engine:-af_xdp}); the router's route for the
  $(lines "$RUN/clients4") IPv4,                      |                  cluster addresses leads to it
  $(lines "$RUN/clients6") IPv6                       +--- web1 web2 web3    nginx; answers through the router
$([[ -z $deliver ]] || printf '\n  the servers have addresses behind the router, packets come there by %s, and oneip decap takes it apart\n' "$deliver")
  each a network namespace; cluster addresses $CLUSTER4 (web) and $CLUSTER6 (web6)
END
}

if [[ -n $broadcast ]]; then picture_of_filters; else picture; fi
pages
transfers
without_web2
if [[ -n $broadcast ]]; then filters_account; else account; fi
verdict="${green}Everything held$plain"
((failed == 0)) || verdict="${red}Not everything held$plain"
printf '\n%s, in %d s.\n' "$verdict" $((SECONDS - start))
if [[ -n $keep ]]; then leave_up; fi
exit "$failed"
