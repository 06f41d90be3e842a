"""Intervals against scipy, against their own coverage in simulation, and what counts as a unit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from band.sweep.statistics import Cell, summarise, t_distribution, t_interval, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 9, 29, 30, 200])
def test_students_t_is_that_of_scipy(degrees):
    for t in (-3.0, 0.0, 0.3, 2.0, 11.0):
        assert t_distribution(t, degrees=degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-12)
    for probability in (0.5, 0.9, 0.975, 0.9995):
        assert t_quantile(probability, degrees=degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


def cells(values, *, sessions=1, folds=1, seeds=1):
    where = [Cell(f"s{s}", f, e) for s in range(sessions) for f in range(folds) for e in range(seeds)]
    return dict(zip(where, values, strict=True))


def test_an_interval_over_folds_is_that_of_nadeau_and_bengio_on_means_over_seeds():
    values = np.random.default_rng(0).standard_normal((5, 3))
    found = summarise(cells(values.ravel(), folds=5, seeds=3), test_by_train=0.25)
    means = values.mean(axis=1)
    half = stats.t.ppf(0.975, 4) * np.sqrt(means.var(ddof=1) * (1 / 5 + 0.25))
    assert found.interval == pytest.approx((means.mean() - half, means.mean() + half))
    assert found.mean == pytest.approx(values.mean())
    assert found.count == "n = 5 folds x 3 seeds"


def test_several_sessions_are_the_units_and_their_folds_are_not():
    values = np.random.default_rng(1).standard_normal((5, 4, 2))
    found = summarise(cells(values.ravel(), sessions=5, folds=4, seeds=2), test_by_train=0.25)
    means = values.mean(axis=(1, 2))
    low, high = stats.t.interval(0.95, 4, means.mean(), stats.sem(means))
    assert found.interval == pytest.approx((low, high))
    assert (found.unit, found.num_units, found.num_runs) == ("session", 5, 40)


@pytest.mark.parametrize(("sessions", "folds"), [(4, 5), (1, 4), (2, 1)])
def test_below_five_units_there_is_a_spread_over_units_and_no_interval(sessions, folds):
    found = summarise(cells(range(sessions * folds), sessions=sessions, folds=folds), test_by_train=0.25)
    assert found.interval is None and found.spread is not None


def test_many_seeds_of_one_split_give_no_interval():
    found = summarise(cells([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], seeds=6), test_by_train=0.25)
    assert found.interval is None and found.spread == (1.0, 6.0)
    assert found.count == "n = 1 split x 6 seeds"


def test_one_run_has_neither_interval_nor_spread_and_none_has_no_summary():
    found = summarise(cells([1.5]), test_by_train=0.25)
    assert (found.mean, found.interval, found.spread) == (1.5, None, None)
    assert summarise({}, test_by_train=0.25) is None


def test_a_fold_with_more_seeds_weighs_no_more_than_another():
    values = {Cell("a", 0, 0): 0.0, Cell("a", 1, 0): 1.0, Cell("a", 1, 1): 1.0, Cell("a", 1, 2): 1.0}
    found = summarise(values, test_by_train=0.25)
    assert found.mean == 0.5 and found.num_seeds == 1


def test_the_correction_for_folds_covers_the_truth_where_the_plain_interval_does_not():
    rng = np.random.default_rng(2)
    hits = {0.0: 0, 0.25: 0}
    for _ in range(1500):  # folds that correlate as those of 5-fold cross-validation do: test/(test + train) = 0.2
        units = np.sqrt(0.8) * rng.standard_normal(5) + np.sqrt(0.2) * rng.standard_normal()
        for overlap in hits:
            low, high = t_interval(list(units), overlap=overlap)
            hits[overlap] += low <= 0 <= high
    assert hits[0.0] / 1500 < 0.91
    assert hits[0.25] / 1500 == pytest.approx(0.95, abs=0.02)
