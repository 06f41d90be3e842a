"""Event streams folded into what each attempt came to; cheap to go on with, so a watcher reads only what is new."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from band.files import append_line
from band.run_dir import SweepDir

MOST = 2.0**53  # of a number; beyond, floats skip whole ones
EPOCH_LINE = b'{"event":"epoch"'  # as `files.canonical_json` begins it; such lines are most of a stream


@dataclass
class AttemptFold:
    """What the event stream of one attempt at one task says so far."""

    task: str
    attempt: str
    offset: int = 0  # bytes of the stream that are folded in
    claim: int = -1  # number of the claim that it held, or that there was when it was judged; -1: not said
    first_t: float = 0.0
    last_t: float = 0.0
    phases: dict[str, str] = field(default_factory=dict)  # run: started, finished, published, superseded or failed
    outcomes: dict[str, str] = field(default_factory=dict)  # run: ok or diverged
    failures: dict[str, dict[str, str]] = field(default_factory=dict)  # run: error, message
    epochs: dict[str, list[int]] = field(default_factory=dict)  # run: epoch, most epochs
    first_epochs: dict[str, Any] = field(default_factory=dict)  # the attempt's first epoch event: t, and {run: epoch}
    steps_per_s: float = 0.0
    checkpoint_step: int = -1
    host: str = ""
    population: list[str] = field(default_factory=list)  # what was trained together last
    parts: list[list[str]] = field(default_factory=list)  # populations still to be trained when one was last divided
    rehearsal: dict[str, float] = field(default_factory=dict)  # of a canary: share of training done, train_s, outputs_s
    interruption: str = ""  # why it broke off to be continued
    requeued: bool = False  # whether it had Slurm queue its job again when it broke off
    code: int | None = None  # of `ended`, the last event of an attempt that could still speak

    @property
    def stem(self) -> str:
        """TASK.ATTEMPT, as in file names."""
        return f"{self.task}.{self.attempt}"

    @property
    def is_hearsay(self) -> bool:
        """Whether it is no attempt's own stream, but what a queue, a closing job or a rescue says of the task."""
        return self.attempt.startswith(("queue-", "closing-", "rescue-"))

    @property
    def is_rescue(self) -> bool:
        """Whether it is what a rescue says: what it did not bring home is not on its node, or given up there."""
        return self.attempt.startswith("rescue-")

    def failure(self, run: str) -> dict[str, str] | None:
        """Return why this attempt gave a run up, None if it did not."""
        return self.failures[run] if self.phases.get(run) == "failed" else None

    def epochs_per_s(self, run: str) -> float:
        """Return how fast a run has gone in this attempt; 0 while unknown."""
        begun = self.first_epochs.get("epochs", {}).get(run)
        if begun is None or run not in self.epochs or self.last_t <= self.first_epochs["t"]:
            return 0.0
        return float((self.epochs[run][0] - begun) / (self.last_t - self.first_epochs["t"]))

    def add(self, event: Mapping[str, Any]) -> None:
        """Fold in one event; one of an unknown name counts for its time alone."""
        self.last_t = _number(event["t"])
        self.first_t = self.first_t or self.last_t
        handle = _HANDLERS.get(event["event"])
        if handle is not None:
            handle(self, event)


