#!/usr/bin/env bash
# The lab: a small internet in network namespaces, for the demonstration, the end-to-end tests and for playing.
#
#   client -------- isp -------- router ---+--- dispatcher        the LAN bridge is in the namespace "lan"
#   198.51.100.10   narrow?      routes    +--- web1 web2 web3    servers answer through the router
#        to .219                 cluster addresses to the dispatcher
#
#   With --broadcast there is no dispatcher: the router has a permanent neighbour entry that maps the cluster addresses to the
#   broadcast address, or to a multicast address, and every server runs a filter (`oneip filter`).
#
#   With --deliver WAY the servers' addresses in the configuration are behind the router, and on every server runs `oneip decap`.
#
#   With --dispatchers N there are N of them and four servers. Router and dispatchers run BIRD; the router has a route to each
#   dispatcher that announces a cluster address, and spreads connections over them (ECMP).
#
# Conventions (P is $ONEIP_LAB, "oneip" unless set; labs with different P stand side by side):
#   namespaces   P-client P-isp P-router P-lan P-dispatcher P-web1 P-web2 P-web3
#                with --dispatchers N: P-dispatcher1 to P-dispatcherN in place of P-dispatcher, and P-web4
#   interfaces   client: wan0 | isp: client0 router0 | router: wan0 lan0 | dispatcher, webN: lan0
#                lan: br0 and its ports, named after the host behind them (router dispatcher web1 web2 web3)
#                with --vlan ID, all frames on the LAN are tagged; router, dispatcher and servers have their LAN
#                addresses on lan0.ID, or on lan0 where the kernel has no 802.1Q devices
#   addresses    client      198.51.100.10 to .219    2001:db8:1::10 to ::219 (decimal digits)
#                isp         198.51.100.1             2001:db8:1::1     and 100.64.0.2   2001:db8:3::2 on router0
#                router      192.0.2.1                2001:db8:2::1     and 100.64.0.1   2001:db8:3::1 on wan0
#                dispatcher  192.0.2.2                2001:db8:2::2     dispatcherN: .2, .3, .4
#                webN        192.0.2.1N               2001:db8:2::1N
#                            with --deliver also 10.9.0.1N and 2001:db8:9::1N, by the router alone
#                cluster     203.0.113.80 (web)       2001:db8:80::80 (web6)
#   MACs         router 02:00:00:00:00:01, dispatcher ...:02 (dispatcherN: 02, 03, 04), webN ...:1N
#   run/         /run/P-lab: oneip.toml, oneip.sock and state.json of a dispatcher, big (20 MiB of random bytes), webN/{nginx.conf,access.log,error.log,upload/};
#                bpf/, where programs are kept; with --broadcast or --deliver webN.{toml,sock,state.json} of its filter or decap; with --dispatchers
#                dispatcherN.{toml,sock,state.json}, and HOST.{bird.conf,birdctl} of each BIRD
#   nginx        GET / says "webN", GET /big sends run/big, PUT /upload/NAME writes run/webN/upload/NAME;
#                every answer has the header X-Server: webN
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin

readonly LAB=${ONEIP_LAB:-oneip}
readonly RUN=/run/$LAB-lab
readonly HOSTS=(client isp router lan dispatcher dispatcher{1,2,3} web{1,2,3,4})
readonly CLUSTER4=203.0.113.80 CLUSTER6=2001:db8:80::80
readonly FIRST_CLIENT=10 LAST_CLIENT=219

usage() {
    cat <<'END'
usage: scripts/lab.sh up [OPTION]...            build the network and start the servers
       scripts/lab.sh down                      remove all of it, processes included
       scripts/lab.sh status                    what stands and what runs; exit 1 when it is not up
       scripts/lab.sh shell NAME                a shell in a host: client isp router lan dispatcher web1 web2 web3 ...
       scripts/lab.sh exec NAME COMMAND...      one command in a host
       scripts/lab.sh narrow MTU                the link between isp and client carries packets up to MTU (1280 to 1500)

  --vlan ID          the LAN is tagged with this 802.1Q VLAN
  --engine NAME      the configuration asks for this engine (default: none, so it is af_xdp)
  --bare             the servers get no cluster address; else `oneip server add` sets it up
  --dispatchers N    so many dispatchers (1 to 3), which announce the cluster addresses by BGP, and four servers; their engine is
                     xdp where none is named. Needs BIRD
  --deliver WAY      the services come to servers behind the router by ipip, gue, gre or l3dsr, and decap takes that apart
  --broadcast[=MAC]  no dispatcher: the router sends to the broadcast address, or to this multicast address

environment: ONEIP_LAB  name of the lab (default: oneip), for several side by side
             ONEIP      the binary (default: target/release/oneip, else target/debug/oneip)
The top of this file lists the namespaces, interfaces, addresses and files.
END
}

