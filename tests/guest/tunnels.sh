#!/usr/bin/env bash
# Servers whose kernel takes tunnels apart: in a kernel that has devices for it, `oneip server add` makes them in a lab whose servers are behind its
# router, and clients get their pages. Run by tests/guest in a guest: scripts/guest.sh --modules ... tests/guest/tunnels.sh ONEIP
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export ONEIP_LAB=tunnels ONEIP=$1
readonly RUN=/run/tunnels-lab SERVERS=(web1 web2 web3)

fail() { echo "error: $*" >&2; exit 1; }
on() { local host=$1; shift; ip netns exec "tunnels-$host" "$@"; }

# The lab's configuration with servers behind the router: DELIVER, and the third octets of IPv4 servers as of IPv6 ones, or the other way round.
configure() { # DELIVER CROSSED
    local four=192.0.2. six=2001:db8:2:: to4=10.9.0. to6=2001:db8:9::
    if [[ -n $2 ]]; then to4=2001:db8:9:: to6=10.9.0.; fi
    sed -e "s|^address = \"$four|address = \"$to4|; s|^address = \"$six|address = \"$to6|; s|^ports = |$1\nports = |" "$RUN/plain.toml" |
        awk -v health='[service.health]\ntype = "http"\ninterval_ms = 4000\ntimeout_ms = 4000\nfall = 4\n' \
            '/^\[\[service\]\]/ { fresh = 1 } /^\[\[service.server\]\]/ && fresh { printf "%s\n", health; fresh = 0 } { print }' >"$RUN/oneip.toml"
}

get() { # URL FROM
    local tries
    for tries in {1..6}; do
        if on client curl -sS -m 6 --interface "$2" "$1" && return; then :; fi
        sleep 0.5
    done 2>/dev/null
    cat "$RUN/log" >&2
    on dispatcher "$ONEIP" ctl --socket "$RUN/oneip.sock" status >&2
    for name in "${SERVERS[@]}"; do on "$name" ip -s -o link show >&2; done
    fail "no page from $1 to $2"
}

# Devices and ports, but for those that come with the modules.
ends() { for name in "${SERVERS[@]}"; do on "$name" ip -o link show | grep -o 'oneip-[a-z0-9]*' | sort -u; on "$name" ip fou show; done; }

try() { # DELIVER CROSSED WANTED-DEVICES
    local name log seen
    configure "$1" "$2"
    for name in "${SERVERS[@]}"; do
        log=$(on "$name" "$ONEIP" server add -c "$RUN/oneip.toml" --server "$name") || fail "server add: $log"
        log=$(on "$name" "$ONEIP" server check -c "$RUN/oneip.toml" --server "$name") || fail "server check: $log"
    done
    seen=$(on web1 ip -o link show | grep -o 'oneip-[a-z0-9]*' | sort -u | xargs)
    [[ $seen == "$3" ]] || fail "$1: the devices are $seen, not $3"
    # Not by `on`, which would be the process that is ended.
    ip netns exec tunnels-dispatcher "$ONEIP" run -c "$RUN/oneip.toml" >"$RUN/log" 2>&1 &
    local pid=$!
    for ((tries = 0; tries < 600; tries++)); do if grep -q '^ready' "$RUN/log"; then break; fi; sleep 0.1; done
    grep -q '^ready' "$RUN/log" || { cat "$RUN/log" >&2; fail "it does not start"; }
    for last in 10 11 12 13; do
        get http://203.0.113.80/ "198.51.100.$last" >/dev/null
        get 'http://[2001:db8:80::80]/' "2001:db8:1::$last" >/dev/null
    done
    on client curl -sS -m 120 -r 0-2999999 --interface 198.51.100.10 http://203.0.113.80/big | cmp - <(head -c 3000000 "$RUN/big") ||
        fail "a download came otherwise"
    # Checks went through the tunnel: each server is up, and with the device of one down it is not.
    on dispatcher "$ONEIP" ctl --socket "$RUN/oneip.sock" status --json >"$RUN/status"
    [[ $(grep -o '"state": *"up"' "$RUN/status" | wc -l) == 6 ]] || { cat "$RUN/status" "$RUN/log" >&2; fail "not every server is up"; }
    for device in $3; do on web1 ip link set "$device" down; done
    if log=$(on web1 "$ONEIP" server check -c "$RUN/oneip.toml" --server web1); then fail "a device is down and check finds nothing: $log"; fi
    [[ $log == *"is down"*"fix: ip link set oneip-"* ]] || fail "check says something else: $log"
    for ((tries = 0; tries < 600; tries++)); do if grep -q 'server web1 of service web is down: no answer' "$RUN/log"; then break; fi; sleep 0.1; done
    grep -q 'server web1 of service web is down: no answer' "$RUN/log" || { cat "$RUN/log" >&2; fail "web1 is not found to be down"; }
    kill -TERM "$pid"
    wait "$pid" || { cat "$RUN/log" >&2; fail "it ends with an error"; }
    on dispatcher tc filter show dev lan0 egress | grep . && fail "a filter is left"
    for name in "${SERVERS[@]}"; do on "$name" "$ONEIP" server remove -c "$RUN/oneip.toml" --server "$name" >/dev/null; done
    [[ -z $(ends) ]] || fail "remove has left: $(ends)"
    echo "$1${2:+, of the other family}: well"
}

trap 'scripts/lab.sh down >/dev/null 2>&1' EXIT
mkdir -p /var/lib/nginx
scripts/lab.sh up --engine xdp >/dev/null
for number in 1 2 3; do
    # `lab.sh up` has set up the aliases; here it is `server add` that does.
    on "web$number" "$ONEIP" server remove -c "$RUN/oneip.toml" >/dev/null
    on "web$number" ip address add "10.9.0.1$number/32" dev lan0
    on "web$number" ip address add "2001:db8:9::1$number/128" dev lan0 nodad
    on router ip route add "10.9.0.1$number/32" via "192.0.2.1$number"
    on router ip route add "2001:db8:9::1$number/128" via "2001:db8:2::1$number"
done
cp "$RUN/oneip.toml" "$RUN/plain.toml"
try 'deliver = "ipip"' '' 'oneip-ip6tnl oneip-ipip'
try 'deliver = "ipip"' crossed 'oneip-ip6tnl oneip-sit'
try 'deliver = "gue"' '' 'oneip-ip6tnl oneip-ipip'
try 'deliver = "gue"' crossed 'oneip-ip6tnl oneip-sit'
try 'deliver = "gre"' '' 'oneip-gre oneip-ip6gre'
try 'deliver = "gre"' crossed 'oneip-gre oneip-ip6gre'
echo "the kernel's devices take tunnels apart"
