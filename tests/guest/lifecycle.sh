#!/usr/bin/env bash
# The package through its life, in a Debian that systemd boots (scripts/guest.sh --systemd): installed, started, reloaded, crashed, hung, upgraded,
# removed, purged; with clients all the while. It changes the machine that it runs on.
set -euo pipefail
readonly PACKAGE=${1:?the package} CLUSTER=203.0.113.80
readonly NEXT=/tmp/next.deb CONFIG=/etc/oneip/oneip.toml

say() { echo "== $*"; }
fail() {
    echo "FAILED: $*"
    systemctl status oneip --no-pager --lines 0 || true
    journalctl -u oneip --no-pager -n 60 || true
    exit 1
}
eventually() {
    local end=$((SECONDS + 120))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || fail "not within two minutes: $*"
        sleep 0.2
    done
}
is() { [[ $1 == "$2" ]] || fail "${3-it} is \"$1\", not \"$2\""; } # WHAT EXPECTED [NAME]
property() { systemctl show --value -p "$1" oneip; }

# This machine is the dispatcher; a router, which has the clients too, and two servers are on its LAN.
network() {
    local host
    for host in lan router web1 web2; do ip netns add $host; done
    ip -n lan link add br0 type bridge
    ip -n lan link set br0 up
    ip link add lan0 address 02:00:00:00:00:02 type veth peer name dispatcher netns lan
    ip -n lan link set dispatcher master br0 up
    for host in router web1 web2; do
        ip -n $host link set lo up
        ip -n $host link add lan0 type veth peer name $host netns lan
        ip -n lan link set $host master br0 up
        ip -n $host link set lan0 up
    done
    ip link set lan0 up
    # A veth's unfinished checksums reach nobody behind XDP, and its native XDP sends only to an end with GRO.
    for host in router web1 web2; do ip netns exec $host ethtool -K lan0 tx off >/dev/null; done
    ip netns exec lan ethtool -K dispatcher gro on >/dev/null
    ip address add 192.0.2.2/24 dev lan0
    ip route add default via 192.0.2.1
    ip -n router address add 192.0.2.1/24 dev lan0
    ip -n router address add 198.51.100.10/32 dev lo
    ip -n router route add $CLUSTER/32 via 192.0.2.2
    for host in web1 web2; do
        ip -n $host address add "192.0.2.1${host#web}/24" dev lan0
        ip -n $host route add default via 192.0.2.1
        ip netns exec $host sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
        ip -n $host address add $CLUSTER/32 dev lo scope host
        mkdir -p /tmp/$host
        echo "pid /tmp/$host/pid; error_log /tmp/$host/error; events {} http { access_log off; server { listen 80; return 200 $host; } }" >/tmp/$host/nginx.conf
        ip netns exec $host nginx -c /tmp/$host/nginx.conf
    done
}

configure() { # WEIGHT
    install -m 640 /dev/stdin "$CONFIG" <<END
[cluster]
hash_key = "5b2f9d0c71e84a6d93f05ce2187ab46d"
[dispatcher]
interface = "lan0"
engine = "xdp"
[[service]]
name = "web"
address = "$CLUSTER"
ports = ["tcp/80"]
[service.health]
type = "tcp"
interval_ms = 2000
timeout_ms = 2000
[[service.server]]
name = "web1"
address = "192.0.2.11"
weight = $1
[[service.server]]
name = "web2"
address = "192.0.2.12"
END
}

