"""Loose arrays of MATLAB and NumPy files: by which name and along which axis they hold what.

Axes: n trial, T bin, N neuron.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from band.data.hdf5 import SPLIT_NAMES
from band.data.importers.binning import Signal
from band.data.importers.session import Session, checked_signal, split_words
from band.errors import ConfigError, DataError, did_you_mean

Loose = dict[str, "np.ndarray | list[np.ndarray]"]  # a list holds trials of different lengths, or spikes of neurons
COURSES = ("encod_data", "recon_data", "behavior", "ext_input", "truth")
ALIASES = {
    "spikes": "encod_data",
    "counts": "encod_data",
    "spike_counts": "encod_data",
    "behaviour": "behavior",
    "condition": "cond",
    "conditions": "cond",
    "held_out": "heldout",
}
AXES = ("trial", "bin", "channel")


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What the arrays of a file are."""

    names: Mapping[str, str] = field(default_factory=dict)  # name of ours -> name in the file
    axes: tuple[str, ...] = AXES  # order of the axes of what has a value a bin, as the file has them
    times_in: str = "s"  # unit of all times: s or ms

    def __post_init__(self) -> None:
        if sorted(self.axes) != sorted(AXES):
            raise ConfigError(f"--axes must be {', '.join(AXES)} in the file's order, got {','.join(self.axes)}")
        if self.times_in not in ("s", "ms"):
            raise ConfigError(f"--times-in must be s or ms, got {self.times_in}")


def named(path: Path, found: Loose, naming: Naming) -> Loose:
    """Return the arrays under the names that we know them by.

    Raises:
        DataError: a name that was given is not in the file.
    """
    for name in naming.names.values():
        if name not in found:
            raise DataError(f"{path}: there is no array {name!r}; {did_you_mean(name, found)}")
    taken = set(naming.names.values())
    rest = {name: values for name, values in found.items() if name not in taken}
    known = {ours: rest.pop(alias) for alias, ours in ALIASES.items() if alias in rest and ours not in rest}
    return {**rest, **known, **{ours: found[theirs] for ours, theirs in naming.names.items()}}


def session_of(path: Path, found: Loose, naming: Naming, *, signals: tuple[str, ...]) -> Session:
    """Return a session of arrays: `spike_times` and what belongs to it.

    `spike_times` is a list with the times of each neuron, or all times with the neuron of each in `spike_units`;
    `trials_NAME` or `trials.NAME` are columns of the trials; a signal NAME has the times of its samples in NAME_times;
    `heldout` tells the neurons that are explained but not encoded.

    Raises:
        DataError: an array is missing or has a shape that does not fit.
    """
    scale = 1.0 if naming.times_in == "s" else 1e-3
    times = _spike_times(path, found)
    held_out = _vector(path, found, "heldout") if "heldout" in found else np.zeros(len(times))
    if len(held_out) != len(times):
        raise DataError(f"{path}: heldout must hold one number for each of {len(times)} neurons, found {len(held_out)}")
    columns = {}
    for name in found:
        if name.startswith(("trials_", "trials.")):
            values = _vector(path, found, name)
            columns[name[7:]] = values * scale if name.endswith("_time") else values
    if len({len(values) for values in columns.values()}) > 1:
        sizes = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise DataError(f"{path}: the columns of trials must have one value a trial each, found {sizes}")
    return Session(
        path=path,
        spike_times=[np.sort(np.asarray(neuron, dtype=np.float64)) * scale for neuron in times],
        is_held_out=held_out.astype(bool),
        signals={name: _signal(path, found, name, scale) for name in signals},
        trials=columns or None,
    )


