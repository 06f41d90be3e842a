"""Trials that two splits share: the same trial twice, or windows of one recording that overlap."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from band.errors import DataError

COMPARED = ("encod_data", "behavior")  # what makes two trials the same
MIN_COUNTS = 10  # fewer spikes than this can agree by chance


def same_trials(arrays: Mapping[str, np.ndarray]) -> list[tuple[int, int]]:
    """Return every pair (i, j), i < j, of trials with the same counts and behaviour, bit for bit.

    Trials with hardly a spike are not compared: they can agree by chance.
    """
    counts = arrays["encod_data"]
    firsts: dict[int, list[int]] = {}
    pairs = []
    for trial in range(len(counts)):
        if np.nansum(counts[trial]) < MIN_COUNTS:
            continue
        print_ = zlib.crc32(counts[trial].tobytes())
        for earlier in firsts.get(print_, []):
            if all(_equal(arrays[key][earlier], arrays[key][trial]) for key in COMPARED if key in arrays):
                pairs.append((earlier, trial))
                break
        firsts.setdefault(print_, []).append(trial)
    return pairs


def overlapping_windows(arrays: Mapping[str, np.ndarray]) -> list[tuple[int, int, int]]:
    """Return (i, j, bins) where the last `bins` bins of trial i are the first of trial j, bit for bit.

    Found by a hash a bin, then compared in full; an overlap counts if it holds MIN_COUNTS spikes.
    """
    counts = arrays["encod_data"]
    num_trials, num_bins = counts.shape[:2]
    prints = np.array([[zlib.crc32(row.tobytes()) for row in trial] for trial in counts], dtype=np.int64)
    starts: dict[int, list[int]] = {}
    for trial in range(num_trials):
        starts.setdefault(int(prints[trial, 0]), []).append(trial)
    found = []
    for trial in range(num_trials):
        for begin in range(1, num_bins):
            for other in starts.get(int(prints[trial, begin]), []):
                if other == trial or not np.array_equal(prints[trial, begin:], prints[other, : num_bins - begin]):
                    continue
                if np.nansum(counts[trial, begin:]) >= MIN_COUNTS and _tails_agree(arrays, trial, other, begin):
                    found.append((trial, other, num_bins - begin))
    return found


def windows_on_clock(arrays: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the pairs of windows of a chopped recording that share bins, as its clock tells.

    Args:
        arrays: pooled arrays; "segment" (n,) and "window_start" (n,), whole numbers, where it was chopped.

    Returns:
        Item k - 1 holds the pairs (i, j), two arrays of pooled trials, of windows that share bins and lie k windows
        apart, i before j. Empty where nothing overlaps.
    """
    segment, start = arrays.get("segment"), arrays.get("window_start")
    if segment is None or start is None or segment.ndim != 1 or start.ndim != 1:
        return []
    num_bins = arrays["encod_data"].shape[1]
    order = np.lexsort((start, segment))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for apart in range(1, len(order)):
        one, other = order[:-apart], order[apart:]
        shares = (segment[one] == segment[other]) & (start[other] - start[one] < num_bins)
        if not shares.any():
            break
        found.append((one[shares], other[shares]))
    return found


def check_no_shared_trials(
    arrays: Mapping[str, np.ndarray],
    splits: Mapping[str, np.ndarray],
    *,
    path: Path,
    where: Callable[[str, int], str],
    has_inds: bool,
) -> None:
    """Check that no trial stands in two splits, by its number, by its content, and by the clock of a chopped recording.

    Args:
        arrays: the pooled arrays.
        splits: pooled indices of each split.
        path: the file, for the message.
        where: names a pooled trial's place in the file.
        has_inds: whether "inds" are trial numbers of the file's own.

    Raises:
        DataError: a trial, a copy of it, or a window that shares bins with it, is in two splits.
    """
    names = np.full(len(arrays["encod_data"]), "", dtype="U8")
    for split, indices in splits.items():
        names[indices] = split
    for one, other in combinations(splits, 2):
        twice = set(splits[one].tolist()) & set(splits[other].tolist())
        assert not twice, f"{one} and {other} share pooled trials {sorted(twice)[:5]}"
        if not has_inds:
            continue
        shared = np.intersect1d(arrays["inds"][splits[one]], arrays["inds"][splits[other]])
        if len(shared):
            raise DataError(
                f"{path}: {one} and {other} must not share trials, but inds has {shared[:5].tolist()} in both "
                f"({len(shared)} in all); number each trial once, and where one trial was cut into several carry its "
                "number under another name and set data.split=grouped, data.group_key to that name"
            )
    _check_clock(arrays, names, path=path, where=where)
    for i, j in same_trials(arrays):
        if names[i] and names[j] and names[i] != names[j]:
            raise DataError(
                f"{path}: {names[i]} and {names[j]} must not share trials, but {where('encod_data', i)} and "
                f"{where('encod_data', j)} are the same bit for bit; export each trial once"
            )


def _check_clock(
    arrays: Mapping[str, np.ndarray], names: np.ndarray, *, path: Path, where: Callable[[str, int], str]
) -> None:
    for firsts, seconds in windows_on_clock(arrays):
        crossing = (names[firsts] != names[seconds]) & (names[firsts] != "") & (names[seconds] != "")
        if crossing.any():
            i, j = (int(side[crossing][0]) for side in (firsts, seconds))
            raise DataError(
                f"{path}: {names[i]} and {names[j]} must not share bins, but the windows {where('window_start', i)} "
                f"and {where('window_start', j)} overlap ({int(crossing.sum())} such pairs or more); set data.split="
                "blocked, which leaves a guard between, or data.split=grouped with data.group_key=segment"
            )


def _tails_agree(arrays: Mapping[str, np.ndarray], trial: int, other: int, begin: int) -> bool:
    num_bins = arrays["encod_data"].shape[1]
    keys = [key for key in COMPARED if key in arrays and arrays[key].shape[1] == num_bins]
    return all(_equal(arrays[key][trial, begin:], arrays[key][other, : num_bins - begin]) for key in keys)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays are the same, missing samples (NaN) in the same places."""
    return np.array_equal(one, other, equal_nan=True)
