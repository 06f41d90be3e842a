"""Slurm as a scheduler: what its queue, its accounts and our own journals say of the tasks of a sweep."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from band.errors import SchedulerError
from band.run_dir import SweepDir
from band.slurm.command import SlurmError
from band.slurm.jobs import OVER, WAITING, Job, accounted, queued
from band.sweep.fold import AttemptFold
from band.sweep.journal import Array, read_journals, standing
from band.sweep.ledger import read_intents
from band.sweep.status import TaskState

SETTLE_S = 120.0  # nothing is declared lost sooner after its last sign: accounts and NFS lag
MIN_ASK_S = 5.0  # between two looks at the queue …
ASK_COSTS = 20  # … and at least so many times what the last one took
TIMEOUT_S = 15.0
CLOCK_SKEW_S = 600.0  # that the controller's clock may be behind ours
NO_ANSWER = "Slurm does not answer"
HELD_REASONS = ("JobHeldUser", "JobHeldAdmin", "held")  # of a pending job that only somebody's release can start
NO_VERDICT = ("COMPLETED", "")  # ends after which an attempt must have left a word, which may still be on its way


def settle_s() -> float:
    """Return for how long after its last sign nothing is declared lost: $BAND_SETTLE_S, or two minutes.

    Raises:
        SchedulerError: the variable holds no number of seconds.
    """
    text = os.environ.get("BAND_SETTLE_S", "")
    try:
        return float(text) if text else SETTLE_S
    except ValueError:
        raise SchedulerError(f"BAND_SETTLE_S must be a number of seconds, got {text!r}") from None


@dataclass(frozen=True)
class _Place:
    """Where a task stands: element `index` of an array."""

    array: Array
    index: int

    @property
    def job(self) -> str:
        return f"{self.array.job_id}_{self.index}"

    def is_of(self, job: Job) -> bool:
        """Return whether a record is of this element, and not of an older job that had the same id."""
        is_named = (job.job_id, job.array_task, job.name) == (self.array.job_id, self.index, self.array.token)
        return is_named and (job.submit_t is None or job.submit_t > self.array.t - CLOCK_SKEW_S)


@dataclass
class SlurmScheduler:
    """The tasks of a sweep at Slurm: one squeue for all, one sacct for those that it no longer knows."""

    sweep: SweepDir
    trouble: str = ""  # why the queue is not known, "" where it is
    _jobs: dict[tuple[str, int | None], Job] = field(default_factory=dict)
    _next_ask: float = 0.0
    _places: dict[str, _Place] = field(default_factory=dict)
    _known: dict[str, TaskState] = field(default_factory=dict)  # how jobs ended whose end was found

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        """Return what Slurm has of its tasks now; without an answer of Slurm's, only what the journals say."""
        arrays = standing(read_intents(self.sweep), read_journals(self.sweep))
        arrays = {task: arrays[task] for task in tasks if task in arrays}
        self._places = _places(arrays)
        if self._places:
            self._look()
        return {task: self._state(task, array) for task, array in arrays.items()}

    def endings(self, tasks: Mapping[str, Sequence[AttemptFold]]) -> Mapping[str, TaskState]:
        """Return what became of tasks that the queue does not know and that left no last word, from their attempts."""
        places = {task: self._places[task] for task in tasks if task in self._places}
        if self.trouble:
            return {task: self._by_events(place, attempts=tasks[task]) for task, place in places.items()}
        gone = [place for place in places.values() if place.job not in self._known]
        records, words = self._accounts(gone) if gone else ({}, "")
        for place in gone:
            record = records.get(place.job)
            if record is not None and record.state in OVER:
                self._known[place.job] = _over(record)
        now, patience_s = time.time(), settle_s()
        found = {}
        for task, place in places.items():
            last_sign = max([*place.array.steps.values(), *(fold.last_t for fold in tasks[task])])
            is_fresh = now - last_sign < patience_s
            end = self._known.get(place.job) or TaskState(job=place.job, words=words)
            found[task] = self._ending(place, end=end, attempts=tasks[task], is_fresh=is_fresh)
        return found

    # --- the queue -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Ask the controller for all jobs, unless that was done a moment ago."""
        begun = time.monotonic()
        if begun < self._next_ask:
            return
        try:
            # The jobs are those of whoever owns the sweep; a colleague may look on.
            jobs = queued(user=str(os.stat(self.sweep.path).st_uid), timeout_s=TIMEOUT_S)
            self._jobs, self.trouble = {(job.job_id, job.array_task): job for job in jobs}, ""
        except SlurmError as error:
            self._jobs, self.trouble = {}, str(error)
        now = time.monotonic()
        self._next_ask = now + max(MIN_ASK_S, ASK_COSTS * (now - begun))

    def _state(self, task: str, array: Array | None) -> TaskState:
        if array is None:
            return TaskState(state="planned")
        if array.is_unknown:
            return TaskState(state="submit_unknown", words="sbatch was called; what came of it is not known")
        place = self._places[task]
        if self.trouble:
            return TaskState(state="held" if array.is_held else "", words=NO_ANSWER, job=place.job)
        job = self._jobs.get((array.job_id, place.index))
        if job is None or not place.is_of(job):
            return TaskState(job=place.job)
        if job.state in OVER:
            self._known[place.job] = _over(job)
            return self._known[place.job]
        self._known.pop(place.job, None)  # it was requeued after its end had been seen
        return _active(job)

    # --- what the queue does not know ------------------------------------------------------------------------------

    def _accounts(self, places: Iterable[_Place]) -> tuple[dict[str, Job], str]:
        """Return the newest record of each job, and what to say where the accounts are not to be had."""
        places = list(places)
        arrays = {place.array.job_id: place.array for place in places}
        since_t = min(array.t for array in arrays.values()) - CLOCK_SKEW_S
        try:
            records = accounted(list(arrays), since_t=since_t, timeout_s=TIMEOUT_S)
        except SlurmError as error:
            return {}, "the cluster keeps no accounts" if error.no_accounting else "Slurm's accounts do not answer"
        newest = {(job.job_id, job.array_task): job for job in records}
        found = {place.job: newest.get((place.array.job_id, place.index)) for place in places}
        return {place.job: job for place in places if (job := found[place.job]) and place.is_of(job)}, ""

    def _ending(self, place: _Place, *, end: TaskState, attempts: Sequence[AttemptFold], is_fresh: bool) -> TaskState:
        if end.end == "CANCELLED":
            return replace(end, state="cancelled")
        if end.end in NO_VERDICT:
            words = end.words or "gone from Slurm's queue"
            if is_fresh:
                return replace(self._by_events(place, attempts=attempts), words=f"{words}; its end is not known yet")
            return replace(end, state="lost", words=words)
        closing = self._jobs.get((place.array.closing_job_id, None))
        if not place.array.is_closed and closing is not None and closing.state not in OVER:
            return replace(end, state="planned", words=f"{end.words}; its closing job {closing.job_id} decides")
        return end

    def _by_events(self, place: _Place, *, attempts: Sequence[AttemptFold]) -> TaskState:
        """Return what the events alone say of a task that was sent."""
        own = [fold for fold in attempts if fold.attempt.startswith(f"j{place.job}-r")]
        silence = TaskState(words=NO_ANSWER, job=place.job)
        if place.array.is_held:
            return replace(silence, state="held")
        if not own or own[-1].requeued:
            return replace(silence, state="queued")
        if own[-1].code is None:
            return replace(silence, state="running", node=own[-1].host)
        return silence


