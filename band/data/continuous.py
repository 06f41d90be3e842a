"""Recordings that run on: one clock, its segments, and every array on it; from a continuous file or from trials.

Axes: L bin of the clock, S segment. The clock counts the bins of all segments one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from band.data.checks import check_finite, check_support
from band.data.hdf5 import datasets, open_hdf5, reading
from band.data.recording import Recording, file_bin_ms, open_recording
from band.data.windows import runs
from band.errors import DataError

KEYS = ("encod_data", "recon_data", "behavior", "ext_input", "truth")  # of a continuous file, (L, channel)
CLOCK_KEYS = ("segment", "clock_ms")  # (L,)


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """Arrays on one clock.

    Args:
        path: the file they came from.
        bin_ms: width of a bin, ms.
        arrays: by key, (L, channel), among them "encod_data" and "recon_data"; NaN is missing.
        segment: (L,), number of each bin's segment, 0 to S - 1; -1 before the first and after the last count of a
            segment that is not missing, and between segments.
        clock_ms: (L,), time at which each bin starts, on the clock of the recording.
        of_segment: by key, (S, …), what a whole segment has in common, such as its condition.
        split: (S,), the shipped split of each segment; "train" where none is shipped.
        attributes: of the file, to be carried along.
    """

    path: Path
    bin_ms: float
    arrays: dict[str, np.ndarray]
    segment: np.ndarray
    clock_ms: np.ndarray
    of_segment: dict[str, np.ndarray]
    split: np.ndarray
    attributes: dict[str, Any]


def open_continuous(path: Path, *, bin_ms: float | None = None) -> Continuous:
    """Return a recording on one clock: of a continuous file, or of a file of trials, each of which is a segment.

    Args:
        path: HDF5, with `encod_data` (bin, neuron) and beside it, where there are such, `recon_data`, `behavior`,
            `ext_input`, `truth` (bin, channel), `segment` (bin,) and `clock_ms` (bin,); or in the layout of trials,
            where missing bins at the end of a trial make it shorter than the others.
        bin_ms: width of a bin; None: the file's attribute.

    Raises:
        DataError: the file cannot be read, or breaks a rule.
    """
    with open_hdf5(path) as file:
        found = datasets(file, path)
        attributes = dict(file.attrs)
        width = bin_ms if bin_ms is not None else file_bin_ms(file, path)
        if width is None:
            raise DataError(f"{path}: must have a bin width, but attribute bin_ms is missing; give --bin-ms")
        if "encod_data" in found:
            return _of_file(path, found, attributes=attributes, bin_ms=width)
    return _of_trials(open_recording(path, bin_ms=width, missing="mask"), attributes=attributes, bin_ms=width)


def _of_file(path: Path, found: dict[str, h5py.Dataset], *, attributes: dict[str, Any], bin_ms: float) -> Continuous:
    length = found["encod_data"].shape[0] if found["encod_data"].shape else 0
    arrays = {key: _on_clock(path, key, found[key], length=length) for key in KEYS if key in found}
    arrays.setdefault("recon_data", arrays["encod_data"])
    _check_values(path, arrays)
    given = {key: _clock(path, key, found[key], length=length) for key in CLOCK_KEYS if key in found}
    clock = given.get("clock_ms", np.arange(length) * bin_ms)
    label = given.get("segment", np.zeros(length))
    # A clock that jumps has a break there, whether the file says so or not.
    jumps = np.abs(np.diff(clock) - bin_ms) > bin_ms / 2
    breaks = np.concatenate([[False], (label[1:] != label[:-1]) | jumps])
    segment = np.where(label < 0, -1, np.cumsum(breaks))
    segment = _numbered(_within_counts(segment, arrays["encod_data"]))
    count = int(segment.max(initial=-1)) + 1
    return Continuous(
        path=path, bin_ms=bin_ms, arrays=arrays, segment=segment, clock_ms=clock,
        of_segment={}, split=np.full(count, "train"), attributes=attributes,
    )  # fmt: skip


def _of_trials(recording: Recording, *, attributes: dict[str, Any], bin_ms: float) -> Continuous:
    trials = recording.arrays
    if "window_start" in trials:
        raise DataError(f"{recording.path}: is chopped already; chop the recording that it was made from")
    bins = trials["encod_data"].shape[1]
    order = np.argsort(trials["inds"], kind="stable") if recording.has_inds else np.arange(recording.num_trials)
    arrays, of_segment = {}, {}
    for key, values in trials.items():
        is_course = values.ndim > 1 and values.shape[1] == bins and values.dtype.kind != "U"
        if key in KEYS and not is_course:
            raise DataError(
                f"{recording.path}: {key} must have the {bins} bins of encod_data to be chopped, "
                f"found {values.shape[1]}; export it again without the bins that come after"
            )
        if is_course:
            arrays[key] = values[order].reshape(-1, *values.shape[2:])
        elif key != "inds":
            of_segment[key] = values[order]
    of_segment["trial"] = trials["inds"][order]
    begin = of_segment.get("start_ms", np.arange(len(order)) * bins * bin_ms)
    segment = _within_counts(np.repeat(np.arange(len(order)), bins), arrays["encod_data"])
    return Continuous(
        path=recording.path, bin_ms=bin_ms, arrays=arrays, segment=segment,
        clock_ms=(begin[:, None] + np.arange(bins) * bin_ms).ravel(),
        of_segment=of_segment, split=recording.origin_split[order], attributes=attributes,
    )  # fmt: skip


def _on_clock(path: Path, key: str, dataset: h5py.Dataset, *, length: int) -> np.ndarray:
    if dataset.ndim != 2 or 0 in dataset.shape or dataset.shape[0] != length or dataset.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: {key} of a continuous recording must hold numbers (bin, channel) with the {length} bins of "
            f"encod_data, found {dataset.dtype} {dataset.shape}"
        )
    with reading(path, key), np.errstate(over="ignore"):
        return np.asarray(dataset[()]).astype(np.float32)


def _clock(path: Path, key: str, dataset: h5py.Dataset, *, length: int) -> np.ndarray:
    with reading(path, key):
        values = np.asarray(dataset[()])
    if values.shape != (length,) or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise DataError(f"{path}: {key} must hold one finite number a bin, {length} in all, found {values.shape}")
    return values.astype(np.float64)


def _check_values(path: Path, arrays: dict[str, np.ndarray]) -> None:
    for key, values in arrays.items():
        where = lambda row, key=key: f"{key} row {row}"  # noqa: E731
        if key in ("encod_data", "recon_data"):
            check_support(values, path=path, where=where, missing="mask")
        else:
            check_finite(values, path=path, where=where, missing="auto" if key == "ext_input" else "mask")
    if not (arrays["recon_data"] > 0).any():
        raise DataError(f"{path}: recon_data must hold at least one count above 0, found none in any bin")


def _within_counts(segment: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the segments without the bins before their first and after their last count that is not missing."""
    seen = np.flatnonzero(~np.isnan(counts).all(axis=1))
    kept = np.full_like(segment, -1)
    for begin, end in runs(segment):
        there = seen[np.searchsorted(seen, begin) : np.searchsorted(seen, end)]
        if len(there):
            kept[there[0] : there[-1] + 1] = segment[begin]
    return kept


