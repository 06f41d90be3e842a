"""What earlier attempts at the task left on this node or on the way home: published, continued from, then swept up."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from band.attempts import ended_here, read_claim
from band.errors import BandError
from band.node.checkpoints import Checkpoints
from band.node.job import Job, Task, read_task
from band.node.publish import Publisher, is_published, outcome_of, publish_incoming
from band.node.scratch import home_scratch
from band.node.stage import evict
from band.run_dir import RESULT


def leftovers(job: Job) -> list[Path]:
    """Return the work folders of the task on this node, this attempt's own among them."""
    found = []
    for scratch in {job.scratch.path: job.scratch, home_scratch(job.sweep).path: home_scratch(job.sweep)}.values():
        with suppress(OSError):
            found += [path for path in scratch.sweep_work(job.sweep).iterdir() if _is_of(job, path)]
    return sorted(found)


def _is_of(job: Job, path: Path) -> bool:
    return path.name.partition(".")[0] == job.task.name and path.is_dir() and not path.is_symlink()


def _needless(job: Job) -> list[Path]:
    """Return the work folders on this node of other tasks whose runs are all published, and that nobody works in."""
    found = []
    with suppress(OSError):
        for path in job.scratch.sweep_work(job.sweep).iterdir():
            if not _is_of(job, path):
                with suppress(BandError, OSError):  # then nobody knows what is in it
                    task = read_task(job.sweep.task(path.name.partition(".")[0]).task_json)
                    if all(is_published(job.sweep, run) for run in task.run_ids) and not _is_held(task, path):
                        found.append(path)
    return found


def _is_held(task: Task, work: Path) -> bool:
    """Return whether the attempt that works in a folder on this node holds its task and may be alive."""
    claim = read_claim(task.path.parent)
    if claim is None or claim.is_released or claim.attempt.name != work.name.partition(".")[2]:
        return False
    return not ended_here(claim)


def salvage(job: Job, *, publisher: Publisher, checkpoints: Checkpoints) -> list[Path]:
    """Publish every finished run that an earlier attempt left, find its checkpoints, and return what was looked at."""
    _publish_incoming(job, publisher=publisher)
    found = leftovers(job)
    for leftover in found:
        with suppress(FileNotFoundError):  # swept up meanwhile by another task, as needless
            for part in sorted(path for path in leftover.iterdir() if path.is_dir() and not path.is_symlink()):
                checkpoints.look_at(part)
                for run in finished_runs(part):
                    if run.name in job.task.run_ids and not is_published(job.sweep, run.name):
                        publisher.add(run.name, folder=run)
    return found


def finished_runs(part: Path) -> list[Path]:
    """Return the sealed run folders in a trainer's folder."""
    try:
        return sorted(path for path in (part / "runs").iterdir() if (path / RESULT).is_file())
    except OSError:
        return []


def _publish_incoming(job: Job, *, publisher: Publisher) -> None:
    for run_id in job.task.run_ids:
        for folder, attempt in _incoming(job, run_id=run_id):
            with suppress(OSError):
                done = publish_incoming(folder, sweep=job.sweep, run_id=run_id, attempt=attempt)
                if done is not None:
                    publisher.done.add(run_id)
                    job.reporter.report(done[0], run=run_id, outcome=outcome_of(done[1]))


def _incoming(job: Job, *, run_id: str) -> list[tuple[Path, str]]:
    """Return the folders in which a run is on its way in, each with the name of its attempt (which has no dot)."""
    pairs = [(path, path.name[len(run_id) + 1 :]) for path in sorted(job.sweep.incoming.glob(f"{run_id}.*"))]
    return [(path, attempt) for path, attempt in pairs if attempt and "." not in attempt]


def sweep_up(job: Job, found: list[Path]) -> None:
    """Remove the task's work folders on this node; the caller knows that all in them is at home.

    So are those of tasks that came to their ends elsewhere, after an attempt here was cut off.

    Args:
        job: the attempt.
        found: the folders that `salvage` looked at. Those that are new since are of attempts that have taken over.
    """
    for leftover in [*found, *_needless(job)]:
        shutil.rmtree(leftover, ignore_errors=True)
    if job.is_volatile:
        with suppress(OSError):
            evict(job.scratch, max_bytes=0)  # no other job will find it there
    for scratch in (job.scratch, home_scratch(job.sweep)):
        with suppress(OSError):
            folder = scratch.sweep_work(job.sweep)
            folder.rmdir()
            folder.parent.rmdir()
    for run_id in job.task.run_ids:
        if is_published(job.sweep, run_id):
            for folder, _ in _incoming(job, run_id=run_id):
                shutil.rmtree(folder, ignore_errors=True)
