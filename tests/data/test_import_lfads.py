"""Import of lfads-torch and BAND-torch files: sessions, folds of one recording, names, and how results are written."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from recording_files import real, small_arrays, write

from band.cli.data import main
from band.config import DataConfig
from band.data.importers.plan import Wishes, import_files, plan_import
from band.data.recording import open_recording
from band.data.splits import make_split
from band.errors import DataError


def pool(*, count=30, seed=0):
    """Return the arrays of some trials without splits."""
    arrays = small_arrays(counts=(count,), bins=12, seed=seed)
    return {key.removeprefix("train_"): values for key, values in arrays.items()}


def write_folds(folder, trials, fold, *, shuffle=None, test=None, **extra):
    """Write monkey_cvK.h5 for each fold, its valid split; with `test`, trials of fold -1 are in every test split."""
    paths = []
    for k in range(fold.max() + 1):
        arrays = dict(extra)
        indices = np.arange(len(fold)) if shuffle is None else shuffle.permutation(len(fold))
        which = {"train": (fold != k) & (fold >= 0), "valid": fold == k}
        which |= {} if test is None else {"test": fold < 0}
        for split, mask in which.items():
            rows = [i for i in indices if mask[i]]
            arrays |= {f"{split}_{key}": values[rows] for key, values in trials.items()}
        paths.append(write(folder / f"monkey_cv{k}.h5", arrays))
    return paths


def imported(sources, out, **wishes):
    """Import and return [(path, what was imported)]."""
    return [(path, found) for path, found, _ in import_files(sources, out, wishes=Wishes(**wishes))]


def test_a_file_comes_through_unchanged_with_its_extra_arrays_attributes_and_origin(tmp_path):
    arrays = small_arrays() | {"psth": np.ones((3, 8, 5)), "conversion_factor": np.array(20.0)}
    arrays |= {"train_epoch": np.arange(96).reshape(12, 8), "valid_epoch": np.arange(48).reshape(6, 8)}
    source = write(tmp_path / "maze-20ms.h5", arrays)
    with h5py.File(source, "a") as file:
        file.attrs["licence"] = "CC-BY-4.0"
        file["notes/lab"] = "left hemisphere"
    ((path, found),) = imported([source], tmp_path / "out", attributes={"attribution": "the lab"})
    assert path == tmp_path / "out" / "maze-20ms.h5" and found.bin_ms == 20
    with h5py.File(path) as file:
        assert set(file) == {*arrays, "notes.lab"}
        assert all(np.array_equal(file[name][()], values) for name, values in arrays.items())
        assert (file.attrs["licence"], file.attrs["attribution"], file.attrs["bin_ms"]) == ("CC-BY-4.0", "the lab", 20)
        assert json.loads(file.attrs["imported"])["sources"][0]["file"] == "maze-20ms.h5"
    assert open_recording(path).arrays["epoch"].shape == (18, 8)


@pytest.mark.parametrize("shuffled", [False, True])
def test_fold_files_of_one_recording_become_one_file_with_its_folds(tmp_path, shuffled):
    trials, random = pool(), np.random.default_rng(3)
    fold = random.permutation(np.arange(30) % 5)
    paths = write_folds(tmp_path, trials, fold, shuffle=random if shuffled else None, psth=np.ones(4))
    ((path, found),) = imported(paths, tmp_path / "out.h5", bin_ms=10)
    recording = open_recording(path)
    assert recording.num_trials == 30 and recording.has_inds and recording.bin_ms == 10
    number = {trials["behavior"][i].tobytes(): i for i in range(30)}
    which = np.array([number[trial.tobytes()] for trial in recording.arrays["behavior"]])
    assert sorted(which) == list(range(30)) and np.array_equal(recording.arrays["fold"], fold[which])
    assert np.array_equal(recording.arrays["cond"], trials["cond"][which])
    assert shuffled or np.array_equal(which[np.argsort(recording.arrays["inds"])], np.arange(30))
    assert ("cannot be told" in found.notes[1]) == shuffled
    for k in range(5):
        config = DataConfig(split="grouped", group_key="fold", num_folds=5, fold=k)
        assert np.array_equal(make_split(recording, config).test, np.flatnonzero(fold[which] == k))
    with h5py.File(path) as file:
        assert file["psth"].shape == (4,)


def test_a_test_split_that_all_folds_share_stays_the_test_split(tmp_path):
    fold = np.concatenate([np.arange(24) % 3, np.full(6, -1)])
    ((path, _),) = imported(write_folds(tmp_path, pool(), fold, test=True), tmp_path / "out")
    recording = open_recording(path)
    assert path.name == "monkey.h5" and recording.origin_split.tolist() == ["train"] * 24 + ["test"] * 6
    assert set(recording.arrays["fold"][24:].tolist()) == {-1}


def test_copies_of_a_trial_are_each_kept(tmp_path):
    trials = pool()
    trials = {key: values[[*range(29), 0]] for key, values in trials.items()}
    fold = np.arange(30) % 3
    fold[29] = fold[0]  # else the loader would rightly refuse the file
    ((path, _),) = imported(write_folds(tmp_path, trials, fold), tmp_path / "out")
    assert open_recording(path).num_trials == 30


def test_fold_files_of_different_recordings_or_an_incomplete_set_are_refused(tmp_path):
    fold = np.arange(30) % 3
    paths = write_folds(tmp_path, pool(), fold)
    with pytest.raises(DataError, match=r"20 of 30 are|10 of 30 are in none of monkey_cv0.h5, monkey_cv1.h5"):
        imported(paths[:2], tmp_path / "out")
    write_folds(tmp_path, pool(seed=1), fold)[1].rename(tmp_path / "other")
    write_folds(tmp_path, pool(), fold)
    (tmp_path / "other").rename(tmp_path / "monkey_cv1.h5")
    with pytest.raises(DataError, match=r"monkey_cv1\.h5: encod_data must hold the 30 trials of monkey_cv0\.h5"):
        imported(paths, tmp_path / "out")
    write_folds(tmp_path, pool(), fold)
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(DataError, match=r"shares one with monkey_cv0\.h5"):
        imported(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_sessions_of_the_same_name_in_different_folders_get_names_of_their_own(tmp_path):
    for place in ("a/2020/s.h5", "b/2020/s.h5", "b/2021/s.h5", "b/t.h5"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / place, small_arrays(seed=len(place)))
    planned = plan_import([str(tmp_path / "*/*/s.h5"), tmp_path / "b/t.h5", tmp_path / "b/../b/t.h5"])
    assert [one.name for one in planned] == ["a-2020-s", "b-2020-s", "2021-s", "t"]
    written = imported([str(tmp_path / "*/*/s.h5")], tmp_path / "out")
    assert len({path for path, _ in written}) == 3 and all(path.exists() for path, _ in written)


@pytest.mark.parametrize("name", ["mc_maze_large_9cond-10ms", "mc_maze_large_9cond-05ms", "m1_stevenson-50ms-T28"])
def test_the_real_recordings_come_through_and_train(tmp_path, name):
    source = real(f"{name}.h5")
    ((path, found),) = imported([source], tmp_path, attributes={"attribution": "as their page says"})
    before, after = open_recording(source), open_recording(path)
    assert after.bin_ms == float(name.split("-")[1].removesuffix("ms")) and found.notes[-1].startswith("bins of")
    assert all(np.array_equal(before.arrays[key], after.arrays[key]) for key in before.arrays)
    assert len(make_split(after, DataConfig()).test) > 20
    with h5py.File(path) as file:
        assert file.attrs["attribution"] == "as their page says"


def test_nothing_is_written_over_and_a_source_never_is(tmp_path, capsys):
    source = write(tmp_path / "x.h5", small_arrays(), bin_ms=10.0)
    before = source.read_bytes()
    assert main(["import", str(source), "--out", str(source), "--force"]) == 1
    assert "is one of the files to be imported" in capsys.readouterr().err
    assert main(["import", str(source), "--out", str(tmp_path / "y.h5")]) == 0
    assert main(["import", str(source), "--out", str(tmp_path / "y.h5")]) == 1
    assert "--force to replace it" in capsys.readouterr().err
    assert main(["import", str(source), "--out", str(tmp_path / "y.h5"), "--force"]) == 0
    assert source.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"x.h5", "y.h5"}


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path, capsys):
    source = write(tmp_path / "x.h5", small_arrays(), bin_ms=10.0)
    command = ["import", str(source), "--out", str(tmp_path / "out"), "--json"]
    assert main([*command, "--dry-run"]) == 0 and not (tmp_path / "out").exists()
    (planned,) = json.loads(capsys.readouterr().out)["files"]
    assert main(command) == 0
    (done,) = json.loads(capsys.readouterr().out)["files"]
    assert planned.pop("written") is False and done.pop("written") is True and planned == done
    assert done["size_bytes"] == (tmp_path / "out/x.h5").stat().st_size
    assert done["arrays"]["train_encod_data"] == [12, 8, 5]


def test_samples_that_are_nan_are_said_and_the_file_declares_them_missing(tmp_path):
    arrays = small_arrays()
    arrays["train_behavior"][3] = np.nan
    ((path, found),) = imported([write(tmp_path / "x.h5", arrays, bin_ms=10.0)], tmp_path / "out")
    assert found.notes == ("train_behavior: 16 of 192 samples are NaN, and taken as missing",)
    assert np.isnan(open_recording(path).arrays["behavior"]).sum() == 16


BROKEN = {
    "NaN for a condition": ("train_cond", lambda x: np.where(x > 1, np.nan, x), "train_cond must hold finite values"),
    "negative counts": ("train_encod_data", lambda x: -x - 1, "cannot be imported"),
    "fractions": ("valid_recon_data", lambda x: x + 0.5, "valid_recon_data must hold non-negative whole counts"),
    "trials that differ": ("train_behavior", lambda x: x[:-1], "train_behavior must have the 12 trials"),
    "no counts to explain": ("valid_recon_data", lambda x: None, "valid_recon_data is missing"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_a_file_that_breaks_a_rule_is_named_with_key_rule_and_remedy_and_nothing_is_written(tmp_path, case, capsys):
    key, change, words = BROKEN[case]
    arrays = small_arrays()
    arrays[key] = change(arrays[key])
    if "recon" not in key and "encod" in key:
        arrays["train_recon_data"] = arrays[key]
    source = write(tmp_path / "x.h5", {name: values for name, values in arrays.items() if values is not None})
    assert main(["import", str(source), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert words in said and str(source) in said and "Traceback" not in said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.95])
def test_a_truncated_file_is_refused_and_nothing_is_written(tmp_path, keep, capsys):
    content = write(tmp_path / "whole.h5", small_arrays()).read_bytes()
    (tmp_path / "x.h5").write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    for format_ in ("auto", "lfads"):
        command = ["import", str(tmp_path / "x.h5"), "--out", str(tmp_path / "out"), "--format", format_]
        assert main(command) == 1
        assert "x.h5" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_or_of_no_known_format_is_said(tmp_path, capsys):
    write(tmp_path / "x.h5", {"spikes": np.ones((3, 4))})
    write(tmp_path / "y.h5", small_arrays())
    write(tmp_path / "z.h5", small_arrays(seed=1))
    out = ["--out", str(tmp_path / "out.h5")]
    for arguments, words in (
        ([str(tmp_path / "none*.h5")], "no such file; check the path, and quote a pattern"),
        ([str(tmp_path)], "must be a file, found a folder"),
        ([str(tmp_path / "x.h5")], "its format cannot be told"),
        ([str(tmp_path / "x.h5"), "--format", "lfads"], "must hold train_encod_data as lfads-torch's files do"),
        ([str(tmp_path / "y.h5"), str(tmp_path / "z.h5")], "one file cannot hold 2 recordings"),
        ([str(tmp_path / "y.h5"), "--format", "excel"], "--format must be one of auto, lfads, nwb"),
        ([str(tmp_path / "y.h5"), "--axes", "a,b"], "--axes must be trial, bin, channel"),
        ([str(tmp_path / "y.h5"), "--array", "encod_data"], "--array must be KEY=NAME"),
        ([str(tmp_path / "y.h5"), "--bin-ms", "-5"], "--bin-ms must be above 0"),
        ([str(tmp_path / "y.h5"), "--bin-ms", "inf"], "--bin-ms must be above 0"),
        ([str(tmp_path / "y.h5"), "--lag-ms", "nan"], "--lag-ms must be a number of ms"),
        ([str(tmp_path / "y.h5"), "--window", "0", "inf"], "--window must be a whole number of bins"),
        ([str(tmp_path / "y.h5"), "--likelihood", "binomial"], "--likelihood must be none or one of poisson"),
    ):
        assert main(["import", *arguments, *out]) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out.h5").exists()