def _numbered(segment: np.ndarray) -> np.ndarray:
    """Return the segments numbered from 0 in the order in which they come, without gaps."""
    names, numbers = np.unique(segment, return_inverse=True)
    return np.asarray(numbers - int(np.sum(names < 0)) if len(names) else segment, dtype=np.int64)


def whole_bins(text: str, *, bin_ms: float, what: str, of_bins: int | None = None) -> int:
    """Return the bins that a length names: "600ms", "30bins", or a share such as "0.5" of `of_bins`.

    Raises:
        DataError: it is none of these, or no whole number of bins.
    """
    unit = next((u for u in ("bins", "ms") if text.strip().endswith(u)), "")
    try:
        number = float(text.strip().removesuffix(unit))
    except ValueError:
        number = math.nan
    if not unit and of_bins is not None and 0 <= number < 1:
        return min(round(number * of_bins), of_bins - 1)
    size = number / bin_ms if unit == "ms" else number
    if not (unit and math.isfinite(size) and size >= 0 and abs(size - round(size)) < 1e-6):
        share = ", or a share of the window below 1 such as 0.5" if of_bins is not None else ""
        raise DataError(
            f"{what} must be a whole number of bins of {bin_ms:g} ms, such as {20 * bin_ms:g}ms or 20bins{share}, "
            f"got {text!r}"
        )
    return round(size)
