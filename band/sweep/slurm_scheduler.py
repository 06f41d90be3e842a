"""Slurm as a scheduler: what its queue, its accounts and our own journals say of the tasks of a sweep."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

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
HELD_BY_US = "held by band-sweep"
LAST_WORDS_BYTES = 1000
_MEMORY_WORDS = re.compile(r"slurmstepd\S*: error: .*(?:xceeded (?:job |step )?memory limit|oom[-_ ]kill)")
UNNAMED = "allocation"  # the accounts' name for an array of which no element ever started
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
        """Return whether a record is of this array, and not of an older job that had the same id."""
        age_s = 0.0 if job.submit_t is None else self.array.t - job.submit_t
        is_named = job.name == self.array.token or (job.name == UNNAMED and -age_s < CLOCK_SKEW_S)
        return job.job_id == self.array.job_id and is_named and age_s < CLOCK_SKEW_S


Records = Mapping[tuple[str, int | None], Job]


def _record_of(place: _Place, records: Records) -> Job | None:
    """Return the record of an element, or of its whole array where that was cancelled before any element started."""
    own = records.get((place.array.job_id, place.index))
    whole = records.get((place.array.job_id, None))
    found = own or (whole if whole is not None and whole.state in OVER else None)
    return found if found is not None and place.is_of(found) else None


@dataclass
class SlurmScheduler:
    """The tasks of a sweep at Slurm: one squeue for all, one sacct for those that it no longer knows."""

    sweep: SweepDir
    trouble: str = ""  # why the queue is not known, "" where it is
    _is_absent: bool = False
    _jobs: dict[tuple[str, int | None], Job] = field(default_factory=dict)
    _seen: set[tuple[str, str]] = field(default_factory=set)  # (job id, name) of arrays that Slurm knows
    _next_ask: float = 0.0
    _next_accounts: float = 0.0
    _accounts_words: str = ""  # why the accounts are not known, "" where they are
    _answered_t: float = 0.0  # unix seconds: when the queue said what it has
    _places: dict[str, _Place] = field(default_factory=dict)
    _known: dict[str, TaskState] = field(default_factory=dict)  # how jobs ended whose end was found

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        """Return what Slurm has of its tasks now; without an answer of Slurm's, only what the journals say."""
        journals = read_journals(self.sweep)
        places = standing(read_intents(self.sweep), journals)
        arrays = {task: places[task] for task in tasks if task in places}
        self._places = _places(arrays)
        if self._places:
            self._look()
        refused = {task: array.message for array in journals if array.is_dead for task in array.tasks}
        return {
            task: self._state(task, array) if array else TaskState(state="planned", words=refused.get(task, ""))
            for task, array in arrays.items()
        }

    def endings(self, tasks: Mapping[str, Sequence[AttemptFold]]) -> Mapping[str, TaskState]:
        """Return what became of tasks that the queue does not know and that left no last word, from their attempts."""
        places = {task: self._places[task] for task in tasks if task in self._places}
        found = {}
        for task, place in list(places.items()):
            job = _record_of(place, self._jobs)
            if self.trouble:
                said = TaskState(words=self._silence())
                found[task] = _by_events(places.pop(task), said=said, attempts=tasks[task])
            elif job is not None and job.state not in OVER:
                said = _active(job, array=place.array)
                found[task] = self._now(places.pop(task), said=said, attempts=tasks[task])
            elif job is None and place.array.t > self._answered_t:  # sent since Slurm was asked
                found[task] = _by_events(places.pop(task), said=TaskState(), attempts=tasks[task])
        words = self._learn_ends([place for place in places.values() if place.job not in self._known])
        for task, place in places.items():
            end = self._known.get(place.job) or TaskState(job=place.job, words=words)
            found[task] = self._ending(place, end=end, attempts=tasks[task])
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
            self._seen.update((job.job_id, job.name) for job in jobs)
            self._answered_t = time.time()
        except SlurmError as error:
            self._jobs, self.trouble, self._is_absent = {}, str(error), error.kind == "absent"
        now = time.monotonic()
        self._next_ask = now + max(MIN_ASK_S, ASK_COSTS * (now - begun))

    def _state(self, task: str, array: Array) -> TaskState:
        if array.is_unknown:
            return TaskState(state="submit_unknown", words="sbatch was called; what came of it is not known")
        place = self._places[task]
        if self.trouble:
            return TaskState(state="held" if array.is_held else "", words=self._silence(), job=place.job)
        job = _record_of(place, self._jobs)
        if job is None:
            return TaskState(job=place.job)
        if job.state in OVER:
            self._known[place.job] = self._over(job, place=place)
            return self._known[place.job]
        self._known.pop(place.job, None)  # it was requeued after its end had been seen
        if self._is_stale:
            return TaskState(job=place.job)
        return _active(job, array=array)

    @property
    def _is_stale(self) -> bool:
        return time.time() - self._answered_t > 2 * MIN_ASK_S

    def _now(self, place: _Place, *, said: TaskState, attempts: Sequence[AttemptFold]) -> TaskState:
        """Return the state of a job of which the queue's answer is old, or from which alone it cannot be told."""
        own = _own(attempts, job=place.job)
        if own and own[-1].last_t > self._answered_t and self._is_stale:
            ago = f"{said.words}, {time.time() - self._answered_t:.0f} s ago"
            return _by_events(place, said=replace(said, words=ago, attempt=""), attempts=attempts)
        return said if said.state else _by_events(place, said=said, attempts=attempts)

    def _silence(self) -> str:
        return "no Slurm on this machine" if self._is_absent else NO_ANSWER

    # --- what the queue does not know ------------------------------------------------------------------------------

    def _learn_ends(self, places: Sequence[_Place]) -> str:
        """Look up how jobs ended; return what to say of those whose end is not found."""
        begun = time.monotonic()
        if not places or begun < self._next_accounts:
            return self._accounts_words
        arrays = {place.array.job_id: place.array for place in places}
        since_t = min(array.t for array in arrays.values()) - CLOCK_SKEW_S
        try:
            records = accounted(list(arrays), since_t=since_t, timeout_s=TIMEOUT_S)
            self._accounts_words = ""
        except SlurmError as error:
            records = []
            self._accounts_words = "no accounts are kept" if error.no_accounting else "Slurm's accounts do not answer"
        now = time.monotonic()
        self._next_accounts = now + max(MIN_ASK_S, ASK_COSTS * (now - begun))
        self._seen.update((job.job_id, job.name) for job in records)
        newest = {(job.job_id, job.array_task): job for job in records}  # of each start of a job, the last
        for place in places:
            job = _record_of(place, newest)
            if job is not None and job.state in OVER:
                self._known[place.job] = self._over(job, place=place)
        return self._accounts_words

    def _ending(self, place: _Place, *, end: TaskState, attempts: Sequence[AttemptFold]) -> TaskState:
        if end.end == "CANCELLED":
            return replace(end, state="cancelled")
        is_known = (place.array.job_id, place.array.token) in self._seen
        if not end.end and is_known and not self._has_started(place, attempts=attempts):
            # Slurm keeps no record of an element that was cancelled before it started.
            return replace(end, state="cancelled", words="CANCELLED before it started")
        if end.end in NO_VERDICT:
            words = end.words if end.end else ", ".join(filter(None, ["gone from Slurm's queue", end.words]))
            last_sign = max([*place.array.steps.values(), end.end_t or 0.0, *(fold.last_t for fold in attempts)])
            if time.time() - last_sign > settle_s():
                return replace(end, state="lost", words=words)
            said = replace(end, words=f"{words}; how it ended is not known yet", end="")
            return _by_events(place, said=said, attempts=attempts)
        closing = self._jobs.get((place.array.closing_job_id, None))
        if not place.array.is_closed and closing is not None and closing.state not in OVER:
            return replace(end, state="planned", words=f"{end.words}; its closing job {closing.job_id} decides")
        return end

    def _over(self, job: Job, *, place: _Place) -> TaskState:
        code = f", exit code {job.exit_code}" if job.exit_code else ""
        reason = f" ({job.reason})" if job.reason and job.reason != "NonZeroExitCode" else ""
        end = job.state
        printed = last_words(batch_output(self.sweep, job=place.job)) if end in ("FAILED", "CANCELLED") else ""
        if _MEMORY_WORDS.search(printed):
            end, reason = "OUT_OF_MEMORY", " (exceeded memory limit)"
        return TaskState(
            words=f"{job.state}{reason}{code}",
            end=end,
            end_t=job.end_t,
            exit_code=job.exit_code,
            last_line=_last_line(printed) if end == "FAILED" else "",
            node=job.nodes,
            job=place.job,
            start_t=job.start_t,
        )

    def _has_started(self, place: _Place, *, attempts: Sequence[AttemptFold]) -> bool:
        return bool(_own(attempts, job=place.job)) or batch_output(self.sweep, job=place.job).exists()


