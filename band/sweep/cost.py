"""What a sweep has cost: hours, memory asked and used, and the request that would have been enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.errors import BandError
from band.files import read_json_object
from band.run_dir import SweepDir
from band.sweep.arrays import memory_for, time_for
from band.sweep.collect import PublishedRun
from band.sweep.fold import AttemptFold, read_folds
from band.sweep.ledger import Intent, read_intents

PEAK = "peak_memory_bytes"
PEAK_GPU = "peak_gpu_memory_bytes"
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Spent:
    """One attempt at a task, or a population of which nothing but its runs is left."""

    sweep: str
    task: str
    attempt: str
    runs: Sequence[str]  # published by it
    seconds: float
    cpus: int
    gpus: int
    asked_bytes: int | None
    asked_s: float | None
    peak_bytes: int | None
    peak_gpu_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """All of it."""

    attempts: Sequence[Spent]

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours that they were held."""
        return sum(spent.gpus * spent.seconds for spent in self.attempts) / 3600

    @property
    def cpu_hours(self) -> float:
        """Cores times hours that they were held."""
        return sum(spent.cpus * spent.seconds for spent in self.attempts) / 3600

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that a trainer has had; None where no run recorded it."""
        return max((s.peak_bytes for s in self.attempts if s.peak_bytes), default=None)

    @property
    def peak_gpu_bytes(self) -> int | None:
        """The most memory of a GPU that a trainer has had; None where none was used."""
        return max((s.peak_gpu_bytes for s in self.attempts if s.peak_gpu_bytes), default=None)

    @property
    def asked_bytes(self) -> int | None:
        """The most memory that was asked for a task."""
        return max((s.asked_bytes for s in self.attempts if s.asked_bytes), default=None)

    @property
    def longest_s(self) -> float:
        """Duration of the longest attempt."""
        return max((spent.seconds for spent in self.attempts), default=0.0)

    @property
    def enough_bytes(self) -> int | None:
        """The memory that would have been enough, with the margin that submissions have."""
        return None if self.peak_bytes is None else memory_for(self.peak_bytes)

    @property
    def enough_s(self) -> float:
        """The time limit that would have been enough, with the margin that submissions have."""
        return time_for(self.longest_s)


def cost_of(folders: Sequence[Path], runs: Sequence[PublishedRun]) -> Cost:
    """Return what the attempts at the tasks of some sweeps cost, by their event streams and requests.

    Where a sweep has no streams any more, what its published runs say of their training stands in.
    """
    attempts: list[Spent] = []
    for folder in folders:
        own = [run for run in runs if run.folder.parent.parent == folder]
        attempts += _by_streams(SweepDir(folder), own) or _by_runs(own)
    return Cost(attempts=attempts)


def _by_streams(sweep: SweepDir, runs: Sequence[PublishedRun]) -> list[Spent]:
    folds = [fold for fold in read_folds(sweep).values() if not fold.is_hearsay and fold.attempt != "import"]
    by_id = {run.id: run for run in runs}
    asked: dict[str, Intent] = {}
    with suppress(BandError):
        asked = {task: intent for intent in read_intents(sweep) for task in intent.tasks}
    return [_spent(sweep, fold, by_id, asked.get(fold.task)) for fold in sorted(folds, key=lambda f: f.first_t)]


def _spent(sweep: SweepDir, fold: AttemptFold, by_id: Mapping[str, PublishedRun], intent: Intent | None) -> Spent:
    options: Mapping[str, Any] = intent.options if intent is not None and intent.scheduler == "slurm" else {}
    task: Mapping[str, Any] = {}
    with suppress(BandError, OSError, ValueError):
        task = read_json_object(sweep.task(fold.task).task_json)
    own = [by_id[run] for run, phase in fold.phases.items() if phase == "published" and run in by_id]
    is_on_gpu = str(task.get("device", "cpu")).startswith("cuda")
    return Spent(
        sweep=sweep.name,
        task=fold.task,
        attempt=fold.attempt,
        runs=[run.id for run in own],
        seconds=max(fold.last_t - fold.first_t, 0.0),
        cpus=int(options.get("cpus") or task.get("threads") or 1),
        gpus=int(options["gpus"] or 0) if "gpus" in options else int(is_on_gpu),
        asked_bytes=options.get("mem_bytes") or task.get("memory_bytes"),
        asked_s=options.get("time_s"),
        peak_bytes=_most(own, PEAK),
        peak_gpu_bytes=_most(own, PEAK_GPU),
    )


def _most(runs: Sequence[PublishedRun], key: str) -> int | None:
    return max((int(run.provenance.get(key) or 0) for run in runs), default=0) or None


def _by_runs(runs: Sequence[PublishedRun]) -> list[Spent]:
    """Return a population each, as long as its longest run took."""
    packings: dict[tuple[str, ...], list[PublishedRun]] = {}
    for run in runs:
        packings.setdefault(tuple(run.provenance.get("packing") or [run.id]), []).append(run)
    return [
        Spent(
            sweep=own[0].sweep,
            task="",
            attempt=str(own[0].provenance.get("attempt", "")),
            runs=[run.id for run in own],
            seconds=max(float(run.training.get("seconds") or 0.0) for run in own),
            cpus=int(own[0].provenance.get("threads") or 1),
            gpus=int(str(own[0].provenance.get("device", "cpu")).startswith("cuda")),
            asked_bytes=None,
            asked_s=None,
            peak_bytes=_most(own, PEAK),
            peak_gpu_bytes=_most(own, PEAK_GPU),
        )
        for own in packings.values()
    ]
