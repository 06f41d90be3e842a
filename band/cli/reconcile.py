"""`band-sweep reconcile`: finds out what Slurm really has of a sweep, and brings what was cut off to its end."""

from __future__ import annotations

import argparse

from band.cli.common import print_json, say
from band.run_dir import SweepDir
from band.sweep.closing import close
from band.sweep.hold import hold
from band.sweep.manifest import find_sweep

HELP = "find what Slurm has of a sweep, and finish what a submission left undone"
EXAMPLES = """\
examples:
  band-sweep reconcile mc_maze                               # after sbatch or the network broke off"""
HOLD_WAIT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument("--json", action="store_true", help="what was done as JSON")


def run(args: argparse.Namespace) -> int:
    """Do what is due of a sweep at Slurm; trains nothing that was not asked for already."""
    sweep = SweepDir(find_sweep(args.sweep))
    with hold(sweep, wait_s=HOLD_WAIT_S) as claim:
        done = close(sweep, claim=claim)
    if args.json:
        print_json({"sweep": sweep.name, "done": done})
    else:
        say("\n".join(done) or f"{sweep.name}: nothing to reconcile")
    return 0
