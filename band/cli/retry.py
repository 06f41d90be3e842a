"""`band-sweep retry`: lets failed and cancelled runs count as open again, and submits them where asked to."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from typing import TextIO

from band.cli.common import print_json, say
from band.cli.progress import Watch, plural
from band.errors import SweepError, did_you_mean
from band.run_dir import SweepDir
from band.sweep.control import match_runs, retry
from band.sweep.local import queue_claim
from band.sweep.manifest import find_sweep
from band.sweep.policy import CLASSES, failure_class
from band.sweep.schedulers import scheduler_for
from band.sweep.status import Survey

HELP = "queue failed runs again"
EXAMPLES = """\
examples:
  band-sweep retry mc_maze --failed --submit
  band-sweep retry mc_maze --state oom && band-sweep submit mc_maze --mem 16G"""
STATES = ("failed", "cancelled")
SHORT = {"oom": "out_of_memory", "timeout": "time_limit", "preempted": "preemption", "node_fail": "node_failure"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument("runs", metavar="RUN", nargs="*", help="run ids, their beginnings, or patterns with * and ?")
    parser.add_argument("--failed", action="store_true", help="every failed run")
    parser.add_argument("--cancelled", action="store_true", help="every cancelled run")
    parser.add_argument(
        "--state",
        action="append",
        default=[],
        metavar="STATE",
        help="runs that failed for this reason, such as oom, time_limit, exception or staging; repeatable",
    )
    parser.add_argument("--submit", action="store_true", help="submit them now, as `band-sweep submit` would")
    parser.add_argument("--cluster", default="", help="with --submit: where to run")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Clear the marks of failed and cancelled runs, and say what takes them up, or submit them."""
    asked = [state for state in STATES if getattr(args, state)] + [_state(word) for word in args.state]
    if bool(args.runs) == bool(asked):
        raise SweepError("name the runs to retry, or say --failed, --cancelled or --state STATE")
    sweep = SweepDir(find_sweep(args.sweep))
    survey = Watch(sweep, scheduler=scheduler_for(sweep)).look()
    chosen = match_runs(survey.manifest, args.runs) if args.runs else _in_state(survey, *asked)
    cleared = retry(sweep, survey, runs=chosen)
    others = len(chosen) - len(cleared)
    if args.json:
        code = _submit(args.sweep, cluster=args.cluster, out=sys.stderr) if cleared and args.submit else None
        print_json({"sweep": sweep.name, "cleared": cleared, "left_alone": others, "submit_exit_code": code})
        return code or 0
    say(
        f"{plural(len(cleared), 'run')} to be tried again"
        + (f", {others} neither failed nor cancelled" if others else "")
    )
    if cleared and args.submit:
        return _submit(args.sweep, cluster=args.cluster, out=sys.stdout)
    if cleared and queue_claim(sweep) is None:
        say(f"next: band-sweep submit {sweep.name}")
    return 0


def _state(word: str) -> str:
    """Return the state or class of failure that a user named.

    Raises:
        SweepError: there is none of that name, or nothing of it can be tried again.
    """
    name = word.lower().replace("-", "_")
    name = SHORT.get(name, name)
    if name == "diverged":
        raise SweepError("a diverged run is published: it would diverge again; change its settings and generate anew")
    if name == "sync":
        raise SweepError("runs that could not be brought home wait on their node: band-sweep rescue NAME")
    choices = [*STATES, *(kind for kind in CLASSES if kind not in (*STATES, "sync", "diverged"))]
    if name not in choices:
        raise SweepError(f"--state {word}: no such state; {did_you_mean(name, [*choices, *SHORT])}")
    return name


def _in_state(survey: Survey, *asked: str) -> list[str]:
    """Return the runs in one of these states, or failed for one of these reasons, in the order of the manifest."""
    return [
        run
        for run, status in survey.runs.items()
        if status.state in asked or (status.state == "failed" and failure_class(status.error) in asked)
    ]


def _submit(sweep: str, *, cluster: str, out: TextIO) -> int:
    """Submit what is open now, saying so on `out`, and return without following it."""
    from band.cli import submit

    parser = argparse.ArgumentParser()
    submit.add_arguments(parser)
    given = [sweep, "--detach", *(["--cluster", cluster] if cluster else [])]
    with redirect_stdout(out):
        return submit.run(parser.parse_args(given))
