"""Who tries a task, and which one attempt holds it."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from band.errors import BandError, ClaimError
from band.files import canonical_json, create_exclusive, read_json_object

_CLAIM = re.compile(r"claim\.([0-9]{1,9})\.json")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a task: the process that makes it and, inside a Slurm job, (job, array task, restart count)."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int  # since boot: tells two processes of the same id apart
    job_id: str = ""  # the array's own job id; empty outside Slurm
    array_task: int | None = None
    restart: int = 0

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> Attempt:
        """Return the attempt that this process is."""
        job_id = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID") or ""
        array_task = environment.get("SLURM_ARRAY_TASK_ID", "")
        restart = environment.get("SLURM_RESTART_COUNT", "")
        state = _process_state(os.getpid())
        return cls(
            host=os.uname().nodename,
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
            pid=os.getpid(),
            start_ticks=state[1] if state else 0,
            job_id=job_id if job_id.isdecimal() else "",
            array_task=int(array_task) if array_task.isdecimal() else None,
            restart=int(restart) if restart.isdecimal() else 0,
        )

    @property
    def name(self) -> str:
        """The attempt as it stands in file names: no dot in it."""
        if self.job_id:
            task = "" if self.array_task is None else f"_{self.array_task}"
            return f"j{self.job_id}{task}-r{self.restart}"
        host = re.sub(r"[^A-Za-z0-9]+", "-", self.host)[:32].strip("-") or "host"
        return f"{host}-{self.boot_id[:8]}-{self.pid}-{self.start_ticks}"

    def is_restart_of(self, older: Attempt) -> bool:
        """Return whether Slurm started this attempt after `older` had ended: same array task, higher count."""
        same = self.job_id != "" and (self.job_id, self.array_task) == (older.job_id, older.array_task)
        return same and self.restart > older.restart

    def has_ended_here(self) -> bool:
        """Return whether this machine knows that the attempt's process is gone; False where it cannot know."""
        if self.host != os.uname().nodename:
            return False
        if self.boot_id != _boot_id():
            return True
        if self.pid_namespace != _pid_namespace():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        state = _process_state(self.pid)
        return state is not None and (state[0] in "ZX" or state[1] != self.start_ticks)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def _pid_namespace() -> str:
    return re.sub(r"[^0-9]", "", os.readlink("/proc/self/ns/pid"))


def _process_state(pid: int) -> tuple[str, int] | None:
    """Return the state letter and start time in ticks of a process, None where it cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    return None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An attempt's hold on a task: the file `claim.N.json` of the highest number N in the task's folder.

    Taking over from claim N is the exclusive creation of N+1, and the highest number is never deleted; so of two that
    take over at once one fails, and a file that a slow attempt creates from an old listing is below the highest.
    """

    folder: Path
    number: int
    attempt: Attempt
    t: float  # unix seconds
    is_released: bool = False

    @property
    def path(self) -> Path:
        """The file that holds it."""
        return _claim_path(self.folder, number=self.number)

    def still_mine(self) -> bool:
        """Return whether no other attempt has taken the task since; OSError where the folder cannot be read."""
        return _highest(self.folder) == self.number

    def release(self) -> None:
        """Say that the task is free, unless another attempt has taken it; OSError where that cannot be written."""
        released = dataclasses.replace(self, number=self.number + 1, t=time.time(), is_released=True)
        if create_exclusive(released.path, _claim_bytes(released)):
            _remove_below(self.folder, number=released.number)


def _claim_path(folder: Path, *, number: int) -> Path:
    return folder / f"claim.{number}.json"


def _claim_bytes(claim: Claim) -> bytes:
    values = {"attempt": dataclasses.asdict(claim.attempt), "t": claim.t, "is_released": claim.is_released}
    return canonical_json({**values, "name": claim.attempt.name})


def _claim_numbers(folder: Path) -> list[int]:
    return [int(match[1]) for name in os.listdir(folder) if (match := _CLAIM.fullmatch(name))]


def _highest(folder: Path) -> int:
    return max(_claim_numbers(folder), default=-1)


def _remove_below(folder: Path, *, number: int) -> None:
    for older in _claim_numbers(folder):
        if older < number:
            with suppress(OSError):
                os.unlink(_claim_path(folder, number=older))


def read_claim(folder: Path) -> Claim | None:
    """Return the newest claim on the task of that folder, which may be a released one; None if there never was one.

    Raises:
        BandError: the claim file is damaged.
        OSError: the folder cannot be read.
    """
    for _ in range(100):
        number = _highest(folder)
        if number < 0:
            return None
        path = _claim_path(folder, number=number)
        try:
            values = read_json_object(path)
        except FileNotFoundError:
            continue  # a higher one has come in its place
        try:
            attempt = Attempt(**values["attempt"])
            return Claim(
                folder=folder, number=number, attempt=attempt, t=values["t"], is_released=values["is_released"]
            )
        except (KeyError, TypeError) as error:
            raise BandError(f"{path} is no claim ({error}); if no attempt at this task is alive, delete it") from None
    raise ClaimError(f"the claims in {folder} change too fast to be read; try again")


def ended_here(claim: Claim) -> bool:
    """Return whether this machine knows that the attempt of a claim is over (for `take`)."""
    return claim.attempt.has_ended_here()


def take(folder: Path, *, attempt: Attempt, is_over: Callable[[Claim], bool] = ended_here) -> Claim:
    """Claim the task of that folder for `attempt`.

    Args:
        folder: the task's folder; it exists.
        attempt: who takes it.
        is_over: whether the attempt of an older claim has ended, as the scheduler says; False where unknown.

    Raises:
        ClaimError: another attempt holds it that may be alive, or was faster.
        OSError: the folder cannot be written.
    """
    older = read_claim(folder)
    if older is not None and not _may_follow(attempt, older=older, is_over=is_over):
        held = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(older.t))
        raise ClaimError(
            f"task {folder.name} is held by attempt {older.attempt.name} on {older.attempt.host} since {held}, "
            f"which may still be alive; once it has ended for certain, delete {older.path}"
        )
    number = 0 if older is None else older.number + 1
    claim = Claim(folder=folder, number=number, attempt=attempt, t=time.time())
    is_first = create_exclusive(claim.path, _claim_bytes(claim))
    if is_first and not claim.still_mine():
        claim.path.unlink(missing_ok=True)  # made from an old listing: a higher number is there, whose holder tidies up
        is_first = False
    if not is_first:
        raise ClaimError(f"task {folder.name} was taken by another attempt at this moment")
    _remove_below(folder, number=claim.number)
    return claim


def release_for(folder: Path, *, is_over: Callable[[Claim], bool] = ended_here) -> bool:
    """Give a task back on behalf of an attempt that is over; return whether nobody holds it now.

    Args:
        folder: the task's folder.
        is_over: whether the attempt of a claim has ended, as the scheduler says; False where unknown.

    Raises:
        BandError: the claim file is damaged.
        OSError: the folder cannot be read or written.
    """
    claim = read_claim(folder)
    if claim is not None and not claim.is_released and is_over(claim):
        claim.release()  # the exclusive creation of the next number: an attempt that takes it at this moment wins
        claim = read_claim(folder)
    return claim is None or claim.is_released


def _may_follow(attempt: Attempt, *, older: Claim, is_over: Callable[[Claim], bool]) -> bool:
    free = older.is_released or older.attempt == attempt or attempt.is_restart_of(older.attempt)
    return free or is_over(older)
