"""band-train import and export: a lab's checkpoint becomes a run that is scored and goes on, or an error that helps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from foreign import save, write_config
from tiny import ARCH, write_recording

from band.cli.sweep import main as sweep
from band.cli.train import main
from band.config import run_config_from_dict
from band.model.interchange import to_lfads_torch, untrained
from band.model.params import Widths, initial_params
from band.run_dir import verify

TARGET = "lfads_torch.modules"
SIZES = ("ic_enc_dim", "ci_enc_dim", "ci_lag", "causal_con", "con_dim", "co_dim", "ic_dim", "gen_dim", "fac_dim")


def config(**more: Any) -> dict[str, Any]:
    """Return the configuration of a small BAND, as BAND-torch has it."""
    linear = {"_target_": f"{TARGET}.readin_readout.FanInLinear", "in_features": "${model.fac_dim}"}
    dropout = {"_target_": f"{TARGET}.augmentations.CoordinatedDropout", "cd_rate": 0.3, "cd_pass_rate": 0.0}
    model = {
        "_target_": "lfads_torch.band_model.BAND", **{name: getattr(ARCH, name) for name in SIZES},
        "encod_data_dim": 9, "encod_seq_len": 12, "recon_seq_len": "${model.encod_seq_len}", "ext_input_dim": 0,
        "ic_enc_seq_len": 0, "readin": [{"_target_": "torch.nn.Identity"}],
        "readout": {"_target_": "torch.nn.ModuleList", "modules": [linear]},
        "behavior_readout": {"_target_": f"{TARGET}.readin_readout.FanInSeq2Seq", "out_features": 2},
        "reconstruction": [{"_target_": f"{TARGET}.recons.Poisson"}],
        "behavior_reconstruction": [{"_target_": f"{TARGET}.recons.MSE"}],
        "ic_prior": {"_target_": f"{TARGET}.priors.MultivariateNormal", "mean": 0, "variance": 0.1},
        "co_prior": {"_target_": f"{TARGET}.priors.MultivariateNormal", "mean": 0, "variance": 0.1},
        "train_aug_stack": {"transforms": [dropout], "batch_order": [0], "loss_order": [0]},
        "variational": True, "dropout_rate": 0.02, "behavior_weight": 0.1, "lr_init": 4e-3, "lr_scheduler": True,
        "kl_increase_epoch": 2, "kl_co_scale": 12.0, "cell_clip": 5.0, "loss_scale": 1.0, "recon_reduce_mean": False,
    }  # fmt: skip
    return {
        "model": {**model, **more},
        "datamodule": {"_target_": "lfads_torch.band_datamodules.BasicDataModule", "batch_size": 8},
        "trainer": {"_target_": "pytorch_lightning.Trainer", "max_epochs": 5, "gradient_clip_val": 200},
        "posterior_sampling": {"fn": {"num_samples": 3}},
    }


def trained_state(behavior_dim: int = 2) -> dict[str, torch.Tensor]:
    """Return the state dict of a small model."""
    widths = Widths(num_bins=12, num_recon_bins=12, num_neurons=(9,), num_recon_neurons=(9,), behavior_dim=behavior_dim)
    state = to_lfads_torch(initial_params(ARCH, widths, [3], dtype=torch.float32), 0)
    return {**state, **untrained(state, ARCH)}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a lab has: recording, configuration, checkpoint."""
    monkeypatch.setenv("BAND_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)
    write_recording(tmp_path / "reach.h5")
    write_config(tmp_path / "single.yaml", config())
    save(tmp_path / "last.ckpt", trained_state(), {"dropout_rate": 0.07, "lr_init": 4e-3, "cd_rate": 0.4})
    return tmp_path


IMPORT = ["import", "last.ckpt", "--config", "single.yaml", "--data", "reach.h5", "--into", "imported"]


def test_a_checkpoint_becomes_a_run_with_scores_that_goes_on_training(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*IMPORT, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["epochs"], facts["steps"], facts["has_moments"], facts["goes_on"]) == (2, 6, True, True)
    assert {"foreign.AugmentationStack", "foreign.MadeUpPrior"} <= set(facts["left_out"])
    assert any("ships no test trials" in note for note in facts["notes"])
    result = verify(lab / "imported" / "run")
    own = run_config_from_dict(result["config"])
    assert own.hyper.dropout_rate == 0.07 and own.hyper.cd_rate == 0.4  # as the checkpoint has it
    assert own.train.kl_co_reduce == "mean" and own.arch.reconstruction == "poisson_stirling"
    assert np.isfinite(result["scores"]["valid"]["bits_per_spike"]) and result["training"]["parameters"] == "imported"
    with h5py.File(lab / "imported" / "run" / "outputs.h5") as outputs:
        assert outputs["valid_factors"].shape[1:] == (12, ARCH.fac_dim)
    assert not list(lab.glob(".imported*"))

    assert main([str(lab / "imported" / "imported.yaml")]) == 0
    said = capsys.readouterr()
    assert "continues from its checkpoint at step 6" in said.err
    (run,) = (lab / "imported" / "sweeps" / "imported.train" / "runs").glob("[!.]*")
    lines = (run / "metrics.csv").read_text().splitlines()
    epochs = [line.split(",")[0] for line in lines[1:]]
    assert epochs == ["2", "3", "4"]
    assert main([str(lab / "imported" / "imported.yaml")]) == 0
    assert "is trained already" in capsys.readouterr().err


def test_a_run_that_is_exported_and_imported_again_is_unchanged(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(IMPORT) == 0
    assert main(["export", "imported/run", "--out", "out.ckpt", "--json"]) == 0
    assert main(["import", "out.ckpt", "--config", "single.yaml", "--into", "again"]) == 0
    first, again = (
        torch.load(lab / folder / "run" / "model.pt", weights_only=True)["params"] for folder in ("imported", "again")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    before = trained_state()
    after = torch.load("out.ckpt", weights_only=True)["state_dict"]
    assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert main(["export", "imported/run", "--out", "out.ckpt"]) == 1
    assert "--force" in capsys.readouterr().err


def test_a_checkpoint_alone_becomes_a_run_without_scores(lab: Path) -> None:
    assert main(["import", "last.ckpt", "--config", "single.yaml"]) == 0
    result = verify(lab / "last" / "run")
    assert result["scores"] == {} and result["dataset"] == {"path": "", "digest": ""}
    assert not (lab / "last" / "sweeps").exists()


def test_lfads_without_a_decoder_of_behaviour_is_taken_over_beside_behaviour(lab: Path) -> None:
    write_config(lab / "lfads.yaml", config(behavior_weight=0.0))
    save(lab / "lfads.ckpt", trained_state(behavior_dim=0), {})
    assert main(["import", "lfads.ckpt", "--config", "lfads.yaml", "--data", "reach.h5"]) == 0
    assert verify(lab / "lfads" / "run")["config"]["hyper"]["behavior_weight"] == 0


def test_a_model_of_two_sessions_is_scored_on_a_recording_of_both(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(lab / "both.h5", "w") as both:
        both.attrs["bin_ms"] = 20.0
        for name, neurons in (("day1", 9), ("day2", 7)):
            with h5py.File(write_recording(lab / f"{name}.h5", neurons=neurons)) as one:
                for key in one:
                    both[f"{name}/{key}"] = one[key][()]
    arch = replace(ARCH, readin_dim=5, readin="fixed")
    widths = Widths(num_bins=12, num_recon_bins=12, num_neurons=(9, 7), num_recon_neurons=(9, 7), behavior_dim=2)
    state = to_lfads_torch(initial_params(arch, widths, [3], dtype=torch.float32), 0)
    save(lab / "both.ckpt", {**state, **untrained(state, arch)}, {})
    multi = f"{TARGET}.readin_readout.Multisession"
    poisson = {"_target_": f"{TARGET}.recons.Poisson"}
    write_config(lab / "both.yaml", config(
        encod_data_dim=5, readin={"_target_": f"{multi}Readin"}, readout={"_target_": f"{multi}Readout"},
        reconstruction={"_target_": f"{TARGET}.recons.MultisessionReconstruction", "recon": poisson},
    ))  # fmt: skip
    assert main(["import", "both.ckpt", "--config", "both.yaml", "--data", "both.h5"]) == 0
    result = verify(lab / "both" / "run")
    assert result["config"]["arch"]["readin"] == "fixed" and result["config"]["arch"]["readin_dim"] == 5
    assert np.isfinite(result["scores"]["valid"]["bits_per_spike"])
    assert main(["both/both.yaml"]) == 0
    assert "continues from its checkpoint at step 6" in capsys.readouterr().err


def test_a_dry_run_reads_everything_and_writes_nothing(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(lab.rglob("*"))
    assert main([*IMPORT, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "model.lr_init: kept as hyper.lr = 0.004" in said and "nothing is written" in said
    assert sorted(lab.rglob("*")) == before


def test_what_was_trained_to_its_end_goes_on_with_more_epochs(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*IMPORT, "--set", "train.max_epochs=2"]) == 0
    assert "import it again with --set max_epochs" in capsys.readouterr().out
    assert main([*IMPORT[:-1], "more", "--set", "max_epochs=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["goes_on"]


class Attack:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, ("touch it_ran",)


def broken(lab: Path, what: str) -> None:
    """Spoil one of the lab's files."""
    state = trained_state()
    if what == "code":
        torch.save({"state_dict": state, "hyper_parameters": {"stack": Attack()}}, lab / "last.ckpt")
    elif what == "missing":
        state.pop("encoder.ic_linear.bias")
    elif what == "more":
        state["attention.weight"] = torch.ones(3)
    elif what == "nan":
        state["encoder.ic_linear.bias"][0] = torch.nan
    elif what == "variances":
        state["ic_prior.logvar"][0] = 1.0
    elif what == "cut":
        (lab / "last.ckpt").write_bytes((lab / "last.ckpt").read_bytes()[:-400])
    elif what == "recording":
        write_recording(lab / "reach.h5", neurons=10)
    elif what == "prior":
        write_config(lab / "single.yaml", config(ic_prior={"_target_": "my.priors.Flow"}))
    elif what == "size":
        write_config(lab / "single.yaml", config(gen_dim=13))
    elif what == "type":
        write_config(lab / "single.yaml", config(lr_init="fast"))
    elif what == "yaml":
        (lab / "single.yaml").write_text("model: {gen_dim: [")
    elif what == "datamodule":
        write_config(lab / "single.yaml", {"batch_keys": [], "batch_size": 3})
    if what in ("missing", "more", "nan", "variances"):
        torch.save({"state_dict": state}, lab / "last.ckpt")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("code", ["last.ckpt", "posix.system", "pickled code is not run"]),
        ("missing", ["last.ckpt", "encoder.ic_linear.bias", "configuration"]),
        ("more", ["last.ckpt", "attention.weight"]),
        ("nan", ["last.ckpt", "encoder.ic_linear.bias", "finite"]),
        ("variances", ["last.ckpt", "ic_prior.logvar"]),
        ("cut", ["last.ckpt", "must be a checkpoint"]),
        ("recording", ["reach.h5", "num_neurons", "(9,)", "(10,)"]),
        ("prior", ["single.yaml", "model.ic_prior", "Flow", "MultivariateNormal"]),
        ("size", ["last.ckpt", "configuration"]),
        ("type", ["single.yaml", "model.lr_init", "hyper.lr", "'fast'"]),
        ("yaml", ["single.yaml", "not YAML"]),
        ("datamodule", ["single.yaml", "encod_seq_len"]),
    ],
)
def test_what_cannot_be_imported_is_named_and_nothing_is_written(
    what: str, words: list[str], lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(lab, what)
    before = sorted(lab.rglob("*"))
    assert main(IMPORT) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said and sorted(lab.rglob("*")) == before


def test_the_status_of_an_imported_sweep_can_be_shown(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(IMPORT) == 0
    capsys.readouterr()
    assert sweep(["status", str(lab / "imported" / "sweeps" / "imported.train")]) == 4  # there is more to be done
    assert "new" in capsys.readouterr().out
    assert sweep(["generate", str(lab / "imported" / "imported.yaml"), "--dry-run"]) == 0
