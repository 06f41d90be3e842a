"""Spike times and sampled signals become bins: exact counts, observed stretches, means over a bin.

Axes: n trial, T bin, N neuron, K channel. Times are seconds on the recording's clock; bins are half open, [begin, end).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MICRO = 1e6  # times are compared as whole microseconds: sums of decimals are not exact, and spikes lie on edges


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A sampled signal.

    Args:
        times: (n,), seconds, rising.
        values: (n, K), NaN where a sample is missing.
    """

    times: np.ndarray
    values: np.ndarray


def bin_edges(begin: np.ndarray, *, num_bins: int, bin_ms: float) -> np.ndarray:
    """Return the edges (n, T + 1) in whole microseconds of the bins that start at `begin` (n,) seconds."""
    offsets = np.arange(num_bins + 1) * (bin_ms * 1000)
    return np.asarray(np.rint(np.asarray(begin)[:, None] * MICRO + offsets), dtype=np.int64)


def count_spikes(spike_times: Sequence[np.ndarray], edges: np.ndarray) -> np.ndarray:
    """Return the counts (n, T, N), float32, of spikes (seconds, in any order) between edges (n, T + 1)."""
    counts = np.empty((edges.shape[0], edges.shape[1] - 1, len(spike_times)), dtype=np.float32)
    for neuron, times in enumerate(spike_times):
        found = np.asarray(times, dtype=np.float64)
        before = np.searchsorted(np.sort(np.rint(found[np.isfinite(found)] * MICRO).astype(np.int64)), edges)
        counts[..., neuron] = np.diff(before, axis=1)
    return counts


def is_observed(intervals: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return whether each bin (n, T) lies as a whole within one of the intervals (m, 2), seconds."""
    bounds = np.rint(np.asarray(intervals, dtype=np.float64).reshape(-1, 2) * MICRO).astype(np.int64)
    bounds = _joined(bounds[np.argsort(bounds[:, 0], kind="stable")])
    which = np.searchsorted(bounds[:, 0], edges[:, :-1], side="right") - 1
    ends = np.append(bounds[:, 1], np.iinfo(np.int64).min)  # of "before the first", which is number -1
    return np.asarray(edges[:, 1:] <= ends[which])


def resample(signal: Signal, edges: np.ndarray, *, lag_ms: float = 0.0) -> np.ndarray:
    """Return the signal in bins, (n, T, K) float32.

    A bin is the mean of the samples in it that are not missing, which keeps what is faster than bins from posing as
    something slower. A bin without a sample is interpolated to its middle, if the samples before and after it lie no
    further apart than signals of this one usually do, or than two bins; else it is NaN.

    Args:
        signal: what was sampled.
        edges: (n, T + 1), whole microseconds.
        lag_ms: the signal is read this much later than the bin: positive where behaviour follows the spikes.
    """
    shifted = edges + round(lag_ms * 1000)
    times = np.rint(signal.times * MICRO).astype(np.int64)
    at = np.searchsorted(times, shifted)
    means = np.empty((*at[:, 1:].shape, signal.values.shape[1]), dtype=np.float32)
    for channel, values in enumerate(signal.values.T.astype(np.float64)):
        means[..., channel] = _bin_means(values, times, shifted, at)
    return means


def _bin_means(values: np.ndarray, times: np.ndarray, edges: np.ndarray, at: np.ndarray) -> np.ndarray:
    there = np.isfinite(values)
    centre = values[there].mean() if there.any() else 0.0  # taken off, so that running sums stay small
    sums = np.concatenate([[0.0], np.cumsum(np.where(there, values - centre, 0.0))])
    numbers = np.concatenate([[0], np.cumsum(there)])
    total, number = np.diff(sums[at], axis=1), np.diff(numbers[at], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(number > 0, total / number + centre, np.nan)
    is_bare = np.diff(at, axis=1) == 0
    if is_bare.any() and there.sum() > 1:
        middle = (edges[:, :-1] + edges[:, 1:]) / 2
        known = times[there]
        after = np.clip(np.searchsorted(known, middle), 1, len(known) - 1)
        gap = known[after] - known[after - 1]
        usual = max(1.5 * float(np.median(np.diff(times))), 2.0 * float(edges[0, 1] - edges[0, 0]))
        fits = is_bare & (known[0] <= middle) & (middle <= known[-1]) & (gap <= usual)
        means = np.where(fits, np.interp(middle, known, values[there]), means)
    return np.asarray(means)


def _joined(bounds: np.ndarray) -> np.ndarray:
    """Return intervals, sorted by their begin, with those that touch or overlap made one."""
    joined: list[list[int]] = []
    for begin, end in bounds.tolist():
        if joined and begin <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([begin, end])
    return np.array(joined, dtype=np.int64).reshape(-1, 2)
