"""`band-sweep why`: why a run waits, or why it failed, in one paragraph, and what to type next."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import asdict

from band.cli.common import print_json, printable, say
from band.cli.progress import Watch
from band.run_dir import SweepDir
from band.sweep.control import match_runs
from band.sweep.failures import groups
from band.sweep.manifest import find_sweep
from band.sweep.schedulers import scheduler_for
from band.sweep.status import Survey
from band.sweep.why import explain

HELP = "say why a run waits or failed, and what to type next"
EXAMPLES = """\
examples:
  band-sweep why mc_maze                                     # a run of each cause of failure
  band-sweep why mc_maze band0.1-s0"""
WIDTH = 100
MOST_EXAMPLES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        help="run ids, their beginnings, or patterns with * and ? (default: one of each cause)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a paragraph a run."""
    sweep = SweepDir(find_sweep(args.sweep))
    survey = Watch(sweep, scheduler=scheduler_for(sweep)).look()
    names = match_runs(survey.manifest, args.runs) if args.runs else _examples(survey)
    found = [explain(survey, name, sweep=sweep) for name in names]
    if args.json:
        print_json({"sweep": sweep.name, "runs": [asdict(explanation) for explanation in found]})
        return 0
    for number, explanation in enumerate(found):
        say("\n" * (number > 0) + textwrap.fill(printable(explanation.text), WIDTH, break_long_words=False))
        if explanation.command:
            say(f"next: {explanation.command}")
    return 0


def _examples(survey: Survey) -> list[str]:
    """Return a run of each cause of failure; where none has failed, one of each state and word of Slurm's."""
    failed = [group.runs[0] for group in groups(survey)]
    others: dict[tuple[str, str], str] = {}
    for run, status in survey.runs.items():
        if status.state not in ("published", "retired"):
            others.setdefault((status.state, status.words), run)
    return (failed or list(others.values()) or list(survey.runs))[:MOST_EXAMPLES]
