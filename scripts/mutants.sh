#!/usr/bin/env bash
# Mutation testing: changes the source of a module in small ways, and looks whether a test fails. What no test notices is listed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

usage() {
    cat <<'END'
usage: scripts/mutants.sh [--minutes N] [--shard K/N] MODULE [TEST]...      (default: 30 minutes)

MODULE             of the core (scripts/core.sh), beneath src: hash, path, wire, path/flow_table, table/flow_table, ...
--shard K/N        every Nth mutant, from the Kth on, counted from 0
TEST               the tests that are to notice: lib, twins, changes, quic (default: all of them)

It works on a copy, in target/core. Needs cargo-mutants: cargo install cargo-mutants. What survives is printed. Those of which it is known why are in
tests/mutants.txt, each with its reason. Exit 0: every other one was noticed. 3: there is no cargo-mutants.
END
}

minutes=30 shard=() module='' tests=()
while (($#)); do
    if [[ -n $module ]]; then tests+=("$1"); shift; continue; fi
    case $1 in
        --minutes) [[ ${2-} =~ ^[1-9][0-9]*$ ]] || { echo "error: $1 needs a number" >&2; exit 2; }; minutes=$2; shift 2 ;;
        --shard) [[ ${2-} =~ ^[0-9]+/[1-9][0-9]*$ ]] || { echo "error: $1 needs K/N" >&2; exit 2; }; shard=(--shard "$2" --sharding round-robin); shift 2 ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) module=$1; shift ;;
    esac
done
[[ -n $module ]] || { usage >&2; exit 2; }
((${#tests[@]} > 0)) || tests=(lib twins changes quic)
wanted=()
for test in "${tests[@]}"; do
    case $test in
        lib) wanted+=(--lib) ;;
        twins | changes | quic) wanted+=("--test=$test") ;;
        *) echo "error: no such test: $test; there are lib, twins, changes, quic" >&2; exit 2 ;;
    esac
done
if [[ -f src/$module.rs ]]; then files=(--file "src/$module.rs"); elif [[ -d src/$module ]]; then files=(--file "src/$module/**"); else
    echo "error: no module src/$module.rs or src/$module" >&2
    exit 2
fi
cargo mutants --version >/dev/null 2>&1 || { echo "error: no cargo-mutants: cargo install cargo-mutants" >&2; exit 3; }

scripts/core.sh target/core
cd target/core
rm -rf mutants.out
# First without a mutant: else nothing means anything.
cargo test --quiet "${wanted[@]}" >/dev/null || { echo "error: the tests of the core fail as it is: cd target/core; cargo test ${wanted[*]}" >&2; exit 1; }
code=0
timeout -s INT "$((60 * minutes))" cargo mutants --in-place --baseline skip --timeout 300 --colors never "${shard[@]}" "${files[@]}" "${wanted[@]/#/--cargo-arg=}" \
    2>&1 | grep -vE 'WARN|^ *$' || code=${PIPESTATUS[0]}
case $code in
    0 | 2 | 3) ;;
    124 | 130) echo "mutants: the time is over; not all were tried" ;;
    *) echo "error: cargo mutants ended with $code" >&2; exit 1 ;;
esac
cd ../..
readonly found=target/core/mutants.out
printf '%s: %s were noticed, %s were not, %s do not compile\n' "$module" "$(cat "$found"/{caught,timeout}.txt | wc -l)" "$(wc -l <"$found/missed.txt")" "$(wc -l <"$found/unviable.txt")"
# Without line numbers: those change.
unknown=$(sed -E 's/:[0-9]+:[0-9]+:/:/' "$found/missed.txt" | grep -vxFf <(grep -v '^#' tests/mutants.txt | cut -f1) || true)
[[ -z $unknown ]] || { printf 'no test notices:\n%s\n' "$unknown"; exit 1; }
