#!/usr/bin/env bash
# Everything that must hold before a change goes in. CI runs exactly this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# These tests have networks of their own (as root), and mostly wait: they run beside the others. The first two are the longest.
readonly NETWORKS=(lab soak doctor group health neighbours quickstart server_verb)
# These load the kernel or take a core, or build: --quick leaves them out too.
readonly MACHINES=(af_xdp filter package pktgen steer)
# Puts itself before all others on every core.
readonly ALONE=bench
# In a machine of its own, which qemu emulates.
readonly GUEST=guest
# With feature dpdk only.
readonly DPDK=dpdk

usage() {
    cat <<END
usage: scripts/test.sh [--quick] [--help]

Installs what is missing (scripts/setup.sh --dpdk --guest --browser --package), then checks the format, the lints and runs every test.
Exit 0 only if all of it passed. As root it runs the tests on real networks too; without root these say that they were skipped.

  --quick  only what needs no network and no kernel's help: it leaves out ${NETWORKS[*]}
           ${MACHINES[*]} $ALONE $GUEST $DPDK; and the lints of these, of the benchmarks and of feature dpdk

Lints are seen as it builds: the compiler is clippy's for all that is oneip's own, so that what a \`cargo build\` made is built again here.
END
}

quick=''
case ${1-} in
    '') ;;
    --quick) quick=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

summary=()
failed=0
note() { summary+=("$(printf '%-8s %-7s %4d s' "$1" "$2" $((SECONDS - $3)))"); }
step() {
    local name=$1 start=$SECONDS verdict=ok
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" || { verdict=FAILED; failed=1; }
    note "$name" "$verdict" "$start"
}

# `--test NAME` for each of the arguments.
named() { printf -- '--test %s ' "$@"; }

# All other tests, those of modules first.
others() {
    local file name
    printf -- '--lib --bins '
    for file in tests/*.rs tests/*/main.rs; do
        name=${file#tests/} name=${name%.rs} name=${name%/main}
        [[ " ${NETWORKS[*]} $ALONE $GUEST $DPDK $* " == *" $name "* ]] || named "$name"
    done
}

# Tests wait more than they work: so many at a time.
at_a_time=4
run_tests() {
    local targets=()
    while (($#)) && [[ $1 != -- ]]; do targets+=("$1"); shift; done
    cargo test --no-fail-fast "${targets[@]}" -- --test-threads="$at_a_time" "${@:2}"
}

# The tests of networks, in two groups. Of 670 s with four of them at a time, the lab's took 377 s of one core. With eight, and the others beside
# them, all control threads once waited for the kernel (RCU, rtnl) for a minute; the cause was not found.
# shellcheck disable=SC2046
lab() { at_a_time=6 run_tests $(named "${NETWORKS[@]:0:2}"); }
# shellcheck disable=SC2046
networks() { run_tests $(named "${NETWORKS[@]:2}"); }

guest() { run_tests --test "$GUEST"; }

# The lab's tests of what a dispatcher does, over the engine in the kernel too.
xdp() { at_a_time=8 LAB_ENGINE=xdp run_tests --test lab -- packets:: selection:: failover:: operator::a_server_with reload::fifty restart::kill; }

# Begins a step that others run beside; what it says comes when it is awaited.
begin() {
    [[ -n $folder ]] || folder=$(mktemp -d)
    began[$1]=$SECONDS
    "$1" >"$folder/$1" 2>&1 &
    process[$1]=$!
}
# Cargo lets nobody else build until it runs a test.
until_it_runs() { until grep -q ' Running ' "$folder/$1" || ! kill -0 "${process[$1]}" 2>/dev/null; do sleep 0.2; done; }
await() {
    local verdict=ok
    wait "${process[$1]}" || { verdict=FAILED; failed=1; }
    unset "process[$1]"
    printf '\n== %s\n' "$1"
    cat "$folder/$1"
    note "$1" "$verdict" "${began[$1]}"
}

loom() { nice cargo test --quiet --manifest-path tests/loom/Cargo.toml; }

# Shortly, where the fuzzers are built already: that takes ten minutes. Whoever changes what reads input runs scripts/fuzz.sh for longer.
fuzz() {
    local code=3
    # The fuzzers' compiler is another one.
    [[ ! -d tests/fuzz/target ]] || { code=0; env -u RUSTC_WORKSPACE_WRAPPER nice scripts/fuzz.sh --seconds 60 || code=$?; }
    ((code == 3)) || return "$code"
    echo "SKIPPED: nothing was fuzzed (scripts/fuzz.sh builds the fuzzers); the targets have had their first inputs (test seeds)"
}

# What tests that failed said last stands at the end again.
said=$(mktemp) folder=''
declare -A process=() began=()
trap 'kill "${process[@]}" 2>/dev/null || true; rm -rf "$said" "$folder"' EXIT
exec > >(tee "$said") 2>&1
tee=$!
scripts/setup.sh --dpdk --guest --browser --package
# `cargo clippy` would compile everything once more, all dependencies too; as the compiler it says the same.
clippy-driver --version >/dev/null 2>&1 || { echo "error: there is no clippy: rustup component add clippy" >&2; exit 1; }
export RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__
step format cargo fmt --check
if [[ -n $quick ]]; then
    # shellcheck disable=SC2046
    step tests run_tests $(others "${MACHINES[@]}")
else
    step audit scripts/audit.sh
    # What threads share, in every interleaving. One core has little to do while the library is compiled.
    begin loom
    # Without the feature, as most will build it; and then what only that port has.
    step build cargo test --no-run --all-targets
    # Tests of networks mostly wait, the lab's the longest: the others run beside them.
    begin lab
    begin networks
    # shellcheck disable=SC2046
    step tests run_tests $(others)
    step fuzz fuzz
    await networks
    await lab
    await loom
    # The guest takes one core, and the lab less than another.
    begin guest
    begin xdp
    until_it_runs guest
    until_it_runs xdp
    step lints cargo test --no-run --features dpdk --lib --test "$GUEST" --test "$DPDK" --bench "$DPDK"
    step shim scripts/sanitize.sh
    await xdp
    await guest
    step bench run_tests --test "$ALONE"
    step dpdk run_tests --features dpdk --test "$DPDK"
fi

if ((failed)); then
    # What tee has not written yet.
    sleep 1
    what=$(
        grep -aE '^test .* \.\.\. FAILED$|^error' "$said" || true
        grep -a -A 5 ' panicked at ' "$said" | cut -c 1-400 | head -n 80 || true
    )
    printf '\n== what failed\n%s\n' "$what"
fi
printf '\n'
printf '%s\n' "${summary[@]}"
# Whoever else still has its input: tee has said all of this in a moment.
exec >/dev/null 2>&1
for ((tries = 0; tries < 50; tries++)); do kill -0 "$tee" || break; sleep 0.1; done
exit "$failed"
