"""Import of MATLAB (version 5 and 7.3) and NumPy arrays, and of spike times in them, each in several spellings."""

from __future__ import annotations

import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from recording_files import small_arrays
from scipy.io import savemat

from band.cli.data import main
from band.data.importers.matlab import read_matlab
from band.data.recording import open_recording

MATLAB_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Thu Nov 26 2026 HDF5 schema 1.00 ."


def save_v73(path, variables):
    """Write variables as MATLAB 7.3 does: HDF5 behind a block of 512 bytes, axes turned round, cells as references."""

    def put(group, name, value):
        if isinstance(value, dict):
            inner = group.create_group(name)
            inner.attrs["MATLAB_class"] = np.bytes_("struct")
            for key, item in value.items():
                put(inner, key, item)
        elif isinstance(value, list):
            refs = file.require_group("#refs#")
            stored = []
            for item in value:
                key = f"r{len(refs)}"
                put(refs, key, item)
                stored.append(refs[key].ref)
            group.create_dataset(name, data=np.array(stored, dtype=object)[None], dtype=h5py.ref_dtype)
            group[name].attrs["MATLAB_class"] = np.bytes_("cell")
        elif isinstance(value, str):
            group[name] = np.array([[ord(c)] for c in value], dtype="u2")
            group[name].attrs["MATLAB_class"] = np.bytes_("char")
        else:
            group[name] = np.atleast_2d(value).T
            group[name].attrs["MATLAB_class"] = np.bytes_("double")

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            put(file, name, value)
    with path.open("r+b") as raw:
        raw.write(MATLAB_HEADER.ljust(124) + b"\x00\x02IM")
    return path


def save_v5(path, variables):
    """Write variables as MATLAB 5 does: lists are cell arrays."""

    def cells(value):
        if isinstance(value, dict):
            return {key: cells(item) for key, item in value.items()}
        if not isinstance(value, list):
            return value
        array = np.empty((1, len(value)), dtype=object)
        for i, item in enumerate(value):
            array[0, i] = item
        return array

    savemat(path, {name: cells(value) for name, value in variables.items()}, do_compression=True)
    return path


SAVERS = {"v5": save_v5, "v7.3": save_v73}


def trials(count=20, bins=15, neurons=6, seed=0):
    """Return counts (trial, bin, neuron), behaviour (trial, bin, 2), conditions and block labels (trial,)."""
    random = np.random.default_rng(seed)
    counts = random.poisson(2.0, (count, bins, neurons)).astype(float)
    return counts, random.standard_normal((count, bins, 2)), np.arange(count) % 4, np.arange(count) // 5


def run(source, out, *arguments):
    """Import, and return the exit code."""
    return main(["import", str(source), "--out", str(out), *arguments])


@pytest.mark.parametrize("version", list(SAVERS))
@pytest.mark.parametrize("is_nested", [False, True])
def test_matlab_arrays_with_axes_of_their_own_come_through(tmp_path, version, is_nested):
    counts, behavior, cond, block = trials()
    variables = {
        "spikes": counts.transpose(2, 1, 0),
        "velocity": behavior.transpose(2, 1, 0),
        "condition": cond[:, None].astype(float),
        "block": block[None].astype(float),
        "depth": np.arange(6.0)[:, None] * np.ones((1, 2)),
    }
    prefix = "td." if is_nested else ""
    path = SAVERS[version](tmp_path / "x.mat", {"td": variables} if is_nested else variables)
    names = ["--array", f"encod_data={prefix}spikes", "--array", f"behavior={prefix}velocity"]
    names += ["--array", f"cond={prefix}condition", "--axes", "channel,bin,trial", "--bin-ms", "10"]
    assert run(path, tmp_path / "x.h5", *names) == 0
    recording = open_recording(tmp_path / "x.h5")
    assert np.array_equal(recording.arrays["encod_data"], counts) and recording.bin_ms == 10
    np.testing.assert_allclose(recording.arrays["behavior"], behavior, rtol=1e-6)
    assert np.array_equal(recording.arrays["cond"], cond) and np.array_equal(recording.arrays[f"{prefix}block"], block)
    assert recording.left_out == (f"{prefix}depth",)


@pytest.mark.parametrize("version", list(SAVERS))
def test_a_cell_array_of_trials_of_different_lengths_is_padded_with_missing_samples(tmp_path, version):
    random = np.random.default_rng(0)
    cells = [random.poisson(2.0, (length, 4)).astype(float) for length in (5, 9, 7, 2)]
    path = SAVERS[version](tmp_path / "x.mat", {"counts": cells, "behavior": [c[:, :2] * 0.5 for c in cells]})
    assert run(path, tmp_path / "x.h5", "--bin-ms", "10") == 0
    arrays = open_recording(tmp_path / "x.h5").arrays
    assert arrays["encod_data"].shape == (4, 9, 4)
    for found, behavior, cell in zip(arrays["encod_data"], arrays["behavior"], cells, strict=True):
        assert np.array_equal(found[: len(cell)], cell) and np.isnan(found[len(cell) :]).all()
        assert np.array_equal(behavior[: len(cell)], cell[:, :2] * 0.5) and np.isnan(behavior[len(cell) :]).all()


