"""Every name of the on-disk contract; sealed run folders; event streams."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.errors import BandError, PublishError, SweepError
from band.files import (
    append_line,
    canonical_json,
    read_json_object,
    read_lines,
    sha256_file,
    write_atomic,
)

SCHEMA = 1
SOURCES = (".py", ".cpp")
RESULT = "result.json"
ABSENT = ".absent.json"  # in a run's folder: which files of its manifest are not here because nobody wanted them here
CHECKPOINTS = (
    "checkpoints.jsonl"  # in a trainer's folder: one line for each checkpoint it has written, its digest in it
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]{0,159}")


def check_name(name: object, *, what: str = "name") -> str:
    """Return `name` if it can stand as one part of a path anywhere: no separator, no leading dot or dash, ASCII.

    Raises:
        SweepError: it is no such name.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise SweepError(
        f"{what} must be 1 to 160 of the characters A-Z a-z 0-9 . _ + = @ - and begin with a letter or digit, "
        f"got {str(name)[:80]!r}"
    )


@dataclass(frozen=True)
class TaskDir:
    """The folder of one array task on the shared home."""

    path: Path

    @property
    def task_json(self) -> Path:
        """The task file: all that an attempt is told."""
        return self.path / "task.json"

    def population(self, slot: int) -> Path:
        """Return the path of the mirrored population checkpoint in a slot."""
        return self.path / f"population.{slot}.pt"

    @property
    def sweep(self) -> SweepDir:
        """The sweep that the task belongs to."""
        return SweepDir(self.path.parent.parent)


@dataclass(frozen=True)
class SweepDir:
    """A sweep on the shared home: every path in it."""

    path: Path

    @property
    def name(self) -> str:
        """The sweep's name: that of its folder."""
        return self.path.name

    @property
    def sweep_yaml(self) -> Path:
        """The sweep file as given."""
        return self.path / "sweep.yaml"

    @property
    def manifest(self) -> Path:
        """The sweep and its runs, one a line."""
        return self.path / "manifest.jsonl"

    @property
    def tasks(self) -> Path:
        """Where the task folders are."""
        return self.path / "tasks"

    def task(self, task: str) -> TaskDir:
        """Return the folder of one array task, such as "0007"."""
        return TaskDir(self.tasks / check_name(task, what="task"))

    @property
    def submissions(self) -> Path:
        """Where the submission folders are."""
        return self.path / "submissions"

    def submission(self, submission: str) -> Path:
        """Return the folder of one submission, such as "0001": intent.json, receipt.json."""
        return self.submissions / check_name(submission, what="submission")

    @property
    def code(self) -> Path:
        """Where snapshots of the code are."""
        return self.path / "code"

    @property
    def index(self) -> Path:
        """Where events are folded."""
        return self.path / "index"

    @property
    def events(self) -> Path:
        """Where the event streams are."""
        return self.path / "events"

    def event_file(self, task: str, *, attempt: str) -> Path:
        """Return the event stream of one attempt at one task."""
        return self.events / f"{check_name(task, what='task')}.{check_name(attempt, what='attempt')}.jsonl"

    def event_files(self, task: str) -> list[Path]:
        """Return the event streams of every attempt at one task, by name."""
        return sorted(self.events.glob(f"{check_name(task, what='task')}.*.jsonl"))

    @property
    def logs(self) -> Path:
        """Where the logs are."""
        return self.path / "logs"

    def log_file(self, task: str, *, attempt: str) -> Path:
        """Return the file of what the trainer of one attempt printed."""
        return self.logs / f"{check_name(task, what='task')}.{check_name(attempt, what='attempt')}.log"

    @property
    def runs(self) -> Path:
        """Where published runs are."""
        return self.path / "runs"

    def run(self, run_id: str) -> Path:
        """Return the folder of a published run; it is there at all only when published."""
        return self.runs / check_name(run_id, what="run id")

    @property
    def incoming(self) -> Path:
        """Where runs are on their way in."""
        return self.runs / ".incoming"

    def incoming_run(self, run_id: str, *, attempt: str) -> Path:
        """Return the folder in which one attempt brings a run in."""
        return self.incoming / f"{check_name(run_id, what='run id')}.{check_name(attempt, what='attempt')}"

    @property
    def superseded(self) -> Path:
        """Where runs are kept that came second, or were found damaged."""
        return self.runs / ".superseded"

    def superseded_run(self, run_id: str, *, attempt: str) -> Path:
        """Return the folder that keeps a run that one attempt brought in after another had published it."""
        return self.superseded / f"{check_name(run_id, what='run id')}.{check_name(attempt, what='attempt')}"

    @property
    def differs(self) -> Path:
        """Where runs are kept that came from another machine and are not what this one has under their ids."""
        return self.runs / ".differs"

    def differing_run(self, run_id: str, *, sha256: str) -> Path:
        """Return the folder that keeps a run whose `result.json` has that digest."""
        return self.differs / f"{check_name(run_id, what='run id')}.{check_name(sha256, what='digest')[:12]}"

    @property
    def sync(self) -> Path:
        """Where band-sync keeps what it knows of other machines, and what is on its way from them."""
        return self.path / "sync"


