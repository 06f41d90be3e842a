"""What Slurm really has of a sweep: jobs of a submission that was cut off are found by their token, and settled."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from band.attempts import Claim
from band.run_dir import SweepDir
from band.slurm import jobs
from band.slurm.command import SlurmError, run
from band.slurm.jobs import Job
from band.sweep.conclude import own_tasks
from band.sweep.journal import Array, read_journals, standing
from band.sweep.ledger import read_intents, record
from band.sweep.slurm_scheduler import CLOCK_SKEW_S, settle_s
from band.sweep.slurm_script import CLOSING, write_calls
from band.sweep.slurm_submit import TIMEOUT_S, Sender
from band.sweep.status import published_runs

STRAY_S = 7 * 86_400.0  # for so long a job may turn up of an array that is closed, or was taken for dead


def reconcile(sweep: SweepDir, *, claim: Claim) -> Iterator[str]:
    """Adopt, release or drop each array whose submission was cut off, and release what Slurm itself holds.

    Yields what was done, a line each.

    Args:
        sweep: the sweep's folder.
        claim: the hold on its submissions.

    Raises:
        SlurmError: Slurm does not answer: nothing is concluded then.
        ClaimError: the hold was lost.
        OSError: the sweep's folder cannot be written.
    """
    intents = {intent.number: intent for intent in read_intents(sweep)}
    journals = read_journals(sweep)
    arrays = [array for array in journals if array.submission in intents and _is_of_interest(array)]
    if not arrays:
        return
    places = standing(list(intents.values()), journals)
    queue: dict[str, list[Job]] = {}
    for job in jobs.queued(timeout_s=TIMEOUT_S):
        queue.setdefault(job.name, []).append(job)
    for array in arrays:
        sender = Sender(sweep, intents[array.submission], claim)
        yield from _Case(sender, array, queue, own_tasks(array, places)).settle()


def _is_of_interest(array: Array) -> bool:
    return not array.is_closed or time.time() - max(array.steps.values()) < STRAY_S


@dataclass
class _Case:
    """One array, and what Slurm has of it."""

    sender: Sender
    array: Array
    queue: Mapping[str, Sequence[Job]]  # {job name: jobs of one's own}
    own: Collection[str]  # its tasks that were not sent again since
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jobs = [job for job in self.queue.get(self.array.token, ()) if self._is_young(job)]

    def _is_young(self, job: Job) -> bool:
        return job.submit_t is None or job.submit_t > self.array.t - CLOCK_SKEW_S

    @property
    def _name(self) -> str:
        return f"array {self.array.submission}/{self.array.number}"

    def settle(self) -> Iterator[str]:
        """Do what is due, and say it."""
        alive = sorted({job.job_id for job in self.jobs if not jobs.is_over(job.state)}, key=int)
        keep = "" if self.array.is_dead else self.array.job_id or (alive[0] if alive else "")
        for job_id in alive:
            if job_id != keep:  # it is held, for nobody has released it
                self.sender.check_hold()
                run(["scancel", job_id], timeout_s=TIMEOUT_S)
                yield f"{self._name}: cancelled job {job_id}, " + ("a copy" if keep else "which came after all")
        if self.array.is_unknown:
            yield self._adopt(keep) if keep else self._conclude()
        elif self.array.is_held and keep in alive:
            yield from self._go_on()
        elif self.array.is_held:
            yield self._conclude()
        elif not self.array.is_closed:
            yield from self._let_go()
        yield from self._look_after_closing()

    def _adopt(self, job_id: str) -> str:
        write_calls(self.sender.sweep, self.sender.intent, tasks=self.array.tasks, job_id=job_id)
        self.sender.note(self.array.number, "queued", job_id=job_id)
        self.array = self.sender.array(self.array.number)
        said = "; ".join(self._go_on(has_calls=True))
        return f"{self._name}: found job {job_id}{'; ' + said if said else ''}"

    def _go_on(self, *, has_calls: bool = False) -> Iterator[str]:
        """Bring a job that is at Slurm on its way."""
        own = [job for job in self.jobs if job.job_id == self.array.job_id and not jobs.is_over(job.state)]
        if not any(job.is_held for job in own):
            self._note_closing()
            self.sender.note(self.array.number, "released")
            yield f"{self._name}: job {self.array.job_id} had been released"
            return
        if not has_calls:
            write_calls(self.sender.sweep, self.sender.intent, tasks=self.array.tasks, job_id=self.array.job_id)
        self._note_closing()
        try:
            array = self.sender.complete(self.sender.array(self.array.number))
        except SlurmError:
            if not self.sender.array(self.array.number).is_dead:
                raise
            yield f"{self._name}: no room for its closing job; its tasks are planned again"
            return
        if array.is_sent:
            yield f"{self._name}: released job {array.job_id}"

    def _let_go(self) -> Iterator[str]:
        """Release what Slurm itself holds: a node that could not start it may be mended, or another will do."""
        tasks = {job.array_task: job for job in self.jobs if job.job_id == self.array.job_id and job.is_held_by_slurm}
        held = [n for n, task in enumerate(self.array.tasks) if n in tasks and task in self.own]
        if not held:
            return
        yield self._release("job", jobs.label_of(self.array.job_id, held), reason=tasks[held[0]].reason)

    def _look_after_closing(self) -> Iterator[str]:
        """Release the closing job if Slurm itself holds it; cancel it where somebody else has done what it is for."""
        for job in [job for job in self._closing_jobs() if job.is_held_by_slurm]:
            if self.array.is_closed:
                self.sender.check_hold()
                run(["scancel", job.job_id], timeout_s=TIMEOUT_S)
                yield f"{self._name}: cancelled its closing job {job.job_id}, which Slurm held ({job.reason})"
            else:
                yield self._release("its closing job", job.job_id, reason=job.reason)

    def _release(self, what: str, label: str, *, reason: str) -> str:
        self.sender.check_hold()
        try:
            run(["scontrol", "release", label], timeout_s=TIMEOUT_S)
        except SlurmError as error:
            if error.kind != "refused":
                raise
            return f"{self._name}: {what} {label} stays held ({reason}): {error}"
        return f"{self._name}: released {what} {label}, which Slurm held ({reason}); `sinfo -R` tells of broken nodes"

    def _closing_jobs(self) -> list[Job]:
        return [job for job in self.queue.get(f"{self.array.token}-{CLOSING}", ()) if self._is_young(job)]

    def _note_closing(self) -> None:
        """Note the closing job if it was queued, and that not noted."""
        found = self.queue.get(f"{self.array.token}-{CLOSING}", ())
        alive = sorted((job.job_id for job in found if not jobs.is_over(job.state)), key=int)
        if alive and not self.array.closing_job_id:
            self.sender.note(self.array.number, "closing", job_id=alive[0])

    def _conclude(self) -> str:
        """Settle an array of which Slurm's queue has nothing that is not over."""
        number, records = self.array.number, self.jobs or self._accounts()
        if self._has_run():
            self.sender.note(number, "released")
            return f"{self._name}: its job has been released and is over"
        if records and all(job.state == "CANCELLED" for job in records):
            self._cancel_runs()
            self.sender.note(number, "cancelled", message=f"job {records[-1].job_id} was cancelled before its release")
            return f"{self._name}: somebody cancelled job {records[-1].job_id}; its runs count as cancelled"
        waited_s = time.time() - max(self.array.steps.values())
        if waited_s < settle_s():
            wait_s = settle_s() - waited_s
            return f"{self._name}: Slurm has no job {self.array.token} so far; in {wait_s:.0f} s it counts as none"
        self.sender.note(number, "vanished", message="Slurm has no such job")
        return f"{self._name}: Slurm has no job {self.array.token}; its tasks are planned again"

    def _has_run(self) -> bool:
        sweep, job_id = self.sender.sweep, self.array.job_id
        return bool(job_id) and any(
            any(sweep.events.glob(f"{task}.j{job_id}_{index}-r*.jsonl")) for index, task in enumerate(self.array.tasks)
        )

    def _accounts(self) -> list[Job]:
        since_t = self.array.t - CLOCK_SKEW_S
        try:
            found = jobs.accounted((), names=(self.array.token,), since_t=since_t, timeout_s=TIMEOUT_S)
        except SlurmError as error:
            if not error.no_accounting:
                raise
            return []
        return [job for job in found if job.name == self.array.token and jobs.is_over(job.state)]

    def _cancel_runs(self) -> None:
        """Enter what somebody did with scancel into the ledger: it stays so until the runs are retried."""
        sweep = self.sender.sweep
        runs = {run for task in self.array.tasks for run in self.sender.intent.tasks[task]} - published_runs(sweep)
        if runs:
            record(sweep, "cancel", runs=sorted(runs), claim=self.sender.claim)
