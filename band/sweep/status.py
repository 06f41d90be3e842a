"""What has become of every run of a sweep: event streams, claims, requests and the scheduler folded into one state."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from band.errors import PublishError
from band.run_dir import SweepDir, read_result
from band.sweep.fold import AttemptFold, by_task, read_folds
from band.sweep.ledger import Ledger, read_ledger
from band.sweep.manifest import Manifest, Run

STATES = (
    "published",
    "unsynced",
    "running",
    "interrupted",
    "queued",
    "held",
    "planned",
    "cancelled",
    "failed",
    "lost",
    "submit_unknown",
    "retired",
    "new",
)
ACTIVE = ("running", "queued", "held", "planned")


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """What a scheduler knows of a task."""

    state: str = ""  # running, queued, held, planned, submit_unknown, lost, cancelled; "": over, or unknown to it
    words: str = ""  # its own, as they are: "PENDING (Priority)"
    end: str = ""  # how Slurm ended an attempt that is over: "OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "CANCELLED" …
    end_t: float | None = None  # unix seconds
    node: str = ""
    job: str = ""  # "123_4"
    start_t: float | None = None  # of the attempt that runs or has ended; of one that waits, when it is expected


class Scheduler(Protocol):
    """Who runs tasks: this machine's queue, or Slurm."""

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        """Return what it has of the tasks now: those that it knows."""
        ...

    def endings(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        """Return what became of tasks that it no longer has and whose last attempts did not say how they ended."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What has become of one run."""

    state: str  # one of STATES
    outcome: str = ""  # of a published run: ok or diverged
    task: str = ""
    attempt: str = ""  # the last one that the run was part of
    epoch: int = 0
    max_epochs: int = 0
    epochs_per_s: float = 0.0
    error: str = ""
    message: str = ""
    words: str = ""  # the scheduler's own about its task
    node: str = ""
    job: str = ""  # "123_4"

    @property
    def eta_s(self) -> float | None:
        """Seconds to go if no epoch is saved by stopping early; None unless it is running and has been timed."""
        if self.state != "running" or not self.epochs_per_s:
            return None
        return (self.max_epochs - self.epoch) / self.epochs_per_s


@dataclass
class Survey:
    """The state of every run of a sweep, and what it was concluded from."""

    manifest: Manifest
    ledger: Ledger
    runs: dict[str, RunStatus]
    folds: dict[str, AttemptFold] = field(default_factory=dict)
    scheduled: Mapping[str, TaskState] = field(default_factory=dict)  # said of tasks that are not over

    def counts(self) -> dict[str, int]:
        """Return {state: runs} in the order of STATES, states without runs left out."""
        counts = Counter(status.state for status in self.runs.values())
        return {state: counts[state] for state in STATES if counts[state]}

    def in_state(self, *states: str) -> list[str]:
        """Return the ids of the runs in one of `states`, in the order of the manifest."""
        return [run for run, status in self.runs.items() if status.state in states]

    @property
    def is_complete(self) -> bool:
        """Whether every run that the sweep asks for is published."""
        return all(status.state in ("published", "retired") for status in self._asked_for())

    def _asked_for(self) -> list[RunStatus]:
        return [self.runs[run.id] for run in self.manifest.active()]

    def eta_s(self) -> float | None:
        """Return seconds until all that is not over is done at the present pace, None while that is not known."""
        pace = sum(status.epochs_per_s for status in self.runs.values() if status.state == "running")
        open_runs = [status for status in self._asked_for() if status.state in (*ACTIVE, "interrupted")]
        if not pace or not open_runs:
            return None
        default = int(self.manifest.base["train"]["max_epochs"])
        return sum((status.max_epochs or default) - status.epoch for status in open_runs) / pace


def states(sweep: SweepDir, manifest: Manifest, *, scheduler: Scheduler) -> dict[str, str]:
    """Return {run id: state}, one of STATES for each run of the manifest."""
    survey = take_survey(sweep, manifest, scheduler=scheduler)
    return {run: status.state for run, status in survey.runs.items()}


def take_survey(
    sweep: SweepDir, manifest: Manifest, *, scheduler: Scheduler, folds: dict[str, AttemptFold] | None = None
) -> Survey:
    """Return what has become of every run. Nothing in the sweep is changed.

    Args:
        sweep: the sweep's folder.
        manifest: its manifest.
        scheduler: who runs its tasks.
        folds: those of an earlier survey, which are carried on in place: then only new events are read.

    Raises:
        SweepError: an intent file is damaged; names it.
        OSError: the folder cannot be read.
    """
    published = published_runs(sweep)
    ledger = read_ledger(sweep)
    done = {task for task, runs in ledger.tasks.items() if published.issuperset(runs)}
    # The scheduler is asked first: an attempt that ends in between has then already said so in its events.
    scheduled = dict(scheduler.task_states([task for task in ledger.tasks if task not in done]))
    folds = read_folds(sweep, known=folds, done=done)
    published |= published_runs(sweep)
    attempts = by_task(folds.values())
    silent = [
        task for task, found in scheduled.items() if not found.state and not _has_last_word(attempts.get(task, []))
    ]
    if silent:
        scheduled |= scheduler.endings(silent)
    view = _View(sweep=sweep, ledger=ledger, published=published, scheduled=scheduled, attempts=attempts)
    task_of = {run: task for task, runs in ledger.tasks.items() for run in runs}
    runs = {run.id: view.classify(run, task=task_of.get(run.id, "")) for run in manifest.runs}
    return Survey(manifest=manifest, ledger=ledger, runs=runs, folds=folds, scheduled=scheduled)


def published_runs(sweep: SweepDir) -> set[str]:
    """Return the ids of the published runs: the names under runs/."""
    try:
        return {name for name in os.listdir(sweep.runs) if not name.startswith(".")}
    except FileNotFoundError:
        return set()


def _has_last_word(attempts: list[AttemptFold]) -> bool:
    """Return whether the newest attempt said itself how it ended, and that it is not to be continued."""
    return bool(attempts) and attempts[-1].code is not None and not attempts[-1].interruption


@dataclass(frozen=True, kw_only=True)
class _View:
    sweep: SweepDir
    ledger: Ledger
    published: set[str]
    scheduled: Mapping[str, TaskState]
    attempts: Mapping[str, list[AttemptFold]]

    def classify(self, run: Run, *, task: str) -> RunStatus:
        """Return the first state of STATES that holds for a run, with what is known of it."""
        attempts = self.attempts.get(task, [])
        last = next((fold for fold in reversed(attempts) if run.id in fold.phases), None)
        known = self._known(run, task=task, attempts=attempts, last=last)
        if run.id in self.published:
            outcome = self._outcome(run, attempts=attempts)
            return RunStatus(state="published", outcome=outcome, **{**known, "error": "", "message": ""})
        failure = self._failure(run, last=last)
        if failure:
            known |= {"error": failure["error"], "message": failure["message"]}
        return RunStatus(state=self._state(run, task=task, last=last, is_failed=bool(failure)), **known)

    def _state(self, run: Run, *, task: str, last: AttemptFold | None, is_failed: bool) -> str:
        scheduled = self.scheduled.get(task, TaskState()).state
        is_running = scheduled == "running" and not is_failed
        has_begun = last is not None and not is_failed
        goes_on = not (is_failed or run.retired or run.id in self.ledger.cancelled)
        if last is not None and last.phases[run.id] == "finished" and not is_running:
            return "unsynced"
        if is_running and self._takes_part(run, task=task):
            return "running"
        if goes_on:
            if has_begun:
                return "interrupted"
            if scheduled in ("queued", "held", "planned", "running"):
                return "queued" if scheduled == "running" else scheduled
        if run.id in self.ledger.cancelled:
            return "cancelled"
        if is_failed:
            return "failed"
        if scheduled in ("lost", "submit_unknown"):
            return scheduled
        return "retired" if run.retired else "new"

    def _takes_part(self, run: Run, *, task: str) -> bool:
        """Return whether the newest attempt at the task trains the run, or may still come to it."""
        newest = self.attempts.get(task, [])[-1:]
        has_started = bool(newest) and bool(newest[0].phases) and newest[0].code is None
        return not has_started or run.id in newest[0].phases

    def _failure(self, run: Run, *, last: AttemptFold | None) -> Mapping[str, Any] | None:
        if last is None or last.stem in self.ledger.forgiven.get(run.id, ()):
            return None
        return last.failure(run.id)

    def _outcome(self, run: Run, *, attempts: list[AttemptFold]) -> str:
        outcome = next((fold.outcomes[run.id] for fold in attempts if run.id in fold.outcomes), "")
        if outcome:
            return outcome
        try:  # the attempt was killed between publishing and saying so
            return str(read_result(self.sweep.run(run.id)).get("training", {}).get("outcome", ""))
        except PublishError:
            return "damaged"

    def _known(self, run: Run, *, task: str, attempts: list[AttemptFold], last: AttemptFold | None) -> dict[str, Any]:
        known: dict[str, Any] = {"task": task, "attempt": last.attempt if last else ""}
        scheduled = self.scheduled.get(task)
        if scheduled is not None:
            known |= {"words": scheduled.words, "node": scheduled.node, "job": scheduled.job}
        timed = next((fold for fold in reversed(attempts) if run.id in fold.epochs), None)
        if timed is not None:
            epoch, max_epochs = timed.epochs[run.id]
            known |= {"epoch": epoch, "max_epochs": max_epochs}
        if last is not None and last is timed:
            known["epochs_per_s"] = last.epochs_per_s(run.id)
        return known
