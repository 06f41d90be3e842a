"""What baseline decoders read: smoothed counts, and stretches of bins at a lag.

Axes: n trial, T time bin, F feature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SMALLEST_SHARE = 0.1


def smooth(values: Array, *, sd_bins: float) -> Array:
    """Return (n, T, F) smoothed along the bins of each trial by a Gaussian of that standard deviation.

    Weights are divided by what of the Gaussian lies in the trial, so that its ends are not pulled to zero.
    """
    if sd_bins <= 0:
        return np.asarray(values, float)
    bins = np.arange(values.shape[1])
    kernel = np.exp(-0.5 * ((bins[:, None] - bins) / sd_bins) ** 2)
    return np.asarray(np.einsum("ts,nsf->ntf", kernel / kernel.sum(axis=1, keepdims=True), np.asarray(values, float)))


def stretch(values: Array, *, lag: int, taps: int, width: int = 1) -> Array:
    """Return (n, T, taps * F): for bin t the means over `width` bins each of what stood before, the newest first.

    The newest of them ends in bin t - lag. Where they lie outside of the trial its first or last `width` bins stand
    in, so that every lag has the same rows.
    """
    num_bins = values.shape[1]
    width = min(width, num_bins)
    sums = np.cumsum(np.pad(np.asarray(values, float), ((0, 0), (1, 0), (0, 0))), axis=1)
    means = (sums[:, width:] - sums[:, :-width]) / width  # the first ends in bin width - 1
    ends = np.arange(num_bins)[:, None] - lag - width * np.arange(taps)
    return np.asarray(means[:, ends.clip(width - 1, num_bins - 1) - width + 1].reshape(len(values), num_bins, -1))


def varying(values: Array, *, like: Array) -> Array:
    """Return (n, T, F) with zeros for what hardly varies over the trials of `like` (m, T, F): a feature in a bin.

    Hardly: by less than `SMALLEST_SHARE` of the feature's standard deviation over trials and bins. Such a column is
    rounding and rare events; divided by its own deviation, one event of a test trial would be worth hundreds.
    """
    keep = like.std(axis=0) > SMALLEST_SHARE * like.std(axis=(0, 1))
    return np.asarray(values * keep)


def filled(values: Array, *, means: Array) -> Array:
    """Return (n, T, F) with the mean (F,) where a value is missing."""
    return np.where(np.isnan(values), means, values)