def user_name(environment: Mapping[str, str] = os.environ) -> str:
    """Return the user's name as it can stand in a path, or the number where there is no name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", environment.get("USER", "")) or str(os.getuid())


@dataclass(frozen=True)
class ScratchDir:
    """The node's own disk: datasets by content, and the folders that attempts write in."""

    path: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ScratchDir:
        """Return $BAND_SCRATCH, or /tmp/band-$USER."""
        return cls(Path(environment.get("BAND_SCRATCH") or f"/tmp/band-{user_name(environment)}").absolute())

    @property
    def data(self) -> Path:
        """Where staged datasets are."""
        return self.path / "data"

    def dataset(self, file_digest: str) -> Path:
        """Return the folder of the dataset of that content."""
        return self.data / check_name(file_digest, what="dataset digest")

    def sweep_work(self, sweep: SweepDir) -> Path:
        """Return where the attempts at one sweep write; another sweep of that name elsewhere has another place."""
        place = hashlib.sha256(os.fsencode(sweep.path.absolute())).hexdigest()[:8]
        return self.path / "work" / f"{check_name(sweep.name, what='sweep name')}-{place}"

    def work(self, sweep: SweepDir, *, task: str, attempt: str) -> Path:
        """Return where one attempt at one task writes."""
        name = f"{check_name(task, what='task')}.{check_name(attempt, what='attempt')}"
        return self.sweep_work(sweep) / name


def seal(folder: Path, *, result: Mapping[str, Any]) -> None:
    """Write `result.json` with a manifest of its siblings and its own digest: the folder is then finished.

    Args:
        folder: a run's folder: plain files only, none of them changed afterwards.
        result: the rest of `result.json`, JSON values without NaN.

    Raises:
        BandError: the folder holds a link or another folder.
        OSError: the disk is full, read-only …
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != RESULT and not entry.name.startswith("."))
    manifest = {}
    for name in names:
        path = folder / check_name(name, what=f"file name in {folder}")
        manifest[name] = {"size": path.lstat().st_size, "sha256": sha256_file(path)}
    write_atomic(folder / RESULT, signed({**result, "manifest": manifest}))


def signed(values: Mapping[str, Any]) -> bytes:
    """Return a JSON object as a line with its own digest in it, so that damage is noticed when it is read."""
    values = {key: value for key, value in values.items() if key != "digest"}
    return canonical_json({**values, "digest": _digest(values)}) + b"\n"


def is_altered(values: Mapping[str, Any]) -> bool:
    """Return whether an object is not the one that `signed` its digest; one without a digest may be anybody's."""
    others = {key: value for key, value in values.items() if key != "digest"}
    return "digest" in values and values["digest"] != _digest(others)


def read_result(folder: Path) -> dict[str, Any]:
    """Return the `result.json` of a run folder after checking its own digest, but not its siblings.

    Raises:
        PublishError: it is missing, damaged or altered.
    """
    path = folder / RESULT
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise PublishError(f"{path} is not a regular file")
        values = read_json_object(path)
        if "digest" not in values or is_altered(values) or not isinstance(values.get("manifest"), dict):
            raise PublishError(f"{path} is not what its own digest says: it was altered or is damaged")
    except FileNotFoundError:
        raise PublishError(f"{path} is missing: the run in {folder} is not finished") from None
    except (BandError, ValueError) as error:
        raise PublishError(str(error)) from None
    return values


def read_task_json(path: Path) -> dict[str, Any]:
    """Return what a task file holds, as it was written.

    Raises:
        SweepError: it is not what its own digest says.
        BandError: it is not a JSON object.
        OSError: it is missing or cannot be read.
    """
    values = read_json_object(path)
    if is_altered(values):
        raise SweepError(
            f"{path} is not what its own digest says: it was altered or is damaged; restore it, or delete it and "
            "submit again: its runs then begin anew"
        )
    return values


