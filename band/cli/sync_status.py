"""`band-sync status`: how far a sweep is on the machine where it runs, and what of it is at home."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from band.cli.common import print_json, printable, say, say_line
from band.cli.progress import plural, size
from band.run_dir import SweepDir
from band.sweep.manifest import find_sweep
from band.sync.choice import Choice
from band.sync.connection import Place, connect, is_place, parse_place
from band.sync.pull import PullPlan, make_plan
from band.sync.sources import Source, sources_of

SCHEMA = 2  # of the document: one with all sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source", metavar="SOURCE", help="HOST:PATH of a sweep, or a sweep at home that knows its source"
    )
    parser.add_argument("--from", dest="hosts", action="append", default=[], metavar="HOST", help="of several sources")
    parser.add_argument("--runs", action="store_true", help="list every run")
    parser.add_argument(
        "--json", action="store_true", help="as JSON: what `band-sweep status --json` says there, and what is here"
    )


def run(args: argparse.Namespace) -> int:
    """Print the state there and, of a sweep at home, what is here; 0 when all is published, 4 when not, as there."""
    if is_place(args.source) and not Path(args.source).exists():
        found = [_there(parse_place(args.source), args=args, at_home=None)]
    else:
        sources = sources_of(SweepDir(find_sweep(args.source)), hosts=args.hosts)
        found = [_there(source.place, args=args, at_home=source) for source in sources]
    if args.json:
        print_json({"schema": SCHEMA, "sources": [document for _, document in found]})
    return max(code for code, _ in found)


def _there(place: Place, *, args: argparse.Namespace, at_home: Source | None) -> tuple[int, dict[str, Any]]:
    """Return the exit code there, and what the JSON document has of it; without --json print it."""
    connection = connect(place.host)
    plan = make_plan(at_home, connection, choice=Choice()) if at_home is not None else None
    words = ["status", *(["--json"] if args.json else []), *(["--runs"] if args.runs else [])]
    if not args.json:
        say(f"{printable(str(place))}:")
        code = connection.band(path=place.path, words=words, show=say_line)
        if plan is not None:
            lacks = f"; {len(plan.wanted)} to come ({size(plan.size_bytes)})" if plan.wanted else ""
            say(f"at home: {plural(plan.held, 'run')} held{lacks}")
        return code, {}
    code, there = connection.band_says(path=place.path, words=words)
    return code, {"source": {"host": place.host, "path": place.path}, "there": there, "home": _home(plan)}


def _home(plan: PullPlan | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    return {
        "folder": str(plan.source.sweep.path),
        "held": plan.held,
        "wanted": [wanted.run.id for wanted in plan.wanted],
        "wanted_bytes": plan.size_bytes,
    }
