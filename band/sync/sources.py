"""Where a sweep at home is from: the machines that feed it, and what came from which."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from band.errors import ClaimError, SweepError
from band.files import append_line, canonical_json, read_json_object, write_atomic
from band.run_dir import SweepDir, check_name
from band.sync.connection import Place

SCHEMA = 1
SOURCES = "sources.json"
LOCK_WAIT_S = 10.0  # that an rsync of a pull that was killed may take to notice


@dataclass(frozen=True, kw_only=True)
class Source:
    """A sweep on another machine that feeds one at home."""

    sweep: SweepDir  # at home
    place: Place

    @property
    def name(self) -> str:
        """The host, and a few digits that tell two sweeps on it apart; it can stand in a path."""
        host = re.sub(r"[^A-Za-z0-9._-]+", "-", self.place.host).strip(".-_")[:60] or "host"
        return check_name(f"{host}-{hashlib.sha256(str(self.place).encode('utf-8', 'replace')).hexdigest()[:8]}")

    @property
    def folder(self) -> Path:
        """What is known of it."""
        return self.sweep.sync / self.name

    @property
    def incoming(self) -> Path:
        """What is on its way from it: a folder a run."""
        return self.folder / "incoming"

    @property
    def logs(self) -> Path:
        """Logs that came from it."""
        return self.folder / "logs"

    def note(self, run: str, *, sha256: str, files: Collection[str]) -> None:
        """Write down that files of a run have come from here."""
        line = {"t": time.time(), "run": run, "sha256": sha256, "files": sorted(files)}
        append_line(self.folder / "held.jsonl", line)


def read_sources(sweep: SweepDir) -> list[Source]:
    """Return the machines that feed a sweep, the first one first.

    Raises:
        SweepError: the file of them is damaged.
    """
    path = sweep.sync / SOURCES
    try:
        entries = read_json_object(path)["sources"]
        return [Source(sweep=sweep, place=Place(str(entry["host"]), str(entry["path"]))) for entry in entries]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError) as error:
        raise SweepError(f"{path} is damaged ({error!r}); delete it and give HOST:PATH once more") from None


def remember(source: Source) -> None:
    """Have the sweep at home know that it is fed from there."""
    known = read_sources(source.sweep)
    if source not in known:
        source.sweep.sync.mkdir(parents=True, exist_ok=True)
        entries = [{"host": each.place.host, "path": each.place.path} for each in [*known, source]]
        write_atomic(source.sweep.sync / SOURCES, canonical_json({"schema": SCHEMA, "sources": entries}) + b"\n")


def sources_of(sweep: SweepDir, *, hosts: Sequence[str] = ()) -> list[Source]:
    """Return the machines that feed a sweep.

    Raises:
        SweepError: none does, or none of those named.
    """
    known = read_sources(sweep)
    chosen = [source for source in known if not hosts or source.place.host in hosts]
    if not chosen:
        fed = ", ".join(str(source.place) for source in known) or "nowhere yet"
        raise SweepError(f"{sweep.name} is fed from {fed}; name where it is: band-sync pull HOST:PATH/OF/THE/SWEEP")
    return chosen


@contextmanager
def alone(sweep: SweepDir) -> Iterator[int]:
    """Let one band-sync at a time write into a sweep; yields the descriptor that what it starts must hold as well.

    Raises:
        ClaimError: another one is at it.
    """
    sweep.sync.mkdir(parents=True, exist_ok=True)
    file = os.open(sweep.sync / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline or _holder(file):
                    raise ClaimError(_busy(sweep, holder=_holder(file))) from None
                time.sleep(0.1)
        os.ftruncate(file, 0)
        os.pwrite(file, b"%d\n" % os.getpid(), 0)
        yield file
    finally:
        os.close(file)


def _holder(file: int) -> int:
    """Return the process that has the lock, 0 where it has ended and what it started has not yet."""
    text = os.pread(file, 20, 0).strip()
    pid = int(text) if text.isdigit() else 0
    return pid if pid and os.path.exists(f"/proc/{pid}") else 0


def _busy(sweep: SweepDir, *, holder: int) -> str:
    who = f"process {holder}" if holder else "another process"
    return f"{who} is bringing {sweep.name} home already; wait for it, or end it and give the same command again"
