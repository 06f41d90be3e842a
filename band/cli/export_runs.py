"""`band-sweep export`: hands runs on to TensorBoard, Weights & Biases or MLflow, offline, once or as they go."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from band.cli.common import print_json, printable, say, whole_number

if TYPE_CHECKING:
    from band.exports.export import Export

HELP = "hand runs on to TensorBoard, Weights & Biases or MLflow, without a network"
EXAMPLES = """\
examples:
  band-sweep export mc_maze --to tensorboard
  band-sweep export mc_maze --to wandb --follow              # with runs as they train"""
TOOLS = ("tensorboard", "wandb", "mlflow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument("--to", required=True, choices=TOOLS, help="the tool; each is an extra of that name")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="default: exports/TOOL in the sweep's folder")
    parser.add_argument(
        "--follow", action="store_true", help="go on with runs as they train, until all are published or Ctrl-C"
    )
    parser.add_argument(
        "--interval", type=whole_number, default=10, metavar="SECONDS", help="between two looks, with --follow"
    )
    parser.add_argument("--json", action="store_true", help="print JSON once all is handed on")


def run(args: argparse.Namespace) -> int:
    """Hand on what is new; 4 if some of it could not be.

    Raises:
        SweepError: there is no such sweep.
        ConfigError: the tool's package is not installed.
    """
    from band.exports.export import Export
    from band.exports.loggers import make_logger
    from band.run_dir import SweepDir
    from band.sweep.manifest import find_sweep, read_manifest

    folder = find_sweep(args.sweep)
    into = (args.into or folder / "exports" / args.to).absolute()
    logger = make_logger(args.to, into)
    export = Export(sweep=SweepDir(folder), manifest=read_manifest(folder), folder=into, logger=logger)
    try:
        _go(export, is_following=args.follow, interval_s=args.interval, out=sys.stderr if args.json else sys.stdout)
    finally:
        export.close()
    for name, problem in export.problems.items():
        say(printable(f"{name}: not handed on: {problem}"), file=sys.stderr)
    if args.json:
        facts = {"sweep": export.sweep.name, "to": args.to, "folder": str(into), "runs": sorted(export.done)}
        print_json({**facts, "problems": dict(export.problems)})
        return 4 if export.problems else 0
    say(printable(f"{len(export.done)} of {len(export.manifest.active())} runs are in {into}"))
    say(printable(f"next: {logger.next_step}"))
    return 4 if export.problems else 0


def _go(export: Export, *, is_following: bool, interval_s: int, out: TextIO) -> None:
    """Hand on what is published and, where asked, look again until that is all."""
    while True:
        for name in export.published():
            say(printable(f"{name}: handed on"), file=out, flush=True)
        if not is_following or export.is_complete:
            return
        export.running()
        time.sleep(interval_s)
