"""The ridge decoder against refitting without each group, normal equations, and the floor of a real recording."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from band.errors import ShapeError
from band.train.decoding import ALPHAS, fit_decoder, fit_ridge
from band.train.scores import r2

MAZE = Path(os.environ.get("BAND_DATA", "../shared/data")) / "mc_maze_large_9cond-10ms.h5"


def refit(features, targets, *, alpha, shift, scale):
    """Ridge with a free intercept by the normal equations; returns a function that predicts."""
    design = (features - shift) / scale
    mean = design.mean(axis=0)
    centred = design - mean
    gram = centred.T @ centred + alpha * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, centred.T @ (targets - targets.mean()))
    return lambda new: ((new - shift) / scale - mean) @ weights + targets.mean()


def left_out_by_hand(features, targets, *, groups, alpha):
    shift, scale = features.mean(axis=0), features.std(axis=0)
    total = 0.0
    for group in np.unique(groups):
        out = groups == group
        predict = refit(features[~out], targets[~out], alpha=alpha, shift=shift, scale=scale)
        total += ((targets[out] - predict(features[out])) ** 2).sum()
    return total


@pytest.mark.parametrize(
    ("rows", "num_features", "group_sizes"),
    [(60, 5, (3, 7)), (60, 5, (20, 40)), (24, 80, (1, 1)), (24, 80, (6, 3))],
    ids=["tall, small groups", "tall, groups above features", "wide, single rows", "wide, uneven groups"],
)
def test_alpha_and_weights_are_those_of_refitting_without_each_group(rows, num_features, group_sizes):
    rng = np.random.default_rng(rows + num_features)
    features = rng.standard_normal((rows, num_features)) * rng.uniform(0.1, 9, num_features) + 3
    targets = features[:, :3] @ rng.standard_normal((3, 2)) + 4 * rng.standard_normal((rows, 2)) + 7
    sizes = np.tile(group_sizes, rows)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)[:rows])
    ridge = fit_ridge(features, targets, groups=groups)
    shift, scale = features.mean(axis=0), features.std(axis=0)
    for k in range(2):
        by_hand = [left_out_by_hand(features, targets[:, k], groups=groups, alpha=alpha) for alpha in ALPHAS]
        assert ridge.alphas[k] == ALPHAS[np.argmin(by_hand)]
        predict = refit(features, targets[:, k], alpha=ridge.alphas[k], shift=shift, scale=scale)
        new = rng.standard_normal((11, num_features))
        np.testing.assert_allclose(ridge.predict(new)[:, k], predict(new), rtol=1e-7, atol=1e-7)


def test_columns_of_one_channel_share_the_alpha_of_their_summed_errors():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 6))
    targets = np.stack([features[:, 0], rng.standard_normal(40) * 3, features[:, 1]], axis=1)
    groups = np.arange(40)
    ridge = fit_ridge(features, targets, groups=groups, channels=np.array([0, 0, 1]))
    by_hand = [sum(left_out_by_hand(features, targets[:, k], groups=groups, alpha=a) for k in (0, 1)) for a in ALPHAS]
    assert ridge.alphas.shape == (2,)
    assert ridge.alphas[0] == ALPHAS[np.argmin(by_hand)] > ridge.alphas[1]


def test_each_column_is_fitted_on_the_rows_in_which_it_is_observed():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((50, 4))
    targets = features @ rng.standard_normal((4, 3)) + rng.standard_normal((50, 3))
    targets[rng.random((50, 3)) < 0.3] = np.nan
    groups = np.repeat(np.arange(25), 2)
    ridge = fit_ridge(features, targets, groups=groups)
    for k in range(3):
        seen = ~np.isnan(targets[:, k])
        alone = fit_ridge(features[seen], targets[seen, k : k + 1], groups=groups[seen])
        assert ridge.alphas[k] == alone.alphas[0]
        np.testing.assert_allclose(ridge.weights[:, k], alone.weights[:, 0], rtol=1e-9)
        np.testing.assert_allclose(ridge.intercept[k], alone.intercept[0], rtol=1e-9)


def test_a_column_seen_in_one_group_alone_is_not_decoded():
    targets = np.random.default_rng(2).standard_normal((12, 2))
    targets[3:, 1] = np.nan
    ridge = fit_ridge(np.random.default_rng(3).standard_normal((12, 2)), targets, groups=np.repeat(np.arange(4), 3))
    assert np.isfinite(ridge.predict(np.ones((2, 2)))[:, 0]).all()
    assert np.isnan(ridge.predict(np.ones((2, 2)))[:, 1]).all()


def test_a_constant_feature_changes_nothing():
    rng = np.random.default_rng(4)
    features, targets = rng.standard_normal((30, 3)), rng.standard_normal((30, 1))
    with_constant = np.concatenate([features, np.full((30, 1), 5.0)], axis=1)
    plain = fit_ridge(features, targets, groups=np.arange(30))
    more = fit_ridge(with_constant, targets, groups=np.arange(30))
    np.testing.assert_allclose(more.predict(with_constant), plain.predict(features), rtol=1e-9)


def test_features_that_do_not_fit_the_targets_are_named():
    with pytest.raises(ShapeError, match=r"\(5, 2\).*\(6, 1\)"):
        fit_ridge(np.zeros((5, 2)), np.zeros((6, 1)), groups=np.zeros(5))


@pytest.mark.skipif(not MAZE.exists(), reason=f"{MAZE} is not here; BAND_DATA names its folder")
def test_six_taps_of_binned_spikes_of_the_maze_recording_reach_the_known_velocity_r2():
    with h5py.File(MAZE) as file:
        counts = {s: file[f"{s}_recon_data"][:].astype(float) for s in ("train", "valid")}
        behavior = {s: file[f"{s}_behavior"][:].astype(float) for s in ("train", "valid")}

    def delayed(values, lag):
        return np.pad(values, ((0, 0), (lag, 0), (0, 0)))[:, : values.shape[1]]

    binned = {s: sum(delayed(c, lag) for lag in range(5)) for s, c in counts.items()}  # counts of the last 50 ms
    taps = {s: np.concatenate([delayed(b, lag) for lag in range(6)], axis=2) for s, b in binned.items()}
    decoded = fit_decoder(taps["train"], behavior["train"]).decode(taps["valid"])
    np.testing.assert_allclose(r2(behavior["valid"], decoded), [0.77, 0.53], atol=0.02)
