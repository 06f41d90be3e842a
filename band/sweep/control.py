"""Cancelling and retrying: requests in the ledger, and signals to what runs here."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterable, Sequence

from band.errors import SweepError
from band.run_dir import SweepDir
from band.sweep.fold import by_task
from band.sweep.ledger import record
from band.sweep.local import queue_claim
from band.sweep.manifest import Manifest
from band.sweep.processes import ask_to_stop, held_claim
from band.sweep.status import Survey

POLL_S = 0.2
NOT_OVER = ("running", "interrupted", "queued", "held", "planned", "unsynced", "lost", "new")


def match_runs(manifest: Manifest, patterns: Sequence[str]) -> list[str]:
    """Return the ids that patterns name, in the order of the manifest: whole ids, unique beginnings, or * and ?.

    Raises:
        SweepError: a pattern names no run, or is the beginning of several.
    """
    ids = [run.id for run in manifest.runs]
    known, chosen = set(ids), set()
    for pattern in patterns:
        if pattern in known:
            chosen.add(pattern)
            continue
        is_glob = any(character in pattern for character in "*?[")
        found = fnmatch.filter(ids, pattern) if is_glob else [run for run in ids if run.startswith(pattern)]
        if not found:
            raise SweepError(
                f"no run of {manifest.name} is named {pattern!r}; `band-sweep status {manifest.name} --runs` lists them"
            )
        if len(found) > 1 and not is_glob:
            raise SweepError(
                f"{pattern!r} begins {len(found)} run ids ({found[0]}, {found[1]} …); give more of it, or {pattern}*"
            )
        chosen.update(found)
    return [run for run in ids if run in chosen]


def cancel(sweep: SweepDir, survey: Survey, *, runs: Iterable[str]) -> list[str]:
    """Mark runs that are not over as cancelled, and ask the tasks that train them to checkpoint and stop.

    A live queue does the asking, and goes on with the members that were not cancelled.

    Returns:
        The ids that were marked.
    """
    marked = [run for run in runs if survey.runs[run].state in NOT_OVER]
    if not marked:
        return []
    record(sweep, "cancel", runs=marked)
    if queue_claim(sweep) is None:
        for task in {survey.runs[run].task for run in marked if survey.runs[run].state == "running"}:
            claim = held_claim(sweep.task(task).path)
            if claim is not None:
                ask_to_stop(claim.attempt)
    return marked


def retry(sweep: SweepDir, survey: Survey, *, runs: Iterable[str]) -> list[str]:
    """Let failed and cancelled runs count as open again: the next submit, or the live queue's successor, takes them up.

    Returns:
        The ids whose marks were cleared.
    """
    cleared = [run for run in runs if survey.runs[run].state in ("failed", "cancelled")]
    if not cleared:
        return []
    attempts = by_task(survey.folds.values())
    failures = {}
    for run in cleared:
        status = survey.runs[run]
        past = attempts.get(status.task, [])
        failures[run] = [fold.stem for fold in past if fold.phases.get(run) == "failed"]
        if status.end or status.blamed:  # what Slurm did to its last job shall not count any more either
            failures[run].append(f"{status.task}.{status.job}")
    record(sweep, "retry", runs=cleared, failures=failures)
    return cleared


def stop_queue(sweep: SweepDir) -> bool:
    """Ask the live queue to start nothing more and to stop what runs; return whether there was one to ask."""
    claim = queue_claim(sweep)
    return claim is not None and ask_to_stop(claim.attempt)


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Poll `condition` until it holds; return False if it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
