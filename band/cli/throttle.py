"""`band-sweep throttle`: changes how many array tasks of a sweep run at once, while they run."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from band.cli.common import print_json, say, whole_number
from band.cli.progress import plural
from band.run_dir import SweepDir
from band.sweep.closing import close
from band.sweep.control import throttle
from band.sweep.hold import hold
from band.sweep.manifest import find_sweep

HELP = "change how many array tasks of a sweep run at once at Slurm"
EXAMPLES = """\
examples:
  band-sweep throttle mc_maze 4
  band-sweep throttle mc_maze 0                              # no limit of ours"""
HOLD_WAIT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    number = partial(whole_number, least=0)
    parser.add_argument("tasks", metavar="N", type=number, help="array tasks at once; 0: as many as the cluster lets")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Change the throttle of arrays that are queued or run, and of those yet to be sent."""
    sweep = SweepDir(find_sweep(args.sweep))
    with hold(sweep, wait_s=HOLD_WAIT_S) as claim:
        changed = throttle(sweep, tasks_at_once=args.tasks)
        done = close(sweep, claim=claim)  # there may be room for more now
    for line in done:
        say(line, file=sys.stderr)
    if args.json:
        print_json({"sweep": sweep.name, "tasks_at_once": args.tasks, "arrays": changed, "done": done})
        return 0
    most = str(args.tasks) if args.tasks else "as many as the cluster lets"
    say(f"{sweep.name}: {most} at once in {plural(len(changed), 'array')}, and in what is yet to be sent")
    return 0
