"""Merging: what a model gave for overlapping windows, put together again on the clock of the recording.

Axes: L bin of the recording's clock, W window, T bin of a window.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from band.data.continuous import whole_bins
from band.data.hdf5 import SPLIT_NAMES, datasets, open_hdf5, reading, split_of
from band.data.windows import Windows, merge_spreads, merge_windows, runs
from band.errors import DataError

SPREADS_OF = {"co_stds": "co_means"}  # beside NAME_spread of NAME
COMPARED = ("recon_data", "behavior")  # tell whether outputs belong to a chopped file
CLOCK = ("clock_ms", "clock_segment")


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Outputs on the clock.

    Args:
        arrays: by name in the file: outputs (L, …), "clock_ms" (L,), "segment" (L,) and "split" (L,), the split whose
            windows gave a bin's values; "" and NaN where no window of the outputs reaches, as beside a cut of splits.
        attributes: of the file.
        left_out: names in the outputs that have no value a bin.
    """

    arrays: dict[str, np.ndarray]
    attributes: dict[str, str | float]
    left_out: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Clock:
    path: Path
    windows: Windows  # of all splits, in the order of their numbers
    clock_ms: np.ndarray
    segment: np.ndarray
    overlap_bins: int
    bin_ms: float
    inputs: dict[str, np.ndarray]  # by key, of all windows


def merge_file(outputs: Path, *, chopped: Path | None = None, session: str = "", trim: str = "0bins") -> Merged:
    """Return the outputs of a run on the clock of the recording that was chopped for it.

    Args:
        outputs: `outputs.h5` of a run: {split}_NAME (W, T, …) and {split}_inds, the windows' numbers.
        chopped: the file that `band-data chop` wrote; None: `outputs` has its clock itself.
        session: which of several sessions, whose outputs stand in a group each.
        trim: "50ms" or "5bins" at each edge of a window that count only where nothing else is; at most half of the
            overlap.

    Raises:
        DataError: a file cannot be read, they do not belong together, or the trim is too large.
    """
    clock = _read_clock(chopped or outputs)
    trim_bins = whole_bins(trim, bin_ms=clock.bin_ms, what="--trim")
    with open_hdf5(outputs) as file:
        found = _of_session(outputs, datasets(file, outputs), session)
        numbers, split = _numbers(outputs, found, clock)
        names = sorted({named[1] for name in found if (named := split_of(name))} - {"inds", "window_start", "segment"})
        _check_same_input(outputs, found, clock, numbers)
        merged, left_out = {}, []
        for name in names:
            values = _pooled(outputs, found, name, num_bins=clock.windows.num_bins)
            if values is None:
                left_out.append(name)
                continue
            mean_of = SPREADS_OF.get(name, name.removesuffix("_spread"))
            means = _pooled(outputs, found, mean_of, num_bins=clock.windows.num_bins) if mean_of != name else None
            merged[name] = _merge(values, means, clock, numbers, trim=trim_bins)
        if "neurons" in found:
            merged["neurons"] = _neurons(outputs, found)
    merged |= {"clock_ms": clock.clock_ms, "segment": clock.segment, "split": _split_of_bins(clock, numbers, split)}
    how = {
        "outputs": outputs.name,
        "chopped": clock.path.name,
        "overlap_bins": clock.overlap_bins,
        "trim_bins": trim_bins,
    }
    attributes: dict[str, str | float] = {"bin_ms": clock.bin_ms, "merged": json.dumps(how)}
    return Merged(arrays=merged, attributes=attributes, left_out=tuple(left_out))


def _read_clock(path: Path) -> _Clock:
    with open_hdf5(path) as file:
        found = datasets(file, path)
        splits = [name for name in SPLIT_NAMES if f"{name}_window_start" in found]
        if not splits or not all(key in found for key in CLOCK) or "chopped" not in file.attrs:
            raise DataError(
                f"{path}: must hold clock_ms, clock_segment and train_window_start as `band-data chop` writes them, "
                "but they are missing; give the chopped file with --chopped"
            )
        with reading(path, "its clock"):
            how, bin_ms = json.loads(file.attrs["chopped"]), float(file.attrs["bin_ms"])
            window_bins, overlap_bins = int(how["window_bins"]), int(how["overlap_bins"])
            inds, starts = (np.concatenate([found[f"{s}_{k}"][()] for s in splits]) for k in ("inds", "window_start"))
            clock_ms, segment = (np.asarray(found[key][()]) for key in CLOCK)
            inputs = {k: np.concatenate([found[f"{s}_{k}"][()] for s in splits]) for k in COMPARED
                      if f"{splits[0]}_{k}" in found}  # fmt: skip
    order = np.argsort(inds)
    is_sound = np.array_equal(inds[order], np.arange(len(inds))) and starts.min() >= 0 and starts.max() < len(segment)
    if not is_sound or segment.shape != clock_ms.shape:
        raise DataError(f"{path}: inds and window_start must number the windows on its clock, but do not; chop again")
    return _Clock(
        path=path, windows=_windows(starts[order], segment, window_bins), clock_ms=clock_ms, segment=segment,
        overlap_bins=overlap_bins, bin_ms=bin_ms, inputs={key: values[order] for key, values in inputs.items()},
    )  # fmt: skip


