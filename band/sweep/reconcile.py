"""What Slurm really has of a sweep: jobs of a submission that was cut off are found by their token, and settled."""

from __future__ import annotations

import time
from collections.abc import Iterator

from band.attempts import Claim
from band.run_dir import SweepDir
from band.slurm import jobs
from band.slurm.command import SlurmError, run
from band.slurm.jobs import Job
from band.sweep.journal import Array, read_journals
from band.sweep.ledger import read_intents
from band.sweep.slurm_scheduler import settle_s
from band.sweep.slurm_script import write_calls
from band.sweep.slurm_submit import TIMEOUT_S, Sender

SKEW_S = 3600.0  # by how much the clocks of two machines may differ


def reconcile(sweep: SweepDir, *, claim: Claim) -> Iterator[str]:
    """Adopt, release or drop each array whose submission was cut off; yield what was done, a line each.

    Args:
        sweep: the sweep's folder.
        claim: the hold on its submissions.

    Raises:
        SlurmError: Slurm does not answer: nothing is concluded then.
        ClaimError: the hold was lost.
        OSError: the sweep's folder cannot be written.
    """
    intents = {intent.number: intent for intent in read_intents(sweep)}
    for array in read_journals(sweep):
        if array.submission in intents and not array.is_dead:
            if array.is_unknown:
                yield _settle(Sender(sweep, intents[array.submission], claim), array)
            elif array.is_held and array.after is None:
                yield _release(Sender(sweep, intents[array.submission], claim), array)


def _settle(sender: Sender, array: Array) -> str:
    """Find the array's job, and go on from there."""
    name = f"array {array.submission}/{array.number}"
    found = _jobs_of(array)
    alive = sorted({job.job_id for job in found if not jobs.is_over(job.state)}, key=int)
    for job_id in alive[1:]:
        run(["scancel", job_id], timeout_s=TIMEOUT_S)
    if alive:
        write_calls(sender.sweep, sender.intent, tasks=array.tasks, job_id=alive[0])
        sender.note(array.number, "queued", job_id=alive[0])
        sender.complete(sender.array(array.number))
        twice = f"; cancelled its copy {', '.join(alive[1:])}" if alive[1:] else ""
        return f"{name}: adopted job {alive[0]}{twice}"
    if found:
        sender.note(
            array.number, "vanished", message=f"job {found[-1].job_id} is {found[-1].state}, and was never released"
        )
        return f"{name}: job {found[-1].job_id} is over without having been released; its tasks are planned again"
    waited_s = time.time() - array.t
    if waited_s < settle_s():
        return f"{name}: Slurm has no job {array.token} yet; it counts as lost {settle_s() - waited_s:.0f} s from now"
    sender.note(array.number, "vanished", message="Slurm has no such job")
    return f"{name}: Slurm has no job {array.token}; its tasks are planned again"


def _jobs_of(array: Array) -> list[Job]:
    """Return what Slurm has under an array's token, of its accounts too where it keeps them."""
    found = jobs.queued(name=array.token, timeout_s=TIMEOUT_S)
    if not found:
        try:
            found = jobs.accounted((), names=(array.token,), since_t=array.t - SKEW_S, timeout_s=TIMEOUT_S)
        except SlurmError as error:
            if not error.no_accounting:
                raise
    return [job for job in found if job.name == array.token]


def _release(sender: Sender, array: Array) -> str:
    """Bring an array that is held on its way; if somebody has cancelled it, its tasks are planned again."""
    name = f"array {array.submission}/{array.number}"
    shown = jobs.show(array.job_id)
    if not shown or shown.get("JobName") not in ("", None, array.token) or jobs.is_over(shown.get("JobState", "")):
        sender.note(array.number, "vanished", message=f"job {array.job_id} is over, and was never released")
        return f"{name}: job {array.job_id} is over without having been released; its tasks are planned again"
    write_calls(sender.sweep, sender.intent, tasks=array.tasks, job_id=array.job_id)
    sender.complete(array)
    return f"{name}: released job {array.job_id}"