def trials_of(path: Path, found: Loose, naming: Naming) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the arrays of a file of ours: of trials, or of a recording that runs on where counts have no trial axis.

    Raises:
        DataError: there are no counts, or an array has a shape that does not fit.
    """
    if "train_encod_data" in found:
        return _shipped(path, found)
    if "encod_data" not in found:
        listed = ", ".join(sorted(found)) or "nothing"
        raise DataError(
            f"{path}: must hold encod_data (counts) or spike_times, found {listed}; say which array it is, as in "
            "--array encod_data=NAME"
        )
    counts = found["encod_data"]
    runs_on = isinstance(counts, np.ndarray) and counts.ndim == 2
    axes = tuple(axis for axis in naming.axes if axis != "trial" or not runs_on)
    courses = {key: _course(path, key, found[key], axes) for key in COURSES if key in found}
    rest = {name: np.asarray(v) for name, v in found.items() if name not in COURSES and isinstance(v, np.ndarray)}
    notes = tuple(f"{name} left out: a list of arrays" for name, v in found.items()
                  if name not in COURSES and isinstance(v, list))  # fmt: skip
    if "heldout" in rest:
        courses |= _held_out(path, courses["encod_data"], rest.pop("heldout").ravel().astype(bool))
    courses.setdefault("recon_data", courses["encod_data"])
    if runs_on:
        rest |= {key: rest[key].ravel() for key in ("segment", "clock_ms") if key in rest}
        return {**rest, **courses}, notes
    return _by_split(path, courses, rest), notes


def _by_split(path: Path, courses: dict[str, np.ndarray], rest: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = len(courses["encod_data"])
    for key, values in courses.items():
        if len(values) != count:
            raise DataError(f"{path}: {key} must have the {count} trials of encod_data, found {len(values)}")
    flat = {name: v.ravel() if v.size == count else v for name, v in rest.items()}
    split = split_words(path, "split", flat.pop("split")) if "split" in flat else np.full(count, "train")
    of_trials = {name: v for name, v in flat.items() if v.shape[:1] == (count,)}
    arrays = {name: v for name, v in flat.items() if name not in of_trials}
    for name in SPLIT_NAMES:
        if name in split:
            arrays |= {f"{name}_{key}": values[split == name] for key, values in {**of_trials, **courses}.items()}
    return arrays


def _shipped(path: Path, found: Loose) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    arrays = {name: values for name, values in found.items() if isinstance(values, np.ndarray)}
    notes = [f"{name} left out: a list of arrays" for name in found if name not in arrays]
    for split in SPLIT_NAMES:
        if f"{split}_encod_data" in arrays and f"{split}_recon_data" not in arrays:
            arrays[f"{split}_recon_data"] = arrays[f"{split}_encod_data"]
            notes.append(f"{split}_recon_data is {split}_encod_data: no neuron is held out")
    return arrays, tuple(notes)


def _course(path: Path, key: str, values: np.ndarray | list[np.ndarray], axes: tuple[str, ...]) -> np.ndarray:
    """Return values with axes as we have them, (trial, bin, channel) or without trial, in float32."""
    inner = tuple(axis for axis in axes if axis != "trial")
    if isinstance(values, list):
        return _padded(path, key, [_turned(path, key, trial, inner) for trial in values])
    return _turned(path, key, values, axes)


def _turned(path: Path, key: str, values: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
    if values.ndim == len(axes) - 1:
        values = values[..., None]  # MATLAB drops a last axis of length 1
    if values.dtype.kind not in "biuf" or values.ndim != len(axes):
        raise DataError(
            f"{path}: {key} must hold numbers ({', '.join(axes)}), found {values.dtype} {values.shape}; give the order "
            "of the file's axes with --axes"
        )
    wanted = [axes.index(axis) for axis in AXES if axis in axes]
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and found so
        return np.ascontiguousarray(values.transpose(wanted), dtype=np.float32)


def _padded(path: Path, key: str, trials: list[np.ndarray]) -> np.ndarray:
    """Return trials of different lengths as one array, NaN after their ends (0 in inputs, which are never missing)."""
    if not trials or len({trial.shape[1] for trial in trials}) != 1:
        raise DataError(
            f"{path}: {key} must have as many channels in each trial, found {[t.shape for t in trials[:5]]}"
        )
    padded = np.full((len(trials), max(map(len, trials)), trials[0].shape[1]), np.nan, dtype=np.float32)
    for row, trial in zip(padded, trials, strict=True):
        row[: len(trial)] = trial
    return np.nan_to_num(padded) if key == "ext_input" else padded


def _held_out(path: Path, counts: np.ndarray, held_out: np.ndarray) -> dict[str, np.ndarray]:
    if held_out.shape != counts.shape[-1:] or held_out.all():
        raise DataError(
            f"{path}: heldout must hold one number for each of {counts.shape[-1]} neurons and leave one to encode, "
            f"found {held_out.shape}, {int(held_out.sum())} held out"
        )
    heldin, heldout = counts[..., ~held_out], counts[..., held_out]
    return {"encod_data": heldin, "recon_data": np.concatenate([heldin, heldout], axis=-1)}


def _spike_times(path: Path, found: Loose) -> list[np.ndarray]:
    times = found["spike_times"]
    if isinstance(times, list):
        return [np.asarray(neuron).ravel() for neuron in times]
    units = found.get("spike_units")
    if not isinstance(units, np.ndarray) or units.size != times.size or units.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: spike_units must hold the neuron of each of the {times.size} spike_times, found "
            f"{'nothing' if units is None else np.shape(units)}; or give the times of each neuron in a list of its own"
        )
    return [times.ravel()[units.ravel() == unit] for unit in np.unique(units)]


def _vector(path: Path, found: Loose, name: str) -> np.ndarray:
    values = found[name]
    if isinstance(values, list) or values.size != max(values.shape, default=0):
        shape = "a list of arrays" if isinstance(values, list) else values.shape
        raise DataError(f"{path}: {name} must hold one value each, found {shape}")
    return values.ravel()


def _signal(path: Path, found: Loose, name: str, scale: float) -> Signal:
    values, times = found.get(name), found.get(f"{name}_times")
    if not isinstance(values, np.ndarray) or not isinstance(times, np.ndarray):
        raise DataError(f"{path}: a signal {name!r} needs arrays {name} and {name}_times; {did_you_mean(name, found)}")
    times = times.ravel().astype(np.float64) * scale
    values = values.astype(np.float64).reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    values = values.T if len(values) != len(times) and values.shape[1] == len(times) else values
    return checked_signal(path, name, Signal(times=times, values=values))