def test_a_struct_array_of_trials_gives_a_list_of_each_field(tmp_path):
    random = np.random.default_rng(0)
    rows = [(random.poisson(2.0, (n, 3)).astype(float), float(n), f"t{n}") for n in (4, 6, 5)]
    savemat(tmp_path / "x.mat", {"td": np.array(rows, dtype=[("spikes", "O"), ("target", "O"), ("name", "O")])})
    found = read_matlab(tmp_path / "x.mat")
    assert found["td.target"].tolist() == [4, 6, 5] and found["td.name"].tolist() == ["t4", "t6", "t5"]
    assert [trial.shape for trial in found["td.spikes"]] == [(4, 3), (6, 3), (5, 3)]
    names = ["--array", "encod_data=td.spikes", "--array", "cond=td.name", "--bin-ms", "10"]
    assert run(tmp_path / "x.mat", tmp_path / "x.h5", *names) == 0
    assert open_recording(tmp_path / "x.h5").arrays["cond"].tolist() == ["t4", "t6", "t5"]


def test_numpy_arrays_are_split_and_held_out_by_arrays_beside_them(tmp_path):
    counts, behavior, cond, _ = trials()
    split = np.array(["train"] * 12 + ["val"] * 5 + ["none"] + ["test"] * 2)
    held_out = np.array([False, True, False, False, True, False])
    np.savez(tmp_path / "x.npz", spikes=counts, behaviour=behavior, conditions=cond, split=split, heldout=held_out)
    assert run(tmp_path / "x.npz", tmp_path / "x.h5", "--bin-ms", "10") == 0
    recording = open_recording(tmp_path / "x.h5")
    kept = split != "none"
    assert recording.origin_split.tolist() == ["train"] * 12 + ["valid"] * 5 + ["test"] * 2
    assert np.array_equal(recording.arrays["encod_data"], counts[kept][..., ~held_out])
    assert np.array_equal(recording.arrays["recon_data"], counts[kept][..., [0, 2, 3, 5, 1, 4]])


def test_arrays_under_the_names_of_our_layout_come_through_and_what_is_explained_defaults_to_what_is_seen(tmp_path):
    arrays = {name: values for name, values in small_arrays().items() if "recon" not in name}
    np.savez(tmp_path / "x.npz", **arrays)
    assert run(tmp_path / "x.npz", tmp_path / "x.h5", "--bin-ms", "10") == 0
    recording = open_recording(tmp_path / "x.h5")
    assert np.array_equal(recording.arrays["recon_data"][:12], arrays["train_encod_data"])


def test_one_array_alone_is_counts_and_without_a_trial_axis_it_runs_on(tmp_path):
    counts, *_ = trials()
    np.save(tmp_path / "x.npy", counts)
    np.save(tmp_path / "y.npy", counts.reshape(-1, 6))
    assert run(tmp_path / "x.npy", tmp_path / "x.h5") == 0 and run(tmp_path / "y.npy", tmp_path / "y.h5") == 0
    assert np.array_equal(open_recording(tmp_path / "x.h5").arrays["encod_data"], counts)
    command = ["chop", str(tmp_path / "y.h5"), "--out", str(tmp_path / "c.h5"), "--window", "15bins", "--bin-ms", "10"]
    assert main(command) == 0
    assert np.array_equal(open_recording(tmp_path / "c.h5").arrays["encod_data"], counts)


def spike_session(seed=0):
    """Return spike times (s) of five neurons, and the trials' start, stop and cue."""
    random = np.random.default_rng(seed)
    spikes = [np.sort(random.uniform(0, 30, 300)).round(4) for _ in range(5)]
    start = 1.0 + 2 * np.arange(12.0)
    return spikes, start, start + 1.5, start + 0.5


