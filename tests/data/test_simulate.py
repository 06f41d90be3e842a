"""Simulated recordings hold the truth they promise, and the marks their description states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from band.data.ceilings import ceilings, deviation_r2
from band.data.simulate import LorenzTask, ReachTask, simulate_lorenz, simulate_reach, small_reach
from band.errors import ConfigError

SMALL = ReachTask(trials_per_condition=(8, 2, 2), num_neurons=12)


@pytest.fixture(scope="module")
def default_pair() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return simulate_reach(ReachTask()), simulate_reach(ReachTask(has_corrections=False))


def test_the_seed_decides_everything():
    one, again, other = (simulate_reach(replace(SMALL, seed=seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert not np.array_equal(one["train_recon_data"], other["train_recon_data"])


def test_counts_are_poisson_around_the_truth(default_pair):
    for arrays in (default_pair[0], simulate_lorenz(LorenzTask())):
        counts = np.concatenate([arrays[f"{split}_recon_data"] for split in ("train", "valid", "test")]).astype(float)
        truth = np.concatenate([arrays[f"{split}_truth"] for split in ("train", "valid", "test")]).astype(float)
        scores = (counts - truth).sum(axis=(0, 1)) / np.sqrt(truth.sum(axis=(0, 1)))
        assert np.abs(scores).max() < 4.5 and np.all(counts == np.floor(counts))
        dispersion = ((counts - truth) ** 2 / truth).mean()
        assert abs(dispersion - 1) < 0.02


def test_velocity_is_the_plan_and_the_recorded_corrections(default_pair):
    reach, control = default_pair
    added = reach["train_behavior"] - control["train_behavior"]
    assert np.allclose(added, reach["train_latents"][..., -2:], atol=1e-4)
    assert np.all(control["train_latents"][..., -2:] == 0) and np.all(control["train_correction_onset"] == -1)
    trial = int(np.argmax((reach["train_correction_onset"] >= 0).sum(axis=1)))
    onset, peak = reach["train_correction_onset"][trial], reach["train_correction"][trial].reshape(2, 2)
    phases = [np.clip((np.arange(50) - start) / 14, 0, 1) for start in onset]
    bells = [30 * phase**2 * (1 - phase) ** 2 / 1.875 for phase in phases]  # minimum-jerk speed, highest at its middle
    assert np.allclose(added[trial], bells[0][:, None] * peak[0] + bells[1][:, None] * peak[1], atol=1e-4)


def test_the_control_differs_in_nothing_but_corrections(default_pair):
    reach, control = default_pair
    assert np.array_equal(reach["test_cond"], control["test_cond"])
    assert np.array_equal(reach["test_latents"][..., :-2], control["test_latents"][..., :-2])


def test_the_marks_are_those_of_the_description():
    marks = ceilings(ReachTask())
    assert marks.latents > 0.99 and 0.76 < marks.smoother < 0.8 and 0.39 < marks.spikes < 0.57
    assert 0.03 <= marks.correction_neural_share < 0.033 and 0.7 < marks.correction_deviation_share < 0.75
    assert 0.1 < marks.plan_neural_share < 0.125 and 0.36 < marks.within_share < 0.41
    control = ceilings(ReachTask(has_corrections=False))
    assert control.latents > 0.99 and 0.95 < control.smoother < 0.98 and 0.13 < control.within_share < 0.17
    assert control.correction_deviation_share == 0 and control.correction_neural_share < 1e-9


def test_deviations_in_the_control_are_the_targets_scatter_and_noise_that_no_neuron_tells(default_pair):
    control = default_pair[1]
    velocity, cond = control["train_behavior"].astype(float), control["train_cond"]
    deviations = velocity - np.stack([velocity[cond == label].mean(axis=0) for label in range(8)])[cond]
    speed = np.linalg.norm(velocity[cond == 0].mean(axis=0), axis=-1)
    explained = np.einsum("btk,t->bk", deviations, speed)[:, None] * speed[:, None] / (speed**2).sum()
    # Each condition's mean takes one of 48 trials' worth of the noise with it, the bell one of 50 bins' worth.
    left = ReachTask().tracking_noise * np.sqrt(47 / 48 * 49 / 50)
    assert (deviations - explained).std() == pytest.approx(left, rel=0.02)
    quiet = simulate_reach(ReachTask(has_corrections=False, tracking_noise=0.0))
    assert np.array_equal(quiet["train_recon_data"], control["train_recon_data"])


def test_without_scatter_the_control_has_the_same_plan_in_every_trial_of_a_condition():
    arrays = simulate_reach(replace(SMALL, has_corrections=False, target_scatter=0.0, tracking_noise=0.0))
    for label in range(8):
        chosen = arrays["train_cond"] == label
        assert np.ptp(arrays["train_behavior"][chosen], axis=0).max() < 1e-6
        assert np.ptp(arrays["train_latents"][chosen][..., :10], axis=0).max() < 1e-6


def test_the_ceiling_agrees_with_least_squares_from_scratch(default_pair):
    reach, _ = default_pair
    design = np.concatenate([reach["train_latents"], np.ones((384, 50, 1))], axis=-1).reshape(-1, 17).astype(float)
    weights, *_ = np.linalg.lstsq(design, reach["train_behavior"].reshape(-1, 2).astype(float), rcond=None)
    predicted = np.concatenate([reach["test_latents"], np.ones((112, 50, 1))], axis=-1) @ weights
    error = total = 0.0
    for label in range(8):
        chosen = reach["test_cond"] == label
        true, guess = reach["test_behavior"][chosen], predicted[chosen]
        true, guess = true - true.mean(axis=0), guess - guess.mean(axis=0)
        error, total = error + ((true - guess) ** 2).sum(), total + (true**2).sum()
    assert abs(ceilings(ReachTask()).latents - (1 - error / total)) < 2e-3


def test_deviation_r2_sees_deviations_alone():
    random = np.random.default_rng(0)
    cond = np.repeat([0, 1], 10)
    true = random.standard_normal((20, 5, 2))
    assert deviation_r2(true, true + np.where(cond == 0, 3.0, -7.0)[:, None, None], cond) == pytest.approx(1.0)
    means = np.stack([true[cond == label].mean(axis=0) for label in (0, 1)])[cond]
    assert deviation_r2(true, means, cond) == pytest.approx(0.0)


def test_splits_have_each_condition_and_trial_numbers_in_order(default_pair):
    reach, _ = default_pair
    for split, count in (("train", 48), ("valid", 13), ("test", 14)):
        assert np.bincount(reach[f"{split}_cond"]).tolist() == [count] * 8
        assert np.all(np.diff(reach[f"{split}_inds"]) > 0)
    everything = np.concatenate([reach[f"{split}_inds"] for split in ("train", "valid", "test")])
    assert sorted(everything.tolist()) == list(range(600))


def test_lorenz_paths_follow_the_equations():
    task = LorenzTask(num_conditions=2, trials_per_condition=(1, 1, 1), num_bins=400, step=0.01)
    latents = simulate_lorenz(task)["train_latents"].astype(float)
    assert np.all(np.abs(latents.mean(axis=(0, 1))) < 1e-3) and np.allclose(latents.std(axis=(0, 1)), 1, atol=1e-3)
    # In a standardised linear image of the system dx/dt is linear in x and y: least squares must explain it.
    slope = np.gradient(latents[0, :, 0], task.step)[1:-1]
    design = np.stack([latents[0, 1:-1, 0], latents[0, 1:-1, 1], np.ones(398)], axis=1)
    weights, *_ = np.linalg.lstsq(design, slope, rcond=None)
    assert ((slope - design @ weights) ** 2).mean() / slope.var() < 0.01 and weights[0] == pytest.approx(-10, rel=0.05)


def test_trials_of_a_condition_share_their_lorenz_rates():
    arrays = simulate_lorenz(LorenzTask(num_conditions=3))
    for label in range(3):
        assert np.ptp(arrays["train_truth"][arrays["train_cond"] == label], axis=0).max() == 0


def test_the_small_preset_is_small_and_still_shows_corrections():
    task = small_reach(ReachTask())
    reach = simulate_reach(task)
    assert reach["train_recon_data"].shape == (128, 35, 50)
    marks = ceilings(task)
    assert marks.latents > 0.99 and marks.smoother > 0.75 and marks.correction_deviation_share > 0.7


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_neurons": 0},
        {"num_bins": 20},
        {"correction_share": 1.0},
        {"target_scatter": -0.1},
        {"trials_per_condition": (1, 0, 1)},
        {"seed": -1},
    ],
)
def test_impossible_sizes_are_refused_by_name(wrong):
    name = next(iter(wrong))
    with pytest.raises(ConfigError, match=name):
        ReachTask(**wrong)
