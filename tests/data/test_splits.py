"""Splits: disjoint, complete, as asked for, and the same everywhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_files import continuous_arrays, real, small_arrays, write
from tiny import write_recording

from band.config import DataConfig, RunConfig, to_dict
from band.data import continuity
from band.data.continuity import find_joins
from band.data.recording import Recording, open_recording
from band.data.splits import Split, make_split
from band.errors import DataError
from band.sizes import sizes_of


def recording(tmp_path, **sizes: object) -> Recording:
    return open_recording(write(tmp_path / "x.h5", small_arrays(**sizes)))  # type: ignore[arg-type]


def parts(split: Split) -> list[list[int]]:
    return [split.train.tolist(), split.valid.tolist(), split.test.tolist()]


def assert_disjoint(split: Split) -> None:
    together = [trial for part in parts(split) for trial in part]
    assert len(set(together)) == len(together) and all(parts(split))
    assert all(part == sorted(part) for part in parts(split))


def test_three_shipped_splits_are_kept(tmp_path):
    file = recording(tmp_path, counts=(12, 6, 5))
    for rule in ("auto", "shipped"):
        split = make_split(file, DataConfig(split=rule))
        assert parts(split) == [list(range(12)), list(range(12, 18)), list(range(18, 23))]
        assert split.how == "train, valid and test as shipped"


def test_a_missing_test_split_is_cut_from_train_with_its_share_of_each_condition(tmp_path):
    file = recording(tmp_path, counts=(60, 15))
    split = make_split(file, DataConfig(test_share=0.25))
    assert_disjoint(split)
    assert split.valid.tolist() == list(range(60, 75)) and set(split.train) | set(split.test) == set(range(60))
    assert np.bincount(file.arrays["cond"][split.test]).tolist() == [5, 5, 5]


def test_a_file_of_train_alone_is_cut_into_three(tmp_path):
    split = make_split(recording(tmp_path, counts=(60,)), DataConfig(test_share=0.2, valid_share=0.1))
    assert_disjoint(split)
    assert [len(part) for part in parts(split)] == [42, 6, 12] and "valid and test cut from train" in split.how.replace(
        "test and valid", "valid and test"
    )


def test_folds_partition_all_trials_and_each_trial_tests_once(tmp_path):
    file = recording(tmp_path, counts=(41, 12), conditions=4)
    splits = [make_split(file, DataConfig(num_folds=5, fold=fold)) for fold in range(5)]
    for fold, split in enumerate(splits):
        assert_disjoint(split)
        assert sum(len(part) for part in parts(split)) == 53
        assert split.valid.tolist() == splits[(fold + 1) % 5].test.tolist()
        per_condition = np.bincount(file.arrays["cond"][split.test], minlength=4)
        shares = np.bincount(file.arrays["cond"]) / 5
        assert np.all(np.abs(per_condition - shares) < 1.01) and abs(len(split.test) - 53 / 5) < 1
    assert sorted(itertools.chain(*(split.test.tolist() for split in splits))) == list(range(53))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(10, 30), min_size=1, max_size=6),
    folds=st.integers(3, 5),
    seed=st.integers(0, 10**6),
    shares=st.tuples(st.floats(0.1, 0.3), st.floats(0.1, 0.3)),
)
def test_stratified_parts_keep_their_shares_in_every_condition(counts, folds, seed, shares):
    labels = np.repeat(np.arange(len(counts)), counts)
    file = made(labels, key="cond")
    split = make_split(file, DataConfig(split="stratified", num_folds=folds, fold=folds - 1, split_seed=seed))
    for label, count in enumerate(counts):
        for part in (split.valid, split.test):
            assert abs((labels[part] == label).sum() - count / folds) <= 1
    cut = make_split(file, DataConfig(split="stratified", valid_share=shares[0], test_share=shares[1], split_seed=seed))
    for share, part in zip(shares, (cut.valid, cut.test), strict=True):
        assert abs(len(part) - share * len(labels)) <= 1


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=20), seed=st.integers(0, 10**6), folds=st.booleans())
def test_a_group_never_spans_two_splits(sizes, seed, folds):
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    config = DataConfig(split="grouped", group_key="block", split_seed=seed, num_folds=3 if folds else 1)
    try:
        split = make_split(made(groups, key="block"), config)
    except DataError:
        assert not folds  # shares of few, unequal groups can leave a split without any
        return
    assert_disjoint(split)
    owners = [set(groups[part].tolist()) for part in parts(split)]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(owners, 2)) and sum(map(len, owners)) == len(sizes)


def made(labels: np.ndarray, *, key: str) -> Recording:
    random = np.random.default_rng(1)
    counts = random.poisson(3.0, (len(labels), 4, 6)).astype(np.float32)
    arrays = {"encod_data": counts, "recon_data": counts, key: labels, "inds": np.arange(len(labels))}
    return Recording("x.h5", None, arrays, np.full(len(labels), "train"), np.arange(len(labels)))  # type: ignore[arg-type]


def test_a_split_depends_on_its_seed_and_is_pinned(tmp_path):
    file = recording(tmp_path, counts=(30,))
    one, again, other = (make_split(file, DataConfig(split_seed=seed)) for seed in (0, 0, 1))
    assert parts(one) == parts(again) != parts(other)
    assert one.test.tolist() == [5, 7, 10, 12, 23, 27]


def test_blocks_are_contiguous_with_guards_on_either_side_of_each_cut(tmp_path):
    file = recording(tmp_path, counts=(60,), conditions=0)
    for fold in range(5):
        split = make_split(file, DataConfig(num_folds=5, fold=fold, guard_trials=2))
        assert_disjoint(split)
        assert split.test.tolist() == list(range(12 * fold, 12 * fold + 12))
        for one, other in itertools.combinations(parts(split), 2):
            assert min(abs(a - b) for a in one for b in other) > 2
        dropped = set(range(60)) - set(itertools.chain(*parts(split)))
        assert f"{len(dropped)} guard trials left out" in split.how


@pytest.mark.parametrize("guard", [0, 1, 3])
def test_a_test_split_cut_by_blocks_keeps_its_distance_and_the_shipped_valid_split(tmp_path, guard):
    arrays, place = continuous_arrays(blocks=[("train", 20), ("valid", 6)] * 4 + [("train", 5)])
    file = open_recording(write(tmp_path / "x.h5", arrays))
    split = make_split(file, DataConfig(guard_trials=guard))
    assert_disjoint(split)
    assert split.valid.tolist() == list(range(85, 109)) and "recording order, told from how chops join" in split.how
    for other in (split.train, split.valid):
        assert min(abs(a - b) for a in place[split.test] for b in place[other]) > guard


def test_the_order_of_recording_is_told_from_how_chops_join(tmp_path):
    arrays, place = continuous_arrays(blocks=[("train", 20), ("valid", 6)] * 4 + [("train", 5)])
    file = open_recording(write(tmp_path / "x.h5", arrays))
    joins = find_joins(file.arrays, file.origin_split)
    assert joins.is_continuous and place[joins.order].tolist() == list(range(109))


def test_trials_without_neighbours_are_not_called_continuous(tmp_path):
    arrays, _ = continuous_arrays(blocks=[("train", 80), ("valid", 20)])
    shuffled = {key: values[np.random.default_rng(0).permutation(len(values))] for key, values in arrays.items()}
    for key in arrays:  # one order for all arrays of a split
        order = np.random.default_rng(len(arrays[key])).permutation(len(arrays[key]))
        shuffled[key] = arrays[key][order]
    file = open_recording(write(tmp_path / "x.h5", shuffled))
    assert not find_joins(file.arrays, file.origin_split).is_continuous
    assert "cannot be told" in make_split(file, DataConfig(num_folds=5)).how


def test_the_maze_is_not_continuous_and_the_centre_out_recording_is_in_blocks_of_forty_and_ten():
    maze = open_recording(real("mc_maze_large_9cond-10ms.h5"))
    assert not find_joins(maze.arrays, maze.origin_split).is_continuous
    reaches = open_recording(real("m1_stevenson-50ms-T28.h5"))
    joins = find_joins(reaches.arrays, reaches.origin_split)
    runs = [(name, len(list(group))) for name, group in itertools.groupby(reaches.origin_split[joins.order].tolist())]
    assert joins.is_continuous and runs == [("train", 40), ("valid", 10)] * 11 + [("train", 4)]


def test_given_trial_numbers_are_the_order_of_recording(tmp_path):
    arrays = small_arrays(counts=(40, 20), conditions=0)
    numbers = np.random.default_rng(0).permutation(60)
    file = open_recording(write(tmp_path / "x.h5", arrays | {"train_inds": numbers[:40], "valid_inds": numbers[40:]}))
    split = make_split(file, DataConfig(num_folds=4, fold=1, guard_trials=1))
    assert sorted(numbers[split.test].tolist()) == list(range(15, 30)) and "order of inds" in split.how


def test_an_unsplit_group_key_makes_auto_cut_by_group(tmp_path):
    arrays = small_arrays(counts=(40, 20)) | {"train_block": np.arange(40) // 4, "valid_block": np.arange(20) // 4 + 10}
    file = open_recording(write(tmp_path / "x.h5", arrays))
    split = make_split(file, DataConfig(group_key="block"))
    assert "grouped by block" in split.how
    assert set(file.arrays["block"][split.test]).isdisjoint(file.arrays["block"][split.train])


@pytest.mark.parametrize(
    ("sizes", "config", "message"),
    [
        ({"counts": (12, 6)}, {"split": "shipped"}, "needs train, valid and test in the file, but test is missing"),
        ({"counts": (12, 6, 6)}, {"split": "shipped", "num_folds": 3}, "has no folds"),
        ({"counts": (12, 6)}, {"num_folds": 9}, "at least data.num_folds = 9 trials, but condition 0 has 6"),
        ({"counts": (12, 6), "conditions": 0}, {"split": "stratified"}, "needs train_cond"),
        ({"counts": (12, 6)}, {"split": "grouped", "group_key": "day"}, "data.group_key=day needs train_day"),
        ({"counts": (12, 6)}, {"split": "grouped", "group_key": "behavior"}, "behavior must be one label a trial"),
        ({"counts": (12, 6)}, {"split": "grouped", "group_key": "cond", "num_folds": 4}, "at least 4 groups, found 3"),
        ({"counts": (4,), "conditions": 0}, {"guard_trials": 2}, "split must not be empty, but 4 trials are too few"),
        ({"counts": (9,), "conditions": 9}, {}, "has too few trials to train on"),
    ],
)
def test_what_cannot_be_split_as_asked_is_refused_with_a_remedy(tmp_path, sizes, config, message):
    file = recording(tmp_path, **sizes)
    with pytest.raises(DataError, match=message):
        make_split(file, DataConfig(**config))


def test_a_copy_of_a_trial_may_not_end_up_in_another_split(tmp_path):
    arrays = small_arrays(counts=(30,))
    for key in ("encod_data", "recon_data", "behavior"):
        arrays[f"train_{key}"][1:] = arrays[f"train_{key}"][0]
    file = open_recording(write(tmp_path / "x.h5", arrays))
    with pytest.raises(DataError, match="are the same bit for bit"):
        make_split(file, DataConfig())


def test_chops_of_one_numbered_trial_need_a_group(tmp_path):
    arrays = small_arrays(counts=(30,), conditions=0) | {"train_inds": np.arange(30) // 3}
    file = open_recording(write(tmp_path / "x.h5", arrays))
    with pytest.raises(DataError, match=r"set data\.split=grouped"):
        make_split(file, DataConfig(split="blocked", guard_trials=0, valid_share=0.25, test_share=0.25))
    assert_disjoint(make_split(file, DataConfig(split="grouped", group_key="inds")))


def test_the_likeliest_interleaving_is_that_of_trying_all():
    random = np.random.default_rng(0)
    for _ in range(60):
        num_one, num_other = random.integers(1, 6, size=2)
        ratios = 6 * random.standard_normal((num_one + num_other,) * 2)

        def score(order: list[int], ratios: np.ndarray = ratios, num_one: int = num_one) -> float:
            switches = sum((a < num_one) != (b < num_one) for a, b in itertools.pairwise(order))
            return sum(ratios[a, b] for a, b in itertools.pairwise(order)) - continuity.SWITCH_COST * switches

        tried = []
        for places in itertools.combinations(range(num_one + num_other), num_other):
            one, other = iter(range(num_one)), iter(range(num_one, num_one + num_other))
            tried.append([next(other if place in places else one) for place in range(num_one + num_other)])
        found = continuity._merge(np.arange(num_one), np.arange(num_one, num_one + num_other), ratios).tolist()
        assert found in tried and score(found) == pytest.approx(max(map(score, tried)))


def test_neighbouring_chops_stay_together_in_cross_validation_and_trials_of_conditions_do_not(tmp_path):
    recording = open_recording(write_recording(tmp_path / "tiny.h5"), bin_ms=20.0)
    assert make_split(recording, DataConfig()).groups is None
    groups = make_split(recording, DataConfig(split="blocked", num_folds=4)).groups
    assert groups is not None and len(groups) == 40
    assert np.unique(groups, return_counts=True)[1].tolist() == [10, 10, 10, 10]
    assert int((np.diff(groups) != 0).sum()) == 3, "a group is one stretch of the recording"


def test_folds_are_as_large_as_the_estimate_of_their_cost_takes_them_to_be(tmp_path):
    made = make_split(recording(tmp_path, counts=(129, 36), conditions=9), DataConfig(num_folds=5, fold=2))
    config = to_dict(RunConfig(data=DataConfig(num_folds=5, fold=2)))
    shapes = {"train": {"encod_data": [129, 8, 5]}, "valid": {"encod_data": [36, 8, 5]}}
    expected = sizes_of(config, shapes)
    # Each of the nine conditions is dealt out on its own, and none divides by five.
    assert abs(expected.train - len(made.train)) <= 9
    assert abs(expected.valid - len(made.valid)) <= 9 and abs(expected.test - len(made.test)) <= 9