def _windows(starts: np.ndarray, segment: np.ndarray, num_bins: int) -> Windows:
    ends_of_runs = np.array([end for _, end in runs(segment)])
    ends = ends_of_runs[np.searchsorted(ends_of_runs, starts, side="right")]
    return Windows(starts=starts, ends=np.minimum(starts + num_bins, ends), num_bins=num_bins)


def _numbers(outputs: Path, found: dict[str, h5py.Dataset], clock: _Clock) -> tuple[np.ndarray, np.ndarray]:
    """Return the window number of every row of the outputs, and its split."""
    parts = {}
    for name in _splits(found):
        if f"{name}_inds" not in found:
            raise DataError(f"{outputs}: {name}_inds is missing, which numbers its windows; give the outputs of a run")
        with reading(outputs, f"{name}_inds"):
            parts[name] = np.asarray(found[f"{name}_inds"][()]).astype(np.int64).reshape(-1)
    if not parts:
        raise DataError(
            f"{outputs}: must hold {{split}}_inds and outputs beside it, found {', '.join(found) or 'nothing'}"
        )
    numbers = np.concatenate(list(parts.values()))
    if numbers.min() < 0 or numbers.max() >= len(clock.windows) or len(np.unique(numbers)) != len(numbers):
        raise DataError(
            f"{outputs}: inds must be different numbers of the {len(clock.windows)} windows of {clock.path}, found "
            f"{numbers.min()} to {numbers.max()}; the outputs belong to another file, name it with --chopped"
        )
    return numbers, np.repeat(list(parts), [len(part) for part in parts.values()])


def _of_session(outputs: Path, found: dict[str, h5py.Dataset], session: str) -> dict[str, h5py.Dataset]:
    """Return the arrays of a session under their names in its group; of the one session of a file, all."""
    groups = sorted({name.rpartition("/")[0] for name in found if name.endswith("_inds")})
    if groups and session not in groups:
        known = ", ".join(filter(None, groups)) or "one without a name"
        raise DataError(f"{outputs}: holds the sessions {known}; name one of them with --session")
    prefix = f"{session}/" if session else ""
    return {name.removeprefix(prefix): array for name, array in found.items() if name.startswith(prefix)}


def _neurons(outputs: Path, found: dict[str, h5py.Dataset]) -> np.ndarray:
    with reading(outputs, "neurons"):
        return np.asarray(found["neurons"][()]).astype(np.int64).ravel()


def _splits(found: dict[str, Any]) -> list[str]:
    return [name for name in SPLIT_NAMES if any(key.startswith(f"{name}_") for key in found)]


def _pooled(outputs: Path, found: dict[str, h5py.Dataset], name: str, *, num_bins: int) -> np.ndarray | None:
    """Return an array of all splits, (W, T, …), or None where it has no value a bin in every split."""
    parts = [found.get(f"{split}_{name}") for split in _splits(found)]
    if any(p is None or p.ndim < 3 or p.shape[1] != num_bins or p.dtype.kind not in "biuf" for p in parts):
        return None
    with reading(outputs, name):
        return np.concatenate([np.asarray(part[()]) for part in parts if part is not None])


def _check_same_input(outputs: Path, found: dict[str, h5py.Dataset], clock: _Clock, numbers: np.ndarray) -> None:
    for key in COMPARED:
        copied = _pooled(outputs, found, key, num_bins=clock.windows.num_bins)
        if copied is None or key not in clock.inputs:
            continue
        expected = clock.inputs[key][numbers]
        if (
            key == "recon_data" and "neurons" in found
        ):  # a run that held neurons out has put them in an order of its own
            neurons = _neurons(outputs, found)
            expected = expected[..., neurons] if neurons.max(initial=-1) < expected.shape[2] else expected
        if not np.array_equal(copied, expected, equal_nan=True):
            raise DataError(
                f"{outputs}: {key} must be that of {clock.path}, window by window, but differs; the outputs belong to "
                "another file, name it with --chopped"
            )


def _merge(
    values: np.ndarray, means: np.ndarray | None, clock: _Clock, numbers: np.ndarray, *, trim: int
) -> np.ndarray:
    windows = clock.windows.chosen(numbers)
    length = len(clock.segment)
    if means is not None and means.shape == values.shape:
        return merge_spreads(values, means, windows, length=length, overlap_bins=clock.overlap_bins, trim_bins=trim)
    return merge_windows(values, windows, length=length, overlap_bins=clock.overlap_bins, trim_bins=trim)


def _split_of_bins(clock: _Clock, numbers: np.ndarray, split: np.ndarray) -> np.ndarray:
    found = np.full(len(clock.segment), "", dtype="U5")
    for number, name in zip(numbers.tolist(), split.tolist(), strict=True):
        found[clock.windows.starts[number] : clock.windows.ends[number]] = name
    return found
