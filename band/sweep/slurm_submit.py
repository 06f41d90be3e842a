"""Sending tasks to Slurm: each array is queued held, noted in the journal step by step, and released at the end.

A process that dies between any two steps leaves what `reconcile` takes up: the token in the job's name tells which
array of which submission a job is. Everything here is done under the hold on the sweep's submissions.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from band.attempts import Claim, ended_here, release_for
from band.files import write_atomic
from band.run_dir import SweepDir
from band.slurm.command import SlurmError, run
from band.sweep import canary
from band.sweep.arrays import Queue, look_at_queue, throttle_of
from band.sweep.hold import slurm_says_over
from band.sweep.journal import Array, append, planned_tasks, read_journal, read_journals
from band.sweep.ledger import Intent, check_hold, read_intents
from band.sweep.slurm_script import CLOSING, closing_text, send_array
from band.sweep.status import Survey
from band.sweep.submit import STAYS, write_skip

TIMEOUT_S = 60.0  # for an answer of sbatch
_JOB_ID = re.compile(r"\s*([0-9]+)(?:;\S*)?\s*")
# Refusals that a shorter array, or the same one later, may not meet.
_LIMIT = re.compile(
    r"(?:QOS|Assoc|Grp)\w*Limit|violates accounting/QOS policy|Invalid job array|Job array index|MaxArraySize"
    r"|maximum number|unable to accept job|temporarily unable"
)


@dataclass
class Fed:
    """What came of sending planned tasks."""

    arrays: list[Array] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)  # tasks that wait for a closing job, or the next submit
    reason: str = ""  # why they do
    messages: list[str] = field(default_factory=list)  # for the user


def feed(sweep: SweepDir, *, claim: Claim, survey: Survey, queue: Queue | None = None) -> Fed:
    """Send the planned tasks of a sweep, as many as the cluster's limits let through.

    Args:
        sweep: the sweep's folder.
        claim: the hold on its submissions.
        survey: its state, taken under that hold; the newest request may be younger.
        queue: what the cluster lets through, as the caller has just seen it for all that is planned; None: it is asked.

    Raises:
        SlurmError: sbatch refused for good; or did not answer: what it queued then waits, held, for `reconcile`.
        ClaimError: the hold was lost.
        OSError: the sweep's folder cannot be written.
    """
    fed = Fed(messages=canary.look(sweep, survey, claim=claim))
    intents = read_intents(sweep)
    for intent, planned in planned_tasks(intents, read_journals(sweep)):
        intent = replace(intent, options={**intent.options, "max_parallel": throttle_of(intents, intent)})
        tasks = [task for task in planned if _is_open(intent, task=task, survey=survey)]
        waiting, tasks = tasks, canary.ahead(intent, tasks)
        if len(tasks) < len(waiting):
            fed.planned += [task for task in waiting if task not in tasks]
            fed.reason = "they wait for the canary to end well"
        if tasks:
            seen = queue or look_at_queue({key: str(value) for key, value in intent.options["sbatch"].items()})
            _feed_intent(Sender(sweep, intent, claim), tasks=tasks, queue=seen, survey=survey, fed=fed)
    return fed


def _is_open(intent: Intent, *, task: str, survey: Survey) -> bool:
    """Return whether any run of a task is still to be trained."""
    over = (*STAYS, "published")
    return any(run in survey.runs and survey.runs[run].state not in over for run in intent.tasks[task])


def _feed_intent(sender: Sender, *, tasks: Sequence[str], queue: Queue, survey: Survey, fed: Fed) -> None:
    """Send the tasks of one request in as few arrays as the limits allow; where they are hidden, halve and go on."""
    waiting, most = list(tasks), len(tasks)
    limit = int(sender.intent.options["max_parallel"])
    while waiting:
        left = limit - _taken(sender.sweep, limit=limit) if limit else 0
        if limit and left < 1:
            fed.planned += waiting
            fed.reason = f"no more than {limit} tasks at once were asked for"
            return
        size = int(min(queue.free(), most, len(waiting)))
        if size < 1:
            fed.planned += waiting
            fed.reason = fed.reason or f"a limit of the cluster is reached: {queue.own} jobs of yours are in its queue"
            return
        for task in waiting[:size]:
            _free(sender, task=task, survey=survey)
        try:
            fed.arrays.append(sender.send(waiting[:size], throttle=left))
        except SlurmError as error:
            if error.kind != "refused" or not _LIMIT.search(str(error)):
                raise
            most, fed.reason = size // 2, str(error)
            continue
        queue.own += size + 1
        waiting = waiting[size:]


def _taken(sweep: SweepDir, *, limit: int) -> int:
    """Return how many tasks may run at once of the arrays that are at Slurm now."""
    at_slurm = [array for array in read_journals(sweep) if not array.is_closed]
    return sum(min(len(array.tasks), array.throttle or limit) for array in at_slurm)


def _free(sender: Sender, *, task: str, survey: Survey) -> None:
    """Give a task back on behalf of an attempt that is over, and say which of its runs are to be left alone."""
    write_skip(sender.sweep, task, members=sender.intent.tasks[task], survey=survey)
    release_for(sender.sweep.task(task).path, is_over=lambda claim: ended_here(claim) or slurm_says_over(claim.attempt))


@dataclass
class Sender:
    """Sends arrays of one request, each step noted before the next."""

    sweep: SweepDir
    intent: Intent
    claim: Claim

    def send(self, tasks: Sequence[str], *, throttle: int = 0) -> Array:
        """Queue an array held, note it, queue its closing job, release it.

        Args:
            tasks: its tasks, in order.
            throttle: how many of them may run at once; 0: any number.

        Raises:
            SlurmError: sbatch refused (nothing is left at Slurm then), or did not answer.
            ClaimError: the hold was lost.
        """
        number = max((array.number for array in read_journal(self.sweep, self.intent.number)), default=0) + 1
        token = f"band-{self.sweep.name[:60]}-{self.intent.number}-{number}-{secrets.token_hex(4)}"
        job_ids: list[str] = []

        def queue(text: str) -> str:
            script = f"array.{number}.sh"
            write_atomic(self.sweep.submission(self.intent.number) / script, text.encode())
            self.note(number, "intent", token=token, tasks=list(tasks), script=script, throttle=throttle)
            job_ids.append(self.sbatch(script))
            return job_ids[0]

        try:
            asked = replace(self.intent, options={**self.intent.options, "max_parallel": throttle})
            send_array(self.sweep, asked, tasks=tasks, number=number, token=token, send=queue)
        except SlurmError as error:
            if error.kind != "timeout":
                is_final = error.kind == "refused" and not _LIMIT.search(str(error))
                self.note(number, "refused", message=str(error), **({"is_final": True} if is_final else {}))
            raise
        self.note(number, "queued", job_id=job_ids[0])
        return self.complete(self.array(number))

    def complete(self, array: Array) -> Array:
        """Queue the closing job of an array that is held, and release it.

        What was done before is not done again.

        Raises:
            SlurmError: a limit leaves no room for the closing job, and the array was taken back; or no answer.
        """
        if not array.closing_job_id and "closing_refused" not in array.steps:
            self._queue_closing(array)
        self.check_hold()
        run(["scontrol", "release", array.job_id], timeout_s=TIMEOUT_S)
        self.note(array.number, "released")
        return self.array(array.number)

    def _queue_closing(self, array: Array) -> None:
        script = f"array.{array.number}.{CLOSING}.sh"
        text = closing_text(self.sweep, self.intent, number=array.number, token=array.token, job_id=array.job_id)
        write_atomic(self.sweep.submission(self.intent.number) / script, text.encode())
        try:
            self.note(array.number, "closing", job_id=self.sbatch(script))
        except SlurmError as error:
            if error.kind == "refused" and _LIMIT.search(str(error)):
                # Noted first: a held job of a dead array is a stray, which `reconcile` cancels if we come to no more.
                self.note(array.number, "cancelled", message=f"no room for its closing job: {error}")
                self.check_hold()
                run(["scancel", array.job_id], timeout_s=TIMEOUT_S)
                raise
            self.note(array.number, "closing_refused", message=str(error))

    def sbatch(self, script: str) -> str:
        """Send a script of the submission and return the id of the job."""
        self.check_hold()
        path = self.sweep.submission(self.intent.number) / script
        answer = run(["sbatch", "--parsable", str(path)], timeout_s=TIMEOUT_S)
        match = _JOB_ID.fullmatch(answer)
        if not match:
            raise SlurmError(f"sbatch printed {answer[:200]!r} where a job id was expected", kind="timeout")
        return match[1]

    def note(self, number: int, step: str, **fields: object) -> None:
        """Note a step of an array in the journal."""
        append(self.sweep, self.intent.number, array=number, step=step, **fields)

    def array(self, number: int) -> Array:
        """Return an array as the journal has it."""
        return next(array for array in read_journal(self.sweep, self.intent.number) if array.number == number)

    def check_hold(self) -> None:
        """Check that no other process has taken the submissions over since.

        Raises:
            ClaimError: one has.
        """
        check_hold(self.sweep, self.claim)
