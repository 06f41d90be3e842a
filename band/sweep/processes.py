"""Whether the process behind a claim is alive on this machine, and how to ask it to stop."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from band.attempts import Attempt, Claim, read_claim
from band.errors import BandError


def held_claim(folder: Path) -> Claim | None:
    """Return the claim on a folder whose attempt may be alive: not released, and not known here to have ended."""
    try:
        claim = read_claim(folder)
    except (FileNotFoundError, BandError):
        return None
    if claim is None or claim.is_released or claim.attempt.has_ended_here():
        return None
    return claim


def is_here(attempt: Attempt) -> bool:
    """Return whether an attempt belongs to this machine, since this boot, with process ids that mean the same here."""
    current = Attempt.current()
    same = (current.host, current.boot_id, current.pid_namespace)
    return (attempt.host, attempt.boot_id, attempt.pid_namespace) == same


def ask_to_stop(attempt: Attempt) -> bool:
    """Send SIGTERM to the process of an attempt; return whether it is on this machine and was there to get it."""
    if not is_here(attempt) or attempt.has_ended_here():
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.kill(attempt.pid, signal.SIGTERM)
        return True
    return False
