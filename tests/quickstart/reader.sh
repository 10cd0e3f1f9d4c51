# What a reader of a page does beside typing, in a host of boxes.sh: read before each block.
#
# `oneip run`, `filter` and `decap` do not end: they are started, are to say `ready`, and go on. The next one on this host ends its
# predecessor first. Other commands that do not end are interrupted.

readonly OWN=$WALK/own/$HOST
readonly RUNNING=$OWN/running
readonly LAB=$SOURCE/scripts/lab.sh
readonly PATIENCE=30
PROGRAM=$(type -P oneip)

fail() { echo "FAILED: $*"; exit 1; }

eventually() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

oneip() {
    case "$1 ${2-}" in
        "run "* | "filter "* | "decap "*)
            case " $* " in
                *" --detach "*) leave "$1"; command oneip "$@"; ! has_program || fail "the program is still there" ;;
                *" --takeover "*) start "$PROGRAM" "$@" ;;
                *) finish; start "$PROGRAM" "$@" ;;
            esac
            ;;
        "pktgen "*) sends "$@" ;;
        "ctl capture") interrupted 1 oneip "$@" ;;
        "ctl top") { sleep 1; printf q; } | script -qec "oneip $*" /dev/null ;;
        "ctl hand-over") command oneip "$@"; ended "$(<"$RUNNING")" ;;
        *) command oneip "$@" ;;
    esac
}

# Until it answers: checks of servers take a moment.
curl() { eventually $PATIENCE command curl -sSf --max-time 2 "$@"; }

# Where it would change the machine there are files of its own, see boxes.sh. It asks before it changes something.
scripts/tune.sh() {
    export ONEIP_TUNE_ROOT=$OWN/tuned
    case $1 in
        show) "$SOURCE/scripts/tune.sh" "$@" ;;
        *) { sleep 1; echo y; } | script -qec "$SOURCE/scripts/tune.sh $*" /dev/null ;;
    esac
}

# Asks twice for a password.
etcdctl() {
    case "$1 $2" in
        "user add") { sleep 1; echo s3cret; sleep 1; echo s3cret; } | script -qec "etcdctl $*" /dev/null ;;
        *) command etcdctl "$@" ;;
    esac
}

# A dispatcher in the lab is one more that does not end. The routes that it announces come when BIRD's session is there.
scripts/lab.sh() {
    case "$*" in
        *" oneip run "*) start "$LAB" "$@" ;;
        *" ip route show "*) eventually $PATIENCE shows "$LAB" "$@" ;;
        down) finish; "$LAB" down ;;
        *) "$LAB" "$@" ;;
    esac
}

shows() { "$@" | grep .; }

tcpdump() { interrupted 1 tcpdump "$@"; }

# The kernel's IPVS is another program: this is what it had to say once.
ipvsadm() { cat "$WALK/ipvsadm.rules"; }

interrupted() { timeout --preserve-status --signal INT --kill-after 60 "$@" || (($? == 130)); } # SECONDS COMMAND...

# On a machine that is busy it takes a while to begin.
sends() {
    local seconds
    for seconds in 1 10 30; do
        interrupted $seconds oneip "$@" >"$OWN/sent"
        ! grep -Eq '^(sent|\{"sent":) *[1-9]' "$OWN/sent" || break
    done
    cat "$OWN/sent"
}

# As the package's unit has it, for pages that presume a dispatcher at work.
unit() {
    if [[ -e $RUNNING ]]; then
        [[ ! -e $(<"$RUNNING").exit ]] || fail "it has ended: $(<"$(<"$RUNNING")")"
        return
    fi
    start "$PROGRAM" run -c /etc/oneip/oneip.toml
    eventually 10 all_up || echo "not all servers are up"
}

all_up() { [[ -z $(command oneip ctl status | grep '^ *web[12] ' | grep -v ' up ') ]]; }

forwarded() { command oneip ctl metrics | awk '/^oneip_frames_forwarded_total/ { n += $NF } END { print n + 0 }'; }

more_forwarded_than() { (($(forwarded) > $1)); } # COUNT

start() { # COMMAND...
    local log before=
    [[ ! -e $RUNNING ]] || before=$(<"$RUNNING")
    log=$(mktemp "$OWN/oneip.XXXXXX")
    {
        "$@" &
        echo $! >"$log.pid"
        wait $! && echo 0 >"$log.exit" || echo $? >"$log.exit"
    } >"$log" 2>&1 &
    eventually $PATIENCE is_ready "$log" && [[ ! -e $log.exit ]] || fail "$* is not ready: $(<"$log")"
    cat "$log"
    [[ -z $before ]] || ended "$before"
    echo "$log" >"$RUNNING"
}

is_ready() { grep -q '^ready' "$1" || [[ -e $1.exit ]]; } # LOG

# What ends does so in time, and without an error.
ended() { # LOG
    eventually $PATIENCE test -s "$1.exit" || fail "it does not end: $(<"$1")"
    [[ $(<"$1.exit") == 0 ]] || fail "it ends with $(<"$1.exit"): $(<"$1")"
    rm -f "$RUNNING"
}

finish() {
    [[ -e $RUNNING ]] || return 0
    local log
    log=$(<"$RUNNING")
    [[ ! -e $log.exit ]] || fail "it has ended: $(<"$log")"
    kill -TERM "$(<"$log.pid")"
    ended "$log"
}

# A dispatcher takes its program along, unless it is killed; a filter's and a decap's stay.
leave() { # run|filter|decap
    [[ $1 == run && -e $RUNNING ]] || { finish; return; }
    kill -KILL "$(<"$(<"$RUNNING").pid")"
    eventually $PATIENCE test -s "$(<"$RUNNING").exit"
    rm "$RUNNING"
    has_program || fail "a killed dispatcher leaves its program"
}

has_program() { [[ $(ip -d link show dev eth1) == *prog/xdp* ]]; }

# The block talks to a dispatcher.
if [[ $ROLE == dispatcher ]] && grep -Eq 'oneip ctl|http://127\.0\.0\.1' "$0"; then unit; fi
