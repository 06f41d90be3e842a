"""Every score against its formula written out in loops, against its limits, and against floors of a real recording."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from band.errors import ShapeError
from band.train.decoding import fit_ridge
from band.train.scores import (
    Modelled,
    Observed,
    bits_per_spike,
    deviation_r2,
    mean_course_of_train,
    r2,
    score_splits,
    within_condition_r2,
)

MAZE = Path(os.environ.get("BAND_DATA", "../shared/data")) / "mc_maze_large_9cond-10ms.h5"
needs_maze = pytest.mark.skipif(not MAZE.exists(), reason=f"{MAZE} is not here; BAND_DATA names its folder")


def recording(seed, *, trials=30, bins=8, neurons=6, factors=5, conditions=3, has_decoder=True):
    """A split in which behaviour is linear in the factors, with noise, and rates follow the factors."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    latent = rng.standard_normal((trials, bins, factors))
    rates = np.exp(0.4 * latent @ fixed.standard_normal((factors, neurons)) - 1)
    behavior = latent @ fixed.standard_normal((factors, 2)) + 0.3 * rng.standard_normal((trials, bins, 2))
    observed = Observed(
        spikes=rng.poisson(rates).astype(np.float32),
        num_heldin=neurons - 2,
        encod_bins=bins - 3,
        behavior=behavior,
        cond=np.arange(trials) % conditions,
    )
    own = behavior + 0.5 * rng.standard_normal(behavior.shape) if has_decoder else None
    return observed, Modelled(rates=rates, factors=latent.astype(np.float32), behavior=own)


def splits(*, trials=30, **kwargs):
    pairs = {s: recording(seed, trials=trials, **kwargs) for seed, s in enumerate(("train", "valid", "test"))}
    return {s: o for s, (o, _) in pairs.items()}, {s: m for s, (_, m) in pairs.items()}


def log_likelihood(rate, count):
    return count * math.log(rate) - rate - math.lgamma(count + 1)


def bits_by_loop(rates, spikes):
    spikes = spikes.astype(float)
    gained, num_spikes = 0.0, 0.0
    for n in range(spikes.shape[2]):
        seen = [(i, t) for i in range(spikes.shape[0]) for t in range(spikes.shape[1]) if spikes[i, t, n] >= 0]
        mean = sum(spikes[i, t, n] for i, t in seen) / len(seen)
        if mean == 0:
            gained -= sum(rates[i, t, n] for i, t in seen)
            continue
        gained += sum(log_likelihood(rates[i, t, n], spikes[i, t, n]) for i, t in seen)
        gained -= sum(log_likelihood(mean, spikes[i, t, n]) for i, t in seen)
        num_spikes += sum(spikes[i, t, n] for i, t in seen)
    return gained / num_spikes / math.log(2)


def test_bits_per_spike_is_the_gain_in_exact_log_likelihood_over_each_neurons_mean():
    observed, modelled = recording(0)
    spikes = observed.spikes.copy()
    spikes[:, :, 1] = 0  # a silent neuron
    spikes[3, 2:5, 0] = np.nan  # unobserved counts
    assert bits_per_spike(modelled.rates, spikes) == pytest.approx(bits_by_loop(modelled.rates, spikes), rel=1e-12)


def test_the_mean_rate_scores_zero_and_a_rate_of_zero_costs_only_where_a_spike_was():
    spikes = recording(0)[0].spikes
    mean = np.broadcast_to(spikes.mean(axis=(0, 1), dtype=float), spikes.shape)
    assert bits_per_spike(mean, spikes) == pytest.approx(0, abs=1e-12)
    assert math.isfinite(bits_per_spike(np.where(spikes > 0, mean, 0), spikes))
    assert bits_per_spike(np.where(spikes > 0, 0, mean), spikes) == -math.inf
    assert not math.isfinite(bits_per_spike(mean, np.zeros_like(spikes)))


def test_held_out_neurons_and_later_bins_have_scores_of_their_own():
    observed, modelled = splits()
    scores = score_splits(observed, modelled)["test"]
    spikes, rates = observed["test"].spikes, modelled["test"].rates
    assert scores["bits_per_spike"] == pytest.approx(bits_by_loop(rates[:, :5, :4], spikes[:, :5, :4]))
    assert scores["co_bps"] == pytest.approx(bits_by_loop(rates[:, :5, 4:], spikes[:, :5, 4:]))
    assert scores["fp_bps"] == pytest.approx(bits_by_loop(rates[:, 5:], spikes[:, 5:]))


