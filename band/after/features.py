"""What baseline decoders read: smoothed counts, and stretches of bins at a lag.

Axes: n trial, T time bin, F feature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def smooth(values: Array, *, sd_bins: float) -> Array:
    """Return (n, T, F) smoothed along the bins of each trial by a Gaussian of that standard deviation.

    Weights are divided by what of the Gaussian lies in the trial, so that its ends are not pulled to zero.
    """
    if sd_bins <= 0:
        return np.asarray(values, float)
    bins = np.arange(values.shape[1])
    kernel = np.exp(-0.5 * ((bins[:, None] - bins) / sd_bins) ** 2)
    return np.asarray(np.einsum("ts,nsf->ntf", kernel / kernel.sum(axis=1, keepdims=True), np.asarray(values, float)))


def stretch(values: Array, *, lag: int, taps: int) -> Array:
    """Return (n, T, taps * F): for bin t what stood in the bins t - lag - taps + 1 … t - lag, the newest first.

    Where these lie outside of the trial its first or last bin stands in, so that every lag has the same rows.
    """
    num_bins = values.shape[1]
    wanted = np.arange(num_bins)[:, None] - lag - np.arange(taps)
    return np.asarray(values[:, wanted.clip(0, num_bins - 1)].reshape(len(values), num_bins, -1), float)


def filled(values: Array, *, means: Array) -> Array:
    """Return (n, T, F) with the mean (F,) where a value is missing."""
    return np.where(np.isnan(values), means, values)
