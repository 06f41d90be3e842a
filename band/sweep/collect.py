"""Published runs of a sweep, read from their sealed folders alone, and all of them as one table in a file."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from band.errors import PublishError, SweepError
from band.files import write_atomic
from band.run_dir import SweepDir, read_result
from band.sweep.identity import UNHASHED
from band.sweep.manifest import read_manifest
from band.sweep.statistics import Cell

WEIGHT = "hyper.behavior_weight"
REPEATS = ("seed", "data.fold", "data.bin_ms", *UNHASHED)  # of one setting; the width of a bin belongs to its file
SPLITS = ("test", "valid", "train")
RESULTS = "report/results.csv"  # in the sweep's folder

Scores = Mapping[str, float | None]
Setting = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """One run as it came home."""

    id: str
    folder: Path
    session: str  # short name of its dataset
    parameters: Mapping[str, Any]  # full key to value, of every field
    outcome: str  # "ok" or "diverged"
    scores: Mapping[str, Scores]  # by split
    split: Mapping[str, Any]  # trials by split, and how it was made
    training: Mapping[str, Any]

    @property
    def weight(self) -> float:
        """The weight of behaviour: 0 is LFADS, above 0 is BAND."""
        return float(self.parameters[WEIGHT])

    @property
    def cell(self) -> Cell:
        """Which repeat of its setting this is."""
        return Cell(self.session, int(self.parameters["data.fold"]), int(self.parameters["seed"]))

    @cached_property
    def setting(self) -> Setting:
        """What it shares with its counterparts: every parameter but the weight of behaviour and what is repeated."""
        return tuple((k, v) for k, v in sorted(self.parameters.items()) if k not in REPEATS and k != WEIGHT)

    def score(self, name: str, *, split: str = "test") -> float | None:
        """Return a score, None where there is none."""
        return self.scores.get(split, {}).get(name)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a sweep has published so far, and what is left out of it, in words."""

    name: str
    folder: Path
    runs: Sequence[PublishedRun]
    left_out: Sequence[str]


def collect(folder: Path) -> Collection:
    """Return the published runs of the sweep in `folder`, in the order of its manifest.

    Retired runs, damaged results and runs that are not published yet are left out and named.

    Raises:
        SweepError: the sweep has no manifest, or no run of it is published.
    """
    sweep = SweepDir(folder)
    manifest = read_manifest(folder)
    results: list[tuple[str, dict[str, Any]]] = []
    left_out: list[str] = []
    missing: list[str] = []
    for run in manifest.active():
        try:
            results.append((run.id, read_result(sweep.run(run.id))))
        except PublishError as error:
            if sweep.run(run.id).exists():
                left_out.append(str(error))
            else:
                missing.append(run.id)
    if not results:
        raise SweepError(
            f"{folder}: no run of this sweep is published yet; `band-sweep status {manifest.name}` says how far it is"
        )
    labels = _session_labels(result for _, result in results)
    if missing:
        left_out.append(f"not published yet: {named(missing)}")
    if num_retired := len(manifest.runs) - len(manifest.active()):
        left_out.append(f"no longer in the sweep (retired): {num_retired} runs")
    runs = [_published(run_id, sweep.run(run_id), result, labels=labels) for run_id, result in results]
    return Collection(name=manifest.name, folder=folder, runs=runs, left_out=left_out)


def write_results(collection: Collection) -> Path:
    """Write report/results.csv in the sweep's folder, a row a run, and return its path."""
    path = collection.folder / RESULTS
    path.parent.mkdir(exist_ok=True)
    write_csv(path, collection.runs)
    return path


def named(names: Sequence[str], *, limit: int = 5) -> str:
    """Return the first few names and how many more there are."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _recording(result: Mapping[str, Any]) -> tuple[str, float | None]:
    """Return what makes a session: the digest of its dataset, and the width of a bin where that is set."""
    return result["dataset"]["digest"], result["config"]["data"]["bin_ms"]


def _session_labels(results: Iterable[Mapping[str, Any]]) -> dict[tuple[str, float | None], str]:
    """Return a short name for each session: its file's stem, with more of what makes it where several share that."""
    stems = {_recording(result): Path(result["dataset"]["path"]).stem for result in results}
    labels = dict(stems)
    for part in range(2):
        shared = Counter(labels.values())
        labels = {r: label if shared[label] == 1 else f"{label}-{str(r[part])[:6]}" for r, label in labels.items()}
    return labels


def _published(
    run_id: str, folder: Path, result: Mapping[str, Any], *, labels: Mapping[tuple[str, float | None], str]
) -> PublishedRun:
    return PublishedRun(
        id=run_id,
        folder=folder,
        session=labels[_recording(result)],
        parameters=flatten(result["config"]),
        outcome=result["training"]["outcome"],
        scores=result["scores"],
        split=result["split"],
        training=result["training"],
    )


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested configuration with full keys: {"hyper": {"lr": 1}} becomes {"hyper.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value})
    return flat


def write_csv(path: Path, runs: Sequence[PublishedRun]) -> None:
    """Write one row a run: what it is, every parameter, how training ended, every score as SPLIT/NAME."""
    rows = [table_row(run) for run in runs]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def table_row(run: PublishedRun) -> dict[str, Any]:
    """Return a run as a row of the table: what it is, every parameter, how training ended, scores as SPLIT/NAME."""
    scores = {f"{split}/{name}": value for split in SPLITS for name, value in run.scores.get(split, {}).items()}
    return {
        "run_id": run.id,
        "model": "BAND" if run.weight > 0 else "LFADS",
        "session": run.session,
        **run.parameters,
        **{f"training.{name}": value for name, value in run.training.items()},
        **{f"split.{name}": value for name, value in run.split.items()},
        **scores,
    }
