"""`band-sweep logs`: what runs printed, attempt by attempt, opened at the traceback of a failure."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from band.cli.common import INTERRUPTED, print_json, printable, say
from band.cli.progress import Watch
from band.errors import SweepError
from band.run_dir import SweepDir
from band.sweep.control import match_runs
from band.sweep.fold import AttemptFold, by_task
from band.sweep.manifest import find_sweep
from band.sweep.printed import PulledLog, Tail, attempt_log, failure_lines, pulled_logs
from band.sweep.schedulers import scheduler_for
from band.sweep.slurm_scheduler import batch_output
from band.sweep.status import ACTIVE, Survey

HELP = "show what runs printed"
EXAMPLES = """\
examples:
  band-sweep logs mc_maze                                    # the first that failed, at its traceback
  band-sweep logs mc_maze 'band*' -f                         # several runs as they go, across attempts
  band-sweep logs mc_maze --task 3 --all-attempts --slurm"""
Attempt = TypeVar("Attempt")
POLL_S = 0.3
MOST_FAILURES = 10  # that are shown one after the other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        help="run ids, their beginnings, or patterns with * and ? (default: the first that failed, else the newest)",
    )
    parser.add_argument("--task", metavar="N", help="all runs of a task")
    attempts = parser.add_mutually_exclusive_group()
    attempts.add_argument("--attempt", type=int, default=-1, metavar="N", help="the N-th attempt (default: the last)")
    attempts.add_argument("--all-attempts", action="store_true", help="every attempt, oldest first")
    parser.add_argument(
        "--all", action="store_true", help="the whole log, also where a failure would be opened at its traceback"
    )
    parser.add_argument("--slurm", action="store_true", help="what the Slurm job printed, not the trainer")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("-f", "--follow", action="store_true", help="go on as more is printed, across attempts")
    form.add_argument("--json", action="store_true", help="print JSON: each log with its lines")


def run(args: argparse.Namespace) -> int:
    """Print the logs of runs or of a task."""
    sweep = SweepDir(find_sweep(args.sweep))
    watch = Watch(sweep, scheduler=scheduler_for(sweep))
    survey = watch.look()
    runs = _choose(args, survey=survey, sweep=sweep)
    if args.follow:
        return _follow(watch, survey, sweep=sweep, runs=runs, args=args)
    is_plain = args.all or args.slurm or args.all_attempts or args.attempt != -1
    failed = [] if is_plain else [run for run in runs if survey.runs[run].state == "failed"]
    past = by_task(survey.folds.values())
    if args.json:
        print_json(_json(survey, sweep=sweep, runs=runs, failed=failed, args=args))
        return 0
    for run in failed[:MOST_FAILURES]:
        status = survey.runs[run]
        say(_heading(sweep, status.task, attempts=past.get(status.task, []), job=status.job))
        for line in failure_lines(sweep, run, status=status, attempts=past.get(status.task, [])):
            say(printable(line))
    if len(failed) > MOST_FAILURES:
        say(f"… and {len(failed) - MOST_FAILURES} other failed runs; `band-sweep status {sweep.name}` groups them")
    if not failed:
        _show(_streams(survey, sweep=sweep, runs=runs, args=args))
    return 0


def _json(
    survey: Survey, *, sweep: SweepDir, runs: list[str], failed: list[str], args: argparse.Namespace
) -> dict[str, Any]:
    """Return the failures that would be shown, and where none would, the logs."""
    past = by_task(survey.folds.values())
    failures = [
        {
            "run": run,
            "task": survey.runs[run].task,
            "lines": failure_lines(sweep, run, status=survey.runs[run], attempts=past.get(survey.runs[run].task, [])),
        }
        for run in failed[:MOST_FAILURES]
    ]
    logs = []
    for stream in [] if failed else _streams(survey, sweep=sweep, runs=runs, args=args):
        tail = Tail(stream.path)
        logs.append({"label": stream.label, "path": str(stream.path), "lines": tail.lines(is_last=True)})
        tail.close()
    left_out = max(len(failed) - MOST_FAILURES, 0)
    return {"sweep": sweep.name, "failures": failures, "failures_left_out": left_out, "logs": logs}


def _choose(args: argparse.Namespace, *, survey: Survey, sweep: SweepDir) -> list[str]:
    """Return the runs whose logs are asked for; they were all submitted, here or on another machine."""
    if args.task:
        task = f"{int(args.task):04d}" if args.task.isdecimal() else args.task
        if task not in survey.ledger.tasks:
            if there := [run for log in pulled_logs(sweep) if log.task == task for run in log.runs]:
                return [run for run in dict.fromkeys(there) if run in survey.runs]
            raise SweepError(f"there is no task {args.task}; there are {len(survey.ledger.tasks)}, from 0001 on")
        return [run for run in survey.ledger.tasks[task] if run in survey.runs]
    if args.runs:
        matched = match_runs(survey.manifest, args.runs)
        pulled = {run for log in pulled_logs(sweep) for run in log.runs}
        submitted = [run for run in matched if survey.runs[run].task or run in pulled]
        if not submitted:
            raise SweepError(f"{matched[0]} was never submitted, so it has no log{_elsewhere(sweep)}")
        return submitted
    if args.follow:
        going = [run for run in survey.runs if _goes_on(survey, run)]
        if going:
            return going
    failed = survey.in_state("failed")
    if failed:
        return failed[:1]
    newest = max(survey.folds.values(), key=lambda fold: fold.last_t, default=None)
    if newest is None:
        if logs := pulled_logs(sweep):
            return [run for run in logs[-1].runs if run in survey.runs]
        raise SweepError(f"nothing has run yet; next: band-sweep submit {survey.manifest.name}{_elsewhere(sweep)}")
    return [run for run in survey.ledger.tasks[newest.task] if run in survey.runs]


def _elsewhere(sweep: SweepDir) -> str:
    """Return where to look for logs of a sweep that is fed from another machine."""
    return f"; what ran elsewhere: band-sync pull {sweep.name} --what logs" if sweep.sync.is_dir() else ""


def _goes_on(survey: Survey, run: str) -> bool:
    """Return whether a run may still print something without anybody's doing."""
    status = survey.runs[run]
    return status.state in ACTIVE or (status.state == "interrupted" and bool(status.scheduled))


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One file that belongs to the runs asked for."""

    label: str  # the run, or the task where several of its runs are meant
    heading: str
    path: Path


def _streams(
    survey: Survey,
    *,
    sweep: SweepDir,
    runs: Sequence[str],
    args: argparse.Namespace,
    skip: frozenset[str] = frozenset(),
) -> list[Stream]:
    """Return the files of these runs, each file once, without those of the attempts in `skip`, oldest attempt first."""
    past = _attempts(survey)
    members: dict[str, list[str]] = {}
    for run in runs:
        members.setdefault(survey.runs[run].task, []).append(run)
    streams = []
    for task, own in members.items():
        if not task:
            streams += _pulled_streams(sweep, own, args=args)
            continue
        label = own[0] if len(own) == 1 else f"task {task}"
        attempts = [fold for fold in past.get(task, []) if fold.stem not in skip]
        job = survey.runs[own[0]].job
        if args.slurm or (not attempts and job):
            streams.append(_batch_stream(sweep, label=label, task=task, job=job))
            continue
        for fold in _chosen(attempts, args=args, task=task):
            log = attempt_log(sweep, fold)
            heading = f"{_heading(sweep, task, attempts=[fold])}: {log}"
            streams.append(Stream(label=label, heading=heading, path=log))
    return streams


def _pulled_streams(sweep: SweepDir, runs: Sequence[str], *, args: argparse.Namespace) -> list[Stream]:
    """Return the files of runs that were trained on another machine, so far as they came home."""
    attempts: dict[tuple[str, str], list[PulledLog]] = {}
    for log in pulled_logs(sweep):
        if not set(runs).isdisjoint(log.runs):
            attempts.setdefault((log.source, log.task), []).append(log)
    streams = []
    for (source, task), logs in attempts.items():
        own = [run for run in runs if run in logs[0].runs]
        for log in _chosen(logs, args=args, task=task):
            path = log.batch_output if args.slurm else log.path
            heading = f"== task {task}, attempt {log.attempt}, from {source}: {path}"
            streams.append(Stream(label=own[0] if len(own) == 1 else f"task {task}", heading=heading, path=path))
    return streams


def _attempts(survey: Survey) -> dict[str, list[AttemptFold]]:
    """Return {task: its attempts, oldest first}, without what others say of them."""
    return by_task(fold for fold in survey.folds.values() if not fold.is_hearsay)


def _batch_stream(sweep: SweepDir, *, label: str, task: str, job: str) -> Stream:
    if not job:
        raise SweepError(f"task {task} was never a Slurm job, so there is no batch output of it")
    path = batch_output(sweep, job=job)
    return Stream(label=label, heading=f"== task {task}, job {job}: {path}", path=path)


def _chosen(attempts: Sequence[Attempt], *, args: argparse.Namespace, task: str) -> Sequence[Attempt]:
    if args.all_attempts or args.follow or not attempts:
        return attempts
    index = args.attempt - 1 if args.attempt > 0 else args.attempt
    if not -len(attempts) <= index < len(attempts) or args.attempt == 0:
        raise SweepError(f"task {task} has had {len(attempts)} attempts, counted from 1; there is no {args.attempt}")
    return [attempts[index]]


def _heading(sweep: SweepDir, task: str, *, attempts: Sequence[AttemptFold], job: str = "") -> str:
    if not attempts:
        return f"== task {task}, job {job}"
    fold = attempts[-1]
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(fold.first_t))
    return f"== task {task}, attempt {fold.attempt}{' on ' + fold.host if fold.host else ''}, {begun}"


def _show(streams: Sequence[Stream]) -> None:
    if not any(stream.path.exists() for stream in streams):
        raise SweepError("nothing has been printed yet" + (f": {streams[0].path} is not there" if streams else ""))
    for stream in streams:
        say(printable(stream.heading))
        tail = Tail(stream.path)
        for line in tail.lines(is_last=True):
            say(printable(line))
        tail.close()


def _labelled(line: str, *, label: str, width: int) -> str:
    """Return a line under its run's name, once, also where the line itself begins with it."""
    if not width:
        return line
    return f"{label:<{width}} | {line.removeprefix(f'{label}: ').removeprefix(f'{label} ')}"


