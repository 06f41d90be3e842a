"""`band-sweep logs`: what a run's tasks printed, attempt by attempt, opened at the traceback of a failure."""

from __future__ import annotations

import argparse
import codecs
import time
from collections.abc import Iterator
from pathlib import Path

from band.cli.common import printable
from band.cli.progress import Watch
from band.errors import SweepError
from band.run_dir import SweepDir, read_events
from band.sweep.control import match_runs
from band.sweep.fold import AttemptFold, by_task
from band.sweep.manifest import find_sweep
from band.sweep.schedulers import scheduler_for
from band.sweep.status import Survey

HELP = "show what a run printed"
CONTEXT_LINES = 5  # shown before a traceback
POLL_S = 0.3
TRACEBACK = "Traceback (most recent call last)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        help="a run id or its beginning (default: the first that failed, else the newest task)",
    )
    parser.add_argument("--task", metavar="N", help="a task instead of a run")
    parser.add_argument(
        "--all", action="store_true", help="everything, also where a failure would be opened at its traceback"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more is printed, across attempts")


def run(args: argparse.Namespace) -> int:
    """Print the logs of a run or task, oldest attempt first."""
    sweep = SweepDir(find_sweep(args.sweep))
    watch = Watch(sweep, scheduler=scheduler_for(sweep))
    survey = watch.look()
    run_id, task = _choose(args, survey=survey)
    attempts = by_task(survey.folds.values()).get(task, [])
    if not attempts and not args.follow:
        raise SweepError(f"nothing has been printed yet: task {task} has not started")
    failed = run_id is not None and survey.runs[run_id].state == "failed" and not args.all
    if failed and not args.follow:
        return _show_failure(sweep, run_id=str(run_id), attempts=attempts)
    printer = _Printer(sweep)
    printer.show(attempts)
    if args.follow:
        for survey in _follow(watch, run_id=run_id, task=task):
            printer.show(by_task(survey.folds.values()).get(task, []))
    return 0


def _choose(args: argparse.Namespace, *, survey: Survey) -> tuple[str | None, str]:
    """Return the run (None where a task was asked for) and its task."""
    if args.task:
        task = f"{int(args.task):04d}" if args.task.isdigit() else args.task
        if task not in survey.ledger.tasks:
            raise SweepError(f"there is no task {args.task}; there are {len(survey.ledger.tasks)}, from 0001 on")
        return None, task
    if args.run:
        matched = match_runs(survey.manifest, [args.run])
        if len(matched) > 1:
            raise SweepError(f"{args.run!r} names {len(matched)} runs; logs are shown of one at a time")
        task = survey.runs[matched[0]].task
        if not task:
            raise SweepError(f"{matched[0]} was never submitted, so it has no log")
        return matched[0], task
    failed = survey.in_state("failed")
    if failed:
        return failed[0], survey.runs[failed[0]].task
    newest = max(survey.folds.values(), key=lambda fold: fold.last_t, default=None)
    if newest is None:
        raise SweepError(f"nothing has run yet; next: band-sweep submit {survey.manifest.name}")
    return None, newest.task


def _show_failure(sweep: SweepDir, *, run_id: str, attempts: list[AttemptFold]) -> int:
    """Print why a run failed: its traceback, with the lines of the log before it."""
    fold = next(fold for fold in reversed(attempts) if fold.phases.get(run_id) == "failed")
    events, _ = read_events(sweep.event_file(fold.task, attempt=fold.attempt))
    event = next(e for e in reversed(events) if e["event"] == "failed" and run_id in e.get("runs", ()))
    log = sweep.log_file(fold.task, attempt=fold.attempt)
    print(_heading(sweep, fold))
    trace = str(event.get("traceback") or "").strip()
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    if trace:
        first = next((n for n, line in enumerate(lines) if TRACEBACK in line), len(lines))
        lines = [*lines[max(first - CONTEXT_LINES, 0) : first], *trace.split("\n")]
    for line in lines:
        print(printable(line))
    print(printable(f"{run_id} failed: {event.get('error', '')}: {event.get('message', '')}"))
    return 0


def _heading(sweep: SweepDir, fold: AttemptFold) -> str:
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(fold.first_t))
    return f"== task {fold.task}, attempt {fold.attempt}, {begun}: {sweep.log_file(fold.task, attempt=fold.attempt)}"


class _Printer:
    """Prints the logs of attempts, each from where it was left."""

    def __init__(self, sweep: SweepDir) -> None:
        self._sweep = sweep
        self._offsets: dict[str, int] = {}

    def show(self, attempts: list[AttemptFold]) -> None:
        """Print what is new in the logs of these attempts."""
        for fold in attempts:
            if fold.stem not in self._offsets:
                self._offsets[fold.stem] = 0
                print(_heading(self._sweep, fold))
            self._print_new(fold.stem, path=self._sweep.log_file(fold.task, attempt=fold.attempt))

    def _print_new(self, stem: str, *, path: Path) -> None:
        try:
            with path.open("rb") as file:
                file.seek(self._offsets[stem])
                data = file.read()
        except FileNotFoundError:
            return
        # A character may be cut in two at the end of what is there now.
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._offsets[stem] += used
        print(printable(text.replace("\r", "\n")), end="", flush=True)


def _follow(watch: Watch, *, run_id: str | None, task: str) -> Iterator[Survey]:
    """Yield the state again and again while the run or task may still print something."""
    while True:
        time.sleep(max(POLL_S, 20 * watch.cost_s))
        survey = watch.look()
        yield survey
        members = [run_id] if run_id else survey.ledger.tasks[task]
        if not any(
            survey.runs[run].state in ("running", "queued", "interrupted") for run in members if run in survey.runs
        ):
            return
