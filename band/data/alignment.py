"""Principal-component regression: what maps the neurons of each session to channels that mean the same in all of them.

Conditions are what sessions share. Their mean courses, all neurons of all sessions side by side, have principal
components; each session's read-in is the ridge regression of those components on its own neurons' mean courses.

Axes: C condition, T time bin, N neuron, D channel. Source: Pandarinath et al. 2018, "stitching".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from band.errors import DataError

Array = NDArray[Any]
RIDGE = 1e-2  # penalty, in units of the mean variance of a neuron's mean course
SMOOTH_BINS = 1.5  # standard deviation of the kernel that smooths mean courses


@dataclass(frozen=True, kw_only=True)
class ReadIn:
    """A linear map of counts to channels."""

    weight: Array  # (D, N)
    bias: Array  # (D,)


def mean_courses(counts: Array, cond: Array) -> dict[Any, Array]:
    """Return {condition: smoothed mean course (T, N)} of counts (n, T, N), NaN left out, and labels (n,)."""
    kernel = _kernel(counts.shape[1])
    found = {}
    for label in np.unique(cond):
        part = np.asarray(counts[cond == label], float)
        present = ~np.isnan(part)
        mean = np.where(present, part, 0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
        found[label.item()] = kernel @ mean
    return found


def _kernel(bins: int) -> Array:
    distance = np.subtract.outer(np.arange(bins), np.arange(bins))
    weights = np.exp(-0.5 * (distance / SMOOTH_BINS) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def shared_conditions(sessions: Sequence[Mapping[Any, Array]], *, dim: int) -> list[Any]:
    """Return the conditions that every session has.

    Raises:
        DataError: they have fewer bins in all than channels are asked for.
    """
    shared = sorted(set.intersection(*(set(session) for session in sessions)), key=str)
    bins = sum(len(sessions[0][label]) for label in shared)
    if bins <= dim:
        raise DataError(
            f"read-ins by principal-component regression need conditions that all sessions share, with more than "
            f"arch.readin_dim = {dim} bins in all; found {len(shared)} with {bins} bins: give cond alike in every "
            "session, or set arch.readin=trained"
        )
    return shared


def common_courses(sessions: Sequence[Mapping[Any, Array]], *, dim: int) -> dict[Any, Array]:
    """Return {condition: course (T, D)}: the leading principal components of all sessions' mean courses together.

    They are scaled alike, to a mean variance of 1.

    Raises:
        DataError: sessions share too few conditions, or have fewer neurons than `dim`.
    """
    shared = shared_conditions(sessions, dim=dim)
    stacked = np.concatenate([np.concatenate([session[label] for label in shared]) for session in sessions], axis=1)
    if stacked.shape[1] < dim:
        raise DataError(f"arch.readin_dim must be at most the {stacked.shape[1]} neurons of all sessions, got {dim}")
    left, values, _ = np.linalg.svd(stacked - stacked.mean(axis=0), full_matrices=False)
    scores = left[:, :dim] * values[:dim]
    scores = scores / max(np.sqrt(np.mean(scores**2)), np.finfo(float).tiny)
    return dict(zip(shared, np.split(scores, len(shared)), strict=True))


def regress(session: Mapping[Any, Array], targets: Mapping[Any, Array]) -> ReadIn:
    """Return the read-in of one session: ridge regression of `targets` {condition: (T, D)} on its mean courses.

    Raises:
        DataError: they share no condition.
    """
    shared = [label for label in targets if label in session]
    if not shared:
        raise DataError("the session shares no condition with those that its read-in is to be regressed on")
    features = np.concatenate([session[label] for label in shared])
    wanted = np.concatenate([targets[label] for label in shared])
    centre, middle = features.mean(axis=0), wanted.mean(axis=0)
    gram = (features - centre).T @ (features - centre)
    penalty = RIDGE * max(np.trace(gram) / len(gram), np.finfo(float).tiny)
    weight = np.linalg.solve(gram + penalty * np.eye(len(gram)), (features - centre).T @ (wanted - middle)).T
    return ReadIn(weight=weight, bias=middle - weight @ centre)
