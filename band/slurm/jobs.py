"""What Slurm knows of jobs: those in its queue, those in its accounts, one in full."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from band.slurm.command import SlurmError, run
from band.slurm.units import time_s

SEPARATOR = "\x1f"  # the unit separator: a job's name or reason may hold anything that can be typed
# A record in one of these says nothing any more; "COMPLETING" is not among them: processes may still be writing.
OVER = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY")
) | {"PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"}
WAITING = frozenset(("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"))
_HELD_STATES = ("REQUEUE_HOLD", "SPECIAL_EXIT")
ACTIVE = (
    WAITING
    | frozenset(
        ("COMPLETING", "CONFIGURING", "EXPEDITING", "POWER_UP_NODE", "RESIZING", "RUNNING", "SIGNALING", "STAGE_OUT")
    )
    | {"STOPPED", "SUSPENDED"}
)
# Reasons of a job that waits until somebody releases it; of the latter, nobody but Slurm has decided on that.
_HELD = re.compile(r"JobHeld|JobHoldMaxRequeue|.*\bheld\b", re.IGNORECASE)
_HELD_BY_SLURM = re.compile(r"launch failed requeued held|JobHoldMaxRequeue", re.IGNORECASE)
# What a job is made from: {our name: squeue's}, {our name: sacct's}. The name comes last, as it may hold anything.
_QUEUE_FIELDS = {
    "job_id": "ArrayJobID",
    "tasks": "ArrayTaskID",
    "state": "State",
    "user": "UserName",
    "partition": "Partition",
    "submit": "SubmitTime",
    "start": "StartTime",
    "end": "EndTime",
    "time_limit": "TimeLimit",
    "reason": "Reason",
    "restarts": "RestartCnt",
    "exit": "exit_code",
    "nodes": "NodeList",
    "name": "Name",
}
_ACCOUNT_FIELDS = {
    "job_id": "JobID",
    "state": "State",
    "user": "User",
    "partition": "Partition",
    "submit": "Submit",
    "start": "Start",
    "end": "End",
    "time_limit": "Timelimit",
    "reason": "Reason",
    "exit": "ExitCode",
    "nodes": "NodeList",
    "name": "JobName",
}
_TASKS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")
MOST_TASKS = 4_000_001  # of an array: what Slurm itself allows
MOST_T = 2.0**40  # of a time in seconds; what is beyond, no calendar has
MOST_DIGITS = 18  # of a number; int() of thousands takes long, or refuses
_SHOWN_KEY = re.compile(r"(?:^| )([A-Z][A-Za-z0-9_/:.&]*)=")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job, or one task of an array, as Slurm has it; empty or None: not said."""

    job_id: str  # the array's own id for each of its tasks
    array_task: int | None = None
    name: str = ""
    state: str = ""  # Slurm's word: "PENDING", "OUT_OF_MEMORY"
    reason: str = ""  # why it waits, or ended: "Priority", "JobHeldUser"
    nodes: str = ""
    submit_t: float | None = None
    start_t: float | None = None  # expected, if it waits
    end_t: float | None = None  # expected, if it runs
    time_limit_s: int | None = None
    partition: str = ""
    exit_code: int = 0
    exit_signal: int = 0
    restarts: int | None = None  # accounts do not say
    user: str = ""

    @property
    def label(self) -> str:
        """Return the name that Slurm's commands take: "123", or "123_4" for a task of an array."""
        return self.job_id if self.array_task is None else f"{self.job_id}_{self.array_task}"

    @property
    def is_held(self) -> bool:
        """Whether it waits until somebody releases it."""
        return self.state in WAITING and (self.state in _HELD_STATES or bool(_HELD.match(self.reason)))

    @property
    def is_held_by_slurm(self) -> bool:
        """Whether Slurm itself holds it, as a node could not start it, or as it went back to the queue too often."""
        return self.state in WAITING and bool(_HELD_BY_SLURM.match(self.reason))


def is_over(state: str) -> bool:
    """Return whether a record in this state has ended for good; of a state never heard of, it has not."""
    return state in OVER


