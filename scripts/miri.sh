#!/usr/bin/env bash
# Miri: an interpreter that sees undefined behaviour, over what it can run of the core: hashes, with AVX2, tables, their way to the workers, and
# the flow table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1-} in
    '') ;;
    -h | --help) echo "usage: scripts/miri.sh      needs a nightly compiler with Miri: rustup +nightly component add miri. Exit 3: there is none"; exit 0 ;;
    *) echo "usage: scripts/miri.sh" >&2; exit 2 ;;
esac
cargo +nightly miri --version >/dev/null 2>&1 || { echo "error: no Miri: rustup toolchain install nightly; rustup +nightly component add miri" >&2; exit 3; }
scripts/core.sh target/miri
cd target/miri
rm -rf tests/{twins.rs,quic.rs,changes,model}
# Cases of property tests: an interpreter takes a thousand times as long.
export PROPTEST_CASES=2 MIRIFLAGS='-Zmiri-disable-isolation' RUSTFLAGS='-C target-feature=+avx2'
cargo +nightly miri test --quiet --lib -- hash:: table::build:: table::next_hop::
cargo +nightly miri test --quiet --test handover
