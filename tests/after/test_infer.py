"""A trained model on a recording it has not seen: its own outputs, other splits, and where it does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from tiny import write_recording

import band
from band.cli.train import main
from band.train.run_model import new_trials, open_model


def by_trial(path: Path, name: str) -> dict[int, np.ndarray]:
    """Return one array of an outputs file by the index of its trial."""
    with h5py.File(path) as file:
        splits = [split for split in ("train", "valid", "test") if f"{split}_inds" in file]
        return {
            int(trial): row
            for split in splits
            for trial, row in zip(file[f"{split}_inds"][()], file[f"{split}_{name}"][()], strict=True)
        }


def test_its_own_recording_gives_its_own_outputs_in_the_splits_of_the_file(
    finished: Path, recording: Path, tmp_path: Path
) -> None:
    into = tmp_path / "outputs.h5"
    assert main(["infer", str(finished), str(recording), "--into", str(into)]) == 0
    with h5py.File(into) as file:
        assert {name.split("_")[0] for name in file} == {"train", "valid"} and file.attrs["bin_ms"] == 20.0
        assert len(file["train_inds"]) == 90 and len(file["valid_inds"]) == 30
    # Nothing is drawn for these two, so other splits cannot change them.
    for name in ("ic_mean", "ic_std"):
        ours, theirs = by_trial(into, name), by_trial(finished / "outputs.h5", name)
        assert set(ours) == set(theirs) == set(range(120))
        np.testing.assert_allclose([ours[k] for k in ours], [theirs[k] for k in ours], atol=1e-5)
    for name in ("factors", "output_params"):
        ours, theirs = by_trial(into, name), by_trial(finished / "outputs.h5", name)
        both = np.array([(ours[k], theirs[k]) for k in ours])
        assert np.corrcoef(both[:, 0].ravel(), both[:, 1].ravel())[0, 1] > 0.85  # four other draws


def test_behaviour_may_be_missing_and_is_decoded_all_the_same(finished: Path, tmp_path: Path) -> None:
    day2 = write_recording(tmp_path / "day2.h5", trials=24)
    with h5py.File(day2, "a") as file:
        for split in ("train", "valid"):
            del file[f"{split}_behavior"], file[f"{split}_cond"]
    assert main(["infer", str(finished), str(day2), "--into", str(tmp_path / "o.h5"), "--samples", "2"]) == 0
    with h5py.File(tmp_path / "o.h5") as file:
        assert file["train_output_behavior_params"].shape == (18, 12, 2) and "train_behavior" not in file
        assert file["train_factors_spread"].shape == file["train_factors"].shape


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"neurons": 8}, "must have 9 neurons that the encoders see, found 8"),
        ({"bins": 15}, "must have 12 time bins"),
    ],
)
@pytest.mark.parametrize("is_old", [False, True], ids=["model says its sizes", "model of before"])
def test_a_recording_that_does_not_fit_is_refused_and_nothing_written(
    finished: Path, tmp_path: Path, sizes: dict[str, int], words: str, is_old: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_recording(tmp_path / "other.h5", trials=24, **sizes)
    run = finished if not is_old else without_widths(finished, tmp_path / "old")
    into = tmp_path / "o" / "outputs.h5"
    assert main(["infer", str(run), str(other), "--into", str(into)]) == 1
    said = capsys.readouterr().err
    assert (words in said or is_old) and "does not fit the model" in said and "Traceback" not in said
    assert not into.parent.exists()


def without_widths(run: Path, folder: Path) -> Path:
    """Return a copy of a run whose model does not say which sizes it takes, as those of before."""
    from band.run_dir import read_result, seal

    shutil.copytree(run, folder)
    content = torch.load(folder / "model.pt", weights_only=True)
    content["meta"] = json.dumps({key: value for key, value in json.loads(content["meta"]).items() if key != "widths"})
    torch.save(content, folder / "model.pt")
    seal(folder, result=read_result(folder))
    return folder


def test_a_model_of_before_tells_its_behaviour_from_its_weights(
    finished: Path, recording: Path, tmp_path: Path
) -> None:
    model = open_model(without_widths(finished, tmp_path / "old"))
    assert model.widths is None and new_trials(model, recording).widths.behavior_dim == 2


def test_files_that_are_there_stay_as_they_are(
    finished: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "o.h5").write_text("mine")
    command = ["infer", str(finished), str(recording), "--into", str(tmp_path / "o.h5")]
    assert main(command) == 1 and "--force" in capsys.readouterr().err
    assert (tmp_path / "o.h5").read_text() == "mine"
    assert main([*command[:-1], str(tmp_path / "new.h5"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] is False and not (tmp_path / "new.h5").exists()


def test_two_sessions_come_as_groups_or_as_a_file_each(of_two_sessions: Path, tmp_path: Path) -> None:
    data = str(of_two_sessions.parent / "two.h5")
    assert main(["infer", str(of_two_sessions), data, "--into", str(tmp_path / "o.h5")]) == 0
    assert main(["infer", str(of_two_sessions), data, "--into", str(tmp_path / "each"), "--level", "full"]) == 0
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == ["outputs_day1.h5", "outputs_day2.h5"]
    with h5py.File(tmp_path / "o.h5") as both, h5py.File(tmp_path / "each" / "outputs_day2.h5") as one:
        assert np.array_equal(both["day2/valid_output_params"], one["valid_output_params"])
        assert one["valid_output_params"].shape == (12, 12, 7)
    run = band.load_run(of_two_sessions)
    assert set(run.sessions) == {"day1", "day2"} and run.sessions["day2"].rates["test"].shape[2] == 7
    with pytest.raises(AttributeError, match="several sessions"):
        _ = run.factors


def test_the_file_has_every_array_of_lfads_torch_in_its_shape(finished: Path, recording: Path, tmp_path: Path) -> None:
    """What the notebooks of lfads-torch read: the recording's arrays, the trials' indices, and ten posterior means."""
    into = tmp_path / "o.h5"
    assert main(["infer", str(finished), str(recording), "--into", str(into), "--level", "full"]) == 0
    arch = open_model(finished).config.arch
    shapes = {
        "output_params": (12, 9), "factors": (12, arch.fac_dim), "ic_mean": (arch.ic_dim,), "ic_std": (arch.ic_dim,),
        "co_means": (12, arch.co_dim), "co_stds": (12, arch.co_dim), "gen_states": (12, arch.gen_dim),
        "gen_init": (arch.gen_dim,), "gen_inputs": (12, arch.co_dim), "con_states": (12, arch.con_dim),
        "encod_data": (12, 9), "recon_data": (12, 9), "behavior": (12, 2),
    }  # fmt: skip
    with h5py.File(into) as file, h5py.File(recording) as source:
        for split, trials in (("train", 90), ("valid", 30)):
            for name, shape in shapes.items():
                array = file[f"{split}_{name}"]
                assert (array.shape, array.dtype) == ((trials, *shape), np.float32), name
            assert np.array_equal(file[f"{split}_encod_data"], source[f"{split}_encod_data"])
        # As their notebooks put both splits together again.
        merged = np.full((120, 12, 9), np.nan)
        for split in ("train", "valid"):
            merged[file[f"{split}_inds"]] = file[f"{split}_encod_data"]
        pooled = np.concatenate([source["train_encod_data"], source["valid_encod_data"]])
        assert np.array_equal(merged, pooled)
