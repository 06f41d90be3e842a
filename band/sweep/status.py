"""What has become of every run of a sweep: event streams, claims, requests and the scheduler folded into one state."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
HOME_UNWRITABLE = 75  # exit code of an attempt whose finished runs wait on its node
# Ends of a job that left no word, after which nobody goes on by himself: {Slurm's state: (error, what to do)}.
FAILED_ENDS = {
    "OUT_OF_MEMORY": ("OutOfMemory", "Slurm ended it for want of memory; raise --mem, then retry it"),
    "TIMEOUT": ("TimeLimit", "the time limit ended it; raise --time, then retry it"),
    "DEADLINE": ("TimeLimit", "the deadline of its job ended it; give a later --deadline, then retry it"),
    "FAILED": ("Died", "its job ended without a word of the supervisor's; its batch output may say why"),
    "LAUNCH_FAILED": ("Died", "Slurm could not start its job"),
}


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """What a scheduler knows of a task."""

    state: str = ""  # running, queued, held, planned, submit_unknown, lost, cancelled; "": over, or unknown to it
    words: str = ""  # its own, as they are: "PENDING (Priority)"
    reason: str = ""  # why it waits, in Slurm's word: "JobHeldUser"; "" where it is us who hold it
    end: str = ""  # how Slurm ended an attempt that is over: "OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "CANCELLED" …
    end_t: float | None = None  # unix seconds
    exit_code: int = 0
    last_line: str = ""  # of what a job that failed had printed
    node: str = ""
    job: str = ""  # "123_4"
    attempt: str = ""  # name of the attempt that runs, or will
    start_t: float | None = None  # of the attempt that runs or has ended; of one that waits, when it is expected


class Scheduler(Protocol):
    """Who runs tasks: this machine's queue, or Slurm."""

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        """Return what it has of the tasks now: those that it knows."""
        ...

    def endings(self, tasks: Mapping[str, Sequence[AttemptFold]]) -> Mapping[str, TaskState]:
        """Return what became of tasks that it no longer has and whose last attempts did not say how they ended.

        Args:
            tasks: the attempts at each of them, oldest first.
        """
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
    scheduled: str = ""  # what the scheduler has its task as, "" where nobody has it
    words: str = ""  # the scheduler's own about its task
    node: str = ""  # where it runs, or was tried last
    job: str = ""  # "123_4"
    end: str = ""  # how Slurm ended that job
    blamed: str = ""  # of a run that a job's end alone made failed or cancelled: TASK.JOB, for a retry to name

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
    silent = {task: attempts.get(task, []) for task, found in scheduled.items() if not found.state}
    silent = {task: past for task, past in silent.items() if not _has_last_word(past, job=scheduled[task].job)}
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


def _newest_of(attempts: Sequence[AttemptFold], *, job: str) -> AttemptFold | None:
    """Return the newest attempt that a Slurm job made, None if it never came to speak."""
    return next((fold for fold in reversed(attempts) if fold.attempt.startswith(f"j{job}-r")), None)


def _has_last_word(attempts: Sequence[AttemptFold], *, job: str) -> bool:
    """Return whether the newest attempt of a job said itself how it ended, and that it is not to be continued."""
    newest = _newest_of(attempts, job=job)
    return newest is not None and newest.code is not None and not newest.interruption


def _is_left_failed(scheduled: TaskState, *, attempts: Sequence[AttemptFold]) -> bool:
    """Return whether Slurm ended a job in a way that only a user can mend, and the job itself had no last word."""
    if scheduled.state or scheduled.end not in FAILED_ENDS or scheduled.exit_code == HOME_UNWRITABLE:
        return False
    newest = _newest_of(attempts, job=scheduled.job)
    return newest is None or newest.code is None


def _slurm_failure(scheduled: TaskState) -> dict[str, str]:
    """Return the failure that Slurm's word alone makes of a run."""
    error, message = FAILED_ENDS[scheduled.end]
    message = scheduled.last_line or message
    where = f" on {scheduled.node}" if scheduled.node else ""
    return {"error": error, "message": f"{message} (job {scheduled.job}{where}: {scheduled.words})"}


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
        scheduled = self.scheduled.get(task, TaskState())
        if f"{task}.{scheduled.job}" in self.ledger.forgiven.get(run.id, ()):
            scheduled = TaskState()
        failure = self._failure(run, last=last)
        if not failure and self._is_open(run, last=last) and _is_left_failed(scheduled, attempts=attempts):
            failure = _slurm_failure(scheduled)
            known["blamed"] = f"{task}.{scheduled.job}"
        if failure:
            known |= {"error": failure["error"], "message": failure["message"]}
        state = self._state(run, scheduled=scheduled, task=task, last=last, is_failed=bool(failure))
        if state == "cancelled" and scheduled.job:
            known["blamed"] = f"{task}.{scheduled.job}"
        return RunStatus(state=state, scheduled=scheduled.state, **known)

    def _state(self, run: Run, *, scheduled: TaskState, task: str, last: AttemptFold | None, is_failed: bool) -> str:
        word = scheduled.state
        is_running = word == "running" and not is_failed and not self._is_over(scheduled, task=task)
        is_cancelled = run.id in self.ledger.cancelled or (word == "cancelled" and not is_failed)
        if last is not None and last.phases[run.id] == "finished" and not is_running:
            return "unsynced"
        if is_running and self._takes_part(run, task=task):
            return "running"
        if not (is_failed or is_cancelled or run.retired):
            has_been_fetched = last is not None and last.is_rescue
            if scheduled.exit_code == HOME_UNWRITABLE and not word and not has_been_fetched:
                return "unsynced"
            if waits := self._waits(scheduled, has_begun=last is not None):
                return waits
        if is_cancelled:
            return "cancelled"
        if is_failed:
            return "failed"
        return "retired" if run.retired else "new"

    def _waits(self, scheduled: TaskState, *, has_begun: bool) -> str:
        """Return the state of a run that is to go on but does not run, "" where nobody has it."""
        word = scheduled.state
        if word in ("submit_unknown", "lost"):
            return word
        if has_begun:
            return "interrupted"
        if word:
            return "queued" if word == "running" else word
        return "lost" if scheduled.end else ""

    def _is_open(self, run: Run, *, last: AttemptFold | None) -> bool:
        is_over = last is not None and last.phases[run.id] in ("finished", "superseded")
        return not (is_over or run.retired or run.id in self.ledger.cancelled)

    def _is_over(self, scheduled: TaskState, *, task: str) -> bool:
        """Return whether the attempt that the scheduler takes to be running has said its last word."""
        newest = self._newest(task)
        return newest is not None and newest.attempt == scheduled.attempt and newest.code is not None

    def _takes_part(self, run: Run, *, task: str) -> bool:
        """Return whether the newest attempt at the task trains the run, or may still come to it."""
        newest = self._newest(task)
        if newest is None or not newest.phases or newest.code is not None:
            return True
        return run.id in newest.phases

    def _newest(self, task: str) -> AttemptFold | None:
        return next((fold for fold in reversed(self.attempts.get(task, [])) if not fold.is_hearsay), None)

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
            known |= {"words": scheduled.words, "node": scheduled.node, "job": scheduled.job, "end": scheduled.end}
        if last is not None and not known.get("node"):
            known["node"] = last.host
        timed = next((fold for fold in reversed(attempts) if run.id in fold.epochs), None)
        if timed is not None:
            epoch, max_epochs = timed.epochs[run.id]
            known |= {"epoch": epoch, "max_epochs": max_epochs}
        if last is not None and last is timed:
            known["epochs_per_s"] = last.epochs_per_s(run.id)
        return known
