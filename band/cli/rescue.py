"""`band-sweep rescue`: brings home finished runs that wait on nodes which could not write home."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

from band.cli.common import fail, print_json, say
from band.cli.progress import Watch, plural
from band.errors import SchedulerError
from band.run_dir import SweepDir
from band.sweep.manifest import find_sweep
from band.sweep.rescue import Waiting, as_json, command_for, give_up, script_for, send, waiting
from band.sweep.schedulers import scheduler_for

HELP = "fetch finished runs from nodes that could not write home"
EXAMPLES = """\
examples:
  band-sweep rescue mc_maze --dry-run
  band-sweep rescue mc_maze"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument(
        "--give-up",
        action="store_true",
        help="fetch nothing: the next submit trains these runs again from the checkpoint at home",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what waits where, and the job that would fetch it")
    parser.add_argument("--json", action="store_true", help="print what waits, and what was done, as JSON")


def run(args: argparse.Namespace) -> int:
    """Fetch what waits on this machine, and queue a small job on each other node; 4 if some of it stays there."""
    sweep = SweepDir(find_sweep(args.sweep))
    waits = waiting(Watch(sweep, scheduler=scheduler_for(sweep)).look())
    if args.dry_run:
        return _dry_run(sweep, waits, is_json=args.json)
    done = [_give_up(sweep, entry) if args.give_up else _rescue(sweep, entry) for entry in waits]
    if args.json:
        said = [{**entry, **result} for entry, result in zip(as_json(waits), done, strict=True)]
        print_json({"sweep": sweep.name, "nodes": said})
    elif not waits:
        say(f"{sweep.name}: no run waits on a node")
    else:
        for entry, result in zip(waits, done, strict=True):
            _report(entry, result)
        say(f"next: band-sweep {'submit' if args.give_up else 'status'} {sweep.name}")
    return 4 if any(result["problem"] for result in done) else 0


def _rescue(sweep: SweepDir, entry: Waiting) -> dict[str, Any]:
    """Fetch what waits on one node; return how, and what hindered it."""
    if entry.is_here:
        code = subprocess.run([sys.executable, *command_for(sweep, entry)], stdout=sys.stderr).returncode
        return {"how": "here", "problem": f"it ended with code {code}" if code else ""}
    try:
        job, is_new = send(sweep, entry)
    except SchedulerError as error:
        return {"how": "", "problem": str(error)}
    return {"how": f"job {job}" if is_new else f"job {job}, which was queued before", "problem": ""}


def _give_up(sweep: SweepDir, entry: Waiting) -> dict[str, Any]:
    give_up(sweep, entry)
    return {"how": "given up", "problem": ""}


def _report(entry: Waiting, result: dict[str, Any]) -> None:
    if result["problem"]:
        fail(result["problem"])
    else:
        say(f"{plural(len(entry.runs), 'run')} on {entry.node}: {result['how']}")


def _dry_run(sweep: SweepDir, waits: list[Waiting], *, is_json: bool) -> int:
    if is_json:
        print_json({"sweep": sweep.name, "nodes": as_json(waits)})
        return 0
    for entry in waits:
        say(f"{plural(len(entry.runs), 'run')} on {entry.node}: {', '.join(entry.runs)}")
        if not entry.is_here:
            say(f"\n{script_for(sweep, entry)}")
    say("nothing was sent" if waits else f"{sweep.name}: no run waits on a node")
    return 0
