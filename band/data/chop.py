"""Chopping: a recording that runs on becomes windows that overlap, with what it takes to put outputs together again.

Axes: L bin of the recording's clock, W window, T bin of a window.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from band.data.continuous import Continuous, open_continuous, whole_bins
from band.data.hdf5 import SPLIT_NAMES, split_of, write_hdf5
from band.data.recording import open_recording
from band.data.windows import Windows, cut_windows, lay_windows
from band.errors import DataError

CLOCK_NAMES = ("clock_ms", "clock_segment")
WINDOW_KEYS = ("inds", "window_start", "segment")


@dataclass(frozen=True, kw_only=True)
class Chopped(Mapping[str, np.ndarray]):
    """The arrays of a chopped file by name, each made when it is asked for: all at once could exceed the memory.

    Args:
        recording: what is chopped.
        windows: where the windows lie, in the order of the clock; those without any count are left out.
        overlap_bins: bins that neighbours share.
        split: (W,), the split of each window: that of its segment.
    """

    recording: Continuous
    windows: Windows
    overlap_bins: int
    split: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one array of the file."""
        clock = {"clock_ms": self.recording.clock_ms, "clock_segment": self.recording.segment}
        if name in clock:
            return clock[name]
        split, key = split_of(name) or ("", "")
        which = np.flatnonzero(self.split == split)
        windows = self.windows.chosen(which)
        segment = self.recording.segment[windows.starts]
        own = {"inds": which, "window_start": windows.starts, "segment": segment}
        if key in own:
            return np.asarray(own[key])
        if key in self.recording.arrays:
            fill = 0.0 if key == "ext_input" else np.nan
            return cut_windows(self.recording.arrays[key], windows, fill=fill)
        return np.asarray(self.recording.of_segment[key][segment])

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        keys = dict.fromkeys([*WINDOW_KEYS, *self.recording.arrays, *self.recording.of_segment])
        splits = [name for name in SPLIT_NAMES if name in self.split]
        return iter([*CLOCK_NAMES, *(f"{split}_{key}" for split in splits for key in keys)])

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(list(iter(self)))

    def counts(self) -> dict[str, int]:
        """Return the number of windows of each split."""
        return {name: int((self.split == name).sum()) for name in SPLIT_NAMES if name in self.split}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every array, by name, without making those of every bin."""
        counts, found = self.counts(), {}
        for name in sorted(self):
            split, key = split_of(name) or ("", "")
            courses = self.recording.arrays
            is_course = bool(split) and key in courses
            found[name] = (
                (counts[split], self.windows.num_bins, *courses[key].shape[1:]) if is_course else self[name].shape
            )
        return found

    def size_bytes(self) -> int:
        """Return about how many bytes the arrays take before they are compressed."""
        return sum(math.prod(shape) * (4 if len(shape) > 1 else 8) for shape in self.shapes().values())

    def attributes(self) -> dict[str, str | float]:
        """Return the attributes of the file: the recording's own, bin width, and how it was chopped."""
        kept = {name: value for name, value in self.recording.attributes.items() if name != "layout"}
        sizes = {"window_bins": self.windows.num_bins, "overlap_bins": self.overlap_bins}
        how = {"source": self.recording.path.name, **sizes}
        return {**kept, "bin_ms": self.recording.bin_ms, "chopped": json.dumps(how)}


def chop(recording: Continuous, *, window_bins: int, overlap_bins: int, tail: str = "shift") -> Chopped:
    """Return the windows of a recording.

    Args:
        recording: what to chop.
        window_bins: T.
        overlap_bins: bins that neighbouring windows share, 0 to T - 1.
        tail: how segments end, see `band.data.windows.lay_windows`.

    Raises:
        DataError: a size is out of range, or no window has a count that is not missing.
    """
    if not 0 <= overlap_bins < window_bins:
        raise DataError(f"the overlap must be 0 to less than the window of {window_bins} bins, got {overlap_bins}")
    laid = lay_windows(recording.segment, num_bins=window_bins, step_bins=window_bins - overlap_bins, tail=tail)
    seen = np.concatenate([[0], np.cumsum(~np.isnan(recording.arrays["encod_data"]).all(axis=1))])
    windows = laid.chosen(seen[laid.ends] > seen[laid.starts])
    if not len(windows):
        raise DataError(f"{recording.path}: encod_data must hold a count that is not missing, found none in any bin")
    split = recording.split[recording.segment[windows.starts]]
    return Chopped(recording=recording, windows=windows, overlap_bins=overlap_bins, split=split)


def chop_file(
    source: Path, *, window: str, overlap: str = "0", tail: str = "shift", bin_ms: float | None = None
) -> Chopped:
    """Return the windows of a file.

    Args:
        source: see `band.data.continuous.open_continuous`.
        window: length of a window, "600ms" or "30bins".
        overlap: what neighbours share, "300ms", "15bins", or a share of the window such as "0.5".
        tail: how segments end, see `band.data.windows.lay_windows`.
        bin_ms: width of a bin; None: the file's attribute.

    Raises:
        DataError: the file or a length breaks a rule.
    """
    recording = open_continuous(source, bin_ms=bin_ms)
    window_bins = whole_bins(window, bin_ms=recording.bin_ms, what="--window")
    overlap_bins = whole_bins(overlap, bin_ms=recording.bin_ms, what="--overlap", of_bins=window_bins)
    return chop(recording, window_bins=window_bins, overlap_bins=overlap_bins, tail=tail)


def write_chopped(
    path: Path,
    chopped: Chopped,
    *,
    replace: bool = False,
    on_step: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> None:
    """Write a chopped recording, whole or not at all, once it has been read back as training reads it.

    Raises:
        DataError: it cannot be written, or breaks a rule.
    """
    attributes = chopped.attributes()
    write_hdf5(path, chopped, attributes=attributes, replace=replace, check=open_recording, on_step=on_step)
