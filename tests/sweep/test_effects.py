"""Effects of swept parameters: paired where runs differ in them alone, associations where they do not."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
from published_sweep import publish_sweep, runs_of
from scipy import stats

from band.sweep.collect import collect
from band.sweep.effects import effects, order, rank_correlation

BITS = "bits_per_spike"


def bits_of(run):
    rng = np.random.default_rng([run["seed"], run["data.fold"], int(10 * run["hyper.behavior_weight"])])
    return 0.2 + 10 * run["hyper.lr"] * (1 + run["hyper.behavior_weight"]) + 0.01 * rng.standard_normal()


def scores_of(run):
    return {"train": {}, "valid": {}, "test": {BITS: bits_of(run)}}


def test_a_step_is_the_mean_difference_of_runs_that_differ_in_the_parameter_alone(tmp_path):
    settings = [{"hyper.lr": rate, "hyper.cd_rate": share} for rate in (0.01, 0.02) for share in (0.1, 0.5)]
    runs = runs_of(settings=settings, folds=5, seeds=2)
    found = effects(collect(publish_sweep(tmp_path / "s", runs, scores=scores_of, num_folds=5)).runs, [BITS])
    by_name = {(effect.key, effect.model): effect for effect in found}
    assert set(by_name) == {(key, model) for key in ("hyper.lr", "hyper.cd_rate") for model in ("LFADS", "BAND")}
    for model, slope in (("LFADS", 10), ("BAND", 20)):
        first, second = by_name["hyper.lr", model].steps
        assert first.difference is None and second.value == 0.02
        assert second.difference.mean == pytest.approx(0.01 * slope)
        assert (second.difference.unit, second.difference.num_units) == ("fold", 5) and second.difference.interval
    own = [run for run in runs if run["hyper.behavior_weight"] == 0 and run["hyper.cd_rate"] == 0.5]
    assert by_name["hyper.cd_rate", "LFADS"].steps[1].mean == pytest.approx(fmean(bits_of(run) for run in own))
    assert by_name["hyper.cd_rate", "LFADS"].steps[1].difference.mean == pytest.approx(0)


def test_a_pair_that_also_differs_in_something_else_is_none(tmp_path):
    settings = [{"hyper.lr": 0.01, "hyper.cd_rate": 0.1}, {"hyper.lr": 0.02, "hyper.cd_rate": 0.5}]
    found = effects(collect(publish_sweep(tmp_path / "s", runs_of(settings=settings), scores=scores_of)).runs, [BITS])
    assert all(effect.steps[1].difference is None for effect in found)


def test_many_values_have_a_rank_correlation_in_place_of_steps(tmp_path):
    settings = [{"hyper.lr": 0.001 * n} for n in range(1, 12)]
    found = effects(collect(publish_sweep(tmp_path / "s", runs_of(settings=settings), scores=scores_of)).runs, [BITS])
    assert all(not effect.steps and effect.rank_correlation > 0.9 for effect in found)


def test_a_sweep_of_nothing_has_no_effects(tmp_path):
    runs = [{**run, "hyper.lr": 0.01} for run in runs_of(seeds=3)]
    assert not effects(collect(publish_sweep(tmp_path / "s", runs, scores=scores_of)).runs, [BITS])


def test_rank_correlation_is_spearmans_ties_included():
    rng = np.random.default_rng(3)
    pairs = [(float(a), float(b)) for a, b in zip(rng.integers(0, 5, 40), rng.integers(0, 9, 40), strict=True)]
    assert rank_correlation(pairs) == pytest.approx(stats.spearmanr(pairs).statistic)
    assert rank_correlation([(1.0, 2.0)] * 9) is None and rank_correlation(pairs[:3]) is None


def test_values_of_all_kinds_stand_in_one_order():
    assert order(["b", 2, None, 0.5, "a", 2]) == [None, 0.5, 2, "a", "b"]