def test_r2_of_each_kind_is_its_sum_written_out():
    observed, modelled = recording(3, trials=12)
    y, p, cond = observed.behavior.copy(), modelled.behavior, observed.cond
    y[0, 1, 0] = y[4, :, 1] = np.nan
    for k in range(2):
        seen = [(i, t) for i in range(12) for t in range(8) if not math.isnan(y[i, t, k])]
        mean = sum(y[i, t, k] for i, t in seen) / len(seen)

        def course(values, i, t, k=k):
            same = [j for j in range(12) if cond[j] == cond[i] and not math.isnan(y[j, t, k])]
            return sum(values[j, t, k] for j in same) / len(same)

        unexplained = sum((y[i, t, k] - p[i, t, k]) ** 2 for i, t in seen)
        around_mean = sum((y[i, t, k] - mean) ** 2 for i, t in seen)
        within = sum((y[i, t, k] - course(y, i, t)) ** 2 for i, t in seen)
        deviations = sum((y[i, t, k] - course(y, i, t) - p[i, t, k] + course(p, i, t)) ** 2 for i, t in seen)
        assert r2(y, p)[k] == pytest.approx(1 - unexplained / around_mean)
        assert within_condition_r2(y, p, cond=cond)[k] == pytest.approx(1 - unexplained / within)
        assert deviation_r2(y, p, cond=cond)[k] == pytest.approx(1 - deviations / within)


def test_an_offset_by_condition_ruins_within_condition_r2_and_leaves_deviation_r2():
    observed, _ = recording(4)
    shifted = observed.behavior + observed.cond[:, None, None]
    assert within_condition_r2(observed.behavior, shifted, cond=observed.cond).max() < 0.8
    np.testing.assert_allclose(deviation_r2(observed.behavior, shifted, cond=observed.cond), 1, atol=1e-12)


def test_read_outs_are_fitted_on_train_alone_and_scored_on_every_split():
    observed, modelled = splits()
    scores = score_splits(observed, modelled)
    train, test = modelled["train"].factors, modelled["test"].factors
    ridge = fit_ridge(
        train.reshape(240, 5), observed["train"].behavior.reshape(240, 2), groups=np.repeat(np.arange(30), 8)
    )
    by_hand = r2(observed["test"].behavior, ridge.predict(test.reshape(240, 5)).reshape(30, 8, 2))
    assert scores["test"]["behavior_r2/ridge_lag0/1"] == pytest.approx(by_hand[1])
    assert scores["test"]["behavior_r2/ridge_lag0/mean"] == pytest.approx(by_hand.mean())
    assert by_hand.min() > 0.9
    whole = fit_ridge(
        train.reshape(30, 40),
        observed["train"].behavior.reshape(30, 16),
        groups=np.arange(30),
        channels=np.arange(16) % 2,
    )
    by_hand = r2(observed["test"].behavior, whole.predict(test.reshape(30, 40)).reshape(30, 8, 2))
    assert scores["test"]["behavior_r2/ridge_trial/0"] == pytest.approx(by_hand[0])


def test_scores_of_what_was_fitted_on_the_scored_trials_stand_apart():
    observed, modelled = splits()
    scores = score_splits(observed, modelled, ablated={"noci": modelled})
    fitted = {name for name in scores["train"] if name.startswith("fitted/")}
    assert "fitted/behavior_r2/ridge_lag0/mean" in fitted and "fitted/noci/behavior_r2/ridge_lag0_refitted/0" in fitted
    assert "fitted/baseline/condition_mean_r2/mean" in fitted
    assert {name.removeprefix("fitted/") for name in fitted} <= set(scores["test"])
    assert not any(name.startswith("fitted/") for name in (*scores["valid"], *scores["test"]))
    assert not any("/ridge_" in name for name in set(scores["train"]) - fitted if "alpha" not in name)


def test_an_ablated_model_is_read_by_a_refitted_and_by_the_intact_decoder():
    observed, modelled = splits()
    halved = {s: Modelled(m.rates, m.factors * 0.5, m.behavior * 0.5) for s, m in modelled.items()}
    scores = score_splits(observed, modelled, ablated={"noci": halved})["test"]
    assert scores["noci/behavior_r2/ridge_lag0_refitted/mean"] == pytest.approx(scores["behavior_r2/ridge_lag0/mean"])
    ridge = fit_ridge(
        modelled["train"].factors.reshape(240, 5),
        observed["train"].behavior.reshape(240, 2),
        groups=np.repeat(np.arange(30), 8),
    )
    decoded = ridge.predict(halved["test"].factors.reshape(240, 5).astype(float)).reshape(30, 8, 2)
    by_hand = r2(observed["test"].behavior, decoded)
    assert scores["noci/behavior_r2/ridge_lag0_intact/0"] == pytest.approx(by_hand[0])
    own = r2(observed["test"].behavior, halved["test"].behavior)
    assert scores["noci/behavior_r2/own/mean"] == pytest.approx(own.mean())


def test_a_model_without_a_decoder_has_empty_scores_where_others_have_theirs():
    observed, modelled = splits(has_decoder=False)
    scores = score_splits(observed, modelled)
    assert scores["test"]["behavior_r2/own/mean"] is None and scores["test"]["deviation_r2/own/0"] is None
    with_decoder = score_splits(*splits())
    assert {s: set(v) for s, v in scores.items()} == {s: set(v) for s, v in with_decoder.items()}


