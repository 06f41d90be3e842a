"""A recording holds what its file holds, and a file that breaks a rule is refused with the rule's name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from recording_files import real, small_arrays, write

from band.data.recording import open_recording
from band.errors import DataError


def changed(tmp_path: Path, **changes: object) -> Path:
    """Write a valid file with some arrays replaced by a function of themselves, or removed by None."""
    arrays = small_arrays(counts=(12, 6, 6))
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays[name].copy() if name in arrays else None)  # type: ignore[operator]
    return write(tmp_path / "x.h5", arrays)


def put(index: tuple[int, ...], value: float):
    def change(values: np.ndarray) -> np.ndarray:
        values[index] = value
        return values

    return change


def test_trials_of_all_splits_are_pooled_with_their_origin(tmp_path):
    arrays = small_arrays(counts=(12, 6, 5))
    path = write(tmp_path / "x.h5", arrays, bin_ms=20.0)
    recording = open_recording(path)
    assert recording.bin_ms == 20.0 and recording.num_trials == 23
    assert recording.origin_split.tolist() == ["train"] * 12 + ["valid"] * 6 + ["test"] * 5
    for trial in range(23):
        split, index = recording.origin_split[trial], recording.origin_index[trial]
        for key in ("encod_data", "recon_data", "behavior", "cond"):
            assert np.array_equal(recording.arrays[key][trial], arrays[f"{split}_{key}"][index])
    assert recording.arrays["inds"].tolist() == list(range(23)) and not recording.has_inds
    assert not any(values.flags.writeable for values in recording.arrays.values())


def test_given_bin_width_and_trial_numbers_win_over_made_up_ones(tmp_path):
    arrays = small_arrays()
    arrays |= {"train_inds": np.arange(12) * 10, "valid_inds": np.arange(6) + 1000}
    recording = open_recording(write(tmp_path / "x.h5", arrays, bin_ms=20.0), bin_ms=5.0)
    assert recording.bin_ms == 5.0 and recording.has_inds
    assert recording.arrays["inds"].tolist() == [*range(0, 120, 10), *range(1000, 1006)]


def test_foreign_arrays_are_carried_along_only_where_every_split_has_them(tmp_path):
    arrays = small_arrays()
    arrays |= {
        "train_block": np.arange(12),
        "valid_block": np.arange(6),
        "train_note": np.arange(12),
        "psth": np.ones(3),
    }
    arrays |= {"train_name": np.array([b"ab"] * 12), "valid_name": np.array([b"cd"] * 6)}
    recording = open_recording(write(tmp_path / "x.h5", arrays))
    assert recording.arrays["block"].tolist() == [*range(12), *range(6)]
    assert recording.arrays["name"].tolist() == ["ab"] * 12 + ["cd"] * 6
    assert recording.left_out == ("psth", "train_note")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64", ">f4", "float16"])
def test_counts_of_any_number_type_become_the_same_float32(tmp_path, dtype):
    arrays = small_arrays()
    typed = {name: values.astype(dtype) if "data" in name else values for name, values in arrays.items()}
    recording = open_recording(write(tmp_path / "x.h5", typed))
    assert recording.arrays["encod_data"].dtype == np.float32
    assert np.array_equal(recording.arrays["encod_data"][:12], arrays["train_encod_data"])


def test_a_large_recording_is_mapped_from_scratch_with_equal_values_and_leaves_nothing_there(tmp_path, monkeypatch):
    monkeypatch.setenv("BAND_SCRATCH", str(tmp_path / "scratch"))
    path = write(tmp_path / "x.h5", small_arrays())
    resident, mapped = open_recording(path), open_recording(path, resident_bytes=100)
    assert isinstance(mapped.arrays["encod_data"], np.memmap) and not mapped.arrays["encod_data"].flags.writeable
    assert all(np.array_equal(resident.arrays[key], mapped.arrays[key]) for key in resident.arrays)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_opening_does_not_change_the_file(tmp_path):
    path = write(tmp_path / "x.h5", small_arrays())
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    path.chmod(0o400)
    open_recording(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


BROKEN = {
    "a missing key": ({"train_recon_data": None}, "train_recon_data is missing"),
    "a key missing in one split": ({"valid_behavior": None}, "valid_behavior is missing although there is train"),
    "trials that differ": ({"valid_behavior": lambda x: x[:-1]}, "valid_behavior must have the 6 trials"),
    "bins that differ": ({"train_behavior": lambda x: x[:, :-1]}, "train_behavior must have 8 time bins"),
    "fewer bins reconstructed": ({"train_recon_data": lambda x: x[:, :-1]}, "at least the 8 time bins"),
    "fewer neurons reconstructed": ({"train_recon_data": lambda x: x[..., :-1]}, "at least the 5 neurons"),
    "splits that differ": ({"valid_behavior": lambda x: x[..., :1]}, "valid_behavior must have the bins and channels"),
    "truth of another shape": ({"train_truth": lambda _: np.ones((12, 8, 4))}, "is missing|must have the shape"),
    "a wrong rank": ({"train_encod_data": lambda x: x[..., 0]}, r"train_encod_data must be \(trial, time bin, channel"),
    "conditions of a wrong rank": ({"train_cond": lambda x: np.stack([x, x], -1)}, r"train_cond must be \(trial,\)"),
    "text for numbers": ({"train_behavior": lambda x: x.astype("S8")}, "train_behavior must hold numbers, found text"),
    "an empty split": ({"valid_encod_data": lambda x: x[:0]}, "valid_encod_data must hold at least one trial"),
    "NaN counts": ({"valid_recon_data": put((3, 2, 1), np.nan)}, "nan at valid_recon_data trial 3, bin 2, channel 1"),
    "NaN input": ({"train_encod_data": put((1, 0, 0), np.nan)}, "train_encod_data must hold non-negative whole counts"),
    "NaN behaviour": ({"test_behavior": put((5, 7, 1), np.nan)}, "set data.missing=mask where NaN stands for what"),
    "infinity for a missing count": ({"valid_recon_data": put((3, 2, 1), np.inf)}, "inf at valid_recon_data trial 3"),
    "negative counts": ({"train_recon_data": put((3, 2, 1), -1)}, "non-negative whole counts .* found -1.0 at train"),
    "negative counts encoded": ({"train_encod_data": put((3, 2, 1), -1)}, "found -1.0 at train_encod_data trial 3"),
    "fractional counts encoded": ({"train_encod_data": put((0, 0, 0), 0.5)}, "train_encod_data must hold non-negative"),
    "fractional counts": ({"train_recon_data": put((0, 0, 0), 0.5)}, "found 0.5 at train_recon_data trial 0"),
    "infinite counts": ({"test_recon_data": put((0, 0, 0), np.inf)}, "found inf at test_recon_data trial 0"),
    "infinite input": (
        {"train_encod_data": put((1, 0, 0), np.inf)},
        "train_encod_data must hold non-negative whole counts",
    ),
    "infinite behaviour": ({"test_behavior": put((5, 7, 1), np.inf)}, "inf at test_behavior trial 5, bin 7, channel 1"),
    "NaN conditions": ({"train_cond": lambda x: np.where(x > 1, np.nan, x)}, "train_cond must hold finite values"),
}


@pytest.mark.parametrize("rule", list(BROKEN))
def test_a_broken_rule_is_named_with_file_and_key(tmp_path, rule):
    changes, message = BROKEN[rule]
    path = changed(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        open_recording(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("likelihood", ["gamma", "zero_inflated_gamma", "gaussian", "mse"])
def test_each_likelihood_refuses_what_lies_outside_its_support_and_takes_the_rest(tmp_path, likelihood):
    bad = {"gamma": 0.0, "zero_inflated_gamma": -0.5, "gaussian": -np.inf, "mse": np.inf}[likelihood]
    inside = {f"{split}_recon_data": lambda x: x + 1.5 for split in ("train", "valid", "test")}
    open_recording(changed(tmp_path, **inside), likelihood=likelihood)
    with pytest.raises(DataError, match="non-negative whole counts"):
        open_recording(changed(tmp_path, **inside))
    with pytest.raises(DataError, match=rf"\({likelihood}\)"):
        open_recording(
            changed(tmp_path, **{**inside, "valid_recon_data": lambda x: put((0, 0, 0), bad)(x + 1.5)}),
            likelihood=likelihood,
        )


@pytest.mark.parametrize("likelihood", ["poisson", "gaussian"])
def test_missing_samples_are_kept_as_nan_in_counts_and_behaviour_alone(tmp_path, likelihood):
    at = {"train_recon_data": (0, 1, 2), "valid_encod_data": (3, 4), "test_behavior": (5,)}
    path = changed(tmp_path, **{k: put(i, np.nan) for k, i in at.items()})
    recording = open_recording(path, likelihood=likelihood, missing="mask")
    with h5py.File(path, "r+") as file:
        file.attrs["missing"] = "mask"
    assert open_recording(path, likelihood=likelihood).num_trials == recording.num_trials
    missing = {key: int(np.isnan(recording.arrays[key]).sum()) for key in ("recon_data", "encod_data", "behavior")}
    assert missing == {"recon_data": 1, "encod_data": 5, "behavior": 16}
    with pytest.raises(DataError, match="train_cond must hold finite values"):
        open_recording(changed(tmp_path, train_cond=lambda x: np.where(x > 1, np.nan, x)), missing="mask")
    with pytest.raises(DataError, match="found NaN alone in valid_encod"):
        open_recording(changed(tmp_path, valid_encod_data=put((3,), np.nan)), missing="mask")


def test_a_recording_without_a_spike_is_refused(tmp_path):
    silent = {f"{split}_{key}": lambda x: x * 0 for split in ("train", "valid", "test") for key in ("recon_data",)}
    with pytest.raises(DataError, match="at least one count above 0"):
        open_recording(changed(tmp_path, **silent))


def test_a_trial_copied_into_another_split_is_found(tmp_path):
    arrays = small_arrays()
    for key in ("encod_data", "recon_data", "behavior"):
        arrays[f"valid_{key}"][4] = arrays[f"train_{key}"][7]
    with pytest.raises(DataError, match="train_encod_data trial 7 and valid_encod_data trial 4 are the same"):
        open_recording(write(tmp_path / "x.h5", arrays))


def test_equal_counts_with_different_behaviour_are_no_copy(tmp_path):
    arrays = small_arrays()
    for key in ("encod_data", "recon_data"):
        arrays[f"valid_{key}"][4] = arrays[f"train_{key}"][7]
    open_recording(write(tmp_path / "x.h5", arrays))


def test_a_trial_number_in_two_splits_is_found(tmp_path):
    arrays = small_arrays() | {"train_inds": np.arange(12), "valid_inds": np.arange(11, 17)}
    with pytest.raises(DataError, match=r"inds has \[11\] in both"):
        open_recording(write(tmp_path / "x.h5", arrays))


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused_at_every_length(tmp_path, keep):
    content = write(tmp_path / "whole.h5", small_arrays(counts=(40, 20), bins=30)).read_bytes()
    path = tmp_path / "x.h5"
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(DataError, match=r"x\.h5.*truncated"):
        open_recording(path)


def test_a_damaged_chunk_is_reported_with_its_key(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name, values in small_arrays().items():
            file.create_dataset(name, data=values, compression="gzip" if values.ndim > 1 else None)
        place = file["valid_encod_data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset + 20 : place.byte_offset + 40] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(DataError, match="reading valid_encod_data failed"):
        open_recording(path)


def test_what_is_no_file_or_another_format_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"x\.csv: must be a complete HDF5 file"):
        open_recording(tmp_path / "x.csv")
    with pytest.raises(DataError, match="no such file"):
        open_recording(tmp_path / "none.h5")
    with pytest.raises(DataError, match="found a folder"):
        open_recording(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["spikes"] = np.ones(3)
    with pytest.raises(DataError, match="must hold train_encod_data and train_recon_data"):
        open_recording(tmp_path / "other.h5")


def test_links_out_of_the_file_and_external_storage_are_refused(tmp_path):
    write(tmp_path / "other.h5", small_arrays())
    for kind in ("link", "external"):
        path = write(tmp_path / f"{kind}.h5", small_arrays())
        with h5py.File(path, "a") as file:
            if kind == "link":
                file["extra"] = h5py.ExternalLink("other.h5", "/train_cond")
            else:
                file.create_dataset("extra", (10,), "f4", external=[("/etc/passwd", 0, 40)])
        with pytest.raises(DataError, match="must lie in the file itself"):
            open_recording(path)


HUGE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from band.data.digest import dataset_digest
from band.data.recording import open_recording
from band.errors import DataError
for ask in (open_recording, dataset_digest):
    try:
        ask(sys.argv[1])
    except DataError as error:
        print(error)
# Not ru_maxrss of itself, which begins with that of the process that started it.
own = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print("KiB", max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def test_a_small_file_that_declares_ten_terabytes_costs_no_memory(tmp_path):
    path = write(tmp_path / "x.h5", small_arrays())
    with h5py.File(path, "a") as file:
        for key in ("encod_data", "recon_data"):
            del file[f"train_{key}"]
            file.create_dataset(f"train_{key}", (10**6, 10**4, 250), "f4", chunks=(1, 1000, 250), compression="gzip")
    assert path.stat().st_size < 10**6
    done = subprocess.run([sys.executable, "-c", HUGE, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("'train_encod_data' declares 10,000,000,000,000 bytes") == 2, done.stderr
    assert int(done.stdout.rpartition("KiB ")[2]) < 2**20


def test_random_bytes_in_a_file_end_in_an_answer_or_a_data_error(tmp_path):
    content = write(tmp_path / "whole.h5", small_arrays()).read_bytes()
    random, path = np.random.default_rng(0), tmp_path / "x.h5"
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(content)
        for at in random.integers(0, min(len(content), 8000), size=6):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        try:
            open_recording(path)
            outcomes.add("opened")
        except DataError:
            outcomes.add("refused")
    assert outcomes == {"opened", "refused"}


def test_the_real_recordings_open_as_described():
    maze = open_recording(real("mc_maze_large_9cond-10ms.h5"), bin_ms=10)
    assert maze.arrays["encod_data"].shape == (165, 50, 162) and len(np.unique(maze.arrays["cond"])) == 9
    assert np.bincount(maze.origin_split == "train").tolist() == [36, 129]
    centre_out = open_recording(real("m1_stevenson-50ms-T28.h5"))
    assert centre_out.arrays["behavior"].shape == (554, 28, 2) and "cond" not in centre_out.arrays


def test_opening_asks_no_write_permission_of_the_system(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5", small_arrays())
    opened = []
    original = h5py.File

    class Recorded(original):  # type: ignore[misc, valid-type]
        def __init__(self, name: os.PathLike[str], mode: str = "a", **rest: object) -> None:
            opened.append(mode)
            super().__init__(name, mode, **rest)

    monkeypatch.setattr(h5py, "File", Recorded)
    open_recording(path)
    assert opened == ["r"]
