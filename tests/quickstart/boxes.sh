# The network of the pages that speak of boxes. The walk that boxes.rs writes reads this first; WALK is its folder.
#
#   client ---- router ---- bridge ---- dispatcher, web1, web2, generator
#          eth0 eth0  eth1              eth1
#
# Each host has a network, /sys, /run/oneip, /var/lib/oneip, /etc and programs of its own, and a folder for each of its roles with a
# `cluster.toml`, which is /etc/oneip/oneip.toml too. Nothing of it is the machine's.

declare -A box

# A host, which stands as long as the walk. MOUNTED is empty where the page itself mounts the BPF file system.
new_box() { # NAME
    mkdir -p "$WALK/own/$1"
    OWN=$WALK/own/$1 unshare --mount --net bash -c '
        set -euo pipefail
        mount -t sysfs sysfs /sys
        [[ -z $MOUNTED ]] || mount -t bpf bpf /sys/fs/bpf
        for folder in /run/oneip /var/lib/oneip; do mount -t tmpfs tmpfs "$folder"; done
        for folder in /etc /usr/bin /usr/local /usr/share/doc; do
            mkdir -p "$OWN/upper$folder" "$OWN/work$folder"
            mount -t overlay -o "lowerdir=$folder,upperdir=$OWN/upper$folder,workdir=$OWN/work$folder" overlay "$folder"
        done
        echo 0 | tee /proc/sys/net/ipv6/conf/{all,default}/accept_dad >/dev/null
        ip link set lo up
        touch "$OWN/stands"
        exec sleep infinity' &
    box[$1]=$!
    until [[ -e $WALK/own/$1/stands ]]; do kill -0 "${box[$1]}"; sleep 0.02; done
}

on() { # HOST COMMAND...
    nsenter --target "${box[$1]}" --mount --net -- "${@:2}"
}

# One queue a direction: an AF_XDP socket is bound to one.
cable() { # HOST INTERFACE MAC
    local queues="numrxqueues 1 numtxqueues 1"
    ip link add "$1" $queues type veth peer name "$2" address "$3" netns "${box[$1]}" $queues
    ip link set "$1" master lan up
    on "$1" ip link set "$2" up
}

# A veth leaves checksums and segments to a NIC, which is not there; a router's would be unfinished behind the dispatcher. What a program
# at the dispatcher's interface sends, a veth takes only with GRO at its other end.
without_offloads() { # INTERFACE [HOST]
    ${2:+on $2} ethtool -K "$1" tx off tso off gso off gro off >/dev/null
}

network() {
    local host
    mount -t tmpfs tmpfs "$WALK/own"
    mkdir "$WALK/own/machine"
    box[machine]=$$
    ip link add lan type bridge forward_delay 0 mcast_snooping 0
    ip link set lan up
    for host in client router dispatcher web1 web2 generator; do new_box "$host"; done
    cable router eth1 02:00:00:00:00:01
    cable dispatcher eth1 02:00:00:00:00:02
    cable generator eth1 02:00:00:00:00:03
    cable web1 eth1 02:00:00:00:00:11
    cable web2 eth1 02:00:00:00:00:12
    ip link add eth0 netns "${box[client]}" type veth peer name eth0 netns "${box[router]}"
    addresses client eth0 198.51.100.7/24 2001:db8:1::7/64
    addresses router eth0 198.51.100.1/24 2001:db8:1::1/64
    addresses router eth1 192.0.2.1/24 2001:db8:2::1/64
    addresses dispatcher eth1 192.0.2.2/24 2001:db8:2::2/64
    addresses generator eth1 192.0.2.3/24 2001:db8:2::3/64
    addresses web1 eth1 192.0.2.11/24 2001:db8:2::11/64
    addresses web2 eth1 192.0.2.12/24 2001:db8:2::12/64
    for host in router dispatcher generator web1 web2; do
        without_offloads eth1 $host
        without_offloads $host
        [[ $host == router ]] || gateway $host 192.0.2.1 2001:db8:2::1
    done
    without_offloads eth0 client
    without_offloads eth0 router
    ethtool -K dispatcher gro on
    gateway client 198.51.100.1 2001:db8:1::1
    on router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    for host in web1 web2; do
        web $host
        files server $host "$WALK/cluster.toml"
        files filter $host "$WALK/filter.toml"
    done
    for host in client router dispatcher generator; do files $host $host "$WALK/cluster.toml"; done
}

