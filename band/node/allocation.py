"""The Slurm job that an attempt runs in: until when, why it is asked to stop, and how it is queued again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from band.attempts import Claim
from band.node.child import IGNORED_SIGNALS
from band.slurm import jobs
from band.slurm.command import SlurmError, run

ASK_S = 8.0  # how long Slurm may take to answer while it may be about to kill us
REQUEUE_S = 20.0
TRIES, PAUSE_S = 3, 2.0  # to have the job queued again by a controller that does not answer


@dataclass(frozen=True, kw_only=True)
class Look:
    """What Slurm says of a job at one moment."""

    state: str
    restarts: int
    is_preempted: bool  # another job is to take its place, and it is in its time of grace
    end_t: float | None  # unix seconds, at the latest, by this node's clock; None: no limit
    excluded: str  # nodes that it must not run on, as Slurm writes them


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The batch job, or the task of an array, that this process is the main process of."""

    job_id: str  # the array's own id
    array_task: int | None
    restart: int
    node: str  # as Slurm calls it
    start_t: float
    promised_end_t: float | None  # as far as its environment tells

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> Allocation | None:
        """Return the job that this process runs in, None outside Slurm."""
        job_id = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID") or ""
        if not job_id.isdecimal():
            return None
        task, restart = (environment.get(f"SLURM_{name}", "") for name in ("ARRAY_TASK_ID", "RESTART_COUNT"))
        end, limit = (environment.get(name, "") for name in ("SLURM_JOB_END_TIME", "BAND_TIME_LIMIT_S"))
        now = time.time()
        return cls(
            job_id=job_id,
            array_task=int(task) if task.isdecimal() else None,
            restart=int(restart) if restart.isdecimal() else 0,
            node=environment.get("SLURMD_NODENAME") or os.uname().nodename,
            start_t=now,
            promised_end_t=float(end) if end.isdecimal() else now + int(limit) if limit.isdecimal() else None,
        )

    @property
    def label(self) -> str:
        """The name that Slurm's commands take. The array's own id alone would mean all its tasks, finished ones too."""
        return self.job_id if self.array_task is None else f"{self.job_id}_{self.array_task}"

    def look(self) -> Look | None:
        """Ask Slurm once; None where it gives no answer."""
        try:
            with undisturbed():
                fields = jobs.show(self.job_id, self.array_task, timeout_s=ASK_S)
        except SlurmError:
            return None
        if not fields.get("JobState"):
            return None
        excluded = fields.get("ExcNodeList", "")
        begin_t, end_t = (jobs.unix_time(fields.get(name, "")) for name in ("StartTime", "EndTime"))
        if begin_t is not None and end_t is not None:
            # This node's clock may be behind Slurm's; the job is older than this process, by whatever clock. Or so far
            # ahead that the limit would have been over before this process began.
            own_end_t = self.start_t + (end_t - begin_t)
            end_t = own_end_t if end_t <= self.start_t else min(end_t, own_end_t)
        return Look(
            state=fields["JobState"],
            restarts=jobs.whole(fields.get("Restarts", "")) or 0,
            is_preempted=jobs.unix_time(fields.get("PreemptTime", "")) is not None,
            end_t=end_t,
            excluded="" if excluded == "(null)" else excluded,
        )

    def requeue(self) -> bool:
        """Have Slurm queue this job again, if it runs and nobody has done so yet; return whether it will run again.

        Slurm would requeue a cancelled job too, so the last thing asked before is whether it still runs.
        """
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S)
            look = self.look()
            if look is None:
                continue
            if look.restarts > self.restart:
                return True
            if look.state != "RUNNING":
                return False
            try:
                self._command("scontrol", "requeue", self.label)
                return True
            except SlurmError as error:
                if error.kind in ("refused", "absent"):
                    return False
        return False

    def avoid_node(self) -> bool:
        """Have Slurm queue this job again, to run on any node but this one; return whether it will run again."""
        look = self.look()
        if look is None or not self.requeue():
            return False
        nodes = ",".join(name for name in (look.excluded, self.node) if name)
        with contextlib.suppress(SlurmError):  # Slurm takes it of a job that waits only
            self._command("scontrol", "update", f"JobId={self.label}", f"ExcNodeList={nodes}")
        return True

    def _command(self, *argv: str) -> None:
        with undisturbed():
            run(argv, timeout_s=REQUEUE_S)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep what Slurm sends to every process of a step from commands started within, and from us until they answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_over(claim: Claim) -> bool:
    """Return whether the attempt of a claim has ended, as this machine or Slurm knows (for `attempts.take`)."""
    attempt = claim.attempt
    if attempt.has_ended_here():
        return True
    if not attempt.job_id:
        return False
    try:
        with undisturbed():
            return jobs.has_ended(attempt.job_id, attempt.array_task, restart=attempt.restart, timeout_s=ASK_S)
    except SlurmError:
        return False