def _follow(watch: Watch, survey: Survey, *, sweep: SweepDir, runs: list[str], args: argparse.Namespace) -> int:
    """Print what runs print, each line under its run's name where there are several, until all are over."""
    tails: dict[Path, Tail] = {}
    earlier = [] if args.all_attempts else [fold for past in _attempts(survey).values() for fold in past[:-1]]
    skip = frozenset(fold.stem for fold in earlier)
    try:
        while True:
            is_over = not any(_goes_on(survey, run) for run in runs if run in survey.runs)
            streams = _streams(survey, sweep=sweep, runs=runs, args=args, skip=skip)
            width = max((len(stream.label) for stream in streams), default=0) if len(runs) > 1 else 0
            for stream in streams:
                if stream.path not in tails:
                    tails[stream.path] = Tail(stream.path)
                    say(printable(stream.heading))
                for line in tails[stream.path].lines(is_last=is_over):
                    say(_labelled(printable(line), label=stream.label, width=width))
            sys.stdout.flush()
            if is_over:
                return 0
            time.sleep(max(POLL_S, 20 * watch.cost_s))
            survey = watch.look()
    except KeyboardInterrupt:
        say(f"no longer followed; what runs goes on: band-sweep status {sweep.name}", file=sys.stderr)
        return INTERRUPTED