def _own(attempts: Sequence[AttemptFold], *, job: str) -> list[AttemptFold]:
    """Return the attempts that a job such as "123_4" made, oldest first."""
    return [fold for fold in attempts if fold.attempt.startswith(f"j{job}-r")]


def _by_events(place: _Place, *, said: TaskState, attempts: Sequence[AttemptFold]) -> TaskState:
    """Return what Slurm has `said` of a job that may or may not be running, with the state that its events tell."""
    job = said.job or place.job
    own = _own(attempts, job=job)
    if place.array.is_held and not own:
        return replace(said, job=job, state="held")
    if not own or own[-1].requeued or said.attempt not in ("", own[-1].attempt):
        return replace(said, job=job, state="queued")
    if own[-1].code is None:
        return replace(said, job=job, state="running", node=said.node or own[-1].host)
    return replace(said, job=job)


def _places(arrays: Mapping[str, Array | None]) -> dict[str, _Place]:
    """Return where each task stands that Slurm was given, under the job id it answered with."""
    indices: dict[int, dict[str, int]] = {}
    places = {}
    for task, array in arrays.items():
        if array is not None and array.job_id:
            order = indices.setdefault(id(array), {name: n for n, name in enumerate(array.tasks)})
            places[task] = _Place(array, order[task])
    return places


