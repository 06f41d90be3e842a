"""`band-sweep status`: how far a sweep is, run by run, and what went wrong; changes nothing."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from band.cli.common import print_json, printable, say
from band.cli.progress import Watch, as_json, coloured, duration, plural, running_tasks
from band.run_dir import SweepDir
from band.sweep.failures import Standout, groups, standouts
from band.sweep.local import local_queue, queue_claim
from band.sweep.manifest import find_sweep
from band.sweep.schedulers import scheduler_for
from band.sweep.status import STATES, RunStatus, Survey

HELP = "say how far a sweep is, run by run; changes nothing"
EXAMPLES = """\
examples:
  band-sweep status mc_maze
  band-sweep status mc_maze --state failed
  band-sweep status mc_maze --json | jq .counts"""
MOST_ROWS = 40  # a longer table is shown on request only
MOST_SHOWN = 12  # of the runs that are going on, where the table is not shown whole
MOST_STANDOUTS = 5
SETTLED = ("published", "new", "retired")  # states of which the last job says nothing any more
WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument("--runs", action="store_true", help=f"list every run, also where there are over {MOST_ROWS}")
    parser.add_argument(
        "--state", action="append", choices=STATES, default=[], metavar="STATE", help="list the runs in this state"
    )
    parser.add_argument("--failed", action="append_const", dest="state", const="failed", help="same as --state failed")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="everything as JSON")
    shown.add_argument("--watch", action="store_true", help="as `band-sweep watch`, until nothing runs any more")


def run(args: argparse.Namespace) -> int:
    """Print the state of a sweep; 0 when every run is published, 4 when not."""
    sweep = SweepDir(find_sweep(args.sweep))
    scheduler = scheduler_for(sweep)
    watch = Watch(sweep, scheduler=scheduler)
    survey = watch.look()
    if args.watch:
        from band.cli.watch import follow, said_interrupted

        try:
            survey = follow(watch, survey, sweep=sweep, scheduler=scheduler)
        except KeyboardInterrupt:
            return said_interrupted(sweep)
    if args.json:
        print_json(_json(survey, sweep=sweep, trouble=scheduler.trouble))
    else:
        say(_text(survey, sweep=sweep, trouble=scheduler.trouble, rows=_rows(survey, args=args)))
    return 0 if survey.is_complete else 4


# --- what is printed -------------------------------------------------------------------------------------------------


def _rows(survey: Survey, *, args: argparse.Namespace) -> list[str]:
    """Return the runs that a table lists: those asked for, or all where they are few, or those of most interest."""
    if args.state:
        return survey.in_state(*args.state)
    if args.runs or len(survey.runs) <= MOST_ROWS:
        return list(survey.runs)
    return survey.in_state("running", "unsynced", "lost")[:MOST_SHOWN]


def _text(survey: Survey, *, sweep: SweepDir, trouble: str, rows: list[str]) -> str:
    lines = [f"{survey.manifest.name}: {plural(len(survey.runs), 'run')} in {sweep.path}"]
    lines += [f"  {line}" for line in printable(trouble).split("\n")] if trouble else []
    lines += _count_lines(survey, is_silent=bool(trouble))
    lines += _table(survey, rows=rows)
    lines += _failure_lines(survey)
    lines += _closing_lines(survey, sweep=sweep)
    return "\n".join(lines)


def _count_lines(survey: Survey, *, is_silent: bool) -> list[str]:
    lines = []
    for state, count in survey.counts().items():
        note = "" if is_silent else _note(survey, state)
        lines.append(f"  {coloured(f'{state:<14}', state=state)} {count:>6}{'   ' + note if note else ''}")
    return lines


def _note(survey: Survey, state: str) -> str:
    """Return what the runs in one state have to say beside their number: outcomes, tasks, or Slurm's words."""
    here = [status for status in survey.runs.values() if status.state == state]
    if state == "published":
        return _counted(status.outcome for status in here if status.outcome not in ("", "ok"))
    if state == "running":
        words = _counted(status.words for status in here if status.words not in ("", "RUNNING"))
        return f"in {plural(len(running_tasks(survey)), 'task')}" + (f"; {words}" if words else "")
    if state == "failed":
        return _counted(status.error for status in here if status.error)
    if state in SETTLED:
        return ""
    said = ["in a running task" if status.scheduled == "running" else status.words for status in here]
    return _counted(words.split("\n")[0] for words in said if words)


def _counted(words: Iterable[str]) -> str:
    """Return "3 PENDING (Priority), 1 PENDING (Resources)", the most frequent first."""
    counts = Counter(words).most_common(4)
    return printable(", ".join(f"{count} {word}" for word, count in counts))


def _table(survey: Survey, *, rows: list[str]) -> list[str]:
    if not rows:
        return []
    width = max(max(len(run) for run in rows), 3)
    at_slurm = any(survey.runs[run].job for run in rows)
    header = f"  {'run':<{width}}  {'state':<14}  {'task':<4}  {'epoch':>11}  {'epochs/s':>8}  {'left at most':<12}"
    lines = ["", (header + ("  Slurm" if at_slurm else "")).rstrip()]
    lines += [_row(run, survey.runs[run], width=width) for run in rows]
    left_out = len(survey.runs) - len(rows)
    return [*lines, f"  … and {plural(left_out, 'other run')} (--runs lists all)"] if left_out else lines


