"""Whose a file or folder is, looked at before anything in it is trusted: pickled calls, libraries, sockets, scratch."""

from __future__ import annotations

import os
import stat
from pathlib import Path

WRITABLE_BY_OTHERS = 0o022
OPEN_TO_OTHERS = 0o077


def problem(path: Path, *, forbidden: int = WRITABLE_BY_OTHERS, is_roots_too: bool = False) -> str:
    """Return why what lies at `path` itself is not ours alone, "" where it is; a link never is, wherever it leads.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    return why_not(path.lstat(), forbidden=forbidden, is_roots_too=is_roots_too)


def why_not(found: os.stat_result, *, forbidden: int = WRITABLE_BY_OTHERS, is_roots_too: bool = False) -> str:
    """Return why a folder or regular file is not ours alone, "" where it is.

    Args:
        found: what the system says of it.
        forbidden: bits of the mode that it must not have.
        is_roots_too: whether it may belong to root as well.
    """
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        return "must be a folder or file, not a link"
    if found.st_uid != os.getuid() and not (is_roots_too and found.st_uid == 0):
        return f"must belong to you, but belongs to user {found.st_uid}"
    if found.st_mode & forbidden:
        return "must not be writable by others" if forbidden == WRITABLE_BY_OTHERS else "must be open to you alone"
    return ""


def make_private(path: Path) -> None:
    """Make a folder that is open to this user alone; one of ours that is there is closed to all others.

    Raises:
        OSError: it cannot be made, or is somebody else's, or a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if why := problem(path, forbidden=0):
            raise PermissionError(f"{path} {why}") from None
        if not path.is_dir():
            raise
        if path.stat().st_mode & OPEN_TO_OTHERS:
            path.chmod(0o700)
