#!/usr/bin/env bash
# Fuzzing: what reads what others wrote gets any bytes. scripts/test.sh runs it for a short time where the fuzzers are built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../tests/fuzz"
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

usage() {
    cat <<'END'
usage: scripts/fuzz.sh [--minutes N | --seconds N] [TARGET]...

Each target by turns, for an equal part of the time (default: 10 minutes). Needs a nightly compiler and cargo-fuzz:
  rustup toolchain install nightly; cargo install cargo-fuzz
As root it also asks the program in the kernel (target engines). What was learned is kept in tests/fuzz/corpus. An input that fails is
left in tests/fuzz/artifacts/TARGET, and fails again by: cd tests/fuzz; cargo +nightly fuzz run --dev --fuzz-dir . TARGET FILE
Exit 0: nothing was found. 3: there is no nightly compiler or no cargo-fuzz.
END
}

seconds=600 wanted=()
while (($#)); do
    case $1 in
        --minutes | --seconds)
            [[ ${2-} =~ ^[1-9][0-9]*$ ]] || { echo "error: $1 needs a number" >&2; exit 2; }
            seconds=$2
            [[ $1 == --seconds ]] || seconds=$((60 * seconds))
            shift 2 ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) wanted+=("$1"); shift ;;
    esac
done
mapfile -t all < <(cd fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')
for target in "${wanted[@]}"; do
    [[ " ${all[*]} " == *" $target "* ]] || { echo "error: no such target: $target; there are ${all[*]}" >&2; exit 2; }
done
((${#wanted[@]} > 0)) || wanted=("${all[@]}")
cargo +nightly fuzz --version >/dev/null 2>&1 || {
    echo "error: no nightly compiler or no cargo-fuzz: rustup toolchain install nightly; cargo install cargo-fuzz" >&2
    exit 3
}

cargo +nightly fuzz build --dev --fuzz-dir . >/dev/null
"target/$(rustc -vV | sed -n 's/^host: //p')/debug/corpus" corpus
each=$((seconds / ${#wanted[@]})) failed=()
((each > 0)) || each=1
for target in "${wanted[@]}"; do
    echo "fuzz: $target, $each s"
    longest=4096
    [[ $target != turn && $target != engines ]] || longest=1600
    log=$(mktemp)
    # -timeout: the first input waits until the tables are made.
    if cargo +nightly fuzz run --dev --fuzz-dir . "$target" -- -max_len=$longest -max_total_time="$each" -timeout=120 -rss_limit_mb=2048 \
        -print_final_stats=1 >"$log" 2>&1; then
        sed -n 's/^stat::number_of_executed_units: */  runs: /p' "$log"
    else
        failed+=("$target")
        tail -n 40 "$log"
    fi
    rm -f "$log"
done
if ((${#failed[@]} > 0)); then
    echo "fuzz: inputs that fail: ${failed[*]}; see tests/fuzz/artifacts" >&2
    exit 1
fi
echo "fuzz: nothing found"
