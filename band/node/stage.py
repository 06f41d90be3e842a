"""Brings a dataset to the node: one verified copy by content, however many tasks start together, kept while in use."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.errors import BandError, StageError
from band.files import canonical_json, copy_verified, read_json, sha256_file, write_atomic
from band.node.scratch import reserve
from band.run_dir import ScratchDir, check_name

FILE_NAME = "recording.h5"
STAMP_NAME = "verified.json"
POLL_S = 0.1
DEFAULT_MAX_BYTES = 200 * 2**30


class Interrupted(Exception):
    """The wait for another task's copy was broken off because this one shall stop."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A dataset to read from."""

    path: Path
    copied: bool  # whether this call made the copy
    fallback: str = ""  # why it is read from home; empty where it is not


@contextlib.contextmanager
def staged(
    dataset: Mapping[str, Any],
    *,
    scratch: ScratchDir | None,
    max_bytes: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Staged]:
    """Hold a lease on the node's copy of a dataset, making the copy if it is the first to need it.

    Args:
        dataset: "path", "file_digest" (sha256 of the file) and "size_bytes", as in a task file.
        scratch: the node's scratch; None: read from home.
        max_bytes: size that the copies on this scratch are kept under where leases allow; None: `default_max_bytes`.
        should_stop: asked while another task makes the copy.

    Raises:
        StageError: the file is missing, or is not the one that the sweep was generated for.
        Interrupted: `should_stop` said so.
    """
    with contextlib.ExitStack() as stack:
        result: Staged | None = None
        if scratch is None:
            result = _from_home(dataset, reason="there is no scratch")
        else:
            try:
                result = _lease(stack, dataset=dataset, scratch=scratch, max_bytes=max_bytes, should_stop=should_stop)
            except (OSError, BandError) as error:
                result = _from_home(dataset, reason=f"no copy on scratch {scratch.path}: {error}")
        yield result


def default_max_bytes(scratch: ScratchDir) -> int:
    """Return $BAND_SCRATCH_MAX_BYTES, or 200 GiB, or half of the disk if that is less."""
    given = os.environ.get("BAND_SCRATCH_MAX_BYTES", "")
    if given.isdecimal():
        return int(given)
    return min(DEFAULT_MAX_BYTES, shutil.disk_usage(scratch.path).total // 2)


def evict(scratch: ScratchDir, *, max_bytes: int) -> list[str]:
    """Remove copies that nobody leases, least recently used first, until the rest is within `max_bytes`.

    Returns:
        Digests of what was removed.
    """
    sizes = {path.name: _size(path) for path in scratch.data.iterdir() if path.is_dir()}
    total, removed = sum(sizes.values()), []
    for digest in sorted(sizes, key=lambda digest: _last_use(scratch, digest=digest)):
        if total <= max_bytes:
            break
        with _open_lock(scratch, digest=digest) as lock:
            if _try_lock(lock, how=fcntl.LOCK_EX):
                shutil.rmtree(scratch.data / digest, ignore_errors=True)
                total -= sizes[digest]
                removed.append(digest)
    return removed


def _from_home(dataset: Mapping[str, Any], *, reason: str) -> Staged:
    path = Path(dataset["path"])
    try:
        found = sha256_file(path)
    except FileNotFoundError:
        raise StageError(
            f"{path} is missing; put the recording back, or correct data.path and generate again"
        ) from None
    except (BandError, OSError) as error:
        raise StageError(f"{path} cannot be read: {error}") from None
    if found != dataset["file_digest"]:
        raise StageError(
            f"{path} is not the recording that the sweep was generated for; generate it again if it is meant"
        )
    return Staged(path=path, copied=False, fallback=reason)


def _lease(
    stack: contextlib.ExitStack,
    *,
    dataset: Mapping[str, Any],
    scratch: ScratchDir,
    max_bytes: int | None,
    should_stop: Callable[[], bool],
) -> Staged:
    digest = check_name(dataset["file_digest"], what="dataset digest")
    lock = stack.enter_context(_open_lock(scratch, digest=digest))
    folder = scratch.dataset(digest)
    copied = False
    while True:
        # Both in turn: who waits for the exclusive lock alone would wait until the task that made the copy has trained.
        if _try_lock(lock, how=fcntl.LOCK_SH):
            if _is_verified(folder, digest=digest):
                os.utime(lock)
                return Staged(path=folder / FILE_NAME, copied=copied)
            fcntl.flock(lock, fcntl.LOCK_UN)
        if not _try_lock(lock, how=fcntl.LOCK_EX):
            if should_stop():
                raise Interrupted
            time.sleep(POLL_S)
        elif not _is_verified(folder, digest=digest):
            limit = default_max_bytes(scratch) if max_bytes is None else max_bytes
            _make_copy(dataset, folder=folder, scratch=scratch, max_bytes=limit)
            copied = True
        # Exchanging the lock for a shared one lets go of it for a moment, so the copy is looked at once more.


def _make_copy(dataset: Mapping[str, Any], *, folder: Path, scratch: ScratchDir, max_bytes: int) -> None:
    folder.mkdir(exist_ok=True)
    for leftover in folder.iterdir():
        leftover.unlink()
    evict(scratch, max_bytes=max_bytes - int(dataset["size_bytes"]))
    try:
        _copy_in(dataset, folder=folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        evict(scratch, max_bytes=0)
        _copy_in(dataset, folder=folder)
    write_atomic(folder / STAMP_NAME, canonical_json(_stamp(folder / FILE_NAME)))


def _copy_in(dataset: Mapping[str, Any], *, folder: Path) -> None:
    reserve(folder, size_bytes=int(dataset["size_bytes"]))  # rather than find out after an hour of copying
    copy_verified(Path(dataset["path"]), folder / FILE_NAME, sha256=dataset["file_digest"])


def _stamp(path: Path) -> list[int]:
    status = path.lstat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _is_verified(folder: Path, *, digest: str) -> bool:
    """Return whether the copy is there as it was when verified; if it was touched since, its content decides."""
    path = folder / FILE_NAME
    try:
        return bool(read_json(folder / STAMP_NAME) == _stamp(path)) or sha256_file(path) == digest
    except (OSError, BandError):
        return False


def _size(folder: Path) -> int:
    """Return what a copy takes, or what a task has left of one that was killed while it copied."""
    try:
        return sum(path.lstat().st_size for path in folder.iterdir() if path.name != STAMP_NAME)
    except OSError:
        return 0


def _last_use(scratch: ScratchDir, *, digest: str) -> float:
    try:
        return _lock_path(scratch, digest=digest).lstat().st_mtime
    except OSError:
        return 0.0


def _lock_path(scratch: ScratchDir, *, digest: str) -> Path:
    # Beside the folder and never removed: a lock on a removed file would hold nothing.
    return scratch.data / f"{digest}.lock"


@contextlib.contextmanager
def _open_lock(scratch: ScratchDir, *, digest: str) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(_lock_path(scratch, digest=digest), flags, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _try_lock(lock: int, *, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
