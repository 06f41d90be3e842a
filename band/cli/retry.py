"""`band-sweep retry`: lets failed and cancelled runs count as open again."""

from __future__ import annotations

import argparse

from band.cli.progress import Watch, plural
from band.errors import SweepError
from band.run_dir import SweepDir
from band.sweep.control import match_runs, retry
from band.sweep.local import queue_claim
from band.sweep.manifest import find_sweep
from band.sweep.schedulers import scheduler_for

HELP = "queue failed runs again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument("runs", metavar="RUN", nargs="*", help="run ids, their beginnings, or patterns with * and ?")
    parser.add_argument("--failed", action="store_true", help="every failed run")
    parser.add_argument("--cancelled", action="store_true", help="every cancelled run")


def run(args: argparse.Namespace) -> int:
    """Clear the marks of failed and cancelled runs, and say what takes them up."""
    states = [state for state in ("failed", "cancelled") if getattr(args, state)]
    if bool(args.runs) == bool(states):
        raise SweepError("name the runs to retry, or say --failed or --cancelled")
    sweep = SweepDir(find_sweep(args.sweep))
    survey = Watch(sweep, scheduler=scheduler_for(sweep)).look()
    chosen = match_runs(survey.manifest, args.runs) if args.runs else survey.in_state(*states)
    cleared = retry(sweep, survey, runs=chosen)
    others = len(chosen) - len(cleared)
    print(
        f"{plural(len(cleared), 'run')} to be tried again"
        + (f", {others} neither failed nor cancelled" if others else "")
    )
    if cleared and queue_claim(sweep) is None:
        print(f"next: band-sweep submit {sweep.name}")
    return 0
