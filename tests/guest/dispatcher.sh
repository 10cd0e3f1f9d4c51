#!/usr/bin/env bash
# The package through its life on a dispatcher, in a Debian that systemd boots (scripts/guest.sh --systemd): installed, started, reloaded,
# crashed, hung, upgraded, removed, purged; with clients all the while. It changes the machine that it runs on.
readonly PACKAGE=${1:?the package} UNIT=oneip CLUSTER=203.0.113.80 CONFIG=/etc/oneip/oneip.toml
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/life.sh"

# A router, which has the clients too, and two servers are on this machine's LAN.
network() {
    local host
    lan 02:00:00:00:00:02 router web1 web2
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
        web $host ip netns exec $host
    done
}

configure() { # WEIGHT
    install -m 640 /dev/stdin "$CONFIG" <<END
[cluster]
hash_key = "5b2f9d0c71e84a6d93f05ce2187ab46d"
[dispatcher]
interface = "lan0"
engine = "xdp"
$(service $1)
END
}

say install
install_package "$PACKAGE"
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
eventually has StatusText "2 of 2 servers take clients"
journalctl -u oneip -o json --no-pager | jq -es 'map(select(.TARGET != null and .PRIORITY != null)) | length > 0' >/dev/null || fail "the journal has no fields"
is "$(stat -c %a /run/oneip /var/lib/oneip /etc/oneip | tr '\n' ' ')" "755 755 750 " "the modes of its directories"
browse 198.51.100.10 &
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
crash

say watchdog
hang

say upgrade
upgrade "$PACKAGE"
if grep "does not hand over" /tmp/dpkg; then fail "there was a gap"; fi
journalctl -u oneip --no-pager | grep -q "taken over from the process before" || fail "nothing was taken over"

say remove
touch /tmp/enough
wait
echo "clients had $(cat /tmp/asked) answers"
remove

say purge
purge
say done
