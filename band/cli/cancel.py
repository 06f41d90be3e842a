"""`band-sweep cancel`: stops runs that are queued or running, at their last checkpoint."""

from __future__ import annotations

import argparse
import sys

from band.cli.common import fail, print_json, say
from band.cli.progress import Watch, plural
from band.errors import SweepError
from band.run_dir import SweepDir
from band.sweep.control import NOT_OVER, cancel, match_runs, wait_until
from band.sweep.manifest import find_sweep
from band.sweep.schedulers import scheduler_for

HELP = "stop runs that are queued or running"
EXAMPLES = """\
examples:
  band-sweep cancel mc_maze 'lfads-*'
  band-sweep cancel mc_maze --all --no-wait"""
WAIT_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument("runs", metavar="RUN", nargs="*", help="run ids, their beginnings, or patterns with * and ?")
    parser.add_argument("--all", action="store_true", help="every run that is not over")
    parser.add_argument("--no-wait", action="store_true", help="return without waiting for running tasks to stop")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Cancel runs, and wait until those that were running have stopped; 4 if they have not."""
    if bool(args.runs) == args.all:
        raise SweepError("name the runs to cancel, or say --all; a cancelled run stays so until it is retried")
    sweep = SweepDir(find_sweep(args.sweep))
    watch = Watch(sweep, scheduler=scheduler_for(sweep))
    survey = watch.look()
    chosen = match_runs(survey.manifest, args.runs) if args.runs else survey.in_state(*NOT_OVER)
    running = [name for name in chosen if survey.runs[name].state == "running"]
    marked = cancel(sweep, survey, runs=chosen)
    over = len(chosen) - len(marked)
    if not args.json:
        say(f"cancelled {plural(len(marked), 'run')}" + (f", {over} were over" if over else ""))
    still = _wait(watch, running) if running and not args.no_wait else []
    if args.json:
        print_json({"sweep": sweep.name, "cancelled": marked, "were_over": over, "still_running": still})
    if still:
        return fail(f"some still run after {WAIT_S:.0f} s; look again with: band-sweep status {sweep.name}", code=4)
    if marked and not args.json:
        say(f"to take them up again: band-sweep retry {sweep.name} RUN … && band-sweep submit {sweep.name}")
    return 0


def _wait(watch: Watch, running: list[str]) -> list[str]:
    """Wait until these runs have stopped; return those that have not after a while."""
    say(f"waiting for {plural(len(running), 'running run')} to save a checkpoint and stop", file=sys.stderr)
    left = set(running)

    def have_stopped() -> bool:
        left.intersection_update(watch.look().in_state("running"))
        return not left

    wait_until(have_stopped, timeout_s=WAIT_S)
    return sorted(left)
