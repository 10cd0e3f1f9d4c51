#!/usr/bin/env bash
# Settings of a dispatcher's host for speed and even latency: shows them, sets them, undoes it.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/tune.sh show|set|undo --interface ETH [--cores LIST] [--huge-pages N] [--yes] [--help]

  show  what is, and what would be better; changes nothing
  set   shows it, asks, sets it, and remembers in /run/oneip what it was
  undo  asks, and puts back what `set` changed, except what was changed again since

  --interface ETH  the dispatcher's interface
  --cores LIST     the workers' cores, like 2,3: the NIC's interrupts go to the others
  --huge-pages N   reserve so many huge pages
  --yes            do not ask

What it sets: clock frequency (governor), deep idle states, interrupts, receive ring, LRO, VLAN stripping, send_redirects, statistics
of BPF programs, huge pages. All of it ends with the next start of the machine. `oneip doctor` names what else is wrong.
END
}

die() { echo "error: $*" >&2; exit 1; }

# Idle states that take longer to wake up from are left, in us.
readonly WAKE_UP_US=10
# A larger ring holds more than the cache.
readonly RING_MOST=4096

# What lies below this folder is read and written in place of the host's own (for tests).
readonly ROOT=${ONEIP_TUNE_ROOT-}

file() { if [[ -n $ROOT && -e $ROOT$1 ]]; then echo "$ROOT$1"; else echo "$1"; fi; }
files() { # PATTERN
    local found
    if [[ -n $ROOT ]] && found=$(compgen -G "$ROOT$1"); then sed "s|^$ROOT||" <<<"$found"; else compgen -G "$1" || true; fi
}

# The cores of a list like 0-3,8, a line each.
cores_of() {
    local part
    for part in ${1//,/ }; do seq "${part%-*}" "${part#*-}"; done
}

# A setting is a key: a file, `feature NAME` of ethtool, or `ring rx`.
value() {
    case $1 in
        /*) cat "$(file "$1")" ;;
        feature\ *) ethtool -k "$interface" | sed -n "s/^${1#feature }: \([a-z]*\).*/\1/p" ;;
        ring\ *) ethtool -g "$interface" 2>/dev/null | sed -n '/^Current/,$ s/^RX:[[:space:]]*//p' ;;
    esac
}
change() { # KEY VALUE
    case $1 in
        /*) echo "$2" >"$(file "$1")" ;;
        feature\ *) ethtool -K "$interface" "${1#feature }" "$2" >/dev/null ;;
        ring\ *) ethtool -G "$interface" rx "$2" >/dev/null ;;
    esac
}

# KEY<tab>VALUE: all that should be so.
wanted() {
    local path state others irq most
    for path in $(files '/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor'); do printf '%s\tperformance\n' "$path"; done
    for state in $(files '/sys/devices/system/cpu/cpu*/cpuidle/state*'); do
        if (($(value "$state/latency") > WAKE_UP_US)); then printf '%s\t1\n' "$state/disable"; fi
    done
    if [[ -n $cores ]]; then
        others=$(comm -23 <(cores_of "$(cat "$(file /sys/devices/system/cpu/online)")" | sort) <(cores_of "$cores" | sort) | sort -n |
            paste -sd ,)
        [[ -n $others ]] || die "--cores $cores lists all cores: leave one for interrupts"
        for irq in $(sed -n "s/^ *\([0-9]*\):.*[ -]$interface\(-.*\)\?$/\1/p" "$(file /proc/interrupts)"); do
            printf '%s\t%s\n' "/proc/irq/$irq/smp_affinity_list" "$others"
        done
    fi
    most=$(ethtool -g "$interface" 2>/dev/null | sed -n '0,/^Current/ s/^RX:[[:space:]]*//p') || true
    if [[ $most =~ ^[0-9]+$ ]] && ((most > 0)); then printf 'ring rx\t%s\n' "$((most < RING_MOST ? most : RING_MOST))"; fi
    if [[ $(value 'feature large-receive-offload') == on ]]; then printf 'feature large-receive-offload\toff\n'; fi
    printf 'feature rx-vlan-offload\toff\n'
    for path in all "$interface"; do printf '%s\t0\n' "/proc/sys/net/ipv4/conf/$path/send_redirects"; done
    path=/proc/sys/kernel/bpf_stats_enabled
    if [[ -e $(file $path) ]]; then printf '%s\t0\n' "$path"; fi
    if [[ -n $huge_pages ]]; then printf '/proc/sys/vm/nr_hugepages\t%s\n' "$huge_pages"; fi
}

# KEY<tab>NOW<tab>WANTED: those of `wanted` that are not.
missing() {
    local key want now
    while IFS=$'\t' read -r key want; do
        now=$(value "$key")
        if [[ $now != "$want" ]]; then printf '%s\t%s\t%s\n' "$key" "$now" "$want"; fi
    done
}

show() {
    local key now want
    while IFS=$'\t' read -r key now want; do printf '  %-66s %s -> %s\n' "$key" "$now" "$want"; done
}

ask() {
    [[ -z $yes ]] || return 0
    [[ -t 0 ]] || die "standard input is not a terminal, so nobody can confirm; use $0 $verb ... --yes; nothing was changed"
    local answer
    read -r -p "$1 [y/N] " answer
    [[ $answer == [yY]* ]] || { echo "nothing was changed"; exit 1; }
}

verb=${1-}
case $verb in
    -h | --help) usage; exit 0 ;;
    show | set | undo) shift ;;
    *) usage >&2; exit 2 ;;
esac
interface='' cores='' huge_pages='' yes=''
while (($#)); do
    case $1 in
        --interface) interface=${2-}; shift 2 || true ;;
        --cores) cores=${2-}; shift 2 || true
            [[ $cores =~ ^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$ ]] || die "--cores needs a list like 2,3 or 2-5, not \"$cores\"" ;;
        --huge-pages) huge_pages=${2-}; shift 2 || true
            [[ $huge_pages =~ ^[0-9]+$ ]] || die "--huge-pages needs a number, not \"$huge_pages\"" ;;
        --yes) yes=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
[[ -n $interface ]] || die "which interface? --interface ETH"
[[ $interface != */* && -e /sys/class/net/$interface ]] || die "there is no interface $interface"
# Interfaces of other network namespaces have the same names.
readonly MEMORY=$ROOT/run/oneip/tune-$(stat -Lc %i /proc/self/ns/net)-$interface

if [[ $verb == undo ]]; then
    [[ -e $MEMORY ]] || { echo "nothing to undo: \`set\` has changed nothing"; exit 0; }
    undo=$(while IFS=$'\t' read -r key was want; do printf '%s\t%s\t%s\n' "$key" "$want" "$was"; done < <(tac "$MEMORY"))
    show <<<"$undo"
    ask "Put these back?"
    while IFS=$'\t' read -r key set_to was; do
        if [[ $(value "$key") == "$set_to" ]]; then change "$key" "$was"; else echo "left: $key was changed since"; fi
    done <<<"$undo"
    rm -f "$MEMORY"
    exit 0
fi

found=$(wanted)
found=$(missing <<<"$found")
if [[ -z $found ]]; then echo "all is set"; exit 0; fi
show <<<"$found"
[[ $verb == set ]] || exit 0
ask "Set these?"
mkdir -p "${MEMORY%/*}"
failed=0
while IFS=$'\t' read -r key now want; do
    # Remembered first: should this be killed, `undo` knows what there may be.
    printf '%s\t%s\t%s\n' "$key" "$now" "$want" >>"$MEMORY"
    change "$key" "$want" || { echo "error: $key stays $now" >&2; failed=1; }
done <<<"$found"
exit "$failed"