def queued(*, user: str = "", name: str = "", all_users: bool = False, timeout_s: float = 20.0) -> list[Job]:
    """Return the jobs the controller remembers, waiting, running and those that ended in the last minutes.

    Each task of an array is a job of its own, those that wait too. The controller forgets after MinJobAge (300 s).

    Args:
        user: whose jobs; "": one's own.
        name: only jobs of this very name.
        all_users: everybody's.
        timeout_s: how long to wait.

    Raises:
        SlurmError: squeue failed.
    """
    columns = ",".join(f"{field}:{SEPARATOR}" for field in _QUEUE_FIELDS.values())
    # No --array: of tasks that wait in even steps ("5-17:12") it leaves out the last.
    argv = ["squeue", "--all", "--noheader", "--states=all", f"--Format={columns}"]
    argv += [] if all_users else [f"--user={user or os.getuid()}"]
    argv += [f"--name={name}"] if name else []
    found = _jobs(run(argv, timeout_s=timeout_s), fields=_QUEUE_FIELDS)
    return [job for job in found if not name or job.name == name]


def accounted(
    job_ids: Sequence[str], *, names: Sequence[str] = (), since_t: float | None = None, timeout_s: float = 20.0
) -> list[Job]:
    """Return the records of the accounts, oldest first: a job that was requeued has one for each of its starts.

    Args:
        job_ids: "123" (of an array: all tasks) or "123_4"; empty: any.
        names: only jobs of these names; empty: any. At least one of the two must be given. Without ids, what has been
            held all its life is not among them, nor are tasks that wait for others of their array.
        since_t: unix seconds; leave out what ended before, as ids are used again after years; None: all.
        timeout_s: how long to wait.

    Raises:
        SlurmError: sacct failed; `no_accounting` where the cluster keeps no accounts.
    """
    assert job_ids or names, "all of the accounts is too much"
    argv = ["sacct", "--allocations", "--duplicates", "--noheader", "--parsable2", f"--delimiter={SEPARATOR}"]
    argv += [f"--format={','.join(_ACCOUNT_FIELDS.values())}", f"--starttime={_start_text(since_t)}"]
    argv += [f"--jobs={','.join(job_ids)}"] if job_ids else [f"--user={os.getuid()}"]
    argv += [f"--name={','.join(names)}"] if names else []
    found = _jobs(run(argv, timeout_s=timeout_s), fields=_ACCOUNT_FIELDS)
    return sorted(found, key=lambda job: (job.submit_t or 0.0, job.start_t or float("inf")))


def show(job_id: str, array_task: int | None = None, *, timeout_s: float = 20.0) -> dict[str, str]:
    """Return what the controller knows of a job, under Slurm's own names; empty if it knows it no more.

    Of an array without `array_task`, the first record that Slurm shows. Times are unix seconds.

    Raises:
        SlurmError: scontrol failed for another reason.
    """
    label = job_id if array_task is None else f"{job_id}_{array_task}"
    try:
        text = run(["scontrol", "show", "job", "--oneliner", label], timeout_s=timeout_s)
    except SlurmError as error:
        if error.kind == "refused" and re.search("Invalid job id|not found", str(error)):
            return {}
        raise
    line = text.strip().partition("\n")[0]
    return key_values(line) if line.startswith("JobId=") else {}


def has_ended(job_id: str, array_task: int | None, *, restart: int, timeout_s: float = 20.0) -> bool:
    """Return whether the start number `restart` of a job is over: the job has ended, or waits, or was started again.

    While it is being ended it is not over: it may still be writing.

    Raises:
        SlurmError: Slurm does not say.
    """
    shown = show(job_id, array_task, timeout_s=timeout_s)
    if not shown:
        return True  # forgotten, which no job is that may still run
    state, restarts = shown.get("JobState", ""), whole(shown.get("Restarts", ""))
    is_later = restarts is not None and restarts > restart and state != "COMPLETING"
    return is_later or is_over(state) or state == "PENDING"


