"""`band-sweep collect`: all results of a sweep as one table in a file."""

from __future__ import annotations

import argparse

from band.cli.common import print_json, printable, say
from band.cli.progress import plural

HELP = "write the table of results, a row a run"
EXAMPLES = """\
examples:
  band-sweep collect mc_maze
  band-sweep collect mc_maze --json | jq -r .file"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the table and say what is in it and what is not.

    Raises:
        SweepError: there is no such sweep, or nothing of it is published.
    """
    from band.sweep.collect import collect, write_results
    from band.sweep.manifest import find_sweep

    collection = collect(find_sweep(args.sweep))
    path = write_results(collection)
    if args.json:
        values = {"file": str(path), "runs": len(collection.runs), "left_out": list(collection.left_out)}
        print_json(values)
        return 0
    say(f"{plural(len(collection.runs), 'run')} in {path}")
    for line in collection.left_out:
        say(f"left out: {printable(line)}")
    return 0
