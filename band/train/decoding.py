"""Ridge decoders of behaviour from factors, fitted on train trials alone, for scores that every model can be given.

Alpha is chosen per behaviour channel by leaving out one group of trials at a time, in closed form: with H the hat
matrix of the fit on all rows, the residuals of a left-out group g are (I - H_gg)^-1 (y - H y)_g. So one
eigendecomposition serves every alpha and every group; it is exact for ridge with a free intercept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from band.errors import ShapeError

Array = NDArray[Any]

ALPHAS = np.logspace(-2, 7, 10)  # for standardised features; the chosen ones stand among the scores
SMALLEST_EIGENVALUE = 1e-12  # of the largest; below it a direction is rounding


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """A fitted linear read-out."""

    weights: Array  # (P, Q), of the features as they come
    intercept: Array  # (Q,)
    alphas: Array  # (channels,), as chosen; NaN where nothing could be fitted
    left_out: Array  # (channels,), squared error by those alphas of rows left out of the fit, summed

    def predict(self, features: Array) -> Array:
        """Return (rows, Q) predictions from (rows, P) features; NaN columns were never observed in the fit."""
        return np.asarray(features @ self.weights + self.intercept)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A ridge from factors to behaviour: of a bin to that bin's (zero lag), or of all bins to that of all bins."""

    ridge: Ridge
    num_bins: int  # of behaviour
    is_over_trial: bool

    def decode(self, factors: Array) -> Array:
        """Return behaviour (n, Tb, K) from factors (n, R, F)."""
        features = _features(factors, num_bins=self.num_bins, is_over_trial=self.is_over_trial)
        return self.ridge.predict(features).reshape(len(factors), self.num_bins, -1)