die() { echo "error: $*" >&2; exit 1; }

# The hosts of this lab, and those of its LAN.
hosts() { printf '%s\n' client isp router lan "${dispatchers[@]}" "${servers[@]}"; }
lan_hosts() { hosts | grep -vx 'client\|isp\|lan'; }

in_host() { local host=$1; shift; ip netns exec "$LAB-$host" "$@"; }

host_index() { case $1 in router) echo 01 ;; dispatcher) echo 02 ;; dispatcher*) echo "0$((${1#dispatcher} + 1))" ;; web*) echo "1${1#web}" ;; esac; }

find_binary() {
    local candidate
    for candidate in ${ONEIP:-target/release/oneip target/debug/oneip}; do
        if [[ -f $candidate && -x $candidate ]]; then oneip=$(realpath "$candidate"); return; fi
    done
    die "no oneip binary at ${ONEIP:-target/release/oneip}: run \`cargo build --release\`, set ONEIP, or use --bare"
}

# ---- up: each step in the order in which it happens ----

make_hosts() {
    local host
    {
        for host in $(hosts); do echo "netns add $LAB-$host"; done
    } | ip -batch -
    # Before there are interfaces, so that they inherit it: no DAD wait, no router advertisements, no redirects.
    for host in $(hosts); do
        in_host "$host" bash -c '
            cd /proc/sys/net
            echo 0 | tee ipv6/conf/{all,default}/{accept_dad,accept_ra,accept_redirects} \
                ipv4/conf/{all,default}/{send_redirects,accept_redirects} ipv4/ip_forward >/dev/null
            echo 1 | tee ipv4/conf/{all,default}/rp_filter >/dev/null'
    done
    in_host lan bash -c 'echo 1 | tee /proc/sys/net/ipv6/conf/{all,default}/disable_ipv6 >/dev/null'
    # A switch looks at no IP header: with br_netfilter the bridge would drop malformed packets, and cut trailers off.
    in_host lan bash -c 'for path in /proc/sys/net/bridge/bridge-nf-call-*; do [[ ! -e $path ]] || echo 0 >"$path"; done'
    for host in isp router; do
        in_host "$host" bash -c 'cd /proc/sys/net; echo 1 | tee ipv4/ip_forward ipv6/conf/all/forwarding >/dev/null'
    done
}

# One queue a direction: an AF_XDP socket is bound to one queue and would not see frames on another.
veth() { # HOST INTERFACE MAC PEER_HOST PEER_INTERFACE [PEER_MAC]
    local queues="numrxqueues 1 numtxqueues 1"
    echo "link add $2 netns $LAB-$1 address $3 $queues type veth" \
        "peer name $5 netns $LAB-$4 ${6:+address $6} $queues"
}

make_links() {
    local host
    {
        veth client wan0 02:00:00:00:01:10 isp client0 02:00:00:00:01:01
        veth isp router0 02:00:00:00:03:02 router wan0 02:00:00:00:03:01
        for host in $(lan_hosts); do
            veth "$host" lan0 "02:00:00:00:00:$(host_index "$host")" lan "$host"
        done
    } | ip -batch -
    {
        echo "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
        for host in $(lan_hosts); do echo "link set $host master br0 up"; done
        echo "link set br0 up"
    } | ip -n "$LAB-lan" -batch -
    for host in $(hosts); do
        [[ $host == lan ]] || ip -n "$LAB-$host" link set lo up
    done
    if [[ -n $vlan ]]; then tag_lan; fi
    # veth leaves checksums and segmentation to a card that is not there, and VLAN tags outside the frame: a frame that
    # passed AF_XDP would be wrong at its receiver.
    for host in $(hosts); do
        in_host "$host" bash -c 'for path in /sys/class/net/*; do
            [[ $path == */lo ]] ||
                ethtool -K "${path##*/}" tx off tso off gso off gro off rxvlan off txvlan off >/dev/null 2>&1
        done'
    done
    # A veth sends what an XDP program forwards only to one that has GRO. Where no engine is named, frames come as they are.
    [[ -z $engine ]] || for host in "${dispatchers[@]}"; do in_host lan ethtool -K "$host" gro on; done
}

