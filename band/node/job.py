"""What the parts of one attempt share: the task, its folders, the claim, and the voice it reports with."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.attempts import Attempt, Claim
from band.errors import SweepError
from band.files import read_json_object
from band.run_dir import SCHEMA, EventWriter, ScratchDir, SweepDir, TaskDir, check_name

OnEvent = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How often and how long, in seconds."""

    mirror_s: float = 120.0  # between copies of the checkpoint to the shared home
    stop_s: float = 25.0  # between asking the trainer to stop and killing it
    retry_s: float = 10.0  # between tries to write a home that refused
    home_wait_s: float = 600.0  # how long finished runs wait for such a home before the task gives up
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
    skip: frozenset[str]  # runs not to be trained now

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
        SweepError: it is not one of this schema, or a name in it could leave its folder.
        BandError: it is not JSON.
        OSError: it is missing or cannot be read.
    """
    path = path.absolute()
    values = read_json_object(path)
    if values.get("schema") != SCHEMA:
        raise SweepError(f"{path}: schema must be {SCHEMA}, got {values.get('schema')!r}; generate and submit again")
    skip = path.with_name("skip.json")
    try:
        run_ids = tuple(check_name(run["id"], what=f"{path}: run id") for run in values["runs"])
        task = Task(
            path=path,
            name=check_name(values["task"], what=f"{path}: task"),
            run_ids=run_ids,
            populations=tuple(tuple(part) for part in values.get("populations", [run_ids])),
            dataset={key: values["dataset"][key] for key in ("path", "digest", "file_digest", "size_bytes")},
            threads=max(1, int(values.get("threads", 1))),
            skip=frozenset(read_json_object(skip).get("runs", ())) if skip.exists() else frozenset(),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SweepError(f"{path} is no task file: {error!r}; generate and submit again") from None
    if sorted(run for part in task.populations for run in part) != sorted(run_ids):
        raise SweepError(f"{path}: populations must name each run of the task once; generate and submit again")
    if task.name != path.parent.name:
        raise SweepError(f"{path} is the file of task {task.name}, but lies in the folder of task {path.parent.name}")
    return task


class Reporter:
    """Writes the attempt's event stream at home and tells a listener; the file gets few epoch events, not all."""

    def __init__(self, path: Path, *, on_event: OnEvent | None, epoch_s: float) -> None:
        self.writer = EventWriter(path)
        self._on_event = on_event
        self._epoch_s = epoch_s
        self._last_epoch = 0.0

    def report(self, event: str, **fields: Any) -> None:
        """Report an event with the time now."""
        self.forward({"t": time.time(), "event": event, **fields})

    def forward(self, values: Mapping[str, Any]) -> None:
        """Report an event that has its time already, or not at all if the file has had an epoch just now."""
        if self._on_event is not None:
            self._on_event(values)
        if values["event"] == "epoch":
            if values["t"] - self._last_epoch < self._epoch_s:
                return
            self._last_epoch = values["t"]
        self.writer.add(values)
        self.writer.flush()

    def say(self, message: str) -> None:
        """Print one line for the job's own output, unless a listener shows the events."""
        if self._on_event is None:
            print(message, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at one task."""

    task: Task
    attempt: Attempt
    claim: Claim
    scratch: ScratchDir
    reporter: Reporter
    timing: Timing

    @property
    def sweep(self) -> SweepDir:
        """The sweep on the shared home."""
        return self.task.sweep

    @property
    def work(self) -> Path:
        """Where this attempt writes on the node."""
        return self.scratch.work(self.sweep.name, task=self.task.name, attempt=self.attempt.name)
