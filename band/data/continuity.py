"""The order in which the chops of one continuous recording followed each other, told from how well they join.

A file without trial numbers ships train and valid apart, each usually in order of time. Behaviour and population
activity run on from one chop into the next, so a linear prediction across the cut tells neighbours from strangers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MAX_TRIALS = 2000  # the joins of all pairs are compared: beyond this that takes more than seconds
MAX_BYTES = 2**30  # of counts, which are copied
NUM_COMPONENTS = 15  # of the population activity, beside the behaviour
TAIL = 4.0  # degrees of freedom of the residuals: joins have outliers
MIN_GAIN = 1.0  # nats by which the shipped order must beat a random one to be called continuous
SWITCH_COST = 4.0  # nats a change between splits must earn: blocks are longer than a chop or two


@dataclass(frozen=True)
class Joins:
    """How the shipped trials of a recording follow each other.

    Args:
        is_continuous: whether each trial runs on into the next of its own split.
        gain: mean log-likelihood ratio (nats) of the shipped order against a random one.
        order: (n,), pooled trials in the order they were most likely recorded; as shipped if not continuous.
    """

    is_continuous: bool
    gain: float
    order: np.ndarray


def find_joins(arrays: Mapping[str, np.ndarray], origin_split: np.ndarray) -> Joins:
    """Return whether the trials are chops of a continuous recording, and in which order they were recorded.

    Args:
        arrays: pooled arrays of a recording: "encod_data" (n, T, N) and, where there is one, "behavior" (n, T, K).
        origin_split: (n,), the shipped split of each; the trials of a split lie together, in the shipped order.
    """
    num_trials, num_bins = arrays["encod_data"].shape[:2]
    as_shipped = np.arange(num_trials)
    if not 8 <= num_trials <= MAX_TRIALS or num_bins < 4 or arrays["encod_data"].nbytes > MAX_BYTES:
        return Joins(False, 0.0, as_shipped)
    ratios = _join_ratios(_signals(arrays))
    follows = origin_split[1:] == origin_split[:-1]
    shipped = ratios[as_shipped[:-1], as_shipped[1:]][follows]
    gain = float(shipped.mean() - ratios[~np.eye(num_trials, dtype=bool)].mean())
    if gain < MIN_GAIN or shipped.mean() < 0:
        return Joins(False, gain, as_shipped)
    order = np.flatnonzero(origin_split == origin_split[0])
    for split in dict.fromkeys(origin_split.tolist()):
        if split != origin_split[0]:
            order = _merge(order, np.flatnonzero(origin_split == split), ratios)
    return Joins(True, gain, order)


def _signals(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what runs on across a cut, (n, T, behaviour channels and components of the counts), float64."""
    counts = np.sqrt(np.maximum(np.nan_to_num(arrays["encod_data"]), 0), dtype=np.float64)
    counts -= counts.mean(axis=(0, 1))
    flat = counts.reshape(-1, counts.shape[-1])
    _, axes = np.linalg.eigh(flat.T @ flat)
    signals = [counts @ axes[:, ::-1][:, :NUM_COMPONENTS]]
    behavior = arrays.get("behavior")
    if behavior is not None and behavior.shape[1] == counts.shape[1]:
        signals.append(np.nan_to_num(behavior).astype(np.float64))
    joined = np.concatenate(signals, axis=-1)
    spread = joined.std(axis=(0, 1))
    return np.asarray(joined[..., spread > 0] / spread[spread > 0])


def _join_ratios(signals: np.ndarray) -> np.ndarray:
    """Return (n, n): log-likelihood ratio that trial j follows trial i, against a start drawn from all starts."""
    end, last, first, second = signals[:, -2], signals[:, -1], signals[:, 0], signals[:, 1]
    dim = signals.shape[-1]
    one = np.ones((len(signals), 1))
    step = _regress([signals[:, :-2], signals[:, 1:-1]], signals[:, 2:])
    one_step = _regress([signals[:, :-1]], signals[:, 1:])
    predicted = np.concatenate([end, last, one], axis=1) @ step.weights
    from_last, from_first = last @ step.weights[:dim], first @ step.weights[dim : 2 * dim] + step.weights[-1]
    joined = step.log_density_between(first, predicted) + step.log_density_between(second - from_first, from_last)
    starts = _Residuals(np.zeros((1, dim)), np.cov(first.T).reshape(dim, dim))
    alone = starts.log_density(first - first.mean(axis=0))
    alone += one_step.log_density(second - np.concatenate([first, one], axis=1) @ one_step.weights)
    # Rounded, so that the order does not hang on the last bits of a linear-algebra library.
    return np.asarray(np.round(joined - alone, 6))


