"""Cancelling and retrying: requests in the ledger, and signals to what runs here."""

from __future__ import annotations

import fnmatch
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from band.errors import SweepError
from band.run_dir import SweepDir
from band.slurm import command, jobs
from band.sweep.arrays import THROTTLE
from band.sweep.fold import by_task
from band.sweep.journal import read_journals
from band.sweep.ledger import record
from band.sweep.local import queue_claim
from band.sweep.manifest import Manifest
from band.sweep.processes import ask_to_stop, held_claim
from band.sweep.status import Survey
from band.sweep.submit import STAYS, leave_alone

POLL_S = 0.2
MOST_AT_ONCE = 500  # job ids of one command line
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
                f"{pattern!r} begins {len(found)} run ids ({found[0]}, {found[1]} …); "
                f"give more of it, or {shlex.quote(pattern + '*')}"
            )
        chosen.update(found)
    return [run for run in ids if run in chosen]


def cancel(sweep: SweepDir, survey: Survey, *, runs: Iterable[str]) -> list[str]:
    """Mark runs that are not over as cancelled, and ask the tasks that train them to checkpoint and stop.

    On this machine a live queue does the asking, and goes on with the members that were not cancelled. At Slurm a task
    of which nothing is left is cancelled, and any other told to look at what is left of it.

    Returns:
        The ids that were marked.

    Raises:
        SlurmError: Slurm does not answer; the runs are marked all the same.
    """
    marked = [run for run in runs if survey.runs[run].state in NOT_OVER]
    if not marked:
        return []
    record(sweep, "cancel", runs=marked)
    tasks = {survey.runs[run].task for run in marked}
    at_slurm = {task: survey.scheduled[task].job for task in tasks if task in survey.scheduled}
    _cancel_at_slurm(sweep, survey, elements={task: job for task, job in at_slurm.items() if job}, marked=set(marked))
    if queue_claim(sweep) is None:
        for task in {survey.runs[run].task for run in marked if survey.runs[run].state == "running"}:
            claim = held_claim(sweep.task(task).path)
            if claim is not None:
                ask_to_stop(claim.attempt)
    return marked


def _cancel_at_slurm(sweep: SweepDir, survey: Survey, *, elements: Mapping[str, str], marked: set[str]) -> None:
    """Cancel the jobs of tasks that have nothing left to train, and have the others leave the marked runs alone."""
    whole, part = [], []
    for task, job in sorted(elements.items()):
        members = [run for run in survey.ledger.tasks[task] if survey.runs[run].state != "published"]
        stays = [run for run in members if run in marked or survey.runs[run].state in STAYS]
        leave_alone(sweep, task, runs=stays)
        if len(stays) == len(members):
            whole.append(job)
        elif survey.scheduled[task].state == "running":
            part.append(job)
    for start in range(0, len(whole), MOST_AT_ONCE):
        command.run(["scancel", *whole[start : start + MOST_AT_ONCE]])
    for job in part:
        command.run(["scancel", "--signal=USR2", "--batch", job])


def throttle(sweep: SweepDir, *, tasks_at_once: int) -> list[str]:
    """Let so many array tasks of a sweep run at once from now on, in what is queued and what is yet to be sent.

    Several arrays share the number evenly.

    Args:
        sweep: the sweep's folder.
        tasks_at_once: 0: as many as the cluster lets.

    Returns:
        The ids of the arrays that Slurm changed.

    Raises:
        SlurmError: Slurm does not answer.
    """
    record(sweep, THROTTLE, options={"max_parallel": tasks_at_once}, scheduler="slurm")
    alive = {job.job_id for job in jobs.queued() if not jobs.is_over(job.state)}
    changed = [array.job_id for array in read_journals(sweep) if array.job_id in alive]
    share = max(tasks_at_once // len(changed), 1) if changed and tasks_at_once else 0
    for job in changed:
        command.run(["scontrol", "update", f"JobId={job}", f"ArrayTaskThrottle={share}"])
    return changed


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