# The LAN's hosts on 802.1Q devices; not every kernel has these, and a program at the interface does as well.
tag_lan() {
    local host
    for host in $(lan_hosts); do
        if in_host "$host" ip link add link lan0 name "lan0.$vlan" type vlan id "$vlan" 2>/dev/null; then
            lan=lan0.$vlan
            ip -n "$LAB-$host" link set lan0 up
        else
            [[ -e $RUN/vlan.o ]] || clang -target bpf -O2 -g -Wall -Werror -DVLAN="$vlan" \
                -I"/usr/include/$(uname -m)-linux-gnu" -c scripts/lab-vlan.bpf.c -o "$RUN/vlan.o"
            in_host "$host" tc qdisc add dev lan0 clsact
            in_host "$host" tc filter add dev lan0 egress bpf direct-action obj "$RUN/vlan.o" sec push
            in_host "$host" tc filter add dev lan0 ingress bpf direct-action obj "$RUN/vlan.o" sec pop
        fi
    done
}

make_addresses() {
    local n host
    {
        for ((n = FIRST_CLIENT; n <= LAST_CLIENT; n++)); do
            echo "address add 198.51.100.$n/24 dev wan0"
            echo "address add 2001:db8:1::$n/64 dev wan0 nodad"
        done
        echo "link set wan0 up"
        # The full segment size, however narrow the link becomes: it is path-MTU discovery that has to find out.
        echo "route add default via 198.51.100.1 advmss 1460"
        echo "route add default via 2001:db8:1::1 advmss 1440"
    } | ip -n "$LAB-client" -batch -
    # One neighbour for all the client's addresses: the kernel has room for 1,024, in all its namespaces together.
    ip -n "$LAB-isp" -batch - <<END
address add 198.51.100.1/32 dev client0
address add 2001:db8:1::1/128 dev client0 nodad
address add 100.64.0.2/30 dev router0
address add 2001:db8:3::2/64 dev router0 nodad
link set client0 up
link set router0 up
route add 198.51.100.$FIRST_CLIENT/32 dev client0
route add 198.51.100.0/24 via 198.51.100.$FIRST_CLIENT
route add 2001:db8:1::$FIRST_CLIENT/128 dev client0
route add 2001:db8:1::/64 via 2001:db8:1::$FIRST_CLIENT
route add default via 100.64.0.1
route add default via 2001:db8:3::1
END
    for host in $(lan_hosts); do
        n=$(host_index "$host")
        ip -n "$LAB-$host" -batch - <<END
address add 192.0.2.${n#0}/24 dev $lan
address add 2001:db8:2::${n#0}/64 dev $lan nodad
link set $lan up
END
    done
    for host in $(lan_hosts | grep -vx router); do
        ip -n "$LAB-$host" -batch - <<<"route add default via 192.0.2.1
            route add default via 2001:db8:2::1"
    done
    ip -n "$LAB-router" -batch - <<END
address add 100.64.0.1/30 dev wan0
address add 2001:db8:3::1/64 dev wan0 nodad
link set wan0 up
route add 198.51.100.0/24 via 100.64.0.2
route add 2001:db8:1::/64 via 2001:db8:3::2
$(cluster_routes)
END
    [[ -z $deliver ]] || place_behind_router
}

# The router alone knows where these addresses are. By l3dsr clients' own addresses come in from the dispatcher: a router that is strict drops them.
place_behind_router() {
    local name n
    in_host router sysctl -qw "net.ipv4.conf.$lan.rp_filter=2"
    for name in "${servers[@]}"; do
        n=$(host_index "$name")
        ip -n "$LAB-$name" -batch - <<<"address add 10.9.0.$n/32 dev $lan
            address add 2001:db8:9::$n/128 dev $lan nodad"
        ip -n "$LAB-router" -batch - <<<"route add 10.9.0.$n/32 via 192.0.2.$n
            route add 2001:db8:9::$n/128 via 2001:db8:2::$n"
    done
}

# To the dispatcher; or to everybody on the LAN. RFC 1812, 3.3.2: a router must not learn such a mapping, so it is permanent.
cluster_routes() {
    [[ -z $bgp ]] || return 0
    if [[ -z $broadcast ]]; then
        echo "route add $CLUSTER4/32 via 192.0.2.2"
        echo "route add $CLUSTER6/128 via 2001:db8:2::2"
        return
    fi
    local address
    for address in $CLUSTER4 $CLUSTER6; do
        echo "route add $address dev $lan"
        echo "neighbour add $address lladdr $broadcast dev $lan nud permanent"
    done
}

# Of a dispatcher with these files, or of all filters.
write_configuration() { # HOST SOCKET STATE
    local name four=192.0.2. six=2001:db8:2::
    [[ -z $deliver ]] || four=10.9.0. six=2001:db8:9::
    cat <<END
[cluster]
hash_key = "$key"

END
    if [[ -n $broadcast ]]; then
        printf '[filter]\ninterface = "lan0"\npins = "%s"\n\n[admin]\n' "$RUN/bpf"
    else
        # Whatever else runs on this machine needs its cores too.
        printf '[dispatcher]\npins = "%s"\nidle = "sleep"\n%sinterface = "lan0"\n\n' "$RUN/bpf${bgp:+/$1}" "${engine:+engine = \"$engine\"$'\n'}"
        printf '[admin]\nsocket = "%s"\nstate = "%s"\n' "$2" "$3"
        [[ -z $bgp ]] || printf '\n[announce]\n'
        [[ -z $deliver ]] || printf '\n[decap]\npins = "%s"\nsources = ["192.0.2.2", "2001:db8:2::2"]\n' "$RUN/bpf"
    fi
    cat <<END

[[service]]
name = "web"
address = "$CLUSTER4"
ports = ["tcp/80"]
$(delivery 10)
END
    for name in "${servers[@]}"; do
        printf '\n[[service.server]]\nname = "%s"\naddress = "%s"\n' "$name" "$four$(host_index "$name")"
    done
    cat <<END

[[service]]
name = "web6"
address = "$CLUSTER6"
ports = ["tcp/80"]
$(delivery 11)
END
    for name in "${servers[@]}"; do
        printf '\n[[service.server]]\nname = "%s"\naddress = "%s"\n' "$name" "$six$(host_index "$name")"
    done
}

delivery() { # DSCP
    [[ -z $deliver ]] || echo "deliver = \"$deliver\""
    [[ $deliver != l3dsr ]] || echo "dscp = $1"
}

start_server() {
    local name=$1 dir=$RUN/$1
    install -d -o www-data "$dir" "$dir/upload" "$dir/body"
    cat >"$dir/nginx.conf" <<END
user www-data;
worker_processes 1;
pid $dir/nginx.pid;
error_log $dir/error.log;
events { worker_connections 1024; }
http {
    access_log $dir/access.log;
    client_body_temp_path $dir/body;
    client_max_body_size 100m;
    keepalive_requests 1000000;
    keepalive_timeout 3600;
    default_type application/octet-stream;
    add_header X-Server $name always;
    server {
        listen 0.0.0.0:80;
        listen [::]:80 ipv6only=on;
        location = / { default_type text/plain; return 200 "$name\n"; }
        location = /big { alias $RUN/big; }
        location /upload/ { root $dir; dav_methods PUT; }
    }
}
END
    in_host "$name" nginx -e "$dir/error.log" -p "$dir" -c "$dir/nginx.conf"
    # A host has one socket and one state file: here the hosts share their files.
    [[ -z $broadcast$deliver ]] ||
        sed -e '/^socket = /d; /^state = /d' -e "s|^\[admin\]|&\nsocket = \"$dir.sock\"\nstate = \"$dir.state.json\"|" "$RUN/oneip.toml" | install -m 600 /dev/stdin "$dir.toml"
    local way=()
    case $broadcast in
        '') ;;
        ff:ff:ff:ff:ff:ff) way=(--broadcast) ;;
        *) way=(--broadcast --group "$broadcast") ;;
    esac
    [[ -z $oneip ]] || in_host "$name" "$oneip" server add -c "$RUN/oneip.toml" "${way[@]}" >"$dir/server-add.log" 2>&1 ||
        { cat "$dir/server-add.log" >&2; die "oneip server add failed on $name"; }
    [[ -z $deliver || -z $oneip ]] || start_decap "$name"
}

