#!/usr/bin/env bash
# Everything that must hold before a change goes in. CI runs exactly this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
usage: scripts/test.sh [--help]

Installs what is missing (scripts/setup.sh --dpdk), then checks the format, the lints and runs every test.
Exit 0 only if all of it passed. As root it runs the tests on real networks too; without root these say that they were skipped.
END
}

case ${1-} in
    '') ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

summary=()
failed=0
step() {
    local name=$1 start=$SECONDS verdict=ok
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" || { verdict=FAILED; failed=1; }
    summary+=("$(printf '%-8s %-7s %4d s' "$name" "$verdict" $((SECONDS - start)))")
}

scripts/setup.sh --dpdk
step format cargo fmt --check
step lints cargo clippy --all-targets --features dpdk -- -D warnings
# Without the feature, as most will build it; and then what only that port has. Tests wait more than they work: four at a time.
step tests cargo test --no-fail-fast -- --test-threads=4
step dpdk cargo test --no-fail-fast --features dpdk --test dpdk

printf '\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