def key_values(line: str) -> dict[str, str]:
    """Return the pairs of a line "Key=value Key=value …" as scontrol writes it; values may hold blanks."""
    marks = list(_SHOWN_KEY.finditer(line))
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    pairs: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        # The first of a name counts: a path or a comment, which may hold any, stands near the end.
        pairs.setdefault(mark[1], line[mark.end() : end].strip())
    return pairs


def array_tasks(text: str) -> list[int | None]:
    """Return the tasks that "5", "5-20%4", "1,3,7-9" or "0-30:10" stand for; [None] for what is no array."""
    tasks: list[int | None] = []
    for part in text.partition("%")[0].split(","):
        match = _TASKS.fullmatch(part.strip())
        if match:
            first = int(match[1])
            found = range(first, int(match[2] or first) + 1, max(int(match[3] or 1), 1))
            tasks += found[: MOST_TASKS - len(tasks)]
    return tasks or [None]


def label_of(job_id: str, tasks: Collection[int]) -> str:
    """Return the one name of several tasks of an array that Slurm's commands take, such as "12_[0-2,5]"."""
    parts: list[list[int]] = []
    for task in sorted(tasks):
        if parts and task == parts[-1][-1] + 1:
            parts[-1][1:] = [task]
        else:
            parts.append([task])
    text = ",".join("-".join(map(str, part)) for part in parts)
    return f"{job_id}_{text}" if len(tasks) == 1 else f"{job_id}_[{text}]"


def whole(text: str) -> int | None:
    """Return the number that decimal digits give, None for anything else."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None


def _jobs(text: str, *, fields: Mapping[str, str]) -> Iterator[Job]:
    """Yield what each line stands for; pieces of a name with a line break in it are passed over."""
    for line in text.split("\n"):
        values = line.split(SEPARATOR, maxsplit=len(fields) - 1)
        if len(values) == len(fields):
            values[-1] = values[-1].removesuffix(SEPARATOR)
            row = dict(zip(fields, values, strict=True))
            job_id, _, tasks = row["job_id"].partition("_")
            for task in array_tasks(row.get("tasks", tasks.strip("[]"))):
                yield _job(row, job_id=job_id, array_task=task)


def _job(row: Mapping[str, str], *, job_id: str, array_task: int | None) -> Job:
    code, number = _exit(row["exit"])
    return Job(
        job_id=job_id,
        array_task=array_task,
        name=row["name"],
        state=row["state"].partition(" ")[0],  # "CANCELLED by 1000"
        reason=_word(row["reason"]),
        nodes=_word(row["nodes"]),
        submit_t=unix_time(row["submit"]),
        start_t=unix_time(row["start"]),
        end_t=unix_time(row["end"]),
        time_limit_s=time_s(row["time_limit"]),
        partition=row["partition"],
        exit_code=code,
        exit_signal=number,
        restarts=whole(row.get("restarts", "")),
        user=row["user"],
    )


def unix_time(text: str) -> float | None:
    """Return a time of Slurm's in unix seconds; None for "N/A", "Unknown" and the like."""
    with suppress(ValueError):
        found = float(text)
        return found if abs(found) < MOST_T else None
    with suppress(ValueError, OverflowError):  # a command that heeds no SLURM_TIME_FORMAT writes local time
        return datetime.fromisoformat(text).timestamp()
    return None


def _start_text(since_t: float | None) -> str:
    """Return the start of the accounts' window; without one sacct takes last midnight where no ids are given."""
    # A time still to come, as another machine's clock may give it, is refused.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(min(since_t or 0, time.time())))


def _word(text: str) -> str:
    return "" if text in ("None", "N/A", "(null)", "None assigned") else text


def _exit(text: str) -> tuple[int, int]:
    """Return exit code and signal from "3:0", or from the status that the system call wait gives, "768"."""
    code, number = (whole(part) for part in (text.partition(":")[0], text.partition(":")[2]))
    if code is not None and number is not None:
        return code, number
    return (code or 0) >> 8 & 0xFF, (code or 0) & 0x7F