start_decap() {
    local name=$1 dir=$RUN/$1 end=$((SECONDS + 60))
    : >"$dir/decap.log"
    # A session of its own: Ctrl-C is for who uses the lab.
    ip netns exec "$LAB-$name" setsid "$oneip" decap -c "$dir.toml" --server "$name" >"$dir/decap.log" 2>&1 &
    while ((SECONDS < end)); do
        if grep -q '^ready' "$dir/decap.log"; then return; fi
        sleep 0.02
    done
    cat "$dir/decap.log" >&2
    die "oneip decap did not start on $name"
}

knows_dispatcher() {
    local host n
    for host in "${dispatchers[@]}"; do
        n=$(host_index "$host")
        in_host router ping -c1 -W1 -q "192.0.2.${n#0}" >/dev/null || return
        in_host router ping -c1 -W1 -q "2001:db8:2::${n#0}" >/dev/null || return
    done
}

# The dispatchers' BIRD takes packaging/bird.conf as it stands.
start_bird() {
    local host=$1
    in_host "$host" bird -c "$RUN/$host.bird.conf" -s "$RUN/$host.birdctl" -P "$RUN/$host.bird.pid"
}

start_routing() {
    local host
    in_host router bash -c 'echo 1 | tee /proc/sys/net/ipv{4,6}/fib_multipath_hash_policy >/dev/null'
    cat >"$RUN/router.bird.conf" <<END
log "$RUN/router.bird.log" all;
END
    cat >>"$RUN/router.bird.conf" <<'END'
debug protocols { states, events };
router id 192.0.2.1;
protocol device {}
# A route to all dispatchers that announce an address.
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; merge paths on; }
protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; merge paths on; }
protocol bfd { interface "*" { interval 300 ms; multiplier 5; }; }
# One that was cut off may come back at once, and not after a minute (`error wait time`).
protocol bgp dispatchers {
    local 192.0.2.1 as 64512;
    neighbor range 192.0.2.0/24 as 64513;
    bfd on;
    error wait time 1, 5;
    ipv4 { import where net ~ [203.0.113.0/24{32,32}]; export none; };
}
protocol bgp dispatchers6 {
    local 2001:db8:2::1 as 64512;
    neighbor range 2001:db8:2::/64 as 64513;
    bfd on;
    error wait time 1, 5;
    ipv6 { import where net ~ [2001:db8:80::/48{128,128}]; export none; };
}
END
    for host in "${dispatchers[@]}"; do cp packaging/bird.conf "$RUN/$host.bird.conf"; done
    for host in router "${dispatchers[@]}"; do start_bird "$host"; done
}

