"""A sweep on another machine as its helper lists it; nothing that it says is believed before it is checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from band.errors import BandError, RemoteError
from band.run_dir import RESULT, check_name
from band.sync.connection import Connection

_WRONG = (KeyError, TypeError, ValueError, AttributeError, OverflowError)  # what an answer of another form leads to
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class FarFile:
    """A file of a run as its manifest has it."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"no file has {self.size} bytes")


@dataclass(frozen=True, kw_only=True)
class FarRun:
    """A published run."""

    id: str
    sha256: str  # of its result.json, which names it: two runs of one id and one digest are the same
    outcome: str = ""
    files: Mapping[str, FarFile] | None = None  # result.json among them; None: as they were said to be known
    absent: frozenset[str] = frozenset()  # of the files, those that are there no more


@dataclass(frozen=True, kw_only=True)
class FarSweep:
    """A sweep and its published runs."""

    path: str  # absolute, without links
    manifest: str | None  # its text, None where it is the one that is at home
    sweep_yaml: str | None
    runs: Mapping[str, FarRun]
    bad: Mapping[str, str]  # runs that cannot be taken: why
    logs: Mapping[str, int]  # name: bytes
    tasks: Mapping[str, Sequence[str]]  # task: its runs, where logs were asked for


def look(connection: Connection, path: str, *, known: Mapping[str, str], manifest: str, has_logs: bool) -> FarSweep:
    """Return what a sweep there has.

    Args:
        connection: to its machine.
        path: its folder there.
        known: {run: sha256 of its result.json} of the runs that are at home with all that belongs to them.
        manifest: sha256 of the manifest at home.
        has_logs: whether logs are wanted.

    Raises:
        BandError: there is no such sweep; the helper's words.
        RemoteError: the connection broke, or what came is no listing.
    """
    start = connection.config.path
    answer = connection.call("list", path=path, start=start, known=dict(known), manifest_sha256=manifest, logs=has_logs)
    try:
        bad = {str(name): str(why) for name, why in answer["bad"].items()}
        runs = {}
        for name, entry in answer["runs"].items():
            try:
                runs[check_name(name, what="run id")] = _run(name, entry)
            except (BandError, *_WRONG) as error:
                bad[name] = str(error)
        if not os.path.isabs(answer["path"]) or not _can_be_path(answer["path"]):
            raise ValueError(f"no path: {answer['path']!r}")
        for text in (answer["manifest"], answer["sweep_yaml"]):
            if text is not None:
                text.encode()
        logs = {str(name): int(size) for name, size in answer["logs"] if is_plain(name)}
        tasks = {str(task): tuple(map(str, runs)) for task, runs in answer["tasks"].items() if is_plain(task)}
        return FarSweep(
            path=str(answer["path"]),
            manifest=answer["manifest"],
            sweep_yaml=answer["sweep_yaml"],
            runs=runs,
            bad=bad,
            logs=logs,
            tasks=tasks,
        )
    except _WRONG as error:
        raise RemoteError(f"{connection.host} answered what is no listing of a sweep: {error!r}") from None


def is_plain(name: object) -> bool:
    """Return whether a name, whatever is in it, is that of a file in a folder and nowhere else."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and _can_be_path(name)


def _can_be_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _run(name: str, entry: Mapping[str, Any]) -> FarRun:
    sha256 = _digest(entry["sha256"])
    if "files" not in entry:
        return FarRun(id=name, sha256=sha256)
    files = {RESULT: FarFile(size=int(entry["size"]), sha256=sha256)}
    for file, (size, digest) in entry["files"].items():
        files[check_name(file, what=f"file of run {name}")] = FarFile(size=int(size), sha256=_digest(digest))
    return FarRun(
        id=name, sha256=sha256, outcome=str(entry["outcome"]), files=files, absent=frozenset(map(str, entry["absent"]))
    )


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{str(value)[:80]!r} is no digest")
    return value
