"""Finds the node's scratch and makes sure that it is ours and takes what we write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from band.errors import StageError
from band.files import write_atomic
from band.run_dir import ScratchDir, SweepDir

PROBE_BYTES = 64 * 1024


def find_scratch(sweep: SweepDir) -> tuple[ScratchDir, str]:
    """Return where to write on this node, and why that is the shared home; "" where it is scratch.

    Raises:
        OSError: neither can be written.
    """
    scratch = ScratchDir.from_environment()
    try:
        prepare(scratch)
        return scratch, ""
    except (OSError, StageError) as error:
        home = home_scratch(sweep)
        prepare(home)
        return home, f"scratch {scratch.path} cannot be used: {error}"


def home_scratch(sweep: SweepDir) -> ScratchDir:
    """Return the folder in the sweep that takes the place of a scratch that cannot be used."""
    return ScratchDir(sweep.path / ".scratch")


def prepare(scratch: ScratchDir) -> None:
    """Make the folder where it is missing, and probe it by writing.

    Raises:
        StageError: it is a link, or others own it or may write in it.
        OSError: it cannot be made or written, or is full.
    """
    scratch.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        scratch.path.mkdir(mode=0o700)
    except FileExistsError:
        _check_owner(scratch.path)
    scratch.data.mkdir(exist_ok=True)
    probe = scratch.path / f".probe.{os.getpid()}"
    try:
        write_atomic(probe, bytes(PROBE_BYTES))
    finally:
        probe.unlink(missing_ok=True)


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise StageError(f"{path} must be a folder, not a link or file; remove it or set BAND_SCRATCH")
    if status.st_uid != os.getuid():
        raise StageError(f"{path} must belong to you, but belongs to user {status.st_uid}; set BAND_SCRATCH")
    if status.st_mode & 0o022:
        raise StageError(f"{path} must not be writable by others; chmod go-w it, or set BAND_SCRATCH")
