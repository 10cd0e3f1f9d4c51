#!/usr/bin/env bash
# Mutation testing: changes the source of a module in small ways, and looks whether a test fails. What no test notices is listed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

usage() {
    cat <<'END'
usage: scripts/mutants.sh [--minutes N] [--again] [--alone] MODULE [TEST]...      (default: 60 minutes)

MODULE     beneath src: hash, path, wire, path/flow_table, control/membership, ...
TEST       the tests that are to notice: lib, or a name in tests. Default: lib and all of the core (scripts/core.sh), if the module is in that, else
           lib and the one of the module's name
--again    only the mutants that were not noticed the last time
--alone    those of constants too, and of functions that constants call: they are built one by one, which takes minutes each

All others are built into one package, a copy in target/mutants, and each run of a test chooses one. Needs cargo-mutants: cargo install cargo-mutants.
What survives is printed. Those of which it is known why are in tests/mutants.txt, each with its reason. Exit 0: every other one was noticed. 3: there
is no cargo-mutants.
END
}

minutes=60 options=() module='' tests=()
while (($#)); do
    if [[ -n $module ]]; then tests+=("$1"); shift; continue; fi
    case $1 in
        --minutes) [[ ${2-} =~ ^[1-9][0-9]*$ ]] || { echo "error: $1 needs a number" >&2; exit 2; }; minutes=$2; shift 2 ;;
        --again | --alone) options+=("$1"); shift ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) module=$1; shift ;;
    esac
done
[[ -n $module ]] || { usage >&2; exit 2; }
if [[ -f src/$module.rs ]]; then files=(--file "src/$module.rs"); elif [[ -d src/$module ]]; then files=(--file "src/$module/**"); else
    echo "error: no module src/$module.rs or src/$module" >&2
    exit 2
fi
cargo mutants --version >/dev/null 2>&1 || { echo "error: no cargo-mutants: cargo install cargo-mutants" >&2; exit 3; }

folder=target/mutants/core
scripts/core.sh "$folder"
if [[ -e $folder/src/$module || -e $folder/src/$module.rs ]]; then
    default=(lib changes config handover quic selection tunnels twins worker)
    # Dozens of mutants of a function, inlined into dozens of another: optimised, that takes for ever.
    sed -i 's/^opt-level = 1/opt-level = 0/' "$folder/Cargo.toml"
else
    folder=target/mutants/whole default=(lib)
    [[ ! -e tests/${module##*/} ]] || default+=("${module##*/}")
    mkdir -p "$folder"
    find "$folder" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
    git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C "$folder"
    # A mutant is not to fail for what it leaves unused.
    sed -i '/^\[lints.rust\]/,/^$/d' "$folder/Cargo.toml"
fi
((${#tests[@]} > 0)) || tests=("${default[@]}")

readonly list=target/mutants/list.json results=target/mutants/${module//\//-}.txt
cargo mutants --list --json "${files[@]}" 2>/dev/null >"$list"
python3 scripts/mutants/run.py --minutes "$minutes" "${options[@]}" --list "$list" --folder "$folder" --results "$results" "${tests[@]}"

count() { grep -c "^$1"$'\t' "$results" || true; }
printf '%s: %s were noticed, %s were not, %s do not compile\n' "$module" "$(count noticed)" "$(count 'not noticed')" "$(count 'does not compile')"
untried=$(count 'not tried')
((untried == 0)) || echo "mutants: $untried were not tried: of constants (--alone), or when the time was over (--minutes)"
unknown=$(grep '^not noticed' "$results" | grep -vFf <(sed -nE '/^[^#]/s/^([^\t]*\t).*/\1/p' tests/mutants.txt) || true)
[[ -z $unknown ]] || { printf 'no test notices:\n'; cut -f3,4 <<<"$unknown"; exit 1; }