addresses() { # HOST INTERFACE ADDRESS...
    local address
    on "$1" ip link set "$2" up
    for address in "${@:3}"; do on "$1" ip address add "$address" dev "$2"; done
}

gateway() { # HOST ADDRESS...
    local address
    for address in "${@:2}"; do on "$1" ip route add default via "$address"; done
}

web() { # NAME
    local folder=$WALK/own/$1/web
    mkdir "$folder"
    cat >"$folder/nginx.conf" <<END
pid $folder/pid; error_log $folder/error.log; events {}
http { access_log off; server { listen 80; listen [::]:80 ipv6only=on; return 200 "This is $1.\n"; } }
END
    on "$1" nginx -e "$folder/error.log" -c "$folder/nginx.conf"
}

files() { # ROLE HOST CONFIGURATION
    mkdir -p "$WALK/$1/$2"
    install -m 600 "$3" "$WALK/$1/$2/cluster.toml"
    [[ $1 == filter ]] || on "$2" install -D -m 600 "$3" /etc/oneip/oneip.toml
}

# A block of a page, or what else is done on a host, by reader.sh.
at() { # ROLE HOST SCRIPT
    local type
    # Not every kernel has these devices.
    for type in vlan ipip; do
        if grep -q " type $type " "$3" && ! has_devices $type; then
            echo "SKIPPED: this kernel has no $type devices"
            return
        fi
    done
    local folder=$WALK/$1/$2
    [[ $1 != machine ]] || folder=$SOURCE
    ROLE=$1 HOST=$2 FOLDER=$folder on "$2" bash -euo pipefail -c 'source "$WALK/reader.sh"; cd "$FOLDER"; source "$0"' "$3" \
        >"$WALK/printed" 2>&1 </dev/null || { cat "$WALK/printed" >&2; exit 1; }
    cat "$WALK/printed"
}

has_devices() { # TYPE
    local of=
    [[ $1 != vlan ]] || of="link lan"
    [[ $(ip link add $of name probed type "$1" ${of:+id 100} 2>&1) != *"Unknown device type"* ]]
}

# ---- what a page presumes, or what is looked at between its blocks ----

do_at() { # ROLE HOST COMMANDS
    echo "$3" >"$WALK/done.sh"
    at "$1" "$2" "$WALK/done.sh"
}

servers() {
    local host
    for host in web1 web2; do do_at server $host "oneip server add -c cluster.toml"; done
}

route() {
    on router ip route add 203.0.113.80/32 via 192.0.2.2
    on router sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth1.send_redirects=0
}

dispatching() { do_at dispatcher dispatcher unit; }

announced() { do_at dispatcher dispatcher "eventually 10 oneip ctl ready"; }

# As the package does.
installed() {
    local example=/usr/share/doc/oneip/examples/oneip.toml
    on dispatcher install -D "$(type -P oneip)" /usr/bin/oneip
    on dispatcher install -D -m 644 "$SOURCE/packaging/oneip.toml" $example
}

