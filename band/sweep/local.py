"""This machine as a scheduler: which tasks are held or queued, and how a queue is started."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from band.attempts import Claim
from band.errors import SchedulerError
from band.files import read_json_object
from band.run_dir import SweepDir
from band.sweep.ledger import RECEIPT, read_intents
from band.sweep.processes import held_claim
from band.sweep.status import TaskState

QUEUE_LOG = "queue.log"
START_TIMEOUT_S = 60.0
NO_SUBMISSION = "9" * 9  # later than any


@dataclass(frozen=True)
class Claims:
    """A scheduler that knows of a task only whether an attempt that may be alive holds it."""

    sweep: SweepDir

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        """Return the tasks that are held: they run."""
        claims = {task: held_claim(self.sweep.task(task).path) for task in tasks}
        return {task: TaskState(state="running", node=claim.attempt.host) for task, claim in claims.items() if claim}

    def endings(self, tasks: Mapping[str, object]) -> Mapping[str, TaskState]:
        """Return nothing: what an attempt did not say nobody knows."""
        return {}


@dataclass(frozen=True)
class LocalScheduler:
    """This machine's queue, as others see it."""

    sweep: SweepDir

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        """Return the tasks that are running, and, where a queue is alive, those that it has yet to start."""
        claim = queue_claim(self.sweep)
        queued = queue_tasks(self.sweep, since=queue_submission(self.sweep, claim=claim)) if claim else set()
        running = Claims(self.sweep).task_states(tasks)
        return {**{task: TaskState(state="queued") for task in tasks if task in queued}, **running}

    def endings(self, tasks: Mapping[str, object]) -> Mapping[str, TaskState]:
        """Return nothing: what an attempt did not say nobody knows."""
        return {}


def queue_claim(sweep: SweepDir) -> Claim | None:
    """Return the hold on the sweep of whoever may be alive and works on it, if there is one."""
    return held_claim(sweep.submissions)


def local_queue(sweep: SweepDir) -> Claim | None:
    """Return that hold where it is this machine's queue that has it, and not whoever sends tasks to Slurm."""
    claim = queue_claim(sweep)
    return claim if claim is not None and queue_submission(sweep, claim=claim) != NO_SUBMISSION else None


def queue_submission(sweep: SweepDir, *, claim: Claim) -> str:
    """Return the number of the submission whose queue holds that claim; where none says so, one never reached."""
    numbers = (name for name in os.listdir(sweep.submissions) if name.isdecimal())
    for number in sorted(numbers, key=int, reverse=True):
        with suppress(OSError):
            if read_json_object(sweep.submission(number) / RECEIPT).get("attempt") == claim.attempt.name:
                return number
    return NO_SUBMISSION


def queue_tasks(sweep: SweepDir, *, since: str) -> set[str]:
    """Return the tasks that requests from that number on hand to a queue on this machine."""
    intents = [intent for intent in read_intents(sweep) if int(intent.number) >= int(since)]
    return {task for intent in intents if intent.scheduler == "local" for task in intent.tasks}


@contextmanager
def one_at_a_time(sweep: SweepDir) -> Iterator[None]:
    """Let nobody else on this machine look at what is to be submitted here until it is: two would both submit it.

    Raises:
        OSError: the sweep's folder cannot be written.
    """
    sweep.submissions.mkdir(parents=True, exist_ok=True)
    file = os.open(sweep.submissions / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        with suppress(OSError):  # a home without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def start_queue(sweep: SweepDir, *, submission: str) -> bool:
    """Start a queue in a session of its own and wait until it holds the sweep; return False if another one does.

    Raises:
        SchedulerError: it ended at once, or does not come up; names its log.
    """
    log = sweep.submission(submission) / QUEUE_LOG
    command = [sys.executable, "-m", "band.sweep.queue", str(sweep.path), submission]
    # Inside an interactive Slurm job its variables would give every attempt here the name of that one job.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environment["PYTHONSAFEPATH"] = "1"  # the current folder may be a stranger's: nothing in it is imported
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        code = process.poll()
        if (sweep.submission(submission) / RECEIPT).exists() or code == 0:
            return True
        if code == 4:
            return False
        if code is not None:
            raise SchedulerError(f"the local queue ended at once: {_last_line(log)}; see {log}")
        time.sleep(0.02)
    raise SchedulerError(f"the local queue did not start within {START_TIMEOUT_S:.0f} s; see {log}")


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
