"""The library of shim.c: made once, loaded before the C library, and told at which call to strike."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
COUNT, KILL_BEFORE, KILL_AFTER, KILL_WITHIN, FAIL, FAIL_ON, SHORT = range(7)


@dataclass(frozen=True)
class Fault:
    """What happens at a call that changes a file."""

    name: str
    act: int
    number: int = errno.EIO

    @property
    def is_death(self) -> bool:
        """Whether the process is killed there."""
        return self.act in (KILL_BEFORE, KILL_AFTER, KILL_WITHIN)

    @property
    def lasts(self) -> bool:
        """Whether every later call fails as well, so that nothing can be tidied up."""
        return self.act == FAIL_ON


DEATHS = (
    Fault("kill -9 before the call", KILL_BEFORE),
    Fault("kill -9 after the call", KILL_AFTER),
    Fault("kill -9 with half of it written", KILL_WITHIN),
)
FAILURES = (
    Fault("no space left (ENOSPC), once", FAIL, errno.ENOSPC),
    Fault("no space left (ENOSPC), from there on", FAIL_ON, errno.ENOSPC),
    Fault("over quota (EDQUOT), from there on", FAIL_ON, errno.EDQUOT),
    Fault("input/output error (EIO), once", FAIL, errno.EIO),
    Fault("input/output error (EIO), from there on", FAIL_ON, errno.EIO),
    Fault("read-only (EROFS), from there on", FAIL_ON, errno.EROFS),
    Fault("stale handle (ESTALE), once", FAIL, errno.ESTALE),
    Fault("one byte written of many", SHORT),
)
FAULTS = (*DEATHS, *FAILURES)


def library() -> Path:
    """Return the library, compiled where it has not been; whoever needs it needs a C compiler."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"band-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} is somebody else's"
    path = folder / f"shim-{digest}.so"
    if not path.exists():
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        assert compiler, "a C compiler is needed: apt-get install gcc libc6-dev"
        fresh = path.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", fresh, SOURCE, "-ldl"], check=True)
        fresh.rename(path)
    return path


def under(environment: Mapping[str, str] = os.environ, **settings: object) -> dict[str, str]:
    """Return an environment whose processes run under the shim; settings as shim.c has them, such as ROOT, AT, ACT."""
    return {
        **environment,
        "LD_PRELOAD": str(library()),
        **{f"CHAOS_{key}": str(value) for key, value in settings.items()},
    }


def run_under(module: str, *arguments: object, timeout_s: float) -> None:
    """Run a module of the bench in a process that runs under the shim, quiet until it is told to strike."""
    environment = under({**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, env=environment, check=True, timeout=timeout_s)


class Shim:
    """The shim that this process runs under."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.chaos_word.restype = ctypes.c_char_p  # an AttributeError here says that it was not loaded

    def arm(self, root: Path, *, at: int, fault: Fault | None) -> None:
        """Strike at the call of that number, counted from 0, of those below `root`; without a fault count alone."""
        act, number = (fault.act, fault.number) if fault else (COUNT, 0)
        self._library.chaos_arm(os.fsencode(root), ctypes.c_long(at), act, number, None)

    def look(self, *, skew_s: float, stale_s: float) -> None:
        """Have a clock that is so far off, and see names that others make only after a while."""
        self._library.chaos_views(ctypes.c_double(skew_s), ctypes.c_double(stale_s))

    def disarm(self) -> None:
        """Let every call pass from now on, and count none."""
        self._library.chaos_arm(b"", ctypes.c_long(-1), COUNT, 0, None)

    @property
    def seen(self) -> int:
        """How many calls there have been since."""
        return int(self._library.chaos_seen())

    @property
    def struck(self) -> int:
        """How many of them were struck."""
        return int(self._library.chaos_struck())

    @property
    def word(self) -> str:
        """The call that was struck last, such as "unlink"."""
        return bytes(self._library.chaos_word()).decode()