# What tune.sh changes of a machine, as files.
tunable() {
    local root=$WALK/own/dispatcher/tuned file value
    while read -r file value; do
        mkdir -p "$root/${file%/*}"
        echo "$value" >"$root/$file"
    done <<'END'
sys/devices/system/cpu/online 0-3
sys/devices/system/cpu/cpu2/cpufreq/scaling_governor powersave
sys/devices/system/cpu/cpu2/cpuidle/state1/latency 133
sys/devices/system/cpu/cpu2/cpuidle/state1/disable 0
proc/interrupts 4040:  5  0  IR-PCI-MSIX-0000:81:00.0  3-edge  ice-eth1-TxRx-0
proc/irq/4040/smp_affinity_list 2
proc/sys/kernel/bpf_stats_enabled 0
proc/sys/vm/nr_hugepages 0
END
}

keepalived() {
    on dispatcher install -D -m 600 "$SOURCE/tests/data/import/keepalived.conf" /etc/keepalived/keepalived.conf
    cp "$SOURCE/tests/data/import/ipvsadm.rules" "$WALK"
}

# The group's etcd, on the generator's box.
store() {
    on generator ip address add 192.0.2.51/24 dev eth1
    on generator etcd --name n1 --data-dir "$WALK/own/etcd" --listen-client-urls http://192.0.2.51:2379,http://127.0.0.1:2379 \
        --advertise-client-urls http://192.0.2.51:2379 --listen-peer-urls http://192.0.2.51:2380 \
        --initial-advertise-peer-urls http://192.0.2.51:2380 --initial-cluster n1=http://192.0.2.51:2380 >"$WALK/own/etcd.log" 2>&1 &
    do_at dispatcher dispatcher "curl http://192.0.2.51:2379/health"
}

# The user whose password reader.sh knows has its own keys, and no others.
keeps_to_its_keys() {
    do_at generator generator "
        command etcdctl user add root:top
        command etcdctl user grant-role root root
        command etcdctl auth enable
        command etcdctl --user oneip:s3cret put /oneip/edge/tried 1
        command etcdctl --user oneip:s3cret del /oneip/edge/tried
        ! command etcdctl --user oneip:s3cret put /oneip/other/tried 1 || fail 'it may write elsewhere'
        command etcdctl --user root:top auth disable"
}

services_to_publish() { sed -n '/^\[\[service\]\]/,$p' "$WALK/cluster.toml" >"$WALK/dispatcher/dispatcher/services.toml"; }

unprepared() { do_at server "$1" "oneip server remove -c cluster.toml"; } # SERVER

# By way of the dispatcher, if there is one: a server that gets its packets straight from the router answers too.
answers() { # [ADDRESS]
    local address=${1-203.0.113.80} before=
    echo "-- a client is to be answered at $address" >&2
    if [[ -e $WALK/own/dispatcher/running ]]; then
        do_at dispatcher dispatcher "forwarded" >/dev/null
        before=$(tail -n 1 "$WALK/printed")
    fi
    do_at client client "curl http://$address/"
    [[ -z $before ]] || do_at dispatcher dispatcher "eventually 10 more_forwarded_than $before || fail 'the dispatcher forwards nothing'"
}

# The servers have MAC addresses that nobody has, and who sends takes in their frames.
sent_back() {
    on dispatcher sed -i -e 's/^address = "\(192.0.2.\|2001:db8:2::\)1\([12]\)"/&\nmac = "02:00:00:00:01:1\2"/' \
        -e '/^\[service.health\]/,/^port/d' /etc/oneip/oneip.toml
    on generator ip link set dev eth1 promisc on
}

printed() { # WHAT [HOW-OFTEN]
    local count
    count=$(grep -Ec "$1" "$WALK/printed" || true)
    ((count == ${2-1})) || { echo "\"$1\" is to be there ${2-1} times, and is $count times:"; cat "$WALK/printed"; exit 1; } >&2
}

# A folder of the machine's that scripts use.
own_run() {
    mount -t tmpfs tmpfs /run
    mkdir /run/netns
    export ONEIP
    ONEIP=$(type -P oneip)
}

# What runs still ends as it should.
end() {
    local host
    for host in web1 web2; do do_at server $host finish; done
    for host in dispatcher machine; do do_at $host $host finish; done
}
