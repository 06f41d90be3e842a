"""The command band-data, as a user types it, and what an inspection tells."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from recording_files import continuous_arrays, real, small_arrays, write

from band.cli.data import main
from band.data.inspect import inspect
from band.data.overlap import overlapping_windows, same_trials


def test_an_inspection_counts_what_a_naive_count_gives(tmp_path):
    arrays = small_arrays(counts=(12, 6), neurons=6)
    for split in ("train", "valid"):
        arrays[f"{split}_encod_data"][..., 2] = 0
        arrays[f"{split}_encod_data"][..., 5] = arrays[f"{split}_encod_data"][..., 1]
    arrays["train_encod_data"][..., 3] = 0
    found = inspect(write(tmp_path / "x.h5", arrays, bin_ms=20.0))
    pooled = np.concatenate([arrays["train_recon_data"], arrays["valid_recon_data"]])
    channels = found["channels"]
    assert np.allclose(channels["mean_rates"], pooled.sum(axis=(0, 1)) / (18 * 8 * 0.020), atol=1e-5)
    assert (channels["silent"], channels["silent_in_train"], channels["duplicates"]) == ([2], [3], [[1, 5]])
    behavior = np.concatenate([arrays["train_behavior"], arrays["valid_behavior"]])[..., 1]
    assert found["behavior"][1] == {
        "min": pytest.approx(behavior.min(), abs=1e-5),
        "max": pytest.approx(behavior.max(), abs=1e-5),
        "mean": pytest.approx(behavior.mean(), abs=1e-5),
        "std": pytest.approx(behavior.std(), abs=1e-5),
        "nan": 0,
    }
    assert found["conditions"] == {str(label): {"train": 4, "valid": 2} for label in range(3)}


def test_bad_values_are_reported_and_not_a_reason_to_stop(tmp_path, capsys):
    arrays = small_arrays()
    arrays["train_behavior"][2, 3, 1] = np.nan
    arrays["valid_recon_data"][0, 0, 0] = -3
    path = write(tmp_path / "x.h5", arrays)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "1 NaN" in shown and "problem" in shown and "valid_encod_data trial 0, bin 0, channel 0" in shown
    assert main(["check", str(path)]) == 1
    assert "must hold" in capsys.readouterr().err


def test_windows_that_overlap_are_found_by_pair_and_length():
    random = np.random.default_rng(0)
    stream = random.poisson(2.0, (60, 10)).astype(np.float32)
    starts = [0, 10, 17, 30, 34]
    counts = np.stack([stream[start : start + 10] for start in starts])
    pairs = [(i, j, 10 - (b - a)) for i, a in enumerate(starts) for j, b in enumerate(starts) if 0 < b - a < 10]
    assert sorted(overlapping_windows({"encod_data": counts})) == sorted(pairs) == [(1, 2, 3), (3, 4, 6)]
    copied = np.concatenate([counts, counts[1:2]])
    assert same_trials({"encod_data": copied}) == [(1, 5)]


def test_silent_stretches_are_no_overlap():
    assert overlapping_windows({"encod_data": np.zeros((6, 8, 4), np.float32)}) == []
    assert same_trials({"encod_data": np.zeros((6, 8, 4), np.float32)}) == []


def test_an_overlap_across_splits_is_said(tmp_path):
    stream = np.random.default_rng(0).poisson(2.0, (100, 6)).astype(np.float32)
    windows = np.stack([stream[5 * i : 5 * i + 10] for i in range(18)])
    arrays = {f"{s}_{k}": windows[o::2] for s, o in (("train", 0), ("valid", 1)) for k in ("encod_data", "recon_data")}
    found = inspect(write(tmp_path / "x.h5", arrays))["neighbours"]
    assert found["overlaps_across_splits"] == 17 and "by up to 5 bins" in found["text"]


def test_chops_that_run_on_into_the_other_split_are_said(tmp_path):
    arrays, _ = continuous_arrays(blocks=[("train", 20), ("valid", 6)] * 4)
    found = inspect(write(tmp_path / "x.h5", arrays))["neighbours"]
    assert found["is_continuous"] and found["adjoining_places"] == 7


def test_an_inspection_fits_one_screen_in_a_pipe(capsys):
    for name in ("mc_maze_large_9cond-10ms.h5", "m1_stevenson-50ms-T28.h5"):
        assert main(["inspect", str(real(name)), "--bin-ms", "10"]) == 0
        shown = capsys.readouterr().out
        assert len(shown.splitlines()) <= 24 and "\x1b" not in shown and "Hz" in shown


def test_a_terminal_gets_colours_and_the_same_words(tmp_path):
    path = write(tmp_path / "x.h5", small_arrays())
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "band.cli.data", "inspect", str(path)]
    done = subprocess.run(command, stdout=terminal, env=environment, check=True)
    os.close(terminal)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    assert done.returncode == 0 and "\x1b[" in shown and "train 12, valid 6" in shown


def test_names_in_a_file_cannot_command_the_terminal(tmp_path, capsys):
    path = write(tmp_path / "x.h5", small_arrays())
    with h5py.File(path, "a") as file:
        file["\x1b[2Jgone"] = np.ones(3)
    main(["inspect", str(path)])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "gone" in shown


def test_json_is_one_object_and_holds_the_facts(tmp_path, capsys):
    path = write(tmp_path / "x.h5", small_arrays())
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == {"train": 12, "valid": 6}
    assert main(["check", str(path), str(tmp_path / "none.h5"), "--json", "--folds", "3"]) == 1
    good, bad = json.loads(capsys.readouterr().out)["recordings"]
    assert good["ok"] and "fold" in good["split"] and not bad["ok"] and "no such file" in bad["problem"]


def test_a_simulated_file_is_sound_deterministic_and_never_overwritten(tmp_path, capsys):
    sizes = ["--trials", "8", "3", "3", "--neurons", "12"]
    one, two = tmp_path / "one.h5", tmp_path / "new" / "two.h5"
    assert main(["simulate", "reach", str(one), *sizes]) == 0 and "ceiling" in capsys.readouterr().out
    assert main(["simulate", "reach", str(two), *sizes]) == 0
    assert one.read_bytes() == two.read_bytes()
    assert main(["check", str(one), "--folds", "5"]) == 0
    capsys.readouterr()
    assert main(["simulate", "reach", str(one), *sizes, "--seed", "1"]) == 1
    assert "is there already" in capsys.readouterr().err and one.read_bytes() == two.read_bytes()
    assert main(["simulate", "reach", str(one), *sizes, "--seed", "1", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_shapes"]["encod_data"] == [64, 50, 12]
    assert one.read_bytes() != two.read_bytes() and sorted(p.name for p in tmp_path.iterdir()) == ["new", "one.h5"]


def test_a_lorenz_file_carries_its_truth(tmp_path):
    path = tmp_path / "lorenz.h5"
    assert main(["simulate", "lorenz", str(path), "--conditions", "5"]) == 0
    with h5py.File(path) as file:
        assert file["train_truth"].shape == file["train_recon_data"].shape == (70, 50, 30)
        assert file.attrs["bin_ms"] == 20.0 and json.loads(file.attrs["task"])["num_conditions"] == 5


def test_wrong_usage_ends_without_a_traceback(tmp_path, capsys):
    for arguments in (["inspect"], ["simulate", "mars", "x.h5"], []):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert main(["simulate", "lorenz", str(tmp_path / "x.h5"), "--small"]) == 1
    assert main(["check", str(tmp_path / "x.h5"), "--folds", "2"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_help_comes_quickly_with_examples_and_without_numpy():
    program = (
        "import sys; from band.cli.data import main\ntry: main(['--help'])\nfinally: print('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert "band-data inspect recording.h5" in done.stdout and done.stdout.rstrip().endswith("False")