# Every server answers the client on its primary address, and the router knows the dispatcher's MAC.
wait_until_ready() {
    local end=$((SECONDS + 60)) name urls=()
    for name in "${servers[@]}"; do
        urls+=("http://192.0.2.$(host_index "$name")/" "http://[2001:db8:2::$(host_index "$name")]/")
    done
    while ((SECONDS < end)); do
        if in_host client curl -sf --max-time 2 "${urls[@]}" >/dev/null && knows_dispatcher; then
            return
        fi
        sleep 0.1
    done
    die "the lab did not become ready: the servers' logs are $RUN/web*/error.log"
}

vlan='' lan=lan0 bare='' broadcast='' engine='' deliver='' bgp='' oneip='' built='' key=''
dispatchers=(dispatcher) servers=(web1 web2 web3)
up() {
    local name
    while (($#)); do
        case $1 in
            --vlan) vlan=${2-}; shift 2 || true
                [[ $vlan =~ ^[0-9]+$ ]] && ((vlan >= 1 && vlan <= 4094)) || die "--vlan needs a number from 1 to 4094" ;;
            --bare) bare=yes; shift ;;
            --engine) engine=${2:?--engine needs a name}; shift 2 ;;
            --deliver) deliver=${2-}; shift 2 || true
                [[ $deliver =~ ^(ipip|gue|gre|l3dsr)$ ]] || die "--deliver needs ipip, gue, gre or l3dsr" ;;
            --dispatchers) bgp=yes
                [[ ${2-} == [1-3] ]] || die "--dispatchers needs a number from 1 to 3"
                mapfile -t dispatchers < <(seq -f dispatcher%g "$2")
                servers+=(web4)
                shift 2 ;;
            --broadcast) broadcast=ff:ff:ff:ff:ff:ff; shift ;;
            --broadcast=*) broadcast=${1#*=}; shift ;;
            *) usage >&2; exit 2 ;;
        esac
    done
    [[ ! -e $RUN && ! -e /run/netns/$LAB-client ]] || die "lab \"$LAB\" is up, or was left half built: $0 down"
    [[ -z $broadcast$bgp || -z $deliver ]] || die "--deliver is for one dispatcher"
    [[ -z $broadcast || -z $bgp ]] || die "--broadcast has no dispatchers"
    [[ -z $broadcast ]] || dispatchers=()
    [[ -z $bgp ]] || command -v bird >/dev/null || die "--dispatchers needs BIRD: scripts/setup.sh installs it"
    [[ -z $bgp ]] || engine=${engine:-xdp}
    [[ -n $bare ]] || find_binary
    # Whatever ends this before the network is ready, an error or Ctrl-C, takes down what stands.
    trap '[[ -n $built ]] || down' EXIT
    trap 'exit 130' INT TERM

    mkdir -p "$RUN"
    # In memory, as /run mostly is: what happens here does not wait for this machine's disk.
    [[ $(stat -f -c %T /run) == tmpfs ]] || mountpoint -q "$RUN" || mount -t tmpfs tmpfs "$RUN"
    mkdir "$RUN/bpf"
    mount -t bpf bpf "$RUN/bpf"
    head -c 20M /dev/urandom >"$RUN/big"
    make_hosts
    make_links
    make_addresses
    key=$(od -An -N16 -tx1 /dev/urandom | tr -d " \n")
    (umask 077 && write_configuration dispatcher "$RUN/oneip.sock" "$RUN/state.json" >"$RUN/oneip.toml")
    [[ -z $bgp ]] || for name in "${dispatchers[@]}"; do
        (umask 077 && write_configuration "$name" "$RUN/$name.sock" "$RUN/$name.state.json" >"$RUN/$name.toml")
    done
    for name in "${servers[@]}"; do start_server "$name"; done
    wait_until_ready
    [[ -z $bgp ]] || start_routing
    built=yes
    introduce
}

