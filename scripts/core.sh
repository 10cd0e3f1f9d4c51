#!/usr/bin/env bash
# The core: a package of the modules that decide about frames, which are built and tested in seconds. For Miri (scripts/miri.sh) and mutants
# (scripts/mutants.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
usage: scripts/core.sh FOLDER

Writes the package "oneip" into FOLDER: src/{config,hash,limits,metrics,model,path,table,verdict,wire,worker} and the ports that need no kernel,
with their tests: changes, config, handover, quic, selection, tunnels, twins and worker. What is there already is replaced, but for target.
END
}

case ${1-} in
    '' | -*) usage; [[ ${1-} =~ ^(-h|--help)$ ]] && exit 0; exit 2 ;;
esac
readonly folder=$1 MODULES=(config hash limits metrics model path port table verdict wire worker) TESTS=(changes config handover.rs quic.rs selection.rs tunnels twins.rs worker data hlog model tools)

mkdir -p "$folder"
find "$folder" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
mkdir "$folder"/{src,tests,packaging}
for module in "${MODULES[@]}"; do
    for path in "src/$module" "src/$module.rs"; do
        if [[ -e $path ]]; then cp -rp "$path" "$folder/src/"; fi
    done
done
rm -rf "$folder"/src/port/{af_xdp,dpdk}
sed -i '/^pub mod af_xdp;/d' "$folder/src/port/mod.rs"
for test in "${TESTS[@]}"; do cp -rp "tests/$test" "$folder/tests/"; done
rm "$folder"/tests/{tunnels/{golden,kernel,lab,probes,tshark},worker/layouts}.rs
sed -i -E '/^mod (golden|kernel|lab|probes|tshark|layouts);/d' "$folder"/tests/{tunnels,worker}/main.rs
# Enough to notice a change, and little enough to be run for each.
sed -i -E 's/^(const FRAMES: usize =) .*/\1 20_000;/' "$folder/tests/twins.rs"
sed -i -E 's/for _ in 0\.\.50 /for _ in 0..8 /' "$folder/tests/quic.rs"
sed -i -E 's/^(const CASES: u32 =) .*/\1 40;/; s/\bcases: [0-9]+,/cases: 40,/' "$folder"/tests/changes/*.rs
cp -p packaging/oneip.toml "$folder/packaging/"
cp -p Cargo.lock rustfmt.toml "$folder/"
printf 'pub mod %s;\n' "${MODULES[@]}" >"$folder/src/lib.rs"

# Of the dependencies those that these modules name.
{
    printf '[workspace]\n\n[package]\nname = "oneip"\nversion = "0.1.0"\nedition = "2024"\n\n[dependencies]\n'
    sed -n '/^\[dependencies\]/,/^$/p' Cargo.toml |
        grep -E '^(aes|arrayvec|comfy-table|crossbeam|fastrand|hdrhistogram|libc|libm|memchr|pcap-file|percent-encoding|rustix|serde|serde_json|tempfile|thiserror|tokio-rustls|toml|tracing) ='
    printf '\n[dev-dependencies]\n'
    sed -n '/^\[dev-dependencies\]/,/^$/p' Cargo.toml | grep -E '^(base64|csv|etherparse|proptest|siphasher) ='
    printf '\n[features]\ndpdk = []\n\n[profile.dev]\ndebug = false\n\n[profile.dev.package.oneip]\nopt-level = 1\n'
} >"$folder/Cargo.toml"
