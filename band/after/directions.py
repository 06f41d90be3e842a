"""Which way the hand went, told from decoded velocity.

Axes: n trial, Tb time bin, K behaviour channel; the first two are taken as a velocity, x and y.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def displacements(velocity: Array) -> Array:
    """Return (n, 2), velocity (n, Tb, K) summed over the trial; a missing bin (NaN) adds nothing."""
    return np.asarray(np.nansum(np.asarray(velocity, float)[..., :2], axis=1))


def target_direction_accuracy(decoded: Array, *, cond: Array, train: Array, train_cond: Array) -> float:
    """Return the share of trials whose decoded reach points to the target of its own condition, among all targets.

    The direction of a reach is that of its displacement, velocity summed over the trial; a condition's target lies in
    the mean displacement of its train trials, as recorded. A trial is given to the condition nearest in angle.
    Conditions with one target, such as straight and curved reaches to it, can therefore not be told apart.

    Args:
        decoded: (n, Tb, K), decoded velocity.
        cond: (n,) conditions.
        train: (m, Tb, K), velocity as recorded.
        train_cond: (m,) conditions.

    Returns:
        The share; NaN without trials of conditions that train has.
    """
    known = np.unique(train_cond)
    moved = displacements(train)
    targets = np.stack([_unit(moved[train_cond == c].mean(axis=0)) for c in known])
    chosen = known[(_unit(displacements(decoded)) @ targets.T).argmax(axis=1)]
    is_known = np.isin(cond, known)
    return float((chosen == cond)[is_known].mean()) if is_known.any() else float("nan")


def _unit(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))
