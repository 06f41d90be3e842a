"""Overlapping windows of a recording that runs on: where they lie, cut out, and put together again.

Axes: L bin of the recording's clock, W window, T bin of a window. The clock counts the bins of all segments one after
the other; a segment is a stretch without a break, such as one trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from band.errors import DataError

TAILS = ("shift", "pad")


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where windows lie.

    Args:
        starts: (W,), first bin of each on the clock.
        ends: (W,), one past the last bin that belongs to its segment: less than starts + num_bins where it is padded.
        num_bins: T, bins of every window.
    """

    starts: np.ndarray
    ends: np.ndarray
    num_bins: int

    def __len__(self) -> int:
        """Return W."""
        return len(self.starts)

    def chosen(self, which: np.ndarray) -> Windows:
        """Return some of the windows, by index or mask (W,)."""
        return Windows(starts=self.starts[which], ends=self.ends[which], num_bins=self.num_bins)


def lay_windows(segment: np.ndarray, *, num_bins: int, step_bins: int, tail: str = "shift") -> Windows:
    """Return the windows that cover every bin of every segment, in the order of the clock.

    Args:
        segment: (L,), label of each bin's segment; a bin below 0 belongs to none and is covered by no window. A
            segment is a run of equal labels.
        num_bins: T, bins of a window.
        step_bins: bins from one window to the next, 1 to T.
        tail: what becomes of the end of a segment that steps do not meet: "shift" lays a last window that ends with
            the segment, and overlaps the one before by more; "pad" lays it one step on, and what lies beyond the
            segment is missing. A segment shorter than a window is padded in both.

    Raises:
        DataError: a size is out of range.
    """
    if num_bins < 1 or not 1 <= step_bins <= num_bins:
        raise DataError(f"a window needs at least 1 bin and a step of 1 to its {num_bins} bins, got {step_bins}")
    if tail not in TAILS:
        raise DataError(f"tail must be one of {', '.join(TAILS)}, got {tail!r}")
    starts, ends = [], []
    for begin, end in runs(segment):
        laid = np.arange(begin, max(end - num_bins, begin) + 1, step_bins)
        if laid[-1] + num_bins < end:
            laid = np.append(laid, end - num_bins if tail == "shift" else laid[-1] + step_bins)
        starts.append(laid)
        ends.append(np.minimum(laid + num_bins, end))
    empty = np.zeros(0, dtype=np.int64)
    return Windows(starts=np.concatenate([empty, *starts]), ends=np.concatenate([empty, *ends]), num_bins=num_bins)


def cut_windows(values: np.ndarray, windows: Windows, *, fill: float = np.nan) -> np.ndarray:
    """Return the windows of an array on the clock.

    Args:
        values: (L, …), any numbers.
        windows: where they lie.
        fill: what stands beyond the end of a segment.

    Returns:
        (W, T, …), of the type of `values` where that can hold `fill`.
    """
    bins = windows.starts[:, None] + np.arange(windows.num_bins)
    beyond = bins >= windows.ends[:, None]
    cut = values[np.minimum(bins, len(values) - 1)]
    if beyond.any():
        cut = cut.astype(np.result_type(cut.dtype, np.min_scalar_type(fill)), copy=False)
        cut[beyond] = fill
    return np.asarray(cut)