get() { ip netns exec router curl -sf --max-time 20 --interface 198.51.100.10 http://$CLUSTER/; }

# Clients ask all the time; a request that has no answer is noted.
browse() {
    local count=0
    while [[ ! -e /tmp/enough ]]; do
        if get >/dev/null; then count=$((count + 1)); else echo "request $count" >>/tmp/failed; fi
        echo $count >/tmp/asked
    done
}
nobody_noticed() { [[ ! -e /tmp/failed ]] || fail "$1: clients had no answer: $(tr '\n' ' ' </tmp/failed)"; }

# A container may have one.
rm -f /usr/sbin/policy-rc.d

say install
dpkg -i "$PACKAGE" >/tmp/dpkg 2>&1 || fail "$(cat /tmp/dpkg)"
is "$(systemctl is-enabled oneip 2>&1)" disabled
systemctl start oneip
is "$(property ActiveState) $(property ConditionResult)" "inactive no" "without a configuration"
man -w oneip oneip.toml oneip-run >/dev/null || fail "there are no manual pages"

say start
network
configure 1
systemctl start oneip || fail "it does not start"
is "$(property ActiveState)" active
eventually get
[[ $(property StatusText) == "2 of 2 servers take clients" ]] || eventually sh -c 'systemctl show --value -p StatusText oneip | grep -qx "2 of 2 servers take clients"'
journalctl -u oneip -o json --no-pager | jq -es 'map(select(.TARGET != null and .PRIORITY != null)) | length > 0' >/dev/null || fail "the journal has no fields"
is "$(stat -c %a /run/oneip /var/lib/oneip /etc/oneip | tr '\n' ' ')" "755 755 750 " "the modes of its directories"
browse &
eventually test -s /tmp/asked

say reload
configure 3
systemctl reload oneip || fail "it does not reload"
is "$(oneip ctl status --json | jq '.services[0].servers[0].weight')" 3 "the weight"
echo nonsense >>"$CONFIG"
if systemctl reload oneip 2>/dev/null; then fail "a wrong file is taken"; fi
is "$(property ActiveState)" active "after a wrong file"
configure 3
nobody_noticed reload

say crash
before=$(property MainPID)
kill -KILL "$before"
eventually sh -c "[ \$(systemctl show --value -p MainPID oneip) != $before ] && systemctl is-active oneip && oneip ctl status"
is "$(property NRestarts)" 1 "the number of restarts"
nobody_noticed "a crash"

say watchdog
before=$(property MainPID)
kill -STOP "$before"
eventually sh -c "[ \$(systemctl show --value -p NRestarts oneip) = 2 ] && systemctl is-active oneip && oneip ctl status"
journalctl -u oneip --no-pager | grep -q "Watchdog timeout" || fail "it was not the watchdog"
nobody_noticed "a process that hangs"

say upgrade
before=$(property MainPID)
rm -rf /tmp/next
dpkg-deb -R "$PACKAGE" /tmp/next
sed -i 's/^Version: .*/&+next/' /tmp/next/DEBIAN/control
dpkg-deb --root-owner-group -Znone -b /tmp/next $NEXT >/dev/null
dpkg -i $NEXT >/tmp/dpkg 2>&1 || fail "$(cat /tmp/dpkg)"
eventually sh -c "[ \$(systemctl show --value -p MainPID oneip) != $before ] && systemctl is-active oneip && oneip ctl status"
if grep "does not hand over" /tmp/dpkg; then fail "there was a gap"; fi
journalctl -u oneip --no-pager | grep -q "taken over from the process before" || fail "nothing was taken over"
nobody_noticed "an upgrade"

say remove
touch /tmp/enough
wait
echo "clients had $(cat /tmp/asked) answers"
dpkg -r oneip >/tmp/dpkg 2>&1 || fail "$(cat /tmp/dpkg)"
is "$(property ActiveState)" inactive
if ip -d link show lan0 | grep -q xdp; then fail "the program is still there"; fi
for path in $CONFIG /var/lib/oneip /etc/default/oneip; do [[ -e $path ]] || fail "$path is gone"; done

say purge
dpkg -P oneip >/tmp/dpkg 2>&1 || fail "$(cat /tmp/dpkg)"
for path in /var/lib/oneip /var/log/oneip /etc/default/oneip /usr/bin/oneip; do [[ ! -e $path ]] || fail "$path is still there"; done
[[ -e $CONFIG ]] || fail "the administrator's configuration is gone"
say done
