"""`band-sync pull`: brings home what is new and done of a sweep, verified, and goes on where it stopped."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from band.cli.common import INTERRUPTED, fail, print_json, printable, say
from band.cli.progress import duration, plural, size, transfer
from band.errors import BandError, RemoteError
from band.run_dir import SweepDir, check_name
from band.sweep.manifest import SWEEPS, find_sweep
from band.sync.choice import DEFAULT_PARTS, PARTS, STATES, Choice, parse_list, parse_where
from band.sync.clear import Clearing, check_home, clear
from band.sync.connection import Connection, connect, is_place, parse_place
from band.sync.pull import Pulled, PullPlan, fetch, make_plan, write_sweep
from band.sync.rsync import check_rate
from band.sync.sources import Source, alone, sources_of

SCHEMA = 2  # of the document: one with all sources
MOST_NAMED = 20
UNKNOWN = frozenset([""])  # runs of which nobody knows: their machine was not reached
_UNITS = {"s": 1, "m": 60, "h": 3600, "": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source", metavar="SOURCE", help="HOST:PATH of a sweep, or a sweep at home that knows its source"
    )
    parser.add_argument("runs", metavar="RUN", nargs="*", help="run ids, their beginnings, or patterns with * and ?")
    parser.add_argument(
        "--what",
        default=",".join(DEFAULT_PARTS),
        metavar="PARTS",
        help=f"of {', '.join(PARTS)}; results always (default: %(default)s)",
    )
    parser.add_argument("--state", default="done", metavar="STATES", help=f"of {', '.join(STATES)} (default: done)")
    parser.add_argument(
        "--where", action="append", default=[], metavar="KEY=VALUE", help="runs whose parameter has one of these values"
    )
    parser.add_argument("--into", metavar="FOLDER", help="the sweep's folder at home (default: one of its name)")
    parser.add_argument("--from", dest="hosts", action="append", default=[], metavar="HOST", help="of several sources")
    parser.add_argument("--bwlimit", default="", metavar="RATE", help="bytes a second at the most, such as 500K or 10M")
    parser.add_argument("--check", action="store_true", help="read what is at home anew, instead of trusting sizes")
    parser.add_argument("--watch", type=_period, metavar="TIME", help="again and again, every 30s, 10m, 2h")
    parser.add_argument(
        "--delete-remote-after-verify",
        action="store_true",
        help="then remove there what both ends hold, verified, but for each run's result.json; asks before",
    )
    parser.add_argument("--yes", action="store_true", help="with that: do not ask")
    parser.add_argument("--dry-run", action="store_true", help="say what would come; write nothing")
    parser.add_argument("--json", action="store_true", help="one JSON document, with --watch one a round")


def _period(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"must be a time such as 30s, 10m or 2h, got {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def run(args: argparse.Namespace) -> int:
    """Pull, once or again and again; 0 when all that is wanted is at home, 4 when part of it could not be had."""
    choice = Choice(
        parts=parse_list(args.what, choices=PARTS, what="--what"),
        states=parse_list(args.state, choices=STATES, what="--state"),
        where=parse_where(args.where),
        patterns=tuple(args.runs),
    )
    args.bwlimit = check_rate(args.bwlimit)
    if not args.watch:
        return _round(args, choice=choice)[0]
    try:
        return _watch(args, choice=choice)
    except KeyboardInterrupt:
        say("no longer watched; what has come is at home", file=sys.stderr)
        return INTERRUPTED


def _watch(args: argparse.Namespace, *, choice: Choice) -> int:
    """Pull until every run of the sweep has come; a connection that breaks is tried again the next time."""
    while True:
        code, waiting = _round(args, choice=choice)
        if not waiting and not code:
            return code
        time.sleep(args.watch)


def _round(args: argparse.Namespace, *, choice: Choice) -> tuple[int, frozenset[str]]:
    """Pull from every source once; return the exit code, and which of the runs asked for are published nowhere yet."""
    code, waiting, documents = 0, None, []
    for source in _sources(args):
        try:
            found, open_runs, document = _pull(source, args=args, choice=choice)
        except RemoteError as error:  # the others may be reached
            found, open_runs = fail(str(error), code=error.exit_code), UNKNOWN
            document = {**_where(source), "error": str(error)}
        code = max(code, found)
        waiting = open_runs if waiting is None else waiting & open_runs  # another machine may train the rest
        documents.append(document)
    if args.json:
        print_json({"schema": SCHEMA, "is_dry_run": args.dry_run, "sources": documents})
    sys.stdout.flush()
    return code, waiting or frozenset()


def _sources(args: argparse.Namespace) -> list[Source]:
    """Return where to pull from, and into which sweep at home."""
    if not is_place(args.source) or Path(args.source).exists():
        return sources_of(SweepDir(find_sweep(args.source)), hosts=args.hosts)
    place = parse_place(args.source)
    return [Source(sweep=SweepDir(_home_of(place.path, given=args.into)), place=place)]


def _home_of(path: str, *, given: str | None) -> Path:
    if given:
        return Path(given).resolve()
    name = re.sub(r"[^A-Za-z0-9._+=@-]+", "-", path.rstrip("/").rpartition("/")[2]).lstrip("-.+=@_")[:160] or "sweep"
    try:
        return find_sweep(check_name(name))
    except BandError:
        here = Path("experiments")
        return ((here if here.is_dir() else Path()) / SWEEPS / name).resolve()


def _pull(source: Source, *, args: argparse.Namespace, choice: Choice) -> tuple[int, frozenset[str], Mapping[str, Any]]:
    """Pull from one source once; return as of `_round`, and what the JSON document has of it."""
    begun = time.monotonic()
    connection = connect(source.place.host)
    if args.dry_run:
        plan = make_plan(source, connection, choice=choice, is_thorough=args.check)
        if not args.json:
            _print_plan(plan)
        return 0, frozenset(), _json(plan, None, seconds=time.monotonic() - begun, cleared=None)
    with alone(source.sweep) as lock:
        plan = make_plan(source, connection, choice=choice, is_thorough=args.check)
        write_sweep(plan)
        is_idle = bool(args.watch) and not plan.wanted and not plan.logs  # a round of many in which nothing has come
        if not args.json:
            say(_idle_line(plan) if is_idle else _plan_text(plan))
        with transfer(plan.size_bytes, is_quiet=args.json) as show:
            pulled = fetch(plan, connection, lock=lock, bwlimit=args.bwlimit, show=show)
            show(pulled.num_bytes)
        cleared = _clear(plan, connection, args=args, choice=choice) if args.delete_remote_after_verify else None
    seconds = time.monotonic() - begun
    if not args.json and not (is_idle and cleared is None):
        _print_result(plan, pulled, seconds=seconds, cleared=cleared)
    is_partial = bool(pulled.damaged or pulled.trouble or (cleared is not None and cleared.kept))
    return 4 if is_partial else 0, plan.waiting, _json(plan, pulled, seconds=seconds, cleared=cleared)


def _clear(plan: PullPlan, connection: Connection, *, args: argparse.Namespace, choice: Choice) -> Clearing:
    """Remove there what is at home, after reading both; asks unless --yes."""
    chosen = [run.id for run in choice.runs(plan.manifest) if run.id in plan.far.runs]
    clearing = check_home(plan, chosen)
    if not clearing.runs:
        return clearing
    question = (
        f"{plural(len(clearing.runs), 'run')} of {plan.source.place} verified at home. "
        "Delete there all of them but result.json? [y/N] "
    )
    if not args.yes and not _agreed(question):
        return Clearing(runs={}, kept={**clearing.kept, **dict.fromkeys(clearing.runs, "you did not say yes")})
    return clear(plan, connection, clearing)


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    say(printable(question), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# --- what is printed -------------------------------------------------------------------------------------------------


def _print_plan(plan: PullPlan) -> None:
    say(_plan_text(plan))
    _print_named("would come", {wanted.run.id: ", ".join(wanted.files) for wanted in plan.wanted})
    say("nothing was written")


def _plan_text(plan: PullPlan) -> str:
    sweep = plan.source.sweep
    parts = [f"{plural(plan.held, 'run')} at home"]
    parts += [f"{len(plan.wanted)} to come ({size(plan.size_bytes)})"] if plan.wanted else []
    parts += [f"{len(plan.waiting)} not published there"] if plan.waiting else []
    lines = [f"{sweep.name}: from {plan.source.place} into {sweep.path}", f"  {', '.join(parts)}"]
    free = _free(sweep.path)
    if plan.size_bytes > free:
        lines.append(f"  warning: {size(plan.size_bytes)} are to come, and {size(free)} are free")
    return printable("\n".join(lines))


def _idle_line(plan: PullPlan) -> str:
    clock, sweep = time.strftime("%H:%M:%S"), plan.source.sweep.name
    waiting = f", {len(plan.waiting)} not published there" if plan.waiting else ""
    return printable(f"{clock} {sweep}: nothing new at {plan.source.place.host}{waiting}")


def _free(folder: Path) -> int:
    there = next(parent for parent in [folder, *folder.parents] if parent.is_dir())
    return shutil.disk_usage(there).free


def _print_result(plan: PullPlan, pulled: Pulled, *, seconds: float, cleared: Clearing | None) -> None:
    counts = {"new": len(pulled.new), "completed": len(pulled.completed), "beside": len(pulled.beside)}
    came = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing new"
    rate = f", {size(pulled.num_bytes / seconds)}/s" if pulled.num_bytes else ""
    if pulled.num_bytes or not pulled.num_logs:
        say(f"  {came}: {size(pulled.num_bytes)} verified in {duration(seconds)}{rate}")
    beside = {run: str(path) for run, path in pulled.beside.items()}
    _print_named("home has other runs of these ids, which stay; what came is kept beside", beside)
    _print_named("could not be taken", pulled.damaged)
    if pulled.num_logs:
        say(f"  {plural(pulled.num_logs, 'log')} in {plan.source.logs}")
    if pulled.trouble:
        say(f"  rsync: {printable(pulled.trouble)}")
    if cleared is not None:
        say(f"  {plural(len(cleared.runs), 'run')} cleared there: result.json alone is left")
        _print_named("not cleared", cleared.kept)
    if pulled.new or pulled.completed:
        say(f"  next: band-sweep report {plan.source.sweep.name}")


def _print_named(title: str, entries: dict[str, str] | Any) -> None:
    if not entries:
        return
    say(f"  {title}:")
    for name, text in list(entries.items())[:MOST_NAMED]:
        say(f"    {printable(name)}: {printable(str(text))}".replace("\n", " "))
    if len(entries) > MOST_NAMED:
        say(f"    … and {len(entries) - MOST_NAMED} more; --json names all")


def _where(source: Source) -> dict[str, Any]:
    sweep, place = source.sweep, source.place
    return {"sweep": sweep.name, "folder": str(sweep.path), "source": {"host": place.host, "path": place.path}}


def _json(plan: PullPlan, pulled: Pulled | None, *, seconds: float, cleared: Clearing | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        **_where(plan.source),
        "held": plan.held,
        "not_published": sorted(plan.waiting),
        "wanted": {wanted.run.id: sorted(wanted.files) for wanted in plan.wanted},
        "wanted_bytes": plan.size_bytes,
        "seconds": seconds,
    }
    if pulled is not None:
        values |= {
            "new": pulled.new,
            "completed": pulled.completed,
            "beside": {run: str(path) for run, path in pulled.beside.items()},
            "not_taken": pulled.damaged,
            "bytes": pulled.num_bytes,
            "num_logs": pulled.num_logs,
            "rsync": pulled.trouble,
        }
    if cleared is not None:
        values["cleared"] = {"runs": sorted(cleared.runs), "kept": dict(cleared.kept)}
    return values
