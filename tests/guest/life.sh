# What the package's lives in a Debian that systemd boots have in common: sourced, with UNIT set, and CLUSTER to the cluster address.
set -euo pipefail

say() { echo "== $*"; }
fail() {
    echo "FAILED: $*"
    systemctl status "$UNIT" --no-pager --lines 0 || true
    journalctl -u "$UNIT" --no-pager -n 60 || true
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
property() { systemctl show --value -p "$1" "$UNIT"; }
has() { [[ $(property "$1") == "$2" ]]; } # PROPERTY VALUE
is_another() { [[ $(property MainPID) != "$1" ]] && has ActiveState active && oneip ctl status; } # PID

# Hosts on a LAN, each in a namespace; this machine's lan0 is on it too, with that MAC address.
lan() { # MAC HOST...
    local host
    for host in lan "${@:2}"; do ip netns add "$host"; done
    ip -n lan link add br0 type bridge
    ip -n lan link set br0 up
    ip link add lan0 address "$1" type veth peer name here netns lan
    ip -n lan link set here master br0 up
    for host in "${@:2}"; do
        ip -n "$host" link set lo up
        ip -n "$host" link add lan0 type veth peer name "$host" netns lan
        ip -n lan link set "$host" master br0 up
        ip -n "$host" link set lan0 up
        # A veth's unfinished checksums reach nobody behind XDP.
        ip netns exec "$host" ethtool -K lan0 tx off >/dev/null
    done
    ip link set lan0 up
    # Native XDP of a veth sends only to an end with GRO.
    ip netns exec lan ethtool -K here gro on >/dev/null
}

# The service in every configuration: web1 and web2, at $CLUSTER.
service() { # WEIGHT-OF-WEB1 [LINE...]
    cat <<END
[[service]]
name = "web"
address = "$CLUSTER"
ports = ["tcp/80"]
$(printf '%s\n' "${@:2}")
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

# A web server that answers with its name.
web() { # NAME [COMMAND...]
    mkdir -p "/tmp/$1" /var/lib/nginx /var/log/nginx
    echo "pid /tmp/$1/pid; error_log /tmp/$1/error; events {} http { access_log off; server { listen 80; return 200 $1; } }" >"/tmp/$1/nginx.conf"
    "${@:2}" nginx -c "/tmp/$1/nginx.conf"
}

# What a client gets that is where the router is.
get() { ip netns exec router curl -sf --max-time "${2:-20}" --interface "${1:-198.51.100.10}" "http://$CLUSTER/"; } # [ADDRESS [SECONDS]]

# The clients of these addresses ask all the time, one after the other; a request that has no answer is noted.
browse() { # ADDRESS...
    local count=0 client
    while [[ ! -e /tmp/enough ]]; do
        for client in "$@"; do
            if get "$client" >/dev/null; then count=$((count + 1)); else echo "request $count of $client" >>/tmp/failed; fi
            echo $count >/tmp/asked
        done
    done
}
nobody_noticed() { [[ ! -e /tmp/failed ]] || fail "$1: clients had no answer: $(tr '\n' ' ' </tmp/failed)"; }

by_dpkg() { dpkg "$@" >/tmp/dpkg 2>&1 || fail "$(cat /tmp/dpkg)"; }

crash() {
    local before
    before=$(property MainPID)
    kill -KILL "$before"
    eventually is_another "$before"
    is "$(property NRestarts)" 1 "the number of restarts"
    nobody_noticed "a crash"
}

hang() {
    local before
    before=$(property MainPID)
    kill -STOP "$before"
    eventually is_another "$before"
    is "$(property NRestarts)" 2 "the number of restarts"
    journalctl -u "$UNIT" --no-pager | grep -q "Watchdog timeout" || fail "it was not the watchdog"
    nobody_noticed "a process that hangs"
}

# Makes a package of a later version.
next_of() { # FILE NEXT
    rm -rf /tmp/next
    dpkg-deb -R "$1" /tmp/next
    sed -i 's/^Version: .*/&+next/' /tmp/next/DEBIAN/control
    dpkg-deb --root-owner-group -Znone -b /tmp/next "$2" >/dev/null
}

upgrade() { # COMMAND...
    local before
    before=$(property MainPID)
    "$@"
    eventually is_another "$before"
    nobody_noticed "an upgrade"
}

is_removed() {
    local path
    has ActiveState inactive || fail "it still runs"
    if ip -d link show lan0 | grep -q xdp; then fail "the program is still there"; fi
    for path in "$CONFIG" /var/lib/oneip /etc/default/oneip /etc/default/oneip-filter; do
        [[ -e $path ]] || fail "$path is gone"
    done
}

is_purged() {
    local path
    for path in /var/lib/oneip /var/log/oneip /etc/default/oneip /etc/default/oneip-filter /usr/bin/oneip; do
        [[ ! -e $path ]] || fail "$path is still there"
    done
    [[ -e $CONFIG ]] || fail "the administrator's configuration is gone"
}