def _row(run: str, status: RunStatus, *, width: int) -> str:
    epoch = f"{status.epoch}/{status.max_epochs}" if status.max_epochs and status.state != "published" else ""
    pace = f"{status.epochs_per_s:.3g}" if status.epochs_per_s and status.state == "running" else ""
    left = duration(status.eta_s) if status.eta_s is not None else ""
    state = status.outcome if status.state == "published" and status.outcome not in ("", "ok") else status.state
    word = coloured(f"{state:<14}", state=status.state)
    row = f"  {run:<{width}}  {word}  {status.task:<4}  {epoch:>11}  {pace:>8}  {left:<12}  {slurm_words(status)}"
    return row.rstrip()


def slurm_words(status: RunStatus) -> str:
    """Return the job, where it is, and Slurm's own words, "" for what is no job's."""
    if status.state in SETTLED:
        return ""
    if not status.job:
        return printable(status.words.split("\n")[0])
    where = f" on {status.node}" if status.node and (status.scheduled == "running" or status.end) else ""
    words = "" if status.words == "RUNNING" else f" {status.words}"
    return printable(f"{status.job}{where}{words}".split("\n")[0])


def _failure_lines(survey: Survey) -> list[str]:
    found = groups(survey)
    if not found:
        return []
    name = survey.manifest.name
    lines = ["", "  failed:"]
    for group in found:
        first = group.message.strip().split("\n")[0]
        where = ", ".join(f"{count} on {node}" for node, count in list(group.nodes.items())[:3])
        cause = f"  {plural(len(group.runs), 'run')}: {printable(group.error)}: {printable(first)}"
        lines += textwrap.wrap(cause, WIDTH, initial_indent="  ", subsequent_indent="      ", break_long_words=False)
        lines.append(f"      {where + ';  ' if len(group.nodes) > 1 else ''}band-sweep why {name} {group.runs[0]}")
    lines += [f"  {standout_words(found)}" for found in standouts(survey)[:MOST_STANDOUTS]]
    return [*lines, f"  once mended: band-sweep retry {name} --failed && band-sweep submit {name}"]


def standout_words(found: Standout) -> str:
    """Return "seed 7: 5 of 20 failed; of all others 1 of 180"."""
    rest = f"{found.rest_failed} of {found.rest_runs}" if found.rest_failed else "none"
    return printable(f"{found.key} {found.value}: {found.failed} of {found.runs} failed; of all others {rest}")


def _closing_lines(survey: Survey, *, sweep: SweepDir) -> list[str]:
    name = survey.manifest.name
    lines = [""]
    claim = queue_claim(sweep)
    eta = survey.eta_s()
    if eta is not None:
        lines.append(f"  {duration(eta)} left at most")
    if claim is not None:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(claim.t))
        who = "local queue" if local_queue(sweep) else "being submitted or worked on"
        lines.append(f"  {who}: process {claim.attempt.pid} on {claim.attempt.host} since {since}")
    elif survey.is_complete:
        lines.append(f"  complete; next: band-sweep report {name}")
    elif survey.in_state("submit_unknown"):
        lines.append(f"  next: band-sweep reconcile {name}")
    elif survey.in_state("unsynced"):
        lines.append(f"  finished runs wait on their node; next: band-sweep rescue {name}")
    elif _left_alone(survey, "new", "interrupted", "lost"):
        hosts = _fed_from(sweep)
        word = f"some runs are not here, but perhaps on {hosts}; next: band-sync status {name}"
        lines.append(f"  {word}" if hosts else f"  some runs nobody has; next: band-sweep submit {name}")
    return lines if len(lines) > 1 else []


def _fed_from(sweep: SweepDir) -> str:
    """Return the machines that a sweep was sent to or pulled from."""
    if not sweep.sync.is_dir():
        return ""
    from band.sync.sources import read_sources

    return ", ".join(source.place.host for source in read_sources(sweep))


def _left_alone(survey: Survey, *states: str) -> bool:
    return any(not survey.runs[run].scheduled for run in survey.in_state(*states))


def _json(survey: Survey, *, sweep: SweepDir, trouble: str) -> dict[str, Any]:
    claim = local_queue(sweep)
    queue = None if claim is None else {"pid": claim.attempt.pid, "host": claim.attempt.host, "since": claim.t}
    return {
        "sweep": survey.manifest.name,
        "folder": str(sweep.path),
        "is_complete": survey.is_complete,
        "counts": survey.counts(),
        "eta_s": survey.eta_s(),
        "queue": queue,
        "slurm": trouble,
        "failures": [asdict(group) for group in groups(survey)],
        "standouts": [asdict(standout) for standout in standouts(survey)],
        "runs": {run: as_json(status) for run, status in survey.runs.items()},
    }