def fit_decoder(
    factors: Array, behavior: Array, *, groups: Array | None = None, is_over_trial: bool = False
) -> Decoder:
    """Return the ridge decoder of behaviour (n, Tb, K; NaN: missing) from factors (n, R, F), R at least Tb.

    `groups` (n,) labels the trials that cross-validation leaves out together; None: each trial alone. The bins of a
    channel share an alpha.
    """
    num_trials, num_bins, num_channels = behavior.shape
    groups = np.arange(num_trials) if groups is None else np.asarray(groups)
    features = _features(factors, num_bins=num_bins, is_over_trial=is_over_trial)
    ridge = fit_ridge(
        features,
        np.asarray(behavior, float).reshape(len(features), -1),
        groups=np.repeat(groups, len(features) // num_trials),
        channels=np.tile(np.arange(num_channels), num_bins) if is_over_trial else None,
    )
    return Decoder(ridge=ridge, num_bins=num_bins, is_over_trial=is_over_trial)


def _features(factors: Array, *, num_bins: int, is_over_trial: bool) -> Array:
    """Return (n, R * F) features of trials, or (n * num_bins, F) of bins."""
    factors = np.asarray(factors, float)
    return factors.reshape(len(factors), -1) if is_over_trial else factors[:, :num_bins].reshape(-1, factors.shape[2])


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Columns of targets observed in the same rows, and the eigendecomposition they share; X is standardised."""

    columns: Array  # (q,) which targets
    rows: Array  # which rows are observed
    features: Array  # (n, P) standardised
    shift: Array  # (P,)
    scale: Array  # (P,)
    targets: Array  # (n, q) less their mean
    mean: Array  # (q,)
    left: Array  # (n, r) left singular vectors of the features
    eigenvalues: Array  # (r,) squared singular values


def fit_ridge(features: Array, targets: Array, *, groups: Array, channels: Array | None = None) -> Ridge:
    """Return the ridge regression of targets on standardised features, alpha chosen by leaving groups out.

    Args:
        features: (rows, P).
        targets: (rows, Q), NaN where missing; a row counts for the columns that are observed in it.
        groups: (rows,) label of the group that is left out together.
        channels: (Q,) integers 0, 1, …; columns of one channel share an alpha. None: each column its own.

    Returns:
        The decoder; its weights are NaN for columns with fewer than two groups of observed rows, and for all where the
        features are not finite.

    Raises:
        ShapeError: features, targets, groups and channels do not fit together.
    """
    channels = np.arange(targets.shape[1]) if channels is None else np.asarray(channels)
    if not (len(features) == len(targets) == len(groups) and len(channels) == targets.shape[1]):
        raise ShapeError(
            f"features {features.shape}, targets {targets.shape}, groups {groups.shape} and channels {channels.shape} "
            "must agree in rows and columns"
        )
    problems = [p for p in _problems(np.asarray(features, float), np.asarray(targets, float), groups) if p is not None]
    errors = np.zeros((len(ALPHAS), channels.max(initial=-1) + 1))
    for problem in problems:
        left_out = left_out_errors(problem.left, problem.eigenvalues, problem.targets, groups=groups[problem.rows])
        for column, channel in enumerate(channels[problem.columns]):
            errors[:, channel] += left_out[:, column]
    alphas = np.where(errors[0] > 0, ALPHAS[errors.argmin(axis=0)], np.nan)
    weights = np.full((features.shape[1], targets.shape[1]), np.nan)
    intercept = np.full(targets.shape[1], np.nan)
    for problem in problems:
        solution = _solve(problem, alphas[channels[problem.columns]])
        weights[:, problem.columns] = solution
        intercept[problem.columns] = problem.mean - problem.shift @ solution
    return Ridge(weights=weights, intercept=intercept, alphas=alphas, left_out=errors.min(axis=0))


def _problems(features: Array, targets: Array, groups: Array) -> list[_Problem | None]:
    """Return one problem for each pattern of missing rows; None where it cannot be fitted."""
    observed = ~np.isnan(targets)
    if observed.all():
        return [_problem(features, targets, groups, observed[:, 0], np.arange(targets.shape[1]))]
    patterns, which = np.unique(observed, axis=1, return_inverse=True)
    return [
        _problem(features, targets, groups, patterns[:, p], np.flatnonzero(which.ravel() == p))
        for p in range(patterns.shape[1])
    ]


def _problem(features: Array, targets: Array, groups: Array, rows: Array, columns: Array) -> _Problem | None:
    if len(np.unique(groups[rows])) < 2 or not np.isfinite(features).all():
        return None
    if not rows.all():
        features, targets = features[rows], targets[rows]
    targets = targets[:, columns]
    shift, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    standardised = (features - shift) / scale
    left, eigenvalues = _left_singular_vectors(standardised)
    mean = targets.mean(axis=0)
    return _Problem(
        columns=columns,
        rows=rows,
        features=standardised,
        shift=shift,
        scale=scale,
        targets=targets - mean,
        mean=mean,
        left=left,
        eigenvalues=eigenvalues,
    )


def _left_singular_vectors(features: Array) -> tuple[Array, Array]:
    """Return U (rows, r) and the squared singular values (r,), by the smaller of the two Gram matrices."""
    num_rows, num_features = features.shape
    is_wide = num_rows <= num_features
    values, vectors = np.linalg.eigh(features @ features.T if is_wide else features.T @ features)
    keep = values > SMALLEST_EIGENVALUE * max(values[-1], np.finfo(float).tiny)
    values, vectors = values[keep], vectors[:, keep]
    return (vectors if is_wide else features @ vectors / np.sqrt(values)), values


def left_out_errors(left: Array, eigenvalues: Array, targets: Array, *, groups: Array) -> Array:
    """Return (alphas, q) squared errors summed over rows, each predicted by the fit without its group.

    Args:
        left: (n, r) left singular vectors of the centred features.
        eigenvalues: (r,) squared singular values.
        targets: (n, q), centred, all observed.
        groups: (n,) labels.
    """
    basis = np.concatenate([np.full((len(left), 1), len(left) ** -0.5), left], axis=1)  # the intercept, unpenalised
    projected = basis.T @ targets
    tables = _rows_by_group(groups)
    errors = np.zeros((len(ALPHAS), targets.shape[1]))
    for index, alpha in enumerate(ALPHAS):
        shrink = np.concatenate([[1.0], eigenvalues / (eigenvalues + alpha)])
        residual = targets - basis @ (shrink[:, None] * projected)
        for table in tables:
            errors[index] += _left_out_residuals(basis[table], shrink, residual[table])
    return errors


def _rows_by_group(groups: Array) -> list[Array]:
    """Return tables (number of groups, rows a group), one for each size that a group has."""
    _, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(which, kind="stable")
    starts = np.cumsum(sizes) - sizes
    return [order[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]


def _left_out_residuals(basis: Array, shrink: Array, residual: Array) -> Array:
    """Return (q,) sums over groups (G, m, ·) of squared left-out residuals, solving in the smaller dimension."""
    transposed = basis.transpose(0, 2, 1)
    if basis.shape[1] <= basis.shape[2]:
        system = np.eye(basis.shape[1]) - (basis * shrink) @ transposed
        left_out = np.linalg.solve(system, residual)
    else:  # Woodbury
        system = np.eye(basis.shape[2]) - shrink[:, None] * (transposed @ basis)
        left_out = residual + basis @ np.linalg.solve(system, shrink[:, None] * (transposed @ residual))
    return np.asarray((left_out**2).sum(axis=(0, 1)))


def _solve(problem: _Problem, alphas: Array) -> Array:
    """Return (P, q) weights of the features as they come, for one alpha a column."""
    projected = (problem.left.T @ problem.targets) / (problem.eigenvalues[:, None] + alphas)
    return np.asarray(problem.features.T @ (problem.left @ projected) / problem.scale[:, None])
