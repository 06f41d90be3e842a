"""A model as TorchScript: equal to the trained one, whole trials and bin by bin, without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from tiny import config, joint, trained, with_arch, write_recording, write_sessions

from band.cli.train import main
from band.train.script import export

BOUND = 2e-6
KINDS = {
    "causal controller": {},
    "both directions, late": {"causal_con": False, "ci_lag": 2},
    "no controller": {"co_dim": 0},
    "decoder of a bin": {"behavior_decoder": "bin", "behavior_likelihood": "gaussian"},
    "segment, causal lags": {"ic_enc_seq_len": 3, "behavior_decoder": "causal_lag", "behavior_lags": 2},
    "segment, no controller": {"ic_enc_seq_len": 3, "co_dim": 0, "behavior_decoder": "bin", "ci_lag": 0},
    "squared error, clipped": {"reconstruction": "mse", "cell_clip": 0.3},
    "gaussian": {"reconstruction": "gaussian"},
    "zero-inflated gamma": {"reconstruction": "zero_inflated_gamma"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_model_equals_the_trained_one(tmp_path, kind):
    data = write_recording(tmp_path / "x.h5")
    run = with_arch(config(behavior_weight=1.0, train={"max_epochs": 2, "posterior_samples": 1}), **KINDS[kind])
    exported = export(trained(tmp_path, data, run))
    assert exported.streams == kind.startswith("segment")
    names = {"rates", "factors", "behavior", *(["inputs"] if run.arch.co_dim else [])}
    names |= {"stream_rates", "stream_factors", "stream_behavior"} if exported.streams else set()
    assert set(exported.differences) == names
    assert max(exported.differences.values()) < BOUND, exported.differences


def test_external_inputs_and_forecast_bins_are_exported_too(tmp_path):
    data = write_recording(tmp_path / "x.h5")
    with h5py.File(data, "r+") as file:
        for split in ("train", "valid"):
            count = len(file[f"{split}_behavior"])
            file[f"{split}_ext_input"] = np.random.default_rng(0).normal(size=(count, 12, 3)).astype(np.float32)
    run = config(behavior_weight=1.0, train={"max_epochs": 2, "posterior_samples": 1})
    run = type(run)(**{**vars(run), "data": type(run.data)(forward_bins=4)})
    assert max(export(trained(tmp_path, data, run)).differences.values()) < BOUND


def test_of_several_sessions_one_is_exported(tmp_path, capsys):
    data = write_sessions(tmp_path / "two.h5")
    folder = trained(tmp_path / "work", data, joint(behavior_weight=1.0, train={"max_epochs": 2}))
    for day, neurons in (("day0", 9), ("day1", 6)):
        exported = export(folder, session=day)
        assert max(exported.differences.values()) < BOUND
        assert exported.module(torch.zeros(1, 12, neurons), torch.zeros(1, 12, 0))[0].shape == (1, 12, neurons)
    assert main(["export", str(folder), "--out", str(tmp_path / "x.ts")]) == 1
    assert "--session must be one of day0, day1" in capsys.readouterr().err


def test_what_is_written_runs_with_torch_alone(tmp_path, capsys):
    data = write_recording(tmp_path / "x.h5")
    run = with_arch(config(train={"max_epochs": 2}), ic_enc_seq_len=3)
    folder, out = trained(tmp_path, data, run), tmp_path / "model.ts"
    capsys.readouterr()
    assert main(["export", str(folder), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["streams"] is True
    script = (
        "import sys, torch; sys.modules['band'] = None\n"
        "m = torch.jit.load(sys.argv[1]); c = torch.ones(2, 12, 9); e = torch.zeros(2, 12, 0)\n"
        "whole = m(c, e)[1]; r, f, b, s = m.begin(c[:, :3], e[:, :3])\n"
        "for t in range(3, 12): r, f, b, s = m.step(c[:, t], e[:, t], s)\n"
        "print(float((f - whole[:, -1]).abs().max()))"
    )
    made = subprocess.run([sys.executable, "-c", script, str(out)], capture_output=True, text=True, check=True)
    assert float(made.stdout) < 1e-5
    assert main(["export", str(folder), "--out", str(out)]) == 1 and "is there already" in capsys.readouterr().err


def test_options_of_a_users_own_are_refused(tmp_path):
    from band.config import Arch
    from band.errors import ConfigError
    from band.model.params import Widths
    from band.train.plain import PlainModel

    widths = Widths(num_bins=2, num_recon_bins=2, num_neurons=(1,), num_recon_neurons=(1,))
    with pytest.raises(ConfigError, match=r"arch\.reconstruction=mine:Kind is an option of your own"):
        PlainModel({}, arch=Arch(reconstruction="mine:Kind"), widths=widths)
    assert isinstance(tmp_path, Path)