def test_missing_behaviour_is_left_out_and_a_recording_without_any_has_spike_scores_alone():
    observed, modelled = splits()
    holes = {}
    for split, o in observed.items():
        behavior = o.behavior.copy()
        behavior[::4, 2:5] = np.nan
        holes[split] = Observed(o.spikes, o.num_heldin, o.encod_bins, behavior, o.cond)
    scores = score_splits(holes, modelled)
    assert scores["test"]["behavior_r2/ridge_lag0/mean"] > 0.9
    assert all(v is None or math.isfinite(v) for found in scores.values() for v in found.values())
    bare = {s: Observed(o.spikes, o.num_heldin, o.encod_bins) for s, o in observed.items()}
    assert set(score_splits(bare, modelled)["test"]) == {"bits_per_spike", "co_bps", "fp_bps"}


def test_a_model_gone_to_nan_has_empty_scores_and_raises_nothing():
    observed, modelled = splits()
    broken = {
        s: Modelled(np.full_like(m.rates, np.nan), m.factors, np.full_like(m.behavior, np.nan))
        for s, m in modelled.items()
    }
    scores = score_splits(observed, broken)["test"]
    assert scores["bits_per_spike"] is None and scores["behavior_r2/own/mean"] is None


def test_factors_gone_to_nan_leave_ridge_scores_empty():
    observed, modelled = splits()
    broken = {s: Modelled(m.rates, np.full_like(m.factors, np.nan), m.behavior) for s, m in modelled.items()}
    scores = score_splits(observed, broken)["test"]
    assert scores["behavior_r2/ridge_lag0/mean"] is None and scores["behavior_r2/ridge_trial/mean"] is None
    assert scores["bits_per_spike"] is not None and scores["behavior_r2/own/mean"] is not None


@pytest.mark.parametrize(("spread", "trials", "informative"), [(1.0, 30, 1.0), (0.05, 30, 0.0), (1.0, 12, 0.0)])
def test_within_condition_scores_say_when_variance_or_trials_are_too_few(spread, trials, informative):
    observed, modelled = splits(trials=trials)
    flat = {}
    for split, o in observed.items():
        behavior = spread * o.behavior + 2.0 * o.cond[:, None, None]
        flat[split] = Observed(o.spikes, o.num_heldin, o.encod_bins, behavior, o.cond)
    scores = score_splits(flat, modelled)["test"]
    assert scores["within_condition_informative"] == informative
    assert scores["within_condition_trials"] == trials / 3
    assert (scores["within_condition_share/pooled"] < 0.1) == (spread < 1)


def test_the_mean_course_of_train_serves_conditions_that_train_has_and_the_overall_mean_the_rest():
    train = recording(0)[0]
    found = mean_course_of_train(train, cond=np.array([1, 7]))
    np.testing.assert_allclose(found[0], train.behavior[train.cond == 1].mean(axis=0))
    np.testing.assert_allclose(found[1], train.behavior.mean(axis=0))


def test_arrays_that_do_not_fit_are_named_with_their_split():
    observed, modelled = splits()
    modelled["valid"] = Modelled(modelled["valid"].rates[:, :-1], modelled["valid"].factors)
    with pytest.raises(ShapeError, match=r"valid: rates .*\(30, 7, 6\).*\(30, 8, 6\)"):
        score_splits(observed, modelled)


@needs_maze
def test_the_maze_recording_gives_its_known_floors():
    with h5py.File(MAZE) as file:
        arrays = {name: file[name][:] for name in file}
    observed = {
        s: Observed(arrays[f"{s}_recon_data"], 162, 50, arrays[f"{s}_behavior"], arrays[f"{s}_cond"])
        for s in ("train", "valid")
    }
    train = observed["train"]
    bins = np.arange(50)
    smoother = np.exp(-0.5 * ((bins[:, None] - bins) / 5) ** 2)  # 50 ms
    smoother /= smoother.sum(axis=1, keepdims=True)
    course = {c: np.maximum(smoother @ train.spikes[train.cond == c].mean(axis=0), 1e-4) for c in np.unique(train.cond)}
    rates = {s: np.stack([course[c] for c in o.cond]) for s, o in observed.items()}
    modelled = {s: Modelled(r, r[:, :, :40]) for s, r in rates.items()}
    began = time.process_time()
    scores = score_splits(observed, modelled, ablated={"noci": modelled})["valid"]
    assert time.process_time() - began < 3
    assert scores["bits_per_spike"] == pytest.approx(0.225, abs=0.001)
    assert scores["baseline/condition_mean_r2/0"] == pytest.approx(0.96, abs=0.005)
    assert scores["baseline/condition_mean_r2/1"] == pytest.approx(0.91, abs=0.005)
    assert scores["within_condition_share/pooled"] == pytest.approx(0.044, abs=0.0005)
    assert scores["within_condition_trials"] == 4 and scores["within_condition_informative"] == 0
