#!/usr/bin/env bash
# The package through its life on a dispatcher, in a Debian that systemd boots (scripts/guest.sh --systemd): installed, started, reloaded,
# crashed, hung, restarted, upgraded, removed, purged; with clients all the while. What the documentation says for such a Debian is run as it
# stands there, each block. It changes the machine that it runs on.
readonly PACKAGE=${1:?the package} UNIT=oneip CLUSTER=203.0.113.80 CONFIG=/etc/oneip/oneip.toml
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/life.sh"

# The blocks of each page, in files.
mkdir /tmp/pages
awk '/^ *```sh systemd$/ { page = FILENAME; sub(".*/", "", page); sub(".md$", "", page); file = "/tmp/pages/" page (++count[page]); next }
    /^ *```$/ { file = "" } file { print >file }' README.md docs/*.md

# A block, which is not run again. Each of its commands is to succeed, so it is no part of a condition.
page() { # PAGE NUMBER
    reading=/tmp/pages/$1$2
    # shellcheck disable=SC1090
    source "$reading" >/tmp/read 2>&1
    rm "$reading"
    reading=
}
reading=
exec 3>&1
trap 'if [[ -n $reading ]]; then echo "FAILED: $reading: $(cat "$reading" /tmp/read)" >&3; fi' EXIT

# Everything that the package depends on is installed. Reading what else there is, and all manual pages, would take the guest minutes, each time.
rm -f /var/lib/man-db/auto-update
mkdir -p /tmp/lists/partial
echo 'Dir::State::Lists "/tmp/lists";' >/etc/apt/apt.conf.d/99-lists

# What a reader does beside typing. The package is there already: in the guest a build would take hours.
scripts/package.sh() { install -D -m 644 -t target/debian "$PACKAGE"; }
apt() {
    echo y | command apt "$@" || return
    if [[ $1 == remove ]]; then is_removed; fi
}
journalctl() {
    case " $* " in
        *" -f "*) timeout 5 journalctl "$@" || (($? == 124)) ;;
        *) command journalctl "$@" ;;
    esac
}

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
# A container may have one.
rm -f /usr/sbin/policy-rc.d
page quickstart 1
page installation 1
dpkg -s oneip >/dev/null || fail "it is not installed: $(cat /tmp/read)"
is "$(systemctl is-enabled oneip 2>&1)" disabled
systemctl start oneip
is "$(property ActiveState) $(property ConditionResult)" "inactive no" "without a configuration"
man -w oneip oneip.toml oneip-run >/dev/null || fail "there are no manual pages"

say start
network
configure 1
page quickstart 2
page installation 2
is "$(property ActiveState) $(systemctl is-enabled oneip)" "active enabled"
eventually get
eventually has StatusText "2 of 2 servers take clients"
journalctl -u oneip -o json --no-pager | jq -es 'map(select(.TARGET != null and .PRIORITY != null)) | length > 0' >/dev/null || fail "the journal has no fields"
is "$(stat -c %a /run/oneip /var/lib/oneip /etc/oneip | tr '\n' ' ')" "755 755 750 " "the modes of its directories"
browse 198.51.100.10 &
eventually test -s /tmp/asked

say reload
configure 3
page operations 1
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
page operations 3

say restart
for block in "commands 1" "operations 2"; do
    before=$(property MainPID)
    oneip ctl hand-over || fail "it does not hand over"
    # shellcheck disable=SC2086
    page $block
    eventually is_another "$before"
    nobody_noticed "a restart"
done

say upgrade
next_of "$PACKAGE" "target/debian/$(basename "$PACKAGE")"
upgrade page installation 3
if grep "does not hand over" /tmp/read; then fail "there was a gap"; fi
journalctl -u oneip --no-pager | grep -q "taken over from the process before" || fail "nothing was taken over"

say remove
touch /tmp/enough
wait
echo "clients had $(cat /tmp/asked) answers"
page installation 4
is_purged
is "$(ls /tmp/pages)" "" "blocks that were not run:"
say done
