"""What the figures of a report show: which runs and trials, chosen how, in which order, and where labels go."""

from __future__ import annotations

import numpy as np
import pytest
from published_sweep import publish_sweep, runs_of

from band.sweep.collect import collect
from band.sweep.compare import compare
from band.sweep.figure_style import colours_of, spread, style
from band.sweep.figure_trials import active_neurons, choose_read_out, choose_trials, order_neurons, scale_rates
from band.sweep.figures import r2_against_bits, read_metrics
from band.sweep.shown import choose_shown


def scores_of(run):
    valid = {
        "bits_per_spike": 0.2 + run.get("hyper.lr", 0),
        "behavior_r2/ridge_lag0/mean": 0.5 + 0.1 * run["hyper.behavior_weight"],
        "behavior_r2/ridge_trial/mean": 0.9 - 0.5 * run["hyper.behavior_weight"],
    }
    # test is the other way round: nothing may be chosen on it
    return {"train": {}, "valid": valid, "test": {name: -value for name, value in valid.items()}}


def shown(tmp_path, **kwargs):
    folder = publish_sweep(tmp_path / "s", runs_of(**kwargs), scores=scores_of, num_folds=3)
    return choose_shown(compare(collect(folder).runs)[0])


def test_the_setting_weight_and_read_out_shown_are_the_best_on_valid(tmp_path):
    found = shown(
        tmp_path, settings=[{"hyper.lr": lr} for lr in (0.01, 0.03, 0.02)], weights=(0, 0.1, 1.0), folds=3, seeds=2
    )
    assert dict(found.setting)["hyper.lr"] == 0.03
    lfads, band = found.pair
    assert (lfads.weight, band.weight) == (0, 1.0) and lfads.cell == band.cell
    assert {run.cell.fold for runs in found.by_weight.values() for run in runs} == {0}
    assert choose_read_out([lfads]) == "behavior_r2/ridge_trial/mean"  # 0.9 against 0.5
    assert choose_read_out([band]) == "behavior_r2/ridge_lag0/mean"  # 0.4 against 0.6
    assert choose_read_out([lfads, band]) == "behavior_r2/ridge_trial/mean"  # 0.65 against 0.55


def test_a_sweep_of_one_model_shows_that_model(tmp_path):
    lfads, band = shown(tmp_path, weights=(0.0,)).pair
    assert lfads is not None and band is None


@pytest.mark.parametrize(("apart", "width"), [(0.002, 0.01), (0.05, 0.05)])
def test_bits_per_spike_that_are_as_good_as_equal_do_not_look_far_apart(tmp_path, apart, width):
    def scores(run):
        bits = 0.2 + apart * run["hyper.behavior_weight"]
        return {"train": {}, "valid": {}, "test": {"bits_per_spike": bits, "behavior_r2/ridge_lag0/mean": 0.5}}

    folder = publish_sweep(tmp_path / "s", runs_of(weights=(0.0, 1.0)), scores=scores)
    comparisons, _ = compare(collect(folder).runs)
    with style():
        axes = r2_against_bits(comparisons, shown=comparisons[0].setting).axes[0]
    low, high = axes.get_xlim()
    assert low < 0.2 and 0.2 + apart < high and width <= high - low <= 1.3 * width + 1e-9


def test_trials_shown_are_whole_and_spread_over_conditions():
    behavior = np.zeros((12, 5, 2))
    behavior[0, 3, 1] = np.nan
    cond = np.arange(12) % 4
    assert list(choose_trials(behavior, cond, count=2)) == [4, 3]  # the first whole ones of conditions 0 and 3
    assert list(choose_trials(behavior, None, count=3)) == [1, 6, 11]
    assert list(choose_trials(behavior[:3], None, count=9)) == [1, 2]
    assert list(choose_trials(np.full((3, 5, 2), np.nan), None, count=2)) == []


def test_rates_of_both_models_share_each_neurons_scale():
    rng = np.random.default_rng(0)
    first, second = rng.random((10, 20, 3)), 2 * rng.random((10, 20, 3)) * [1, 1, 0]
    scaled = scale_rates([first, second])
    low, high = np.percentile(np.concatenate([first, second])[:, :, 0], [1, 99])
    np.testing.assert_allclose(scaled[1][:, :, 0], np.clip((second[:, :, 0] - low) / (high - low), 0, 1))
    assert np.isfinite(scale_rates([np.ones((2, 3, 1))])[0]).all()


def test_neurons_of_aligned_trials_stand_in_the_order_of_their_peaks():
    peaks = np.array([7, 2, 9, 0, 4])
    rates = np.exp(-0.5 * (np.arange(10)[:, None] - peaks) ** 2)[None].repeat(3, axis=0)
    assert list(peaks[order_neurons(rates, is_aligned=True)]) == [0, 2, 4, 7, 9]


def test_neurons_that_vary_together_stand_together_without_alignment():
    rng = np.random.default_rng(1)
    groups = rng.permutation(np.arange(30) % 3)
    rates = rng.standard_normal((20, 15, 3))[:, :, groups] + 0.1 * rng.standard_normal((20, 15, 30))
    ordered = groups[order_neurons(rates, is_aligned=False)]
    assert (
        np.diff(np.append(ordered, ordered[0])) != 0
    ).sum() <= 4  # three groups on a circle, one of them near its cut


def test_neurons_that_hardly_fire_are_not_shown():
    counts = np.zeros((4, 50, 3))
    counts[0, :3, 1] = 1  # 3 spikes in 2 s
    counts[:, ::5, 2] = 1
    assert list(active_neurons(counts, bin_ms=10.0)) == [1, 2]
    assert list(active_neurons(counts, bin_ms=100.0)) == [2]
    assert list(active_neurons(counts, bin_ms=None)) == [0, 1, 2]


@pytest.mark.parametrize("values", [[0.5, 0.5, 0.5], [0.98, 1.0, 0.99], [0.0, 0.0], [0.3, 0.9, 0.31], []])
def test_labels_are_moved_apart_keep_their_order_and_stay_within_the_axes(values):
    moved = spread(values, gap=0.1, low=0.0, high=1.0)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(moved)[order]) >= 0.1 - 1e-12).all() if len(values) > 1 else True
    assert all(-1e-12 <= value <= 1 + 1e-12 for value in moved)


def test_labels_far_apart_stay_where_they_are():
    assert spread([0.9, 0.1, 0.5], gap=0.1, low=0.0, high=1.0) == [0.9, 0.1, 0.5]


def test_lfads_has_the_same_colour_in_every_figure_and_no_weight_shares_it():
    colours = colours_of([0.0, 0.1, 1.0])
    assert len(set(colours.values())) == 3
    assert colours_of([0.5])[0.0] == colours[0.0] and colours_of([0.5])[0.5] == colours[1.0]


def test_metrics_are_read_with_empty_fields_as_missing(tmp_path):
    folder = publish_sweep(tmp_path / "s", runs_of(), scores=scores_of)
    lfads, band = (read_metrics(run) for run in collect(folder).runs)
    assert np.isnan(lfads["valid_behavior_r2"]).all() and np.isfinite(band["valid_behavior_r2"]).all()
    assert list(lfads["epoch"]) == list(range(40))
