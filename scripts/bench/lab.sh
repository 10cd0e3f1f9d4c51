# The bench's network: for each device under test (DUT) a cable of its own, a tester at the one end and the DUT at the other.
#
#   tester0 ============ dut0        namespaces P-DUT-tester and P-DUT, P is $LAB
#   02:..:00:01    02:..:00:02       what the DUT sends on, whatever the MAC on it, comes back to the tester
#
# So all can stand at once, and the one to be measured changes in no time: the others are stopped (SIGSTOP), and take no core.
# On a real box (--interface) there are no namespaces: the DUT is this host, the tester is a host that ssh reaches.

readonly TESTER_MAC=02:00:00:00:00:01 DUT_MAC=02:00:00:00:00:02
# RFC 2544, appendix C.2.2, gives 198.18.0.0/15 to benchmarks.
readonly CLUSTER4=203.0.113.80 CLUSTER6=2001:db8:80::80 FIRST4=198.18.0.1 FIRST6=2001:db8:1::1

duts=()        # those that stand
dut=''         # the one being measured
declare -A pid # of the DUTs that are processes

# What the next command gets to read, where that is not empty.
input=''

# Runs a command, and notes it; in a dry run it is printed instead.
command_() {
    if [[ -n $dry_run ]]; then
        shown "$@" >&3
    else
        shown "$@" >>"$work/commands.txt"
        if [[ -n $input ]]; then "$@" <<<"$input"; else "$@"; fi
    fi
}

shown() {
    quoted "$@"
    if [[ -n $input ]]; then sed 's/^/    /' <<<"$input"; fi
}

quoted() {
    local word line=''
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=\'${word//\'/\'\\\'\'}\'
        line+="$word "
    done
    printf '%s\n' "${line% }"
}

at_dut() { if [[ -n $interface ]]; then command_ "$@"; else command_ ip netns exec "$LAB-$dut" "$@"; fi; }

at_tester() {
    if [[ -n $interface ]]; then command_ ssh "$peer" "$(quoted "$@")"; else command_ ip netns exec "$LAB-$dut-tester" "$@"; fi
}

# The cable of $dut.
lay_cable() { # [QUEUES]
    local end queues="numrxqueues ${1:-1} numtxqueues ${1:-1}"
    input="netns add $LAB-$dut
netns add $LAB-$dut-tester
link add dut0 netns $LAB-$dut address $DUT_MAC $queues type veth \
    peer name tester0 netns $LAB-$dut-tester address $TESTER_MAC $queues" command_ ip -batch -
    # The tester's end first: the kernel takes a veth for one that sends for XDP programs if its other end has GRO as it comes up.
    for end in at_tester at_dut; do
        # veth leaves checksums and segmentation to a card that is not there; and nothing shall be sent but the load. With GRO the tester's
        # end takes what an XDP program at the other one sends (drivers/net/veth.c, veth_xdp_xmit); UDP is not merged.
        "$end" bash -c "ethtool -K ${end#at_}0 tx off tso off gso off gro $(if [[ $end == at_tester ]]; then echo on; else echo off; fi) >/dev/null
            sysctl -qw net.ipv{4,6}.conf.${end#at_}0.accept_redirects=0 net.ipv4.conf.{all,${end#at_}0}.{rp_filter,send_redirects}=0
            ip link set ${end#at_}0 addrgenmode none up"
    done
    input="address add 192.0.2.2/16 dev dut0
address add 2001:db8:2::2/64 dev dut0 nodad
link set lo up" at_dut ip -batch -
}

server_address() { printf '192.0.%d.%d' $((2 + ($1 + 10) / 256)) $((($1 + 10) % 256)); }

server_mac() { printf '02:00:00:01:%02x:%02x' $(($1 / 256)) $(($1 % 256)); }

# Only DUT runs from here on.
measure() { # DUT
    local other
    [[ $dut != "$1" ]] || return 0
    if [[ -n $interface ]]; then
        [[ -z $dut ]] || stop "$dut"
        dut=$1
        "start_${dut//-/_}"
        return
    fi
    for other in "${duts[@]}"; do
        if [[ $other != "$1" ]]; then signal STOP "$other"; fi
    done
    dut=$1
    signal CONT "$dut"
}

# As measure, of a new process: each keeps for as long as it lives what luck it had with memory, some 5 % of the throughput.
measure_anew() { # DUT
    measure "$1"
    # On a real box each of its turns is a new process.
    if [[ -z $interface && -n ${pid[$1]-} ]]; then
        stop "$1"
        "start_${1//-/_}"
    fi
}

signal() { # SIGNAL DUT
    [[ -z ${pid[$2]-} ]] || command_ kill "-$1" "${pid[$2]}"
}

# Starts the process of $dut, and waits until it says that it is ready.
spawn() { # PATTERN COMMAND...
    local pattern=$1 tries
    shift
    if [[ -n $dry_run ]]; then at_dut "$@"; return; fi
    : >"$work/$dut.out"
    : >"$work/$dut.err"
    local place=()
    [[ -n $interface ]] || place=(ip netns exec "$LAB-$dut")
    quoted "${place[@]}" "$@" >>"$work/commands.txt"
    # In place of the shell, so that what is stopped later is the command; and with an input that never ends.
    [[ -e $work/silence ]] || mkfifo "$work/silence"
    exec "${place[@]}" "$@" >"$work/$dut.out" 2>"$work/$dut.err" <>"$work/silence" 3>&- &
    pid[$dut]=$!
    for ((tries = 0; tries < 1500; tries++)); do
        if grep -qE "$pattern" "$work/$dut.out" "$work/$dut.err"; then return; fi
        kill -0 "${pid[$dut]}" 2>/dev/null || break
        sleep 0.02
    done
    cat "$work/$dut.err" >&2
    die "$dut did not start: $(quoted "$@")"
}

stop() { # DUT
    if [[ -n ${pid[$1]-} ]]; then
        signal CONT "$1"
        signal INT "$1"
        [[ -n $dry_run ]] || wait "${pid[$1]}" || true
        unset "pid[$1]"
    fi
    if declare -F "undo_${1//-/_}" >/dev/null; then "undo_${1//-/_}"; fi
}

# Whatever ends the bench takes down what it made.
take_down() {
    trap '' INT TERM HUP
    local name
    for name in "${!pid[@]}"; do
        kill -KILL "${pid[$name]}" 2>/dev/null || true
        wait "${pid[$name]}" 2>/dev/null || true
    done
    if [[ -z $dry_run && -z $interface ]]; then
        if [[ -e /run/netns/$FLOOD_LAB-lan ]]; then flood_script down >/dev/null || true; fi
        for name in /run/netns/"$LAB"-*; do
            if [[ -e $name ]]; then ip netns delete "${name##*/}"; fi
        done
    fi
    set_autogroup "$autogroup"
    ! mountpoint -q "$work/bpf" || umount "$work/bpf"
    rm -rf "$work"
}

# What else the host does shall disturb as little as can be: for this process and all that it starts. Where sessions are
# scheduled as groups, niceness counts inside a group only, and the group's is to be set too.
come_first() {
    autogroup=''
    if [[ -n $dry_run ]]; then return; fi
    renice -n -10 -p $$ >/dev/null
    autogroup=$(sed -n 's/.* nice //p' /proc/$$/autogroup 2>/dev/null || true)
    if [[ -n $autogroup ]]; then set_autogroup -10; fi
}

set_autogroup() { # NICENESS
    if [[ -n $1 ]]; then echo "$1" >/proc/$$/autogroup || true; fi
}
