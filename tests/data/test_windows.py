"""Windows of a recording: whatever is chopped merges to itself, against brute force over bins and windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from band.data.windows import TAILS, Windows, cut_windows, lay_windows, merge_spreads, merge_windows, taper
from band.errors import DataError


@st.composite
def chopped(draw, max_overlap=1.0):
    """A clock of several segments with breaks, values with missing samples, and windows of any overlap."""
    lengths = draw(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=5))
    labels = [part for i, (n, gap) in enumerate(lengths) for part in ([i] * n, [-1] * gap)]
    segment = np.concatenate([np.array(part, dtype=np.int64) for part in labels])
    num_bins = draw(st.integers(1, 25))
    overlap = draw(st.integers(0, int((num_bins - 1) * max_overlap)))
    tail = draw(st.sampled_from(TAILS))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = random.standard_normal((len(segment), 3)).astype(draw(st.sampled_from(["f4", "f8"])))
    values[random.random(values.shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))] = np.nan
    windows = lay_windows(segment, num_bins=num_bins, step_bins=num_bins - overlap, tail=tail)
    trim = draw(st.integers(0, overlap // 2))
    return segment, values, windows, {"length": len(segment), "overlap_bins": overlap, "trim_bins": trim}


@given(chopped())
def test_chop_then_merge_is_the_identity(case):
    segment, values, windows, how = case
    merged = merge_windows(cut_windows(values, windows), windows, **how)
    expected = np.where(segment[:, None] >= 0, values, np.nan)
    assert merged.dtype == values.dtype
    if values.dtype == np.float32:  # whole weights: exact to the last bit
        assert np.array_equal(merged, expected, equal_nan=True)
    np.testing.assert_allclose(merged, expected, rtol=1e-14)


@given(chopped())
def test_spreads_of_windows_that_agree_merge_to_themselves(case):
    segment, values, windows, how = case
    means = cut_windows(np.nan_to_num(values), windows)
    spreads = cut_windows(np.abs(values), windows)
    merged = merge_spreads(spreads, means, windows, **how)
    np.testing.assert_allclose(merged, np.where(segment[:, None] >= 0, np.abs(values), np.nan), rtol=1e-6)


@given(chopped())
def test_every_bin_of_every_segment_is_covered_and_no_other(case):
    segment, _, windows, _ = case
    covered = np.zeros(len(segment), dtype=int)
    for start, end in zip(windows.starts, windows.ends, strict=True):
        assert start < end <= start + windows.num_bins and len(set(segment[start:end].tolist())) == 1
        covered[start:end] += 1
    assert np.array_equal(covered > 0, segment >= 0)
    assert np.array_equal(windows.starts, np.unique(windows.starts))


@given(chopped(max_overlap=0.0))
def test_without_overlap_and_with_padding_each_count_is_in_one_window(case):
    segment, _, windows, _ = case
    padded = lay_windows(segment, num_bins=windows.num_bins, step_bins=windows.num_bins, tail="pad")
    counts = np.random.default_rng(len(segment)).poisson(2.0, (len(segment), 4)).astype(np.float32)
    assert np.nansum(cut_windows(counts, padded)) == counts[segment >= 0].sum()


@given(chopped(), st.integers(0, 2**32))
def test_a_merge_is_the_weighted_mean_of_brute_force(case, seed):
    _, _, windows, how = case
    random = np.random.default_rng(seed)
    values = random.standard_normal((len(windows), windows.num_bins, 2))
    values[random.random(values.shape) < 0.2] = np.nan
    spreads = np.abs(random.standard_normal(values.shape))
    merged, merged_spreads = merge_windows(values, windows, **how), merge_spreads(spreads, values, windows, **how)
    weights = taper(windows.num_bins, overlap_bins=how["overlap_bins"], trim_bins=how["trim_bins"])
    for at in range(how["length"]):
        for channel in range(2):
            here = [(w, at - s) for w, s in enumerate(windows.starts) if s <= at < windows.ends[w]]
            here = [(w, t) for w, t in here if not np.isnan(values[w, t, channel])]
            inner = [(w, t) for w, t in here if weights[t] > 0]
            shares = np.array([weights[t] if inner else 1.0 for _, t in inner or here])
            if not here:
                assert np.isnan(merged[at, channel])
                continue
            found = np.array([values[w, t, channel] for w, t in inner or here])
            own = np.array([spreads[w, t, channel] for w, t in inner or here])
            mean = (shares * found).sum() / shares.sum()
            second = (shares * (own**2 + found**2)).sum() / shares.sum()  # of the mixture of the windows
            assert merged[at, channel] == pytest.approx(mean, rel=1e-9, abs=1e-12)
            assert merged_spreads[at, channel] == pytest.approx(np.sqrt(max(second - mean**2, 0)), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.75])
def test_as_many_bins_come_out_as_went_in_and_a_lone_window_does_not_fade(share):
    for length in (500, 50, 37):  # many windows, one, and one that is padded
        segment, values = np.zeros(length, dtype=int), np.ones((length, 1), dtype=np.float32)
        overlap = int(50 * share)
        windows = lay_windows(segment, num_bins=50, step_bins=50 - overlap)
        merged = merge_windows(cut_windows(values, windows), windows, length=length, overlap_bins=overlap)
        assert merged.shape == (length, 1) and (merged == 1).all()


def test_trimmed_edges_count_where_nothing_else_is_and_nowhere_else():
    segment = np.zeros(30, dtype=int)
    windows = lay_windows(segment, num_bins=10, step_bins=5)
    values = np.full((len(windows), 10, 1), 1.0, dtype=np.float32)
    values[:, :2] = values[:, -2:] = 100.0
    merged = merge_windows(values, windows, length=30, overlap_bins=5, trim_bins=2)[:, 0]
    assert np.flatnonzero(merged != 1).tolist() == [0, 1, 28, 29]


def test_weights_ramp_over_the_overlap_and_are_flat_between():
    assert taper(8, overlap_bins=2).tolist() == [1, 2, 3, 3, 3, 3, 2, 1]
    assert taper(8, overlap_bins=6).tolist() == [1, 2, 3, 4, 4, 3, 2, 1]
    assert taper(8, overlap_bins=4, trim_bins=2).tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert taper(3, overlap_bins=0).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"num_bins": 5, "step_bins": 6}, "step of 1 to its 5 bins"),
        ({"num_bins": 0, "step_bins": 0}, "at least 1 bin"),
        ({"num_bins": 5, "step_bins": 0}, "got 0"),
        ({"num_bins": 5, "step_bins": 5, "tail": "drop"}, "tail must be one of shift, pad"),
    ],
)
def test_sizes_out_of_range_are_refused(sizes, words):
    with pytest.raises(DataError, match=words):
        lay_windows(np.zeros(20, dtype=int), **sizes)


def test_a_trim_that_neighbours_cannot_make_good_is_refused():
    windows = Windows(starts=np.array([0, 5]), ends=np.array([10, 15]), num_bins=10)
    with pytest.raises(DataError, match="half of the 5 bins that windows share, got 3"):
        merge_windows(np.ones((2, 10, 1)), windows, length=15, overlap_bins=5, trim_bins=3)
