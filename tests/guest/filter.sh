#!/usr/bin/env bash
# The package through its life on a server of a cluster without a dispatcher, in a Debian that systemd boots (scripts/guest.sh --systemd), with
# its kernel, 6.1 in Debian 12: installed, started, reloaded, crashed, hung, stopped, upgraded, removed, purged; with clients of both servers
# all the while. It changes the machine that it runs on.
readonly PACKAGE=${1:?the package} UNIT=oneip-filter CLUSTER=203.0.113.80 CONFIG=/etc/oneip/oneip.toml
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/life.sh"
CLIENTS=(198.51.100.{10..17})

# This machine is web1. A router, which has the clients too and sends to all servers, and web2 are on its LAN.
network() {
    local client
    lan 02:00:00:00:00:11 router web2
    ethtool -K lan0 tx off >/dev/null
    ip address add 192.0.2.11/24 dev lan0
    ip route add default via 192.0.2.1
    web web1
    ip -n router address add 192.0.2.1/24 dev lan0
    for client in "${CLIENTS[@]}"; do ip -n router address add "$client/32" dev lo; done
    ip -n router route add $CLUSTER/32 dev lan0
    ip -n router neighbour add $CLUSTER lladdr ff:ff:ff:ff:ff:ff dev lan0 nud permanent
    ip netns exec router sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.lan0.send_redirects=0
    ip -n web2 address add 192.0.2.12/24 dev lan0
    ip -n web2 route add default via 192.0.2.1
    web web2 ip netns exec web2
}

configure() { # FILE WEIGHT [LINE...]
    install -m 640 /dev/stdin "$1" <<END
[cluster]
hash_key = "5b2f9d0c71e84a6d93f05ce2187ab46d"
[filter]
interface = "lan0"
$(printf '%s\n' "${@:3}")
$(service $2)
END
}

# The other server's filter, by hand.
readonly OTHER=/tmp/web2.toml
configure_other() { configure $OTHER "$1" '[admin]' 'socket = "/tmp/web2.sock"' 'state = "/tmp/web2.json"'; } # WEIGHT
start_other() {
    ip netns exec web2 oneip server add -c $OTHER --broadcast >/dev/null || fail "web2 is not set up"
    ip netns exec web2 sh -c "mount -t bpf bpf /sys/fs/bpf && exec oneip filter -c $OTHER" >/tmp/web2.log 2>&1 &
    other=$!
    eventually oneip ctl --socket /tmp/web2.sock status
}

# Both servers have clients, and each client has one of them.
all_have_one() { [[ $(for client in "${CLIENTS[@]}"; do get "$client" 5; echo; done | sort -u | tr '\n' ' ') == "web1 web2 " ]]; }
weight() { oneip ctl --socket "$1" status --json | jq '.services[0].servers[0].weight'; } # SOCKET

say install
# A container may have one.
rm -f /usr/sbin/policy-rc.d
by_dpkg -i "$PACKAGE"
is "$(systemctl is-enabled oneip-filter 2>&1)" disabled
systemctl start oneip-filter
is "$(property ActiveState) $(property ConditionResult)" "inactive no" "without a configuration"
man -w oneip-filter oneip-server >/dev/null || fail "there are no manual pages"

say start
network
configure "$CONFIG" 1
configure_other 1
oneip server add -c "$CONFIG" --broadcast || fail "it is not set up"
systemctl start oneip-filter || fail "it does not start"
start_other
eventually has StatusText "2 of 2 servers take clients"
eventually all_have_one
oneip server check -c "$CONFIG" || fail "the server's side is not as it should be"
browse "${CLIENTS[@]}" &
eventually test -s /tmp/asked

say reload
configure "$CONFIG" 3
systemctl reload oneip-filter || fail "it does not reload"
is "$(weight /run/oneip/oneip.sock)" 3 "the weight"
echo nonsense >>"$CONFIG"
if systemctl reload oneip-filter 2>/dev/null; then fail "a wrong file is taken"; fi
is "$(property ActiveState)" active "after a wrong file"
configure "$CONFIG" 3
configure_other 3
oneip ctl --socket /tmp/web2.sock reload || fail "web2 does not reload"
eventually all_have_one
nobody_noticed reload

say crash
crash

say watchdog
hang

say "stop and start"
systemctl stop oneip-filter
sleep 3
all_have_one || fail "its program does not go on"
systemctl start oneip-filter || fail "it does not start again"
eventually has StatusText "2 of 2 servers take clients"
nobody_noticed "a stop"

say upgrade
next_of "$PACKAGE" /tmp/next.deb
upgrade by_dpkg -i /tmp/next.deb
eventually all_have_one

say remove
touch /tmp/enough
wait $!
echo "clients had $(cat /tmp/asked) answers"
by_dpkg -r oneip
is_removed
kill "$other"

say purge
by_dpkg -P oneip
is_purged
say done
