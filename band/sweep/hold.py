"""The hold on a sweep's submissions: one process at a time changes what Slurm has of the sweep."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from band.attempts import Attempt, Claim, ended_here, take
from band.errors import ClaimError
from band.files import read_json_object
from band.run_dir import SweepDir
from band.slurm import jobs
from band.slurm.command import SlurmError
from band.sweep.journal import JOURNAL
from band.sweep.ledger import RECEIPT

STALE_S = 600.0  # a submission on another machine that has held, and noted nothing, for that long is taken for dead
POLL_S = 0.5


@contextmanager
def hold(sweep: SweepDir, *, wait_s: float = 0.0) -> Iterator[Claim]:
    """Hold the submissions of a sweep for the block.

    Whoever holds looks at `claim.still_mine()` before each request to Slurm: a process that was taken for dead stops
    there when it wakes up, and what it queued before was held.

    Args:
        sweep: the sweep's folder.
        wait_s: how long to wait for another holder.

    Raises:
        ClaimError: another process holds them.
        OSError: the folder cannot be written.
    """
    sweep.submissions.mkdir(parents=True, exist_ok=True)
    claim = _take(sweep, wait_s=wait_s)
    try:
        yield claim
    finally:
        claim.release()


def _take(sweep: SweepDir, *, wait_s: float) -> Claim:
    deadline = time.monotonic() + wait_s
    attempt = Attempt.current()
    while True:
        try:
            return take(sweep.submissions, attempt=attempt, is_over=lambda claim: _is_over(sweep, claim))
        except ClaimError as error:
            if time.monotonic() > deadline:
                raise ClaimError(f"{sweep.name} is being submitted or worked on by another process: {error}") from None
            time.sleep(POLL_S)


def _is_over(sweep: SweepDir, claim: Claim) -> bool:
    if ended_here(claim) or slurm_says_over(claim.attempt):
        return True
    if claim.attempt.job_id or _is_local_queue(sweep, claim):
        return False
    noted = [claim.t]
    with suppress(OSError):
        noted += [path.stat().st_mtime for path in sweep.submissions.glob(f"[0-9]*/{JOURNAL}")]
    return time.time() - max(noted) > STALE_S


def _is_local_queue(sweep: SweepDir, claim: Claim) -> bool:
    for path in sweep.submissions.glob(f"[0-9]*/{RECEIPT}"):
        with suppress(OSError):
            if read_json_object(path).get("attempt") == claim.attempt.name:
                return True
    return False


def slurm_says_over(attempt: Attempt) -> bool:
    """Return whether Slurm says that an attempt made in one of its jobs is over; False where it does not say."""
    if not attempt.job_id:
        return False
    try:
        return jobs.has_ended(attempt.job_id, attempt.array_task, restart=attempt.restart)
    except SlurmError:
        return False