def taper(num_bins: int, *, overlap_bins: int, trim_bins: int = 0) -> np.ndarray:
    """Return the weight (T,) of each bin of a window: a ramp over what it shares with its neighbours, flat between.

    Weights are whole numbers, so that windows that agree bit for bit merge to just their value in float32. Trimmed
    bins at either edge have weight 0.

    Raises:
        DataError: more would be trimmed than neighbours make good.
    """
    if not 0 <= 2 * trim_bins <= overlap_bins:
        raise DataError(
            f"the trim at each edge must be 0 to half of the {overlap_bins} bins that windows share, got {trim_bins}; "
            "trim less, or chop with more overlap"
        )
    inside = num_bins - 2 * trim_bins
    ramp = max(1, min(overlap_bins - 2 * trim_bins + 1, (inside + 1) // 2))
    place = np.arange(inside)
    weights = np.minimum(np.minimum(place, place[::-1]) + 1, ramp)
    return np.pad(weights, trim_bins).astype(np.float64)


def merge_windows(
    values: np.ndarray, windows: Windows, *, length: int, overlap_bins: int, trim_bins: int = 0
) -> np.ndarray:
    """Return windows put together on the clock by weighted overlap-add.

    Each bin is the mean of the windows that have a value there, weighted by `taper` and divided by the weights that
    took part: so the weights are right for any overlap, and a bin of one window, as at either end of a segment, keeps
    that window's value. Where only trimmed edges reach, they count after all.

    Args:
        values: (W, T, …), NaN where a window has no value.
        windows: where they lie.
        length: L, bins of the clock.
        overlap_bins: bins that neighbours share.
        trim_bins: bins at each edge that count only where nothing else is.

    Returns:
        (L, …), float32 or, of float64 values, float64; NaN where no window has a value.
    """
    weights = taper(windows.num_bins, overlap_bins=overlap_bins, trim_bins=trim_bins)
    total, weight = _add(values, windows, length=length, weights=weights)
    if trim_bins:
        edges = np.where(weights == 0, 1.0, 0.0)
        at_edges, weight_of_edges = _add(values, windows, length=length, weights=edges)
        bare = weight == 0
        total, weight = np.where(bare, at_edges, total), np.where(bare, weight_of_edges, weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        merged = total / weight
    return np.asarray(merged.astype(np.float64 if values.dtype == np.float64 else np.float32))


def merge_spreads(
    spreads: np.ndarray, means: np.ndarray, windows: Windows, *, length: int, overlap_bins: int, trim_bins: int = 0
) -> np.ndarray:
    """Return standard deviations put together on the clock, of a quantity whose means are merged in the same way.

    Windows that overlap have seen mostly the same spikes, so their posteriors are no independent measurements, and
    averaging does not narrow them. A bin is taken as a mixture of its windows: its variance is the weighted mean of
    their variances, and of the squared distances of their means from the merged mean. It is a window's own spread
    where there is one window, and grows where windows disagree.

    Args:
        spreads: (W, T, …), standard deviations.
        means: (W, T, …), what they are spreads of.
        windows: where they lie.
        length: L.
        overlap_bins: as for `merge_windows`.
        trim_bins: as for `merge_windows`.

    Returns:
        (L, …), as `merge_windows`.
    """
    how = {"length": length, "overlap_bins": overlap_bins, "trim_bins": trim_bins}
    merged = merge_windows(means.astype(np.float64), windows, **how)
    distances = means - cut_windows(merged, windows)
    variances = merge_windows(spreads.astype(np.float64) ** 2 + distances**2, windows, **how)
    return np.asarray(np.sqrt(variances).astype(np.float64 if spreads.dtype == np.float64 else np.float32))


def runs(segment: np.ndarray) -> list[tuple[int, int]]:
    """Return (first bin, one past the last) of every run of an equal label of at least 0."""
    if not len(segment):
        return []
    cuts = np.flatnonzero(segment[1:] != segment[:-1]) + 1
    bounds = [0, *cuts.tolist(), len(segment)]
    return [(a, b) for a, b in pairwise(bounds) if segment[a] >= 0]


def _add(values: np.ndarray, windows: Windows, *, length: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weighted sums and sums of weights on the clock, each (L, …) in float64, over what is not NaN."""
    total, weight = np.zeros((2, length, *values.shape[2:]))
    shaped = weights.reshape(-1, *(1 for _ in values.shape[2:]))
    for window, start, end in zip(values, windows.starts.tolist(), windows.ends.tolist(), strict=True):
        there = window[: end - start]
        used = np.where(np.isnan(there), 0.0, shaped[: end - start])
        total[start:end] += used * np.where(used > 0, there, 0.0)
        weight[start:end] += used
    return total, weight
