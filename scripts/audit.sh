#!/usr/bin/env bash
# What the dependencies are: licences, sources, versions, and known vulnerabilities. scripts/test.sh runs it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

usage() {
    cat <<'END'
usage: scripts/audit.sh

Checks Cargo.lock by deny.toml, with cargo-deny (cargo install cargo-deny): licences, sources and versions from what cargo has downloaded
already; vulnerabilities from https://github.com/RustSec/advisory-db. What cannot be checked here is SKIPPED, loudly.
Exit 0: nothing is wrong with what was checked.
END
}

case ${1-} in
    '') ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

# What needs no tool: every dependency is of the registry, and the lock file says its checksum.
foreign=$(awk '/^name = /{ name = $3 } /^source = /{ if ($0 !~ /registry\+https:\/\/github.com\/rust-lang\/crates.io-index/) print name }' Cargo.lock)
[[ -z $foreign ]] || { echo "error: not from crates.io:" $foreign >&2; exit 1; }
[[ $(grep -c '^source = ' Cargo.lock) == $(grep -c '^checksum = ' Cargo.lock) ]] || { echo "error: Cargo.lock lacks checksums" >&2; exit 1; }
echo "audit: $(grep -c '^source = ' Cargo.lock) crates, all from crates.io, each with a checksum"

if ! cargo deny --version >/dev/null 2>&1; then
    echo "audit: SKIPPED licences and vulnerabilities: no cargo-deny (cargo install cargo-deny)"
    exit 0
fi
cargo deny --all-features check bans licenses sources
if cargo deny fetch db >/dev/null 2>&1; then
    cargo deny --all-features check advisories
else
    echo "audit: SKIPPED vulnerabilities: the advisories of RustSec are not available here (github.com cannot be reached)"
fi