@pytest.mark.parametrize("spelling", ["npz", "v5", "v7.3", "ms"])
def test_spike_times_become_the_counts_that_a_histogram_gives(tmp_path, spelling):
    spikes, start, stop, cue = spike_session()
    times = np.arange(0, 30, 0.01)
    signal = {"hand": np.stack([times, -times], axis=-1), "hand_times": times}
    if spelling in SAVERS:
        columns = {"start_time": start, "stop_time": stop, "cue_time": cue}
        path = SAVERS[spelling](tmp_path / "x.mat", {"spike_times": spikes, "trials": columns, **signal})
    else:
        scale = 1000.0 if spelling == "ms" else 1.0
        path = tmp_path / "x.npz"
        columns = {"trials_start_time": start * scale, "trials_stop_time": stop * scale, "trials_cue_time": cue * scale}
        flat = {"spike_times": np.concatenate(spikes) * scale, "spike_units": np.repeat(np.arange(5) * 3, 300)}
        np.savez(path, **flat, **columns, hand=signal["hand"], hand_times=times * scale)
    arguments = ["--bin-ms", "25", "--align", "cue_time", "--window", "-200", "800", "--behavior", "hand"]
    assert run(path, tmp_path / "x.h5", *arguments, *(["--times-in", "ms"] if spelling == "ms" else [])) == 0
    arrays = open_recording(tmp_path / "x.h5").arrays
    for trial in range(12):
        edges = (cue[trial] - 0.2) + np.arange(41) * 0.025
        expected = np.stack([np.histogram(s + 1e-9, edges + 1e-12)[0] for s in spikes], axis=-1)
        assert np.array_equal(arrays["encod_data"][trial], expected)
        near = np.abs(arrays["behavior"][trial, :, 0] - (edges[:-1] + 0.0125)) < 0.011
        assert near.all() and np.allclose(arrays["behavior"][trial, :, 1], -arrays["behavior"][trial, :, 0])


def test_spikes_on_the_edges_of_bins_fall_into_the_later_one(tmp_path):
    spikes = {"spike_times": np.arange(100) * 0.01, "spike_units": np.zeros(100)}
    np.savez(tmp_path / "x.npz", **spikes, trials_start_time=[0.1, 0.3], trials_stop_time=[0.3, 0.7])
    assert run(tmp_path / "x.npz", tmp_path / "x.h5", "--bin-ms", "10", "--window", "0", "200") == 0
    assert (open_recording(tmp_path / "x.h5").arrays["encod_data"] == 1).all()


def test_spikes_without_a_time_and_trials_without_an_end_are_passed_over(tmp_path):
    times = np.append(np.arange(100) * 0.01 + 0.001, [np.nan, np.inf])
    columns = {"trials_start_time": [0.1, 0.3, 0.5], "trials_stop_time": [0.3, np.nan, 0.6]}
    np.savez(tmp_path / "x.npz", spike_times=times, spike_units=np.zeros(102), **columns)
    assert run(tmp_path / "x.npz", tmp_path / "x.h5", "--bin-ms", "10") == 0
    arrays = open_recording(tmp_path / "x.h5").arrays
    assert arrays["inds"].tolist() == [0, 2] and np.nansum(arrays["encod_data"], axis=(1, 2)).tolist() == [20, 10]
    assert run(tmp_path / "x.npz", tmp_path / "y.h5", "--bin-ms", "10", "--continuous") == 0
    with h5py.File(tmp_path / "y.h5") as file:
        assert file["encod_data"][()].sum() == 100


def test_a_pickle_is_never_read(tmp_path, capsys):
    class Mean:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    objects = np.array([Mean(), np.ones(3)], dtype=object)
    np.savez(tmp_path / "x.npz", encod_data=objects)
    np.save(tmp_path / "y.npy", objects, allow_pickle=True)
    (tmp_path / "z.npy").write_bytes(pickle.dumps(Mean()))
    for name in ("x.npz", "y.npy", "z.npy"):
        assert run(tmp_path / name, tmp_path / "out.h5") == 1
        said = capsys.readouterr().err
        assert name in said and "pickle" in said
    assert not (tmp_path / "written").exists() and not (tmp_path / "out.h5").exists()


def arrays_of(**changes):
    counts, behavior, cond, _ = trials()
    return {
        k: v for k, v in {"encod_data": counts, "behavior": behavior, "cond": cond, **changes}.items() if v is not None
    }


