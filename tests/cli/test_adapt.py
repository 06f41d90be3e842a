"""A session added to a trained model, and whether a model is as causal as it claims, by the commands a user types."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
import torch
import yaml
from tiny import config, trained, with_arch, write_recording

from band.cli.train import main
from band.run_dir import read_result
from band.train.causality import check_run


@pytest.fixture(scope="module")
def band(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    data = write_recording(folder / "old.h5")
    return trained(folder, data, config(behavior_weight=1.0, train={"max_epochs": 20}))


def test_a_session_is_added_by_one_command_and_the_core_stays(band, tmp_path, capsys):
    new = write_recording(tmp_path / "new.h5", neurons=6, seed=4)
    command = ["adapt", str(band), str(new), "train.max_epochs=4", "--into", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    said = capsys.readouterr()
    assert "principal-component regression" in said.err
    folder = Path(json.loads(said.out)["folder"])
    old, end = (torch.load(f / "model.pt", weights_only=True)["params"] for f in (band, folder))
    assert all(torch.equal(old[name], end[name]) for name in old if not name.startswith("readout"))
    assert end["readin.weight"].shape == (9, 6) and end["readout.weight"].shape[0] == 6
    assert read_result(folder)["scores"]["test"]["behavior_r2/own/mean"] is not None
    assert main(command) == 0 and "trained already" in capsys.readouterr().err


def test_a_session_without_behaviour_or_conditions_is_told_and_trained(band, tmp_path, capsys):
    new = write_recording(tmp_path / "new.h5", neurons=6, seed=4)
    with h5py.File(new, "r+") as file:
        for name in list(file):
            if name.endswith(("_behavior", "_cond")):
                del file[name]
    assert main(["adapt", str(band), str(new), "--into", str(tmp_path), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "no behaviour" in said.err and "starts at random" in said.err
    base = yaml.safe_load(said.out)["base"]
    assert base["hyper"]["behavior_weight"] == 0 and base["arch"]["readin"] == "trained"
    assert not (tmp_path / "adapt_new.yaml").exists()


def test_only_a_trained_run_can_be_adapted(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert main(["adapt", str(tmp_path / "none"), "data.h5"]) == 1
    assert "must be the folder of a trained run" in capsys.readouterr().err


CAUSAL = {"ic_enc_seq_len": 3, "behavior_decoder": "causal_lag", "behavior_lags": 2}


def test_what_claims_to_be_causal_does_not_move(tmp_path, capsys):
    data = write_recording(tmp_path / "x.h5")
    run = with_arch(config(behavior_weight=1.0, train={"max_epochs": 3}), **CAUSAL)
    folder = trained(tmp_path, data, run)
    capsys.readouterr()
    assert main(["check-causal", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["outputs"]
    assert {one["name"] for one in found} == {"factors", "output_params", "output_behavior_params"}
    assert all(one["claims"] and one["worst"] == 0 for one in found)


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"ic_enc_seq_len": 0}, {"factors", "output_params", "output_behavior_params"}),
        ({"causal_con": False}, {"factors", "output_params", "output_behavior_params"}),
        ({"behavior_decoder": "trial"}, {"output_behavior_params"}),
    ],
)
def test_what_does_not_claim_it_moves_and_says_why(tmp_path, changes, broken):
    data = write_recording(tmp_path / "x.h5")
    run = with_arch(config(behavior_weight=1.0, train={"max_epochs": 3}), **{**CAUSAL, **changes})
    found = {one.name: one for one in check_run(trained(tmp_path, data, run))}
    assert {name for name, one in found.items() if one.worst > 0} == broken
    assert {name for name, one in found.items() if not one.claims} == broken


def test_a_leak_of_the_future_is_found(tmp_path, capsys, monkeypatch):
    from band.train import causality

    data = write_recording(tmp_path / "x.h5")
    folder = trained(tmp_path, data, with_arch(config(train={"max_epochs": 3}), **{**CAUSAL, "causal_con": False}))
    monkeypatch.setattr(causality, "claims_of", lambda arch: dict.fromkeys(("factors", "output_params"), ""))
    assert main(["check-causal", str(folder)]) == 1
    assert "BROKEN" in capsys.readouterr().out