introduce_oneip() {
    if [[ -n $bgp ]]; then
        echo "  dispatch, on each  $1 exec dispatcher1 target/release/oneip run -c $RUN/dispatcher1.toml"
        echo "  the router's view  $1 exec router ip route show $CLUSTER4"
    elif [[ -n $broadcast ]]; then
        echo "  filter, on each    $1 exec web1 target/release/oneip filter -c $RUN/web1.toml"
    else
        echo "  dispatch           $1 exec dispatcher target/release/oneip run -c $RUN/oneip.toml"
    fi
}

introduce() {
    local self=scripts/lab.sh
    [[ $LAB == oneip ]] || self="ONEIP_LAB=$LAB $self"
    cat <<END
lab "$LAB" is up: client - isp - router - { $(lan_hosts | grep -vx router | paste -sd ' ') }${vlan:+, the LAN on VLAN $vlan}
  cluster addresses  $CLUSTER4  $CLUSTER6${bare:+  (not on the servers yet)}
  configuration      $RUN/oneip.toml
$(introduce_oneip "$self")
  try                $self exec client curl --interface 198.51.100.77 http://$CLUSTER4/
  look around        $self shell client
  remove             $self down
END
}

# ---- the other verbs ----

# Every process in the lab's namespaces belongs to the lab.
lab_pids() {
    local host
    for host in "${HOSTS[@]}"; do
        [[ ! -e /run/netns/$LAB-$host ]] || ip netns pids "$LAB-$host"
    done
}