COUNTS, BEHAVIOR, _, _ = trials()
SPIKES = {"spike_times": np.arange(50) * 0.1, "spike_units": np.zeros(50)}
TRIALS = {"trials_start_time": np.array([0.0, 2.0]), "trials_stop_time": np.array([1.0, 3.0])}
BIN, HAND = ["--bin-ms", "10"], ["--bin-ms", "10", "--behavior", "hand"]
WRONG = {
    "no counts": (arrays_of(encod_data=None), [], "must hold encod_data (counts) or spike_times, found behavior, cond"),
    "rates for counts": (arrays_of(encod_data=COUNTS + 0.5), [], "_data must hold non-negative whole counts"),
    "negative counts": (arrays_of(encod_data=-COUNTS), [], "non-negative whole counts"),
    "infinite behaviour": (arrays_of(behavior=BEHAVIOR * np.inf), [], "behavior must hold finite values"),
    "text for counts": (arrays_of(encod_data=np.full((3, 4, 5), "a")), [], "encod_data must hold numbers"),
    "complex counts": (arrays_of(encod_data=COUNTS * 1j), [], "encod_data must hold numbers (trial, bin, channel)"),
    "four axes": (arrays_of(encod_data=COUNTS[None]), [], "give the order of the file's axes with --axes"),
    "a name that is not there": (arrays_of(), ["--array", "behavior=hand"], "there is no array 'hand'"),
    "trials that differ": (arrays_of(behavior=BEHAVIOR[:7]), [], "behavior must have the 20 trials"),
    "held-out neurons that differ": (arrays_of(heldout=np.ones(3)), [], "heldout must hold one number for each of 6"),
    "all held out": (arrays_of(heldout=np.ones(6)), [], "leave one to encode"),
    "an unknown split": (arrays_of(split=np.full(20, "dev")), [], "must hold train, val or test for each trial"),
    "spikes of no neuron": ({"spike_times": np.ones(9)}, [], "spike_units must hold the neuron of each"),
    "no bin width": ({**SPIKES, **TRIALS}, [], "give --bin-ms"),
    "no finite spike": (
        {"spike_times": np.full(3, np.nan), "spike_units": np.zeros(3)}, BIN, "spike_times must span at least a bin",
    ),
    "a table with holes": ({**SPIKES, **TRIALS, "trials_kind": np.ones(3)}, BIN, "one value a trial each"),
    "trials of no length": (
        {**SPIKES, "trials_start_time": np.ones(2), "trials_stop_time": np.ones(2)}, BIN, "a bin or more",
    ),
    "a signal without times": (
        {**SPIKES, **TRIALS, "hand": np.ones(5)}, HAND, "needs arrays hand and hand_times",
    ),
    "times that fall": (
        {**SPIKES, **TRIALS, "hand": np.ones(3), "hand_times": np.array([0.0, 2.0, 1.0])},
        HAND, "must be 3 finite numbers that rise",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(WRONG))
def test_arrays_that_break_a_rule_are_named_and_nothing_is_written(tmp_path, case, capsys):
    arrays, arguments, words = WRONG[case]
    np.savez(tmp_path / "bad.npz", **arrays)
    assert run(tmp_path / "bad.npz", tmp_path / "out.h5", *arguments) == 1
    said = capsys.readouterr().err
    assert words in said and "bad.npz" in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


@pytest.mark.parametrize("name", ["x.mat", "y.mat", "z.npz", "w.npy"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.97])
def test_truncated_files_are_refused_and_nothing_is_written(tmp_path, name, keep, capsys):
    counts, *_ = trials()
    save_v5(tmp_path / "x.mat", {"counts": counts})
    save_v73(tmp_path / "y.mat", {"counts": counts})
    np.savez(tmp_path / "z.npz", counts=counts)
    np.save(tmp_path / "w.npy", counts)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert run(path, tmp_path / "out.h5") == 1
    said = capsys.readouterr().err
    assert name in said and "fault of band" not in said and not (tmp_path / "out.h5").exists()


def test_random_bytes_in_a_file_end_in_an_answer_or_an_error_that_names_it(tmp_path, capsys):
    counts, *_ = trials(count=6)
    save_v5(tmp_path / "x.mat", {"counts": [counts[0], counts[1][:4]], "s": {"a": "text"}})
    save_v73(tmp_path / "y.mat", {"counts": [counts[0], counts[1][:4]], "s": {"a": "text"}})
    np.savez(tmp_path / "z.npz", counts=counts)
    random = np.random.default_rng(0)
    for name in ("x.mat", "y.mat", "z.npz"):
        content = (tmp_path / name).read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for at in random.integers(0, min(len(content), 6000), size=5):
                damaged[at] = random.integers(256)
            (tmp_path / name).write_bytes(damaged)
            code = run(tmp_path / name, tmp_path / "out.h5", "--force", "--likelihood", "none", "--bin-ms", "10")
            said = capsys.readouterr().err
            assert code == 0 or (code == 1 and name in said), said


def test_without_scipy_old_matlab_files_are_refused_with_the_line_that_installs_it(tmp_path):
    save_v5(tmp_path / "x.mat", {"counts": np.ones((2, 3, 4))})
    program = "import sys; sys.modules['scipy'] = None; from band.cli.data import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "import", str(tmp_path / "x.mat"), "--out", str(tmp_path / "x.h5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "pip install 'band-sweep[matlab]'" in done.stderr
