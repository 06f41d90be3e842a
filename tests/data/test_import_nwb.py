"""Import of NWB files that pynwb wrote: trials, bins, held-out neurons, behaviour and splits against brute force."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timezone

import h5py
import numpy as np
import pynwb
import pytest
from pynwb.behavior import Position, SpatialSeries

from band.cli.data import main
from band.data.recording import open_recording

NUM_TRIALS, NUM_UNITS = 24, 7
HELD_OUT = [1, 4]
SPLITS = ["train"] * 14 + ["val"] * 5 + ["test"] * 3 + ["none"] * 2


def session(seed=0):
    """Return what was recorded: spike times, a 1 kHz velocity with a gap, and a table of trials."""
    random = np.random.default_rng(seed)
    times = np.arange(0, 40, 0.001)
    velocity = np.stack([np.sin(times), np.cos(3 * times)], axis=-1) + 0.1 * random.standard_normal((len(times), 2))
    velocity[5350:5600] = np.nan
    starts = 0.5 + 1.5 * np.arange(NUM_TRIALS)
    return {
        "spikes": [np.sort(np.round(random.uniform(0, 40, 400 + 50 * i), 3)) for i in range(NUM_UNITS)],
        "times": times,
        "velocity": velocity,
        "start": starts,
        "stop": starts + random.uniform(0.8, 1.4, NUM_TRIALS).round(3),
        "go": starts + random.uniform(0.2, 0.4, NUM_TRIALS).round(3),
        "kind": random.permutation(np.arange(NUM_TRIALS) % 3),
        "target": np.array(["left", "right"])[np.arange(NUM_TRIALS) % 2],
    }


def write_nwb(path, data, *, held_out=True, splits=SPLITS, trials=True, observed=None, units=True):
    """Write a session as NWB."""
    begun = datetime(2016, 10, 7, tzinfo=timezone.utc)
    file = pynwb.NWBFile(
        "reaches", "id-1", begun, experimenter=["Doe, J."], lab="a lab", related_publications=["doi:1"]
    )
    file.subject = pynwb.file.Subject(subject_id="J", species="Macaca mulatta", sex="M", age="P5Y")
    behavior = file.create_processing_module("behavior", "of the hand")
    behavior.add(
        pynwb.TimeSeries(name="hand_vel", data=data["velocity"], unit="mm/s", timestamps=data["times"], conversion=10.0)
    )
    slow = SpatialSeries(
        name="eye", data=np.arange(80.0), unit="m", rate=2.0, starting_time=0.0, reference_frame="screen"
    )
    behavior.add(Position(spatial_series=slow))
    if trials:
        file.add_trial_column("go_time", "go cue")
        file.add_trial_column("kind", "of trial")
        file.add_trial_column("target", "side")
        file.add_trial_column("path", "of the hand", index=True)
        if splits:
            file.add_trial_column("split", "of NLB")
        for i in range(NUM_TRIALS):
            row = {"start_time": data["start"][i], "stop_time": data["stop"][i], "go_time": data["go"][i]}
            row |= {"kind": int(data["kind"][i]), "target": data["target"][i], "path": [1.0] * (i + 1)}
            file.add_trial(**row, **({"split": splits[i]} if splits else {}))
    if units:
        if held_out:
            file.add_unit_column("heldout", "by NLB")
        for i, times in enumerate(data["spikes"]):
            row = {"heldout": i in HELD_OUT} if held_out else {}
            file.add_unit(spike_times=times, **row, **({"obs_intervals": observed} if observed is not None else {}))
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def counts_by_hand(data, trial, *, begin_ms, num_bins, bin_ms):
    """Count spikes one by one in whole microseconds: (bin, neuron)."""
    counts = np.zeros((num_bins, NUM_UNITS))
    begin = round(trial * 1e6) + round(begin_ms * 1000)
    for neuron, times in enumerate(data["spikes"]):
        for time in times:
            place = (round(float(time) * 1e6) - begin) // round(bin_ms * 1000)
            if 0 <= place < num_bins:
                counts[place, neuron] += 1
    return counts


CUT = ["--bin-ms", "20", "--align", "go_time", "--window", "-100", "400", "--behavior", "hand_vel", "--lag-ms", "80"]


def run(path, out, *arguments):
    """Import, and return the exit code."""
    return main(["import", str(path), "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def data():
    return session()


@pytest.fixture(scope="module")
def source(data, tmp_path_factory):
    return write_nwb(tmp_path_factory.mktemp("nwb") / "maze.nwb", data)


def test_trials_are_cut_around_their_event_and_counted_as_by_hand(data, source, tmp_path):
    assert run(source, tmp_path / "x.h5", *CUT, "--cond", "kind,target") == 0
    recording = open_recording(tmp_path / "x.h5")
    arrays = recording.arrays
    order = [i for i in range(NUM_UNITS) if i not in HELD_OUT] + HELD_OUT
    assert arrays["encod_data"].shape == (22, 25, 5) and arrays["recon_data"].shape == (22, 25, 7)
    assert recording.origin_split.tolist() == ["train"] * 14 + ["valid"] * 5 + ["test"] * 3
    assert arrays["inds"].tolist() == list(range(22)) and recording.bin_ms == 20
    for trial in range(22):
        counts = counts_by_hand(data, data["go"][trial], begin_ms=-100, num_bins=25, bin_ms=20)[:, order]
        assert np.array_equal(arrays["recon_data"][trial], counts)
        assert np.array_equal(arrays["encod_data"][trial], counts[:, :5])
    assert arrays["cond"].tolist() == [f"{k}/{t}" for k, t in zip(data["kind"][:22], data["target"], strict=False)]
    assert (
        np.array_equal(arrays["kind"], data["kind"][:22]) and arrays["target"].tolist() == data["target"][:22].tolist()
    )
    np.testing.assert_allclose(arrays["start_ms"], (data["go"][:22] - 0.1) * 1000, atol=1e-6)


def test_behaviour_is_the_mean_of_the_samples_of_each_lagged_bin_in_its_unit(data, source, tmp_path):
    assert run(source, tmp_path / "x.h5", *CUT) == 0
    found = open_recording(tmp_path / "x.h5").arrays["behavior"]
    samples = np.rint(data["times"] * 1e6)
    for trial in range(22):
        for at in range(25):
            begin = round(data["go"][trial] * 1e6) - 100_000 + at * 20_000 + 80_000
            inside = data["velocity"][(samples >= begin) & (samples < begin + 20_000)]
            expected = np.nan if np.isnan(inside).all() else np.nanmean(inside, axis=0) * 10
            np.testing.assert_allclose(found[trial, at], expected, rtol=1e-4, atol=1e-5)
    assert 0 < np.isnan(found).sum() < 100  # where the hand was not tracked, and nowhere else


def test_a_signal_slower_than_the_bins_is_interpolated_between_its_samples(source, tmp_path):
    assert run(source, tmp_path / "x.h5", *CUT[:7], "--behavior", "Position/eye", "--behavior", "hand_vel") == 0
    arrays = open_recording(tmp_path / "x.h5").arrays
    middles = arrays["start_ms"][:, None] / 1000 + (np.arange(25) + 0.5) * 0.02
    is_sampled = np.abs(middles * 2 - np.rint(middles * 2)) <= 0.0201
    np.testing.assert_allclose(arrays["behavior"][..., 0][~is_sampled], (2 * middles)[~is_sampled], atol=1e-3)
    assert arrays["behavior"].shape[2] == 3


def test_all_units_are_encoded_on_request_and_trials_are_kept_by_a_column(source, tmp_path):
    assert run(source, tmp_path / "x.h5", *CUT, "--all-units", "--keep", "target=left") == 0
    arrays = open_recording(tmp_path / "x.h5").arrays
    assert np.array_equal(arrays["encod_data"], arrays["recon_data"]) and arrays["encod_data"].shape == (11, 25, 7)
    assert set(arrays["target"]) == {"left"} and arrays["inds"].tolist() == list(range(0, 22, 2))


def test_without_a_window_trials_keep_their_lengths_and_miss_what_comes_after(data, source, tmp_path):
    assert run(source, tmp_path / "x.h5", "--bin-ms", "10", "--behavior", "hand_vel", "--ext-input", "hand_vel") in (
        0,
        1,
    )
    assert run(source, tmp_path / "y.h5", "--bin-ms", "10", "--behavior", "hand_vel") == 0
    arrays = open_recording(tmp_path / "y.h5").arrays
    lengths = (~np.isnan(arrays["encod_data"]).all(axis=2)).sum(axis=1)
    expected = np.floor((data["stop"] - data["start"])[:22] * 100 + 1e-6)
    assert np.array_equal(lengths, expected) and arrays["encod_data"].shape[1] == expected.max()
    for trial in (0, 7, 21):
        counts = counts_by_hand(data, data["start"][trial], begin_ms=0, num_bins=int(expected[trial]), bin_ms=10)
        assert np.nansum(arrays["recon_data"][trial]) == counts.sum()
        assert np.isnan(arrays["behavior"][trial, int(expected[trial]) :]).all()


def test_bins_outside_of_the_observed_intervals_are_missing_and_trials_without_any_are_left_out(data, tmp_path, capsys):
    observed = [[0.0, 10.0], [10.0, 20.0], [30.0, 30.7], [30.9, 40.0]]
    source = write_nwb(tmp_path / "gaps.nwb", data, observed=observed, splits=None)
    assert run(source, tmp_path / "x.h5", *CUT, "--json") == 0
    (fact,) = json.loads(capsys.readouterr().out)["files"]
    arrays = open_recording(tmp_path / "x.h5").arrays
    edges = arrays["start_ms"][:, None] + np.arange(26) * 20.0
    inside = [(edges[:, :-1] >= a * 1000 - 1e-3) & (edges[:, 1:] <= b * 1000 + 1e-3)
              for a, b in ((0, 20), (30, 30.7), (30.9, 40))]  # fmt: skip
    assert np.array_equal(~np.isnan(arrays["recon_data"]), np.repeat(np.any(inside, axis=0)[..., None], 7, axis=2))
    missing = NUM_TRIALS - len(arrays["inds"])
    assert missing >= 5 and f"{missing} trials in which no neuron was recorded left out" in fact["notes"]


def test_a_session_runs_on_and_is_chopped_and_trained_on(data, tmp_path, capsys):
    source = write_nwb(tmp_path / "free.nwb", data, trials=False, held_out=False)
    assert run(source, tmp_path / "x.h5", "--bin-ms", "20", "--behavior", "hand_vel") == 0
    assert "band-data chop" in capsys.readouterr().out
    with h5py.File(tmp_path / "x.h5") as file:
        counts, clock = file["encod_data"][()], file["clock_ms"][()]
    assert counts.sum() == sum(len(times) for times in data["spikes"])
    assert clock[0] == min(times.min() for times in data["spikes"]) * 1000 and np.allclose(np.diff(clock), 20)
    chop = ["chop", str(tmp_path / "x.h5"), "--out", str(tmp_path / "c.h5"), "--window", "600ms", "--overlap", "0.5"]
    assert main(chop) == 0 and main(["check", str(tmp_path / "c.h5")]) == 0


def test_nlbs_test_file_becomes_the_test_split_with_what_it_keeps_to_itself_missing(data, tmp_path, capsys):
    other = session(seed=1)
    heldin = [i for i in range(NUM_UNITS) if i not in HELD_OUT]
    write_nwb(tmp_path / "J_desc-train_behavior+ecephys.nwb", data, splits=["train", "val"] * 12)
    hidden = {**other, "spikes": [other["spikes"][i] for i in heldin]}
    write_nwb(tmp_path / "J_desc-test_ecephys.nwb", hidden, held_out=False, splits=["test"] * NUM_TRIALS)
    command = ["import", str(tmp_path / "J_*.nwb"), "--out", str(tmp_path / "out"), *CUT, "--cond", "kind"]
    assert main(command) == 0
    recording = open_recording(tmp_path / "out/J.h5")
    test, arrays = recording.origin_split == "test", recording.arrays
    assert test.sum() == NUM_TRIALS and len(set(arrays["inds"].tolist())) == 2 * NUM_TRIALS
    assert np.isnan(arrays["recon_data"][test][..., 5:]).all() and np.isnan(arrays["behavior"][test]).all()
    for trial in range(NUM_TRIALS):
        counts = counts_by_hand(other, other["go"][trial], begin_ms=-100, num_bins=25, bin_ms=20)[:, heldin]
        assert np.array_equal(arrays["encod_data"][test][trial], counts)
        assert np.array_equal(arrays["recon_data"][test][trial][:, :5], counts)
    assert set(arrays["cond"][test].tolist()) == {-1} and set(arrays["cond"][~test].tolist()) == {0, 1, 2}
    assert main(["import", str(tmp_path / "J_desc-test_ecephys.nwb"), "--out", str(tmp_path / "alone"), *CUT]) == 1
    assert "trials must hold some to train on" in capsys.readouterr().err
    write_nwb(tmp_path / "J_desc-test_ecephys.nwb", {**other, "spikes": other["spikes"][:3]}, held_out=False,
              splits=["test"] * NUM_TRIALS)  # fmt: skip
    capsys.readouterr()
    assert main([*command, "--force"]) == 1
    assert "units must be the 5 that the other file encodes" in capsys.readouterr().err


def test_who_recorded_it_is_kept(source, tmp_path):
    assert run(source, tmp_path / "x.h5", *CUT) == 0
    with h5py.File(tmp_path / "x.h5") as file:
        kept = {
            name: file.attrs[f"source_{name}"] for name in ("experimenter", "lab", "related_publications", "subject")
        }
        how = json.loads(file.attrs["imported"])
    assert kept == {"experimenter": "Doe, J.", "lab": "a lab", "related_publications": "doi:1",
                    "subject": "J (Macaca mulatta)"}  # fmt: skip
    assert how["format"] == "nwb" and how["options"]["align"] == "go_time" and how["options"]["lag_ms"] == 80


WRONG = {
    "no bin width": (CUT[2:], "give --bin-ms"),
    "an unknown event": ([*CUT, "--align", "go_tme"], "trials have no column 'go_tme'; did you mean go_time?"),
    "an event that is no time": ([*CUT, "--align", "target"], "column target of the trials must hold times in seconds"),
    "an unknown signal": ([*CUT, "--behavior", "hand_pos"], "there must be one signal 'hand_pos', found 0"),
    "an unknown condition": ([*CUT, "--cond", "kinds"], "did you mean kind?"),
    "no trial left": ([*CUT, "--keep", "target=up"], "24 trials without target=up left out"),
    "a column that names no split": ([*CUT, "--split-column", "target"], "target must hold train, val or test"),
    "half a bin": ([*CUT, "--window", "0", "50"], "--window must be a whole number of bins of 20 ms"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_cannot_be_done_is_said_and_nothing_is_written(source, tmp_path, case, capsys):
    arguments, words = WRONG[case]
    assert run(source, tmp_path / "x.h5", *arguments) == 1
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "text", "other HDF5", "no units", "absent"])
def test_a_malformed_file_is_named_and_nothing_is_written(data, source, tmp_path, damage, capsys):
    path = tmp_path / "bad.nwb"
    content = source.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("not NWB")
    elif damage == "other HDF5":
        with h5py.File(path, "w") as file:
            file["x"] = np.ones(3)
    elif damage == "no units":
        write_nwb(path, data, units=False)
    assert run(path, tmp_path / "out.h5", *CUT) == 1
    said = capsys.readouterr().err
    assert "bad.nwb" in said and "Traceback" not in said and not (tmp_path / "out.h5").exists()


def test_without_pynwb_the_line_that_installs_it_is_given(source, tmp_path):
    program = "import sys; sys.modules['pynwb'] = None; from band.cli.data import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "import", str(source), "--out", str(tmp_path / "x.h5"), *CUT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "pip install 'band-sweep[nwb]'" in done.stderr