@dataclass(frozen=True)
class _Residuals:
    weights: np.ndarray
    covariance: np.ndarray

    def log_density(self, residuals: np.ndarray) -> np.ndarray:
        """Return the log density of residuals (n, D) under a heavy-tailed distribution, up to a constant."""
        return self.log_density_between(residuals, np.zeros((1, residuals.shape[1]))).ravel()

    def log_density_between(self, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Return (m, n): the log density of each found (n, D) around each expected (m, D), up to a constant."""
        lower = np.linalg.cholesky(self.covariance + 1e-9 * np.eye(len(self.covariance)))
        white, centre = np.linalg.solve(lower, found.T).T, np.linalg.solve(lower, expected.T).T
        squares = (white**2).sum(axis=1) + (centre**2).sum(axis=1)[:, None] - 2 * centre @ white.T
        tail = (TAIL + len(lower)) / 2 * np.log1p(np.maximum(squares, 0) / TAIL)
        return np.asarray(-np.log(np.diag(lower)).sum() - tail)


def _regress(inputs: list[np.ndarray], targets: np.ndarray) -> _Residuals:
    dim = targets.shape[-1]
    columns = [values.reshape(-1, dim) for values in inputs]
    design = np.concatenate([*columns, np.ones((len(columns[0]), 1))], axis=1)
    flat = targets.reshape(-1, dim)
    weights = np.linalg.lstsq(design, flat, rcond=None)[0]
    return _Residuals(weights, np.cov((flat - design @ weights).T).reshape(dim, dim))


def _merge(one: np.ndarray, other: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Return the interleaving of two sequences, each kept in order, whose joins are likeliest.

    Dynamic programming over (i trials of one placed, j of the other, whose trial came last), a row of j at a time.
    """
    unreached = np.full(len(other) + 1, -np.inf)
    after_one, after_other = unreached, unreached  # best score of (i, j) with a trial of one, of the other, last
    from_other = np.zeros((2, len(one) + 1, len(other) + 1), dtype=bool)  # whether the trial before was the other's
    into_one, into_other = ratios[np.ix_(other, one)] - SWITCH_COST, ratios[np.ix_(one, other)] - SWITCH_COST
    # What staying with the other adds up to: taken off, a run of it is a running maximum.
    stays = np.concatenate([[0.0, 0.0], np.cumsum(ratios[other[:-1], other[1:]])])
    for i in range(len(one) + 1):
        if i:
            stay = after_one + (ratios[one[i - 2], one[i - 1]] if i > 1 else 0.0)
            switch = np.concatenate([[-np.inf], after_other[1:] + into_one[:, i - 1]])
            from_other[0, i] = switch > stay
            after_one = np.maximum(stay, switch)
            after_one[0] = 0.0 if i == 1 else after_one[0]
        enter = np.concatenate([[-np.inf], after_one[:-1] + (into_other[i - 1] if i else -np.inf)])
        enter[1] = 0.0 if i == 0 else enter[1]
        reached = np.maximum.accumulate(enter - stays)
        from_other[1, i, 1:] = (enter - stays)[1:] <= reached[:-1]
        after_other = reached + stays
    return _walk_back((one, other), from_other, ends_in_other=bool(after_other[-1] > after_one[-1]))


def _walk_back(sequences: tuple[np.ndarray, np.ndarray], from_other: np.ndarray, *, ends_in_other: bool) -> np.ndarray:
    left = [len(sequences[0]), len(sequences[1])]
    side = int(ends_in_other)
    order = []
    while sum(left):
        before = int(from_other[side, left[0], left[1]])
        left[side] -= 1
        order.append(sequences[side][left[side]])
        side = before
    return np.array(order[::-1], dtype=np.int64)
