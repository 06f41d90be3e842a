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

say "1. A recording whose truth is known: reaches, corrected in mid-flight by a few per cent of the neurons' variance."
if [ -e "$RECORDING" ]; then
    echo "$RECORDING is there already."
else
    run band-data simulate reach "$RECORDING" --small
fi

say "2. LFADS, which sees spikes alone, beside BAND, whose factors must tell the hand's velocity too: two seeds of each."
run band-sweep generate experiments/demo.yaml

say "3. Train them on this machine; members of a population are trained as one model."
run band-sweep submit demo --cluster local

say "4. What came out."
run band-sweep status demo
run band-sweep report demo

say "How to read it"
cat <<TXT
  bits/spike     how much better than their mean rates a model explains the spikes of trials it has never seen
  behaviour R²   how much of the hand's velocity its factors tell; most of that is the plan, alike in a condition's trials
  deviation R²   how much of what differs between those trials, mostly corrections: 0 none, 1 all; step 1 gave the ceiling
TXT

say "That took $SECONDS s. Where things are"
cat <<TXT
  report         $SWEEP/report/report.html; open it in a browser, it needs no network
  figures        $SWEEP/report/figures/*.png and .pdf; look at example_trials.png first
  table          $SWEEP/report/results.csv
  a run          $SWEEP/runs/*/: result.json, metrics.csv, outputs.h5, model.pt
TXT

say "What to try next, after: source $VENV/bin/activate"
cat <<TXT
  band-sweep generate experiments/demo.yaml --set seeds=4 && band-sweep submit demo     # what is done stays done
  band-train experiments/demo.yaml hyper.behavior_weight=0.1                            # one run in the foreground
  band-data inspect YOUR_RECORDING.h5                                                   # is it ready for this?
TXT
