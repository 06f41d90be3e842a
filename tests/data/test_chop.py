"""Chopping and merging of files: what the loader and the splits make of windows, and outputs back on the clock."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording_files import small_arrays, write

from band.cli.data import main
from band.config import DataConfig
from band.data.chop import chop_file, write_chopped
from band.data.inspect import inspect
from band.data.merge import merge_file
from band.data.recording import open_recording
from band.data.splits import make_split
from band.errors import DataError


def continuous(path, *, length=400, neurons=6, seed=0, missing=0.0, **changes):
    """Write a continuous recording, and return its path and arrays."""
    random = np.random.default_rng(seed)
    arrays = {
        "encod_data": random.poisson(1.5, (length, neurons)).astype(np.float32),
        "behavior": random.standard_normal((length, 2)).astype(np.float32),
    }
    arrays["encod_data"][random.random(length) < missing] = np.nan
    arrays |= changes
    return write(path, arrays, bin_ms=10.0), arrays


def outputs_of(path, target, **extra):
    """Write what a run would give for a chopped file, as outputs by split: factors that are a function of the input."""
    recording = open_recording(path)
    split = make_split(recording, DataConfig())
    arrays = {}
    for name in ("train", "valid", "test"):
        rows = getattr(split, name)
        arrays[f"{name}_inds"] = recording.arrays["inds"][rows]
        arrays[f"{name}_factors"] = 2 * recording.arrays["behavior"][rows] + 1
        arrays[f"{name}_factors_spread"] = np.abs(recording.arrays["behavior"][rows])
        arrays[f"{name}_ic_mean"] = np.ones((len(rows), 4))
        arrays[f"{name}_recon_data"] = recording.arrays["recon_data"][rows]
        arrays |= {f"{name}_{key}": values[rows] for key, values in extra.items()}
    return write(target, arrays)


@pytest.mark.parametrize("overlap", ["0", "0.3", "0.5", "0.75", "0.95", "150ms", "15bins"])
def test_merged_outputs_of_a_chopped_recording_are_the_function_of_the_unchopped_input(tmp_path, overlap):
    source, arrays = continuous(tmp_path / "x.h5", length=1003, missing=0.05)
    chops = tmp_path / "chops.h5"
    write_chopped(chops, chop_file(source, window="200ms", overlap=overlap))
    recording = open_recording(chops)
    everything = {
        "train_inds": recording.arrays["inds"],
        "train_factors": 2 * recording.arrays["behavior"] + 1,
        "train_encod_data": recording.arrays["encod_data"],
    }
    merged = merge_file(write(tmp_path / "outputs.h5", everything), chopped=chops).arrays
    inside = merged["segment"] >= 0
    assert inside.sum() > 990 and np.array_equal(merged["factors"][inside], (2 * arrays["behavior"] + 1)[inside])
    assert np.array_equal(merged["encod_data"], arrays["encod_data"], equal_nan=True)
    assert np.array_equal(merged["clock_ms"], np.arange(1003) * 10.0)
    assert np.isnan(merged["factors"][~inside]).all() and set(merged["split"][inside]) == {"train"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 30), min_size=2, max_size=8), st.integers(1, 12), st.floats(0, 0.99), st.data())
def test_trials_of_different_lengths_come_back_whole(tmp_path, lengths, window, share, data):
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    bins = max(lengths)
    counts = random.poisson(3.0, (len(lengths), bins, 4)).astype(np.float32) + 1
    counts[random.random(counts.shape) < 0.1] = np.nan
    for trial, length in enumerate(lengths):
        counts[trial, 0, 0] = counts[trial, length - 1, 0] = 1
        counts[trial, length:] = np.nan
    arrays = {"train_encod_data": counts, "train_recon_data": counts, "train_cond": np.arange(len(lengths))}
    source, chops = write(tmp_path / "x.h5", arrays, bin_ms=10.0), tmp_path / "chops.h5"
    write_chopped(chops, chop_file(source, window=f"{window}bins", overlap=f"{share}"), replace=True)
    recording = open_recording(chops)
    assert np.array_equal(recording.arrays["cond"], recording.arrays["trial"])
    rows = {"train_inds": recording.arrays["inds"], "train_x": recording.arrays["recon_data"]}
    merged = merge_file(write(tmp_path / "outputs.h5", rows), chopped=chops).arrays
    assert np.array_equal(merged["x"].reshape(counts.shape), counts, equal_nan=True)
    assert np.nansum(merged["x"]) == np.nansum(counts)


@pytest.mark.parametrize("overlap", ["0", "0.5", "0.75", "0.9"])
@pytest.mark.parametrize("folds", [1, 5])
def test_no_bin_of_a_chopped_recording_stands_in_two_splits(tmp_path, overlap, folds):
    source, _ = continuous(tmp_path / "x.h5", length=4000)
    chops = tmp_path / "chops.h5"
    write_chopped(chops, chop_file(source, window="200ms", overlap=overlap))
    recording = open_recording(chops)
    for fold in range(folds):
        split = make_split(recording, DataConfig(num_folds=folds, fold=fold, guard_trials=0))
        bins = {
            name: {int(s) + t for s in recording.arrays["window_start"][getattr(split, name)] for t in range(20)}
            for name in ("train", "valid", "test")
        }
        assert all(len(found) > 200 for found in bins.values())
        assert not (bins["train"] & bins["valid"] or bins["train"] & bins["test"] or bins["valid"] & bins["test"])


def test_overlapping_windows_are_cut_by_blocks_even_where_there_are_conditions_and_refused_by_condition(tmp_path):
    arrays = small_arrays(counts=(60,), bins=40)
    chops = tmp_path / "chops.h5"
    write_chopped(chops, chop_file(write(tmp_path / "x.h5", arrays, bin_ms=10.0), window="20bins", overlap="0.5"))
    recording = open_recording(chops)
    assert "contiguous block" in make_split(recording, DataConfig()).how
    with pytest.raises(DataError, match=r"must not share bins.*data\.split=blocked"):
        make_split(recording, DataConfig(split="stratified"))
    grouped = make_split(recording, DataConfig(split="grouped", group_key="segment"))
    trials = [set(recording.arrays["trial"][part].tolist()) for part in (grouped.train, grouped.valid, grouped.test)]
    assert not (trials[0] & trials[1] or trials[0] & trials[2] or trials[1] & trials[2])


def test_shipped_splits_of_trials_are_kept_by_their_windows(tmp_path):
    arrays = small_arrays(counts=(12, 6, 5), bins=20)
    chops = tmp_path / "chops.h5"
    write_chopped(chops, chop_file(write(tmp_path / "x.h5", arrays, bin_ms=10.0), window="10bins", overlap="0.5"))
    recording = open_recording(chops)
    assert {s: int((recording.origin_split == s).sum()) for s in ("train", "valid", "test")} == {
        "train": 36,
        "valid": 18,
        "test": 15,
    }
    last = recording.arrays["encod_data"][recording.origin_split == "test"][-3:]
    whole = arrays["test_encod_data"][-1]
    assert all(np.array_equal(window, whole[5 * i : 5 * i + 10]) for i, window in enumerate(last))


def test_a_clock_that_jumps_breaks_the_recording_there(tmp_path):
    clock = np.concatenate([np.arange(50) * 10.0, 10_000 + np.arange(50) * 10.0])
    source, arrays = continuous(tmp_path / "x.h5", length=100, clock_ms=clock)
    chopped = chop_file(source, window="20bins", overlap="10bins")
    assert {(int(s), int(e)) for s, e in zip(chopped.windows.starts, chopped.windows.ends, strict=True)} == {
        (start + base, start + base + 20) for base in (0, 50) for start in (0, 10, 20, 30)
    }
    assert np.array_equal(chopped["train_encod_data"][4], arrays["encod_data"][50:70])


def test_windows_without_a_count_are_left_out_and_inputs_are_never_missing(tmp_path):
    source, arrays = continuous(tmp_path / "x.h5", length=100, ext_input=np.ones((100, 1), np.float32))
    arrays["encod_data"][30:70] = np.nan
    write(source, arrays, bin_ms=10.0)
    chopped = chop_file(source, window="15bins", tail="pad")
    assert chopped.windows.starts.tolist() == [0, 15, 60, 75, 90]
    assert np.isnan(chopped["train_behavior"][-1, 10:]).all() and (chopped["train_ext_input"][-1, 10:] == 0).all()
    write_chopped(tmp_path / "chops.h5", chopped)
    assert inspect(tmp_path / "chops.h5")["problems"] == []


def test_merged_outputs_of_splits_leave_guards_empty_and_say_whose_bins_are_whose(tmp_path):
    source, arrays = continuous(tmp_path / "x.h5", length=4000)
    chops = tmp_path / "chops.h5"
    write_chopped(chops, chop_file(source, window="200ms", overlap="0.5"))
    outputs = outputs_of(chops, tmp_path / "outputs.h5")
    found = merge_file(outputs, chopped=chops, trim="30ms")
    covered = found.arrays["split"] != ""
    assert 0.8 < covered.mean() < 1 and set(found.arrays["split"][covered]) == {"train", "valid", "test"}
    assert np.array_equal(found.arrays["factors"][covered], (2 * arrays["behavior"] + 1)[covered])
    np.testing.assert_allclose(
        found.arrays["factors_spread"][covered], np.abs(arrays["behavior"])[covered], rtol=1e-4, atol=1e-6
    )
    assert np.isnan(found.arrays["factors"][~covered]).all() and found.left_out == ("ic_mean",)


def test_the_commands_tell_what_they_do_and_write_nothing_on_a_dry_run(tmp_path, capsys):
    source, _ = continuous(tmp_path / "x.h5", length=4000)
    chops, merged = tmp_path / "chops.h5", tmp_path / "merged.h5"
    chop = ["chop", str(source), "--out", str(chops), "--window", "200ms", "--overlap", "0.5", "--json"]
    assert main([*chop, "--dry-run"]) == 0 and not chops.exists()
    planned = json.loads(capsys.readouterr().out)
    assert main(chop) == 0
    done = json.loads(capsys.readouterr().out)
    assert not planned.pop("written") and done.pop("written") and planned == done
    assert done["arrays"]["train_encod_data"] == [399, 20, 6] and done["windows"] == {"train": 399}
    with h5py.File(chops) as file:
        assert done["uncompressed_bytes"] == sum(item.size * item.dtype.itemsize for item in file.values())
    assert main(chop) == 1 and "is there already" in capsys.readouterr().err
    outputs = outputs_of(chops, tmp_path / "outputs.h5")
    assert main(["merge", str(outputs), "--chopped", str(chops), "--out", str(merged), "--trim", "20ms"]) == 0
    assert "4000 bins" in capsys.readouterr().out
    with h5py.File(merged) as file:
        assert file["factors"].shape == (4000, 2) and file.attrs["bin_ms"] == 10


BAD_CHOPS = {
    "a share of 1": ({"overlap": "1.0"}, "--overlap must be a whole number of bins"),
    "half a bin": ({"window": "205ms"}, "--window must be a whole number of bins of 10 ms"),
    "no unit": ({"window": "20"}, "--window must be a whole number of bins"),
    "no number": ({"window": "longms"}, "got 'longms'"),
    "an overlap as long as the window": ({"overlap": "20bins"}, "overlap must be 0 to less than the window of 20"),
}


@pytest.mark.parametrize("case", list(BAD_CHOPS))
def test_lengths_that_cannot_be_are_refused(tmp_path, case):
    source, _ = continuous(tmp_path / "x.h5")
    changes, words = BAD_CHOPS[case]
    with pytest.raises(DataError, match=words):
        chop_file(source, **{"window": "200ms", **changes})


BAD_FILES = {
    "negative counts": ({"encod_data": -np.ones((400, 2))}, "encod_data must hold non-negative whole counts"),
    "a missing input": ({"ext_input": np.full((400, 1), np.nan)}, "ext_input must hold finite values"),
    "another length": ({"behavior": np.ones((399, 2))}, "behavior of a continuous recording must hold .* 400 bins"),
    "another rank": ({"encod_data": np.ones(400)}, "encod_data of a continuous recording must hold"),
    "no spike": ({"encod_data": np.zeros((400, 2))}, "at least one count above 0"),
    "a clock that is short": ({"clock_ms": np.arange(9.0)}, "clock_ms must hold one finite number a bin, 400"),
}


@pytest.mark.parametrize("case", list(BAD_FILES))
def test_a_continuous_file_that_breaks_a_rule_is_named_with_its_key(tmp_path, case):
    changes, words = BAD_FILES[case]
    source, _ = continuous(tmp_path / "x.h5", **changes)
    with pytest.raises(DataError, match=words) as caught:
        chop_file(source, window="200ms")
    assert str(source) in str(caught.value)


def test_a_bin_width_is_needed_and_a_chopped_file_is_not_chopped_again(tmp_path):
    source, arrays = continuous(tmp_path / "x.h5")
    write_chopped(tmp_path / "chops.h5", chop_file(source, window="200ms"))
    with pytest.raises(DataError, match="is chopped already"):
        chop_file(tmp_path / "chops.h5", window="100ms")
    with pytest.raises(DataError, match="give --bin-ms"):
        chop_file(write(tmp_path / "y.h5", arrays), window="200ms")


def test_outputs_of_a_session_among_several_and_with_neurons_in_another_order_are_merged(tmp_path):
    source, arrays = continuous(tmp_path / "x.h5", length=300)
    chops, order = tmp_path / "chops.h5", np.array([2, 0, 5, 1, 4, 3])
    write_chopped(chops, chop_file(source, window="200ms", overlap="0.5"))
    recording = open_recording(chops)
    rows = {
        "train_inds": recording.arrays["inds"],
        "train_recon_data": recording.arrays["recon_data"][..., order],
        "neurons": order,
    }
    outputs = write(tmp_path / "outputs.h5", {f"{day}/{key}": v for day in ("a", "b") for key, v in rows.items()})
    merged = merge_file(outputs, chopped=chops, session="b").arrays
    assert np.array_equal(merged["recon_data"], arrays["encod_data"][:, order])
    assert np.array_equal(merged["neurons"], order)
    for session in ("", "c"):
        with pytest.raises(DataError, match="holds the sessions a, b; name one of them with --session"):
            merge_file(outputs, chopped=chops, session=session)


def test_a_recording_that_runs_on_is_not_trained_on_before_it_is_chopped(tmp_path):
    source, _ = continuous(tmp_path / "x.h5")
    with pytest.raises(DataError, match="must hold trials, but runs on; cut it into windows with band-data chop"):
        open_recording(source)


def test_outputs_of_another_recording_are_refused(tmp_path):
    chops = []
    for seed in (0, 1):
        source, _ = continuous(tmp_path / f"{seed}.h5", length=2000, seed=seed)
        chops.append(tmp_path / f"chops{seed}.h5")
        write_chopped(chops[-1], chop_file(source, window="200ms", overlap="0.5"))
    outputs = outputs_of(chops[0], tmp_path / "outputs.h5")
    with pytest.raises(DataError, match=r"recon_data must be that of .*chops1\.h5"):
        merge_file(outputs, chopped=chops[1])
    with pytest.raises(DataError, match="give the chopped file with --chopped"):
        merge_file(outputs)
    with pytest.raises(DataError, match="half of the 10 bins"):
        merge_file(outputs, chopped=chops[0], trim="6bins")
    with h5py.File(outputs, "a") as file:
        file["train_inds"][0] = 10_000
    with pytest.raises(DataError, match="different numbers of the 199 windows"):
        merge_file(outputs, chopped=chops[0])
    with h5py.File(outputs, "a") as file:
        del file["train_inds"]
    with pytest.raises(DataError, match="train_inds is missing"):
        merge_file(outputs, chopped=chops[0])
