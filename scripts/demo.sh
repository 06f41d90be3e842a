#!/usr/bin/env bash
# A tour: simulate a recording, train a small LFADS/BAND sweep on this machine, show a table and a figure. It runs the
# commands that a user types, prints each of them first, and continues where it stopped when it is run again.
set -Eeuo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
PATH=$(cd "$VENV/bin" && pwd):$PATH
RECORDING=datasets/demo_reach.h5
SWEEP=experiments/sweeps/demo
bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\033[1m' plain=$'\033[0m'
fi

say() {
    printf '\n%s%s%s\n' "$bold" "$1" "$plain"
}

run() {
    printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"
    "$@"
}

trap 'printf "\nThe demo did not get to its end; \"make demo\" continues where it stopped.\n" >&2' ERR

say "1. A recording whose truth is known: reaches with mid-flight corrections that live in a few per cent of the variance."
[ -e "$RECORDING" ] || run band-data simulate reach "$RECORDING" --small

say "2. LFADS, which sees spikes alone, beside BAND, which sees a little of the behaviour too: as a sweep."
run band-sweep generate experiments/demo.yaml

say "3. Train it here, all runs of equal shape at once."
run band-sweep submit demo --cluster local

say "4. What came out."
run band-sweep status demo
run band-sweep report demo

say "That took $SECONDS s. Where things are, and what to try next:"
cat <<TXT
  the table    $SWEEP/report/results.csv
  the figures  $SWEEP/report/

  source $VENV/bin/activate
  band-train experiments/demo.yaml hyper.behavior_weight=0.3     one run in the foreground, with a progress bar
  band-data inspect YOUR_RECORDING.h5                            is a recording of your own ready for this?
  band-sweep generate experiments/mc_maze.yaml --dry-run         what a sweep on real spikes would cost
TXT
