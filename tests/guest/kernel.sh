#!/usr/bin/env bash
# What an older kernel makes of the XDP programs: each is loaded with the capabilities that the units give and no more, and clients get their
# pages by it. Run by tests/guest in a guest with Debian 12's own kernel, 6.1: scripts/guest.sh --modules bridge,sch_ingress,cls_bpf tests/guest/kernel.sh ONEIP
readonly ONEIP=${1:?the program} UNIT=none CLUSTER=203.0.113.80
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/life.sh"
fail() {
    echo "FAILED: $*"
    tail -n 20 /tmp/*.log
    exit 1
}
umask 077
CLIENTS=(198.51.100.{10..17})
# A namespace has a file system for programs of its own, and a queue's memory is locked.
ulimit -l unlimited
bounded=(setpriv --bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon --inh-caps=-all)

configure() { # FILE SECTION DELIVER
    cat >"/tmp/$1.toml" <<END
[cluster]
hash_key = "5b2f9d0c71e84a6d93f05ce2187ab46d"
$2
[admin]
socket = "/tmp/$1.sock"
state = "/tmp/$1.json"
$(service 1 "deliver = \"$3\"")
END
}

# Starts it on this machine, or on a server, and waits until both servers are up for it.
running=()
begin() { # NAME HOST VERB
    local where=()
    [[ $2 == here ]] || where=(ip netns exec "$2")
    "${where[@]}" sh -c "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf; exec ${bounded[*]} $ONEIP $3 -c /tmp/$1.toml" >"/tmp/$1.log" 2>&1 &
    running+=($!)
    eventually grep -q '^ready' "/tmp/$1.log"
}
end() {
    kill "${running[@]}"
    wait "${running[@]}" || true
    running=()
}
# Both servers have clients, and each client gets a page.
all_have_one() { [[ $(for client in "${CLIENTS[@]}"; do get "$client" 5; echo; done | sort -u | tr '\n' ' ') == "web1 web2 " ]]; }
on_servers() { for host in web1 web2; do ip netns exec $host "$ONEIP" server "$1" -c "/tmp/$2.toml" "${@:3}" >/tmp/server.log || fail "server $1"; done; } # VERB NAME OPTION...

lan 02:00:00:00:00:02 router web1 web2
ip address add 192.0.2.2/24 dev lan0
ip -n router address add 192.0.2.1/24 dev lan0
for client in "${CLIENTS[@]}"; do ip -n router address add "$client/32" dev lo; done
ip -n router route add $CLUSTER/32 via 192.0.2.2
for host in web1 web2; do
    ip -n $host address add "192.0.2.1${host#web}/24" dev lan0
    ip -n $host route add default via 192.0.2.1
    web $host ip netns exec $host
done

for engine in xdp af_xdp; do
    say "engine $engine"
    configure $engine "[dispatcher]
interface = \"lan0\"
engine = \"$engine\"" l2
    on_servers add $engine
    begin $engine here run
    eventually all_have_one
    end
    "$ONEIP" run --detach -c /tmp/$engine.toml >/dev/null 2>&1 || true
done

say decap
configure tunnels '[dispatcher]
interface = "lan0"
engine = "xdp"' gue
for host in web1 web2; do
    configure $host '[dispatcher]
interface = "lan0"
engine = "xdp"' gue
    begin $host $host "decap --server $host"
done
begin tunnels here run
eventually all_have_one
end
"$ONEIP" run --detach -c /tmp/tunnels.toml >/dev/null 2>&1 || true
for host in web1 web2; do ip -n $host link set lan0 xdp off xdpgeneric off 2>/dev/null || true; done

say filter
ip -n router route replace $CLUSTER/32 dev lan0
ip -n router neighbour replace $CLUSTER lladdr ff:ff:ff:ff:ff:ff dev lan0 nud permanent
for host in web1 web2; do
    configure $host '[filter]
interface = "lan0"' l2
done
on_servers add web1 --broadcast
for host in web1 web2; do begin $host $host "filter --server $host"; done
eventually all_have_one
end
say done
