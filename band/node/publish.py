"""Brings finished runs home: copied, verified, and published by one rename that refuses to replace."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from band.errors import BandError, PublishError
from band.files import copy_tree_verified, fsync_folder, look_anew, rename_exclusive, sha256_file
from band.node.job import Job
from band.run_dir import RESULT, SweepDir, manifest_digests, read_result, verify


def is_published(sweep: SweepDir, run_id: str) -> bool:
    """Return whether a run's folder is there with a result that is whole; its siblings are not read."""
    try:
        look_anew(sweep.runs)
        return _is_whole(sweep.run(run_id), run_id=run_id)
    except OSError:
        return False


def publish(finished: Path, *, sweep: SweepDir, run_id: str, attempt: str) -> tuple[str, dict[str, Any]]:
    """Copy a sealed run folder home, verify it there and publish it unless another attempt has.

    Args:
        finished: the sealed folder; it is left as it is.
        sweep: the sweep at home.
        run_id: the run it must be.
        attempt: name of the attempt that brings it.

    Returns:
        "published" (by this call or, with the same content, before) or "superseded", and its `result.json`.

    Raises:
        PublishError: `finished` is not sealed, damaged, or another run, or its copy does not read back as written.
        OSError: home cannot be written; calling again goes on where this broke off.
    """
    result = _checked(finished, run_id=run_id)
    if not _has_same(sweep, run_id=run_id, result=result):
        incoming = sweep.incoming_run(run_id, attempt=attempt)
        try:
            digests = {**manifest_digests(result), RESULT: sha256_file(finished / RESULT)}
            copy_tree_verified(finished, incoming, sha256=digests)
        except BandError as error:
            raise PublishError(str(error)) from None
        return _settle(incoming, sweep=sweep, run_id=run_id, attempt=attempt, result=result), result
    return "published", result


def publish_incoming(
    incoming: Path, *, sweep: SweepDir, run_id: str, attempt: str
) -> tuple[str, dict[str, Any]] | None:
    """Publish what an attempt that has ended left on its way in, if it is whole; as `publish`, None if it is not.

    Raises:
        OSError: home cannot be written.
    """
    try:
        result = _checked(incoming, run_id=run_id)
    except PublishError:
        return None
    return _settle(incoming, sweep=sweep, run_id=run_id, attempt=attempt, result=result), result


def outcome_of(result: dict[str, Any]) -> str | None:
    """Return the training outcome in a `result.json`: "ok", "diverged", or None where it says nothing."""
    training = result.get("training")
    return training.get("outcome") if isinstance(training, dict) else None


def _checked(folder: Path, *, run_id: str) -> dict[str, Any]:
    result = verify(folder)
    if result.get("run_id") != run_id:
        raise PublishError(f"{folder} holds run {str(result.get('run_id'))[:80]!r}, not {run_id}")
    return result


def _has_same(sweep: SweepDir, *, run_id: str, result: dict[str, Any]) -> bool:
    """Return whether the very same result is published, as after a crash between publishing and saying so."""
    try:
        return bool(verify(sweep.run(run_id))["digest"] == result["digest"])
    except PublishError:
        return False


def _is_whole(folder: Path, *, run_id: str) -> bool:
    """Return whether a run's result is what it says; OSError where it cannot be read now: then it is not judged."""
    try:
        return read_result(folder).get("run_id") == run_id
    except PublishError:
        return False


def _settle(incoming: Path, *, sweep: SweepDir, run_id: str, attempt: str, result: dict[str, Any]) -> str:
    target = sweep.run(run_id)
    while not rename_exclusive(incoming, target):
        look_anew(sweep.runs)
        if _has_same(sweep, run_id=run_id, result=result):
            shutil.rmtree(incoming, ignore_errors=True)
            return "published"
        if _is_whole(target, run_id=run_id):
            _set_aside(incoming, sweep=sweep, run_id=run_id, why=attempt)
            return "superseded"
        kept = _set_aside(target, sweep=sweep, run_id=run_id, why="damaged")
        if _is_whole(kept, run_id=run_id):
            rename_exclusive(kept, target)  # it has come in the place of the damaged one since we looked
    return "published"


def _set_aside(folder: Path, *, sweep: SweepDir, run_id: str, why: str) -> Path:
    """Move a folder to those that are kept, and return where it is then, unless somebody else has moved it."""
    sweep.superseded.mkdir(exist_ok=True)
    kept = sweep.superseded_run(run_id, attempt=why)
    if os.path.lexists(kept):
        kept = sweep.superseded_run(run_id, attempt=f"{why}-{secrets.token_hex(3)}")
    with suppress(FileNotFoundError):  # somebody else has set it aside or deleted it
        os.rename(folder, kept)
        fsync_folder(sweep.superseded)
    return kept


class Publisher:
    """Publishes the runs of one attempt, and keeps those that home refused until it takes them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._next_try = 0.0
        self.waiting: dict[str, Path] = {}  # finished, and not yet known to be at home
        self.done: set[str] = set()
        self.damaged: dict[str, str] = {}  # finished, but not what their manifest says
        self.refusal = ""  # why home did not take the last one; "" if it did

    def add(self, run_id: str, *, folder: Path, later: bool = False) -> None:
        """Take a finished run's sealed folder, and publish it now, if home lets us, unless there is no time for it."""
        self.damaged.pop(run_id, None)
        self.waiting[run_id] = folder
        self._next_try = 0.0
        if not later:
            self.flush()

    def flush(self) -> None:
        """Publish what waits, if it is time to try again."""
        if self.waiting and time.monotonic() >= self._next_try:
            for run_id, folder in list(self.waiting.items()):
                try:
                    self._publish(run_id, folder=folder)
                    self.refusal = ""
                except OSError as error:
                    self.refusal = str(error)
                    self._next_try = time.monotonic() + self._job.timing.retry_s
                    break

    def _publish(self, run_id: str, *, folder: Path) -> None:
        job = self._job
        try:
            state, result = publish(folder, sweep=job.sweep, run_id=run_id, attempt=job.attempt.name)
        except PublishError as error:
            self.damaged[run_id] = str(error)
            del self.waiting[run_id]
            return
        shutil.rmtree(folder, ignore_errors=True)
        del self.waiting[run_id]
        self.done.add(run_id)
        job.reporter.report(state, run=run_id, outcome=outcome_of(result))
