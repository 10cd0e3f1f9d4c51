#!/usr/bin/env bash
# The soak: clients are served while links flap, servers and oneip are killed, and orders, reloads and forged segments come in.
# A connection that breaks though it may not is a failure, shown beside what happened. scripts/test.sh runs a short one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
usage: scripts/soak.sh [--seed N] [--minutes M | --hours H] [--broadcast]

  --seed N     what happens is drawn from this alone (default: the time)
  --minutes M  for how long (default: 10)
  --hours H    the same in hours. From the tenth minute on (or a quarter of the time), memory, descriptors, rules, routes, BPF objects,
               interfaces and files may not grow
  --broadcast  with a filter on each server, in place of a dispatcher
Needs root: it makes a network in namespaces (scripts/lab.sh), and takes it down.
END
}

seed=$(date +%s) minutes=10 test=a_dispatcher_and_its_servers_in_trouble
while (($#)); do
    case $1 in
        --seed | --minutes | --hours)
            [[ ${2-} =~ ^[0-9]+$ ]] || { echo "error: $1 needs a number" >&2; exit 2; }
            declare "${1#--}=$2"
            [[ $1 != --hours ]] || minutes=$((60 * hours))
            shift 2 ;;
        --broadcast) test=filters_in_trouble; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
((EUID == 0)) || { echo "error: network namespaces need root" >&2; exit 1; }

echo "soak: repeat it with --seed $seed"
SOAK_SEED=$seed SOAK_SECONDS=$((minutes * 60)) exec cargo test --quiet --test soak -- --nocapture --exact "$test"
