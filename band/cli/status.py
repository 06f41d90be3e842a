"""`band-sweep status`: how far a sweep is, run by run, and what went wrong; changes nothing."""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

from band.cli.common import print_json, printable
from band.cli.progress import Watch, as_json, coloured, duration, plural, running_tasks
from band.run_dir import SweepDir
from band.sweep.local import queue_claim
from band.sweep.manifest import find_sweep
from band.sweep.schedulers import scheduler_for
from band.sweep.status import RunStatus, Survey

HELP = "say how far a sweep is, run by run; changes nothing"
MOST_ROWS = 40  # a longer table is shown on request only
MOST_SHOWN = 12  # of the runs that are going on, where the table is not shown whole
WATCH_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument("--runs", action="store_true", help=f"list every run, also where there are over {MOST_ROWS}")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument("--watch", action="store_true", help="show it again and again until nothing runs any more")


def run(args: argparse.Namespace) -> int:
    """Print the state of a sweep; 0 when every run is published, 4 when not."""
    sweep = SweepDir(find_sweep(args.sweep))
    watch = Watch(sweep, scheduler=scheduler_for(sweep))
    survey = watch.look()
    if args.watch and not args.json:
        survey = _watch(sweep, watch=watch, all_runs=args.runs)
    elif args.json:
        print_json(_json(survey, sweep=sweep))
    else:
        print(_text(survey, sweep=sweep, all_runs=args.runs))
    return 0 if survey.is_complete else 4


def _watch(sweep: SweepDir, *, watch: Watch, all_runs: bool) -> Survey:
    """Show the state until nothing runs or waits; Ctrl-C ends the watching, never the work."""
    from rich.live import Live
    from rich.text import Text

    from band.cli.common import console

    survey = watch.look()
    with Live(console=console(), auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            live.update(Text.from_ansi(_text(survey, sweep=sweep, all_runs=all_runs)), refresh=True)
            if not survey.in_state("running", "queued", "held", "planned") and queue_claim(sweep) is None:
                return survey
            time.sleep(max(WATCH_S, 20 * watch.cost_s))
            survey = watch.look()


def _text(survey: Survey, *, sweep: SweepDir, all_runs: bool) -> str:
    lines = [f"{survey.manifest.name}: {plural(len(survey.runs), 'run')} in {sweep.path}"]
    lines += _count_lines(survey)
    lines += _table(survey, all_runs=all_runs)
    lines += _failure_lines(survey)
    lines += _closing_lines(survey, sweep=sweep)
    return "\n".join(lines)


def _count_lines(survey: Survey) -> list[str]:
    lines = []
    for state, count in survey.counts().items():
        note = ""
        if state == "published":
            bad = [status for status in survey.runs.values() if status.outcome not in ("", "ok")]
            note = ", ".join(
                f"{sum(status.outcome == outcome for status in bad)} {outcome}"
                for outcome in sorted({status.outcome for status in bad})
            )
        elif state == "running":
            note = f"in {plural(len(running_tasks(survey)), 'task')}"
        lines.append(f"  {coloured(f'{state:<12}', state=state)} {count:>6}{'   ' + note if note else ''}")
    return lines


def _table(survey: Survey, *, all_runs: bool) -> list[str]:
    rows = list(survey.runs.items())
    left_out = 0
    if len(rows) > MOST_ROWS and not all_runs:
        going_on = [(run, status) for run, status in rows if status.state in ("running", "unsynced", "lost")]
        rows, left_out = going_on[:MOST_SHOWN], len(survey.runs) - len(going_on[:MOST_SHOWN])
    if not rows:
        return []
    width = max(max(len(run) for run, _ in rows), 3)
    lines = ["", f"  {'run':<{width}}  {'state':<12}  {'task':<4}  {'epoch':>11}  left at most"]
    lines += [_row(run, status, width=width) for run, status in rows]
    return [*lines, f"  … and {plural(left_out, 'other run')} (--runs lists all)"] if left_out else lines


def _row(run: str, status: RunStatus, *, width: int) -> str:
    epoch = f"{status.epoch}/{status.max_epochs}" if status.max_epochs and status.state != "published" else ""
    left = duration(status.eta_s) if status.eta_s is not None else ""
    state = status.outcome if status.state == "published" and status.outcome not in ("", "ok") else status.state
    word = coloured(f"{state:<12}", state=status.state)
    return f"  {run:<{width}}  {word}  {status.task:<4}  {epoch:>11}  {left}".rstrip()


def signature(status: RunStatus) -> str:
    """Return what failures of one cause have in common: the error and its message without numbers and ids."""
    first = status.message.strip().split("\n")[0]
    return f"{status.error}: {re.sub(r'0x[0-9a-f]+|[0-9a-f]{8,}|[0-9]+(?:[.][0-9]+)?', '#', first)}"


def failures(survey: Survey) -> list[dict[str, Any]]:
    """Return the failures grouped by signature, most frequent first: error, message of one, runs."""
    groups: dict[str, list[str]] = {}
    for run in survey.in_state("failed"):
        groups.setdefault(signature(survey.runs[run]), []).append(run)
    return [
        {"error": survey.runs[runs[0]].error, "message": survey.runs[runs[0]].message, "runs": runs}
        for runs in sorted(groups.values(), key=len, reverse=True)
    ]


def _failure_lines(survey: Survey) -> list[str]:
    groups = failures(survey)
    if not groups:
        return []
    name = survey.manifest.name
    lines = ["", "  failed:"]
    for group in groups:
        first = str(group["message"]).strip().split("\n")[0]
        lines.append(f"  {plural(len(group['runs']), 'run')}: {printable(group['error'])}: {printable(first)}")
        lines.append(f"      band-sweep logs {name} {group['runs'][0]}")
    return [*lines, f"  once mended: band-sweep retry {name} --failed && band-sweep submit {name}"]


def _closing_lines(survey: Survey, *, sweep: SweepDir) -> list[str]:
    name = survey.manifest.name
    lines = [""]
    claim = queue_claim(sweep)
    eta = survey.eta_s()
    if eta is not None:
        lines.append(f"  {duration(eta)} left at most")
    if claim is not None:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(claim.t))
        lines.append(f"  local queue: process {claim.attempt.pid} on {claim.attempt.host} since {since}")
    elif survey.is_complete:
        lines.append(f"  complete; next: band-sweep report {name}")
    elif survey.in_state("new", "interrupted", "unsynced"):
        lines.append(f"  no queue is working on it; next: band-sweep submit {name}")
    return lines if len(lines) > 1 else []


def _json(survey: Survey, *, sweep: SweepDir) -> dict[str, Any]:
    claim = queue_claim(sweep)
    queue = None if claim is None else {"pid": claim.attempt.pid, "host": claim.attempt.host, "since": claim.t}
    return {
        "sweep": survey.manifest.name,
        "folder": str(sweep.path),
        "is_complete": survey.is_complete,
        "counts": survey.counts(),
        "eta_s": survey.eta_s(),
        "queue": queue,
        "failures": failures(survey),
        "runs": {run: as_json(status) for run, status in survey.runs.items()},
    }