down() {
    local host pids tries
    [[ $(ip netns identify $$) != "$LAB"-* ]] || die "this is a shell inside the lab: leave it first"
    trap '' INT TERM
    for ((tries = 0; tries < 40; tries++)); do
        mapfile -t pids < <(lab_pids)
        ((${#pids[@]} > 0)) || break
        case $tries in
            0) kill -TERM "${pids[@]}" 2>/dev/null || true ;;
            30) kill -KILL "${pids[@]}" 2>/dev/null || true ;;
        esac
        sleep 0.1
    done
    for host in "${HOSTS[@]}"; do
        if [[ -e /run/netns/$LAB-$host ]]; then
            # What `oneip server add` remembers about this namespace ends with it; the kernel uses its number again.
            rm -f "/run/oneip/server-$(stat -Lc %i "/run/netns/$LAB-$host").json"
            ip netns del "$LAB-$host"
        fi
    done
    ! mountpoint -q "$RUN/bpf" || umount "$RUN/bpf"
    # Who still has a file there keeps nothing but that.
    ! mountpoint -q "$RUN" || umount --lazy "$RUN"
    rm -rf "$RUN"
}

status() {
    local host command pid
    [[ -e $RUN && -e /run/netns/$LAB-client ]] || { echo "lab \"$LAB\" is not up"; return 1; }
    echo "lab \"$LAB\" is up, files in $RUN"
    for host in "${HOSTS[@]}"; do
        [[ -e /run/netns/$LAB-$host ]] || continue
        printf '\n%s\n' "$LAB-$host"
        [[ $host != client ]] || echo "  wan0  $((LAST_CLIENT - FIRST_CLIENT + 1)) addresses of each family"
        ip -n "$LAB-$host" -br address | while read -r interface state addresses; do
            [[ $host == client && $interface == wan0* ]] || echo "  ${interface%@*}  $state  $addresses"
        done
        for pid in $(ip netns pids "$LAB-$host"); do
            command=$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) || continue
            echo "  process $pid: $command"
        done
    done
}

narrow() {
    local mtu=${1-} name
    [[ $mtu =~ ^[0-9]+$ ]] && ((mtu >= 1280 && mtu <= 1500)) || die "narrow needs an MTU from 1280 (IPv6's least) to 1500"
    ip -n "$LAB-isp" link set client0 mtu "$mtu"
    ip -n "$LAB-client" link set wan0 mtu "$mtu"
    for name in web{1,2,3,4}; do
        [[ -e /run/netns/$LAB-$name ]] || continue
        # What the servers learnt about the path before.
        ip -n "$LAB-$name" -4 route flush cache
        ip -n "$LAB-$name" -6 route flush cache
    done
}

enter() {
    local host=${1-}
    [[ " ${HOSTS[*]} " == *" $host "* ]] || die "no host \"$host\" in the lab: ${HOSTS[*]}"
    [[ -e /run/netns/$LAB-$host ]] || die "lab \"$LAB\" is not up: scripts/lab.sh up"
    shift
    exec ip netns exec "$LAB-$host" "$@"
}

[[ $LAB =~ ^[a-z][a-z0-9-]{0,31}$ ]] || die "ONEIP_LAB must be a short name of a-z, 0-9 and -, not \"$LAB\""
verb=${1-}
shift || true
case $verb in
    -h | --help) usage; exit 0 ;;
    up | down | status | shell | exec | narrow) ((EUID == 0)) || die "network namespaces need root" ;;
    *) usage >&2; exit 2 ;;
esac
case $verb in
    shell) enter "${1-}" env PS1="${1-}\$ " bash --norc ;;
    exec) (($# >= 2)) || { usage >&2; exit 2; }
        enter "$@" ;;
    *) "$verb" "$@" ;;
esac