def _number(value: Any) -> float:
    """Return a finite number; true and text are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MOST:
        raise ValueError(f"{str(value)[:80]!r} is no number")
    return float(value)


def _count(value: Any) -> int:
    return int(_number(value))


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{str(values)[:80]} is no list of runs")
    return list(values)


def _on_claimed(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    fold.host = str(event.get("host", ""))
    _on_noted(fold, event)


def _on_noted(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    fold.claim = _count(event.get("claim", -1))


def _on_started(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    runs = _texts(event["runs"])
    fold.phases.update(dict.fromkeys(runs, "started"))
    fold.population = runs


def _on_split(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    fold.parts = [_texts(part) for part in event.get("parts", [])]


def _on_epoch(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    epochs = {run: [_count(values["epoch"]), _count(values["max_epochs"])] for run, values in event["runs"].items()}
    fold.epochs.update(epochs)
    if not fold.first_epochs:
        first_t = _number(event["t"])
        fold.first_epochs = {"t": first_t, "epochs": {run: epoch for run, (epoch, _) in fold.epochs.items()}}
    fold.steps_per_s = _number(event.get("steps_per_s") or 0.0)


def _on_checkpoint(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    fold.checkpoint_step = _count(event["step"])


def _on_run(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    phase = {"run_finished": "finished"}.get(event["event"], event["event"])
    (run,) = _texts([event["run"]])
    fold.phases[run] = phase
    if event.get("outcome"):
        fold.outcomes[run] = str(event["outcome"])


def _on_failed(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    failure = {"error": str(event.get("error", "")), "message": str(event.get("message", ""))}
    for run in _texts(event["runs"]):
        if fold.phases.get(run) not in ("published", "superseded"):
            fold.phases[run] = "failed"
            fold.failures[run] = failure


def _on_rehearsed(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    fold.rehearsal = {key: _number(event[key]) for key in ("share", "train_s", "outputs_s")}


def _on_interrupted(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    fold.interruption = str(event.get("reason") or "unknown")
    fold.requeued = event.get("requeued") is True


def _on_ended(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    fold.code = _count(event["code"])


def _on_unsynced(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    fold.host = str(event.get("host", ""))
    fold.phases.update(dict.fromkeys(_texts(event["runs"]), "finished"))


def _on_missing(fold: AttemptFold, event: Mapping[str, Any]) -> None:
    fold.phases.update(dict.fromkeys(_texts(event["runs"]), "started"))


_HANDLERS = {
    "claimed": _on_claimed,
    "noted": _on_noted,
    "split": _on_split,
    "unsynced": _on_unsynced,
    "missing": _on_missing,
    "started": _on_started,
    "epoch": _on_epoch,
    "checkpoint": _on_checkpoint,
    "run_finished": _on_run,
    "published": _on_run,
    "superseded": _on_run,
    "failed": _on_failed,
    "rehearsed": _on_rehearsed,
    "interrupted": _on_interrupted,
    "ended": _on_ended,
}


def fold_stream(path: Path, *, fold: AttemptFold) -> None:
    """Fold in what the stream holds beyond `fold.offset`; half a last line waits, what is no event is passed over."""
    try:
        with path.open("rb") as file:
            file.seek(fold.offset)
            data = file.read()
    except FileNotFoundError:
        return
    end = data.rfind(b"\n") + 1
    last_epoch = b""
    for line in data[:end].splitlines():
        if line.startswith(EPOCH_LINE) and fold.first_epochs:
            last_epoch = line  # of the epochs in between nothing is kept
        else:
            _add_line(fold, line)
    if last_epoch:
        last_t = fold.last_t
        _add_line(fold, last_epoch)
        fold.last_t = max(fold.last_t, last_t)
    fold.offset += end


def _add_line(fold: AttemptFold, line: bytes) -> None:
    with suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        fold.add(json.loads(line))


def read_folds(
    sweep: SweepDir, *, known: dict[str, AttemptFold] | None = None, done: Collection[str] = ()
) -> dict[str, AttemptFold]:
    """Return {TASK.ATTEMPT: fold} of every attempt.

    Args:
        sweep: the sweep.
        known: an earlier answer, which is carried on in place.
        done: tasks whose runs are all published: what the index says of them is final.
    """
    folds = read_index(sweep) if known is None else known
    with suppress(FileNotFoundError):
        for entry in os.scandir(sweep.events):
            task, _, attempt = entry.name.removesuffix(".jsonl").partition(".")
            if not attempt or not entry.name.endswith(".jsonl"):
                continue
            fold = folds.get(f"{task}.{attempt}")
            if fold is not None and (fold.code is not None or task in done):
                continue
            fold = folds.setdefault(f"{task}.{attempt}", AttemptFold(task, attempt))
            fold_stream(Path(entry.path), fold=fold)
    return folds


def read_index(sweep: SweepDir) -> dict[str, AttemptFold]:
    """Return {TASK.ATTEMPT: fold} of the attempts that queues have folded into the index; damaged lines are skipped."""
    folds: dict[str, AttemptFold] = {}
    with suppress(FileNotFoundError):
        for entry in sorted(os.scandir(sweep.index), key=lambda entry: entry.name):
            for line in Path(entry.path).read_bytes().splitlines():
                with suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                    fold = _checked(AttemptFold(**json.loads(line)))
                    folds[fold.stem] = fold
    return folds


def _checked(fold: AttemptFold) -> AttemptFold:
    """Return what a line of the index says, if every part of it is of its kind.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: one is not.
    """
    texts = [fold.task, fold.attempt, fold.host, fold.interruption, *fold.phases, *fold.phases.values()]
    texts += [*fold.outcomes, *fold.outcomes.values(), *fold.failures, *fold.epochs]
    _texts([*texts, *(failure[key] for failure in fold.failures.values() for key in ("error", "message"))])
    for runs in (fold.population, *fold.parts):
        _texts(runs)
    begun = fold.first_epochs
    numbers = [fold.offset, fold.claim, fold.first_t, fold.last_t, fold.steps_per_s, fold.checkpoint_step]
    numbers += fold.rehearsal.values()
    numbers += [number for epoch, most in fold.epochs.values() for number in (epoch, most)]
    numbers += [] if fold.code is None else [fold.code]
    numbers += [begun["t"], *begun["epochs"].values()] if begun else []
    for number in numbers:
        _number(number)
    return fold


def add_to_index(sweep: SweepDir, number: str, folds: Iterable[AttemptFold]) -> None:
    """Keep what attempts came to, so that nobody need read their streams again: in that submission's part of the index.

    Raises:
        OSError: the index cannot be written.
    """
    path = sweep.index / f"{number}.jsonl"
    path.parent.mkdir(exist_ok=True)
    for fold in folds:
        append_line(path, index_line(fold))


def index_line(fold: AttemptFold) -> dict[str, Any]:
    """Return what the index keeps of an attempt."""
    return asdict(fold)


def by_task(folds: Iterable[AttemptFold]) -> dict[str, list[AttemptFold]]:
    """Return the attempts at each task, oldest first: by their claims, and by time where there is none to tell."""
    tasks: dict[str, list[AttemptFold]] = {}
    for fold in folds:
        tasks.setdefault(fold.task, []).append(fold)
    return {task: _in_order(tasks[task]) for task in sorted(tasks)}


def _in_order(folds: list[AttemptFold]) -> list[AttemptFold]:
    """Return the attempts at one task, oldest first; the clocks of the nodes that they were made on may differ."""
    times, latest_t = {}, 0.0
    for fold in sorted(folds, key=lambda fold: (fold.claim, fold.is_hearsay, fold.first_t)):
        if fold.claim >= 0:
            latest_t = max(latest_t, fold.first_t)
        times[fold.stem] = latest_t if fold.claim >= 0 else fold.first_t
    return sorted(folds, key=lambda fold: (times[fold.stem], fold.claim, fold.is_hearsay, fold.first_t))