def _places(arrays: Mapping[str, Array | None]) -> dict[str, _Place]:
    """Return where each task stands that Slurm was given, under the job id it answered with."""
    indices: dict[int, dict[str, int]] = {}
    places = {}
    for task, array in arrays.items():
        if array is not None and array.job_id:
            order = indices.setdefault(id(array), {name: n for n, name in enumerate(array.tasks)})
            places[task] = _Place(array, order[task])
    return places


def _active(job: Job) -> TaskState:
    """Return the state of a job that waits or runs; "" and its words where it is being requeued."""
    restart = job.restarts or 0
    words = f"{job.state} ({job.reason})" if job.reason else job.state
    waits = job.state in WAITING
    is_held = waits and (job.state == "REQUEUE_HOLD" or job.reason.endswith(HELD_REASONS))
    return TaskState(
        state=("held" if is_held else "queued") if waits else "running",
        words=words,
        node=job.nodes,
        job=job.label,
        start_t=job.start_t,
        attempt=f"j{job.label}-r{restart}",
    )


def _over(job: Job) -> TaskState:
    code = f", exit code {job.exit_code}" if job.exit_code else ""
    reason = f" ({job.reason})" if job.reason and job.reason != "NonZeroExitCode" else ""
    return TaskState(
        words=f"{job.state}{reason}{code}",
        end=job.state,
        end_t=job.end_t,
        exit_code=job.exit_code,
        node=job.nodes,
        job=job.label,
        start_t=job.start_t,
    )
