#!/usr/bin/env bash
# The Debian package: what Cargo.toml's [package.metadata.deb] lists, with the manual pages and completions that the program itself writes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
usage: scripts/package.sh [--profile NAME] [--no-build] [--out DIR]

Builds oneip and puts it into a Debian package. Prints the package's path.
  --profile NAME  which build (default: release; dev is for trying the package)
  --no-build      take the program that was built
  --out DIR       where the package goes (default: target/debian)
Needs cargo-deb (scripts/setup.sh --package).
END
}

profile=release build=yes out=target/debian
while (($# > 0)); do
    case $1 in
        --profile) profile=${2:?--profile needs a name}; shift 2 ;;
        --no-build) build=; shift ;;
        --out) out=${2:?--out needs a directory}; shift 2 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
command -v cargo-deb >/dev/null || { echo "error: no cargo-deb: run scripts/setup.sh --package" >&2; exit 1; }
[[ -z $build ]] || cargo build --quiet --profile "$profile" --bin oneip

folder=$profile
[[ $profile != dev ]] || folder=debug
readonly MADE=target/package
rm -rf "$MADE"
mkdir -p "$MADE" "$out"
oneip=target/$folder/oneip
"$oneip" man "$MADE"
"$oneip" completions bash >"$MADE/oneip.bash"
"$oneip" completions zsh >"$MADE/_oneip"
"$oneip" completions fish >"$MADE/oneip.fish"
"$oneip" schema >"$MADE/oneip.schema.json"
fast=()
[[ $profile == release ]] || fast=(--fast)
cargo deb "${fast[@]}" --quiet --no-build --no-separate-debug-symbols --profile "$profile" --output "$out/"
