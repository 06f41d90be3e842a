"""Room at home: what the disk has free, and what the user's quota leaves of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

TIMEOUT_S = 5.0
# A line of `quota -w -p`: filesystem, then KiB used ("*": over), soft limit and hard limit; 0: none.
_LINE = re.compile(r"^\s*\S+\s+(\d+)\*?\s+(\d+)\s+(\d+)\s", re.MULTILINE)


class Space(NamedTuple):
    """Bytes that a user may still write, and what sets the limit."""

    num_bytes: int
    limit: str  # "free", or "left of your quota"


def space(path: Path) -> Space:
    """Return how much may be written to a folder, which need not exist yet."""
    while not path.exists():
        path = path.parent
    free = Space(shutil.disk_usage(path).free, "free")
    left = _left_of_quota(path)
    return free if left is None or left >= free.num_bytes else Space(left, "left of your quota")


def _left_of_quota(path: Path) -> int | None:
    """Return what `quota` says is left on a folder's filesystem; None where there is no quota, or no such command."""
    path = path.resolve()
    while not os.path.ismount(path):
        path = path.parent
    argv = ["quota", "-w", "-p", "-f", str(path)]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        # It ends with 1 for whoever is over quota, too.
        answer = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    left = [
        (min(int(limit) for limit in limits if int(limit)) - int(used)) * 1024
        for used, *limits in _LINE.findall(answer)
        if any(int(limit) for limit in limits)
    ]
    return max(min(left), 0) if left else None