def _active(job: Job, *, array: Array) -> TaskState:
    """Return the state of a job that is not over; none where only its attempts can tell whether it still runs."""
    waits = job.state in WAITING
    # While its processes are being ended, a job that goes back to the queue looks like one that is over.
    state = "held" if job.is_held else "queued" if waits else "" if job.state == "COMPLETING" else "running"
    words = f"{job.state} ({job.reason})" if job.reason else job.state
    return TaskState(
        state=state,
        words=f"{words}, {HELD_BY_US}" if job.is_held and array.is_held else words,
        reason="" if array.is_held else job.reason,
        node=job.nodes,
        job=job.label,
        start_t=job.start_t,
        attempt=f"j{job.label}-r{job.restarts or 0}",
    )


def batch_output(sweep: SweepDir, *, job: str) -> Path:
    """Return the file of what the batch step of a Slurm job such as "123_4" printed: set-up, supervisor, Slurm."""
    return sweep.logs / f"{job}.out"


def last_words(output: Path) -> str:
    """Return the end of a batch output, where a failed set-up and Slurm say why a job ended; "" where there is none.

    Where no cgroup limits memory, Slurm says there alone that it killed a step for want of it: the job's state may be
    plain FAILED or CANCELLED.
    """
    try:
        with output.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - LAST_WORDS_BYTES, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _last_line(printed: str) -> str:
    """Return the last line that is not Slurm's own, without the path of the copy of the script that Slurm runs."""
    lines = [line.strip() for line in printed.splitlines() if not line.startswith("slurmstepd")]
    return re.sub(r"^\S*/slurm_script: ", "", next((line for line in reversed(lines) if line), ""))
