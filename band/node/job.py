"""What the parts of one attempt share: the task, its folders, the claim, and the voice it reports with."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.attempts import Attempt, Claim
from band.errors import BandError, SweepError
from band.files import read_json_object
from band.run_dir import SCHEMA, EventWriter, ScratchDir, SweepDir, TaskDir, check_name, read_task_json

ENDINGS = ("failed", "interrupted", "split", "restarted")  # before which it is told how far training has come

DATASET = {"path": str, "digest": str, "file_digest": str, "size_bytes": int}

OnEvent = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How often and how long, in seconds."""

    mirror_s: float = 120.0  # between copies of the checkpoint to the shared home
    stop_s: float = 25.0  # between asking the trainer to stop and killing it
    retry_s: float = 10.0  # between tries to write a home that refused
    home_wait_s: float = 600.0  # how long finished runs wait for such a home, where no time limit says so
    claim_wait_s: float = 60.0  # how long a job waits at its start for a home, or a claim, that is late
    epoch_s: float = 5.0  # between epoch events in the stream at home
    tick_s: float = 0.2  # between looks at signals and clocks


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task file."""

    path: Path
    name: str
    run_ids: tuple[str, ...]
    populations: tuple[tuple[str, ...], ...]  # trained one after the other; together they are all runs
    dataset: Mapping[str, Any]
    threads: int

    @property
    def folder(self) -> TaskDir:
        """The task's folder."""
        return TaskDir(self.path.parent)

    @property
    def sweep(self) -> SweepDir:
        """The sweep it belongs to."""
        return self.folder.sweep


def read_task(path: Path) -> Task:
    """Return the task of a task file.

    Raises:
        SweepError: it is altered, not one of this schema, or a name in it could leave its folder.
        BandError: it is not JSON.
        OSError: it is missing or cannot be read.
    """
    path = path.absolute()
    values = read_task_json(path)
    if values.get("schema") != SCHEMA:
        raise SweepError(f"{path}: schema must be {SCHEMA}, got {values.get('schema')!r}; generate and submit again")
    try:
        run_ids = tuple(check_name(run["id"], what=f"{path}: run id") for run in values["runs"])
        task = Task(
            path=path,
            name=check_name(values["task"], what=f"{path}: task"),
            run_ids=run_ids,
            populations=tuple(tuple(map(str, part)) for part in values.get("populations", [run_ids])),
            dataset={key: kind(values["dataset"][key]) for key, kind in DATASET.items()},
            threads=max(1, int(values.get("threads", 1))),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SweepError(f"{path} is no task file: {error!r}; generate and submit again") from None
    if sorted(run for part in task.populations for run in part) != sorted(run_ids):
        raise SweepError(f"{path}: populations must name each run of the task once; generate and submit again")
    if task.name != path.parent.name:
        raise SweepError(f"{path} is the file of task {task.name}, but lies in the folder of task {path.parent.name}")
    return task


class Skip:
    """The runs of a task that are not to be trained now: failed or cancelled before it started, or cancelled since."""

    def __init__(self, task: Task) -> None:
        """Read which they are.

        Raises:
            BandError: the file is damaged.
            OSError: it cannot be read.
        """
        self._path = task.path.with_name("skip.json")
        self.runs = self._read()

    def look(self) -> None:
        """Read again which they are; in the life of an attempt they only become more."""
        with suppress(BandError, OSError):
            self.runs |= self._read()

    def _read(self) -> frozenset[str]:
        try:
            runs = read_json_object(self._path).get("runs", [])
        except FileNotFoundError:
            return frozenset()
        if not isinstance(runs, list):
            raise SweepError(f"{self._path}: runs must be a list of ids, got {str(runs)[:80]!r}; submit again")
        return frozenset(map(str, runs))


class Reporter:
    """Writes the attempt's event stream at home and tells a listener; the file gets few epochs, and the last ones."""

    def __init__(self, path: Path, *, on_event: OnEvent | None, epoch_s: float) -> None:
        self.writer = EventWriter(path)
        self._on_event = on_event
        self._epoch_s = epoch_s
        self._last_epoch = 0.0
        self._withheld: list[Mapping[str, Any]] = []  # the last epoch, where the file has not got it

    def report(self, event: str, **fields: Any) -> None:
        """Report an event with the time now."""
        self.forward({"t": time.time(), "event": event, **fields})

    def forward(self, values: Mapping[str, Any]) -> None:
        """Report an event that has its time already, or not at all if the file has had an epoch just now."""
        if self._on_event is not None:
            self._on_event(values)
        if values["event"] == "epoch":
            if values["t"] - self._last_epoch < self._epoch_s:
                self._withheld = [values]
                return
            self._last_epoch, self._withheld = values["t"], []
        elif values["event"] in ENDINGS:
            for withheld in self._withheld:
                self.writer.add(withheld)
            self._withheld = []
        self.writer.add(values)
        self.writer.flush()

    def say(self, message: str) -> None:
        """Print one line for the job's own output, unless a listener shows the events."""
        if self._on_event is None:
            say(message)


def say(message: str) -> None:
    """Print one line, unless what it goes to is a home that cannot be written."""
    with suppress(OSError):
        print(message, file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at one task."""

    task: Task
    attempt: Attempt
    claim: Claim
    scratch: ScratchDir
    is_volatile: bool  # whether scratch goes with the job
    skip: Skip
    reporter: Reporter
    timing: Timing

    @property
    def sweep(self) -> SweepDir:
        """The sweep on the shared home."""
        return self.task.sweep

    @property
    def work(self) -> Path:
        """Where this attempt writes on the node."""
        return self.scratch.work(self.sweep, task=self.task.name, attempt=self.attempt.name)