def manifest_digests(result: Mapping[str, Any]) -> dict[str, str]:
    """Return file name to sha256 for the siblings of a `result.json`.

    Raises:
        PublishError: the manifest names something outside its folder or lacks a digest.
    """
    try:
        return {
            check_name(name, what="manifest entry"): str(entry["sha256"]) for name, entry in result["manifest"].items()
        }
    except (SweepError, KeyError, TypeError, AttributeError) as error:
        raise PublishError(f"the manifest of run {str(result.get('run_id'))[:80]!r} is damaged: {error}") from None


def absent_files(folder: Path) -> frozenset[str]:
    """Return which files of a run were left where it came from, or were brought from here to where they are now.

    One that is named and there all the same came just before a pull was killed, or was to go just before it was.
    """
    try:
        names = map(str, read_json_object(folder / ABSENT)["files"])
        return frozenset(name for name in names if not os.path.lexists(folder / name))
    except (FileNotFoundError, BandError, KeyError, TypeError):
        return frozenset()


def mark_absent(folder: Path, names: Iterable[str]) -> None:
    """Say which files of a run are not here on purpose; with none, it is whole."""
    values = {"schema": SCHEMA, "files": sorted(names)}
    if values["files"]:
        write_atomic(folder / ABSENT, canonical_json(values) + b"\n")
    else:
        (folder / ABSENT).unlink(missing_ok=True)


def verify(folder: Path, *, may_lack: Collection[str] = ()) -> dict[str, Any]:
    """Return the `result.json` of a run folder after checking it and every file that its manifest names.

    Args:
        folder: the run's folder.
        may_lack: files that need not be there, such as `absent_files` has them.

    Raises:
        PublishError: a file is missing, altered or damaged; the message names it.
    """
    result = read_result(folder)
    for name, digest in manifest_digests(result).items():
        path = folder / name
        try:
            found = sha256_file(path)
        except FileNotFoundError:
            if name in may_lack:
                continue
            elsewhere = "; it was left where the run is from: band-sync pull brings it"
            raise PublishError(
                f"{path} is missing, though the run's manifest names it"
                + (elsewhere if name in absent_files(folder) else "")
            ) from None
        except (BandError, OSError) as error:
            raise PublishError(f"{path} cannot be read: {error}") from None
        if found != digest:
            raise PublishError(f"{path} is not what the run's manifest says: it was altered or is damaged")
    return result


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(values)).hexdigest()


def code_digest(package: Path) -> str:
    """Return the sha256 over every source file, Python or C++, of a package's folder, names included.

    Raises:
        OSError: a file cannot be read.
    """
    paths = [path for path in package.rglob("*") if path.suffix in SOURCES and path.is_file()]
    files = {path.relative_to(package).as_posix(): path for path in paths}
    return _digest({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()})


class EventWriter:
    """Appends events to a stream of which it is the only writer; while home cannot be written it keeps them."""

    MAX_WAITING = 10_000

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[dict[str, Any]] = []

    def write(self, event: str, **fields: Any) -> bool:
        """Append an event, after those that wait; return whether all of them are in the file now."""
        self.add({"t": time.time(), "event": event, **fields})
        return self.flush()

    def add(self, values: Mapping[str, Any]) -> None:
        """Put an event in line; when too many wait, the oldest that only tell of progress go."""
        self._waiting.append(dict(values))
        if len(self._waiting) > self.MAX_WAITING:
            self._waiting = [waiting for waiting in self._waiting if waiting.get("event") != "epoch"]

    def flush(self) -> bool:
        """Append the events that wait; return whether all of them are in the file now."""
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.pop(0)
        except OSError:
            return False
        return True

    def _append(self, values: Mapping[str, Any]) -> None:
        try:
            append_line(self.path, values)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, values)


def read_events(path: Path, *, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the events from byte `offset` on and the offset to go on from; none where the file is missing.

    What is no event (a half line, garbage) is passed over.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        lines, end = read_lines(path, offset=offset)
    except FileNotFoundError:
        return [], offset
    return [line for line in lines if _is_event(line)], end


def _is_event(line: dict[str, Any]) -> bool:
    return isinstance(line.get("event"), str) and isinstance(line.get("t"), (int, float))
