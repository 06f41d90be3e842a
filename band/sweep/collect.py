"""Published runs of a sweep, read from their sealed folders alone, and all of them as one table in a file."""

from __future__ import annotations

import csv
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from band.errors import PublishError, SweepError
from band.files import whole_file
from band.run_dir import RESULT, SweepDir, read_result
from band.sweep.identity import UNHASHED
from band.sweep.manifest import read_manifest
from band.sweep.statistics import Cell

WEIGHT = "hyper.behavior_weight"
REPEATS = ("seed", "data.fold", "data.bin_ms", *UNHASHED)  # of one setting; the width of a bin belongs to its file
SPLITS = ("test", "valid", "train")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet begins to calculate
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
    sweep: str = ""  # name of the sweep that it was found in
    dataset: Mapping[str, Any] = field(default_factory=dict)  # path and digest
    provenance: Mapping[str, Any] = field(default_factory=dict)  # code, versions, machine

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

    name: str  # of several sweeps: A+B
    folder: Path  # of the first
    runs: Sequence[PublishedRun]
    left_out: Sequence[str]
    folders: Sequence[Path] = ()  # of every sweep


def collect(folder: Path, *others: Path) -> Collection:
    """Return the published runs of the sweep in `folder`, in the order of its manifest, and those of others after it.

    Retired runs, damaged results and runs that are not published yet are left out and named.

    Raises:
        SweepError: a sweep has no manifest, or no run of it is published, or two have one name.
    """
    found: list[PublishedRun] = []
    left_out: list[str] = []
    names: list[str] = []
    for one in (folder, *others):
        name, runs, missing = _read_runs(one)
        if name in names:
            raise SweepError(f"{one}: a sweep named {name} is given already; sweeps that are compared differ in name")
        names.append(name)
        found += runs
        left_out += [f"{name}: {words}" if others else words for words in missing]
    labels = _session_labels(found)
    runs = [replace(run, session=labels[_recording(run)]) for run in found]
    return Collection(name="+".join(names), folder=folder, runs=runs, left_out=left_out, folders=(folder, *others))


def _read_runs(folder: Path) -> tuple[str, list[PublishedRun], list[str]]:
    """Return a sweep's name, its published runs, whose session is yet to be named, and what is left out, in words."""
    sweep = SweepDir(folder)
    manifest = read_manifest(folder)
    runs: list[PublishedRun] = []
    left_out: list[str] = []
    missing: list[str] = []
    for run in manifest.active():
        path = sweep.run(run.id)
        try:
            runs.append(_published(path, read_result(path), sweep=manifest.name))
        except PublishError as error:
            if path.exists():
                left_out.append(str(error))
            else:
                missing.append(run.id)
    if not runs:
        raise SweepError(
            f"{folder}: no run of this sweep is published yet; `band-sweep status {manifest.name}` says how far it is"
        )
    if missing:
        left_out.append(f"not published yet: {named(missing)}")
    if num_retired := len(manifest.runs) - len(manifest.active()):
        left_out.append(f"no longer in the sweep (retired): {num_retired} runs")
    return manifest.name, runs, left_out


def _published(folder: Path, result: Mapping[str, Any], *, sweep: str) -> PublishedRun:
    """Return a run whose parts are of the kinds that tables and figures need; what many share is held once.

    Raises:
        PublishError: a part is missing, or of another kind.
    """
    try:
        parameters = flatten(_mapping(result["config"]))
        for value in parameters.values():
            _plain(value)
        float(parameters[WEIGHT]), int(parameters["data.fold"]), int(parameters["seed"])
        _texts(result["dataset"]["path"], result["dataset"]["digest"], result["training"]["outcome"])
        _plain(result["config"]["data"]["bin_ms"])
        for scores in _mapping(result["scores"]).values():
            for score in _mapping(scores).values():
                if score is not None and not (isinstance(score, (int, float)) and math.isfinite(score)):
                    raise TypeError(f"{str(score)[:80]!r} is no score")
        _mapping(result["split"]), _mapping(result["training"]), _mapping(result.get("provenance", {}))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PublishError(
            f"{folder / RESULT} is not the result of a run ({error!r}); restore it or delete it"
        ) from None
    return PublishedRun(
        id=folder.name,
        folder=folder,
        session="",
        parameters=_held_once(parameters),
        outcome=result["training"]["outcome"],
        scores={split: _held_once(scores) for split, scores in result["scores"].items()},
        split=_held_once(result["split"]),
        training=_held_once(result["training"]),
        sweep=sweep,
        dataset=_held_once(result["dataset"]),
        provenance=_held_once(result.get("provenance", {})),
    )


def _held_once(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping whose names, and values of text, are the same objects in every run."""
    return {sys.intern(k): sys.intern(v) if type(v) is str else v for k, v in values.items()}


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{str(value)[:80]!r} should be a mapping")
    return value


def _plain(value: Any) -> None:
    if isinstance(value, (dict, list)) or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError(f"{str(value)[:80]!r} is no value of a field")


def _texts(*values: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{str(value)[:80]!r} should be text")


def write_results(collection: Collection, *, into: Path | None = None) -> Path:
    """Write results.csv, a row a run, into a folder, by default the sweep's report/, and return its path."""
    path = (collection.folder / RESULTS if into is None else into / Path(RESULTS).name).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, collection.runs)
    return path


def named(names: Sequence[str], *, limit: int = 5) -> str:
    """Return the first few names and how many more there are."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _recording(run: PublishedRun) -> tuple[str, float | None]:
    """Return what makes a session: the digest of its dataset, and the width of a bin where that is set."""
    return run.dataset["digest"], run.parameters["data.bin_ms"]


def _session_labels(runs: Iterable[PublishedRun]) -> dict[tuple[str, float | None], str]:
    """Return a short name for each session: its file's stem, with more of what makes it where several share that."""
    stems = {_recording(run): Path(run.dataset["path"]).stem for run in runs}
    labels = dict(stems)
    for part in range(2):
        shared = Counter(labels.values())
        labels = {r: label if shared[label] == 1 else f"{label}-{str(r[part])[:6]}" for r, label in labels.items()}
    return labels


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested configuration with full keys: {"hyper": {"lr": 1}} becomes {"hyper.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value})
    return flat


def write_csv(path: Path, runs: Sequence[PublishedRun]) -> None:
    """Write one row a run: what it is, every parameter, how training ended, every score as SPLIT/NAME."""
    columns = list(dict.fromkeys(column for run in runs for column in table_row(run)))
    with (
        whole_file(path, replace=True) as temporary,
        temporary.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_cell(column) for column in columns])
        for run in runs:
            row = table_row(run)
            writer.writerow([_cell(row.get(column, "")) for column in columns])


def _cell(value: Any) -> Any:
    """Return a value as a cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def table_row(run: PublishedRun) -> dict[str, Any]:
    """Return a run as a row of the table: what it is, every parameter, how training ended, scores as SPLIT/NAME."""
    scores = {f"{split}/{name}": value for split in SPLITS for name, value in run.scores.get(split, {}).items()}
    return {
        "run_id": run.id,
        "sweep": run.sweep,
        "model": "BAND" if run.weight > 0 else "LFADS",
        "session": run.session,
        **run.parameters,
        **{f"training.{name}": value for name, value in run.training.items()},
        **{f"split.{name}": value for name, value in run.split.items()},
        **scores,
    }
