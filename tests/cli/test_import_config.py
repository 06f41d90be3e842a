"""band-sweep import: each key of a foreign configuration is kept, read from the recording, dropped or unsupported."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import write_recording

from band.bridge.convert import KNOWN, convert, run_config, values_of
from band.bridge.hydra import read_config
from band.bridge.keys import SAME
from band.bridge.pbt import read_pbt
from band.bridge.sweep_file import sweep_text
from band.cli.sweep import main
from band.config import run_config_from_dict
from band.errors import BandError, ForeignError
from band.sweep.fields import FIELDS
from band.sweep.manifest import read_manifest
from band.yaml_file import plain, read_yaml

MODEL = """\
_target_: lfads_torch.band_model.BAND
encod_data_dim: 9
encod_seq_len: 12
recon_seq_len: ${model.encod_seq_len}
ext_input_dim: 0
ic_enc_seq_len: 0
ic_enc_dim: 16
ci_enc_dim: 16
ci_lag: 1
con_dim: 16
co_dim: 2
ic_dim: 16
gen_dim: 20
fac_dim: 8
readin:
  - _target_: torch.nn.Identity
readout:
  _target_: torch.nn.ModuleList
  modules:
    - _target_: lfads_torch.modules.readin_readout.FanInLinear
      in_features: ${model.fac_dim}
      out_features: 9
behavior_readout:
  _target_: torch.nn.ModuleList
  modules:
    - _target_: lfads_torch.modules.readin_readout.FanInSeq2Seq
      in_features: ${model.fac_dim}
      out_features: 2
      time_features: ${model.encod_seq_len}
train_aug_stack:
  _target_: lfads_torch.modules.band_augmentations.AugmentationStack
  transforms:
    - _target_: lfads_torch.modules.band_augmentations.SpikeJitter
      width: 2
    - _target_: lfads_torch.modules.band_augmentations.CoordinatedDropout
      cd_rate: 0.35
      cd_pass_rate: 0.05
      ic_enc_seq_len: ${model.ic_enc_seq_len}
  batch_order: [0, 1]
  loss_order: [1]
infer_aug_stack:
  _target_: lfads_torch.modules.band_augmentations.AugmentationStack
reconstruction:
  - _target_: lfads_torch.modules.recons.Poisson
behavior_reconstruction:
  - _target_: lfads_torch.modules.recons.MSE
variational: True
co_prior:
  _target_: lfads_torch.modules.priors.AutoregressiveMultivariateNormal
  tau: 8.0
  nvar: 0.2
  shape: ${model.co_dim}
ic_prior:
  _target_: lfads_torch.modules.priors.MultivariateNormal
  mean: 0
  variance: 0.1
  shape: ${model.ic_dim}
ic_post_var_min: 1.0e-4
dropout_rate: 0.02 # sampled
cell_clip: 5.0
loss_scale: 1.0e+4
recon_reduce_mean: True
behavior_weight: 0.1
lr_init: 4.0e-3
lr_stop: 1.0e-5
lr_decay: 0.95
lr_patience: 6
lr_adam_epsilon: 1.0e-7
lr_scheduler: True
weight_decay: 0.0
l2_increase_epoch: 80
kl_increase_epoch: 80
kl_ic_scale: 1.
kl_co_target: 0.2
nobody_knows_me: 3
"""
DATAMODULE = """\
_target_: lfads_torch.band_datamodules.BasicDataModule
data_paths:
  - ${relpath:datasets/reach.h5}
batch_keys: [behavior]
attr_keys: [train_inds]
batch_size: 16
sv_rate: 0.0
reshuffle_tv_seed: null
"""
SINGLE = """\
defaults:
  - model: reach
  - datamodule: reach
  - _self_
seed: 3
ignore_warnings: False
trainer:
  _target_: pytorch_lightning.Trainer
  gradient_clip_val: 150
  max_epochs: 2_000
  log_every_n_steps: 5
callbacks:
  early_stopping:
    _target_: pytorch_lightning.callbacks.EarlyStopping
    monitor: valid/recon_smth
    patience: 150
logger:
  csv_logger:
    _target_: pytorch_lightning.loggers.CSVLogger
posterior_sampling:
  use_best_ckpt: True
  fn:
    num_samples: 25
"""
PBT = """\
import sys
import os
os.system("touch it_ran")
open("it_ran", "w").close()
interval = 25
SPACE = {
    "model.lr_init": HyperParam(1e-5, 5e-3, explore_wt=0.3, enforce_limits=True, init=4e-3),
    "model.dropout_rate": HyperParam(0.0, 0.6, sample_fn="uniform"),
    "model.train_aug_stack.transforms.1.cd_rate": HyperParam(0.01, 0.7, init=0.5, sample_fn="uniform"),
    "model.l2_gen_scale": HyperParam(1e-4, 1e-0, explore_wt=0.8),
    "model.my_own": HyperParam(1, 2),
}
overrides = {"model": "reach", "model.fac_dim": 12, "model.co_dim": sys.argv[4], "model.kl_co_scale": 3 * 4.0}
tune.run(
    metric="valid/recon_smth", num_samples=20,
    stop=ImprovementRatioStopper(patience=4, min_improvement_ratio=5e-4),
    scheduler=BinaryTournamentPBT(perturbation_interval=interval, burn_in_period=80 + interval),
)
"""
NESTED = """\
tune.run(
    num_samples=8,
    config=dict(model=dict(lr_init=tune.choice([1e-2]), l2_gen_scale=tune.loguniform(1e-4, 1e0))),
    scheduler=PopulationBasedTraining(perturbation_interval=70, hyperparam_mutations=dict(
        model=dict(lr_init=tune.loguniform(1e-5, 5e-3), cd_rate=tune.uniform(0.01, 0.7)))),
)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a package's configurations, its recording and its script."""
    files = {
        "configs/model/reach.yaml": MODEL, "configs/datamodule/reach.yaml": DATAMODULE, "configs/single.yaml": SINGLE,
        "scripts/run_pbt.py": PBT,
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "datasets").mkdir()
    write_recording(tmp_path / "datasets" / "reach.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def base(path: Path) -> dict[str, Any]:
    """Return {full key: value} of the base of a sweep file."""
    values = plain(read_yaml(path))["base"]
    flat = {f"{s}.{name}": v for s, part in values.items() if isinstance(part, dict) for name, v in part.items()}
    return {**flat, **({"seed": values["seed"]} if "seed" in values else {})}


def test_a_composed_configuration_becomes_a_sweep_file_that_generates(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "configs/single.yaml", "--out", "experiments/reach.yaml"]) == 4
    said = capsys.readouterr().out
    values = base(package / "experiments" / "reach.yaml")
    want = {
        "arch.gen_dim": 20, "arch.fac_dim": 8, "arch.causal_con": False, "arch.co_prior": "autoregressive",
        "arch.co_prior_tau": 8.0, "arch.co_prior_nvar": 0.2, "arch.ic_prior": "normal", "arch.ic_prior_var": 0.1,
        "arch.reconstruction": "poisson_stirling", "arch.behavior_decoder": "trial", "hyper.behavior_dropout_rate": 0.0,
        "hyper.cd_rate": 0.35, "hyper.cd_pass_rate": 0.05, "hyper.lr": 4e-3, "hyper.adam_epsilon": 1e-7,
        "hyper.grad_clip": 150.0, "hyper.kl_co_target": 0.2, "train.kl_co_reduce": "sum", "train.loss_scale": 1e4,
        "train.recon_reduce_mean": True, "train.max_epochs": 2000, "train.stop_patience": 150,
        "train.monitor": "valid_recon", "train.batch_size": 16, "train.posterior_samples": 25, "seed": 3,
        "data.path": str(package / "datasets" / "reach.h5"),
    }  # fmt: skip
    assert {key: values.get(key) for key in want} == want
    assert "model.nobody_knows_me = 3: unsupported; it is not known here" in said
    assert "kept as hyper.jitter_width = 2" in said and "model.encod_data_dim = 9: read from the recording" in said
    assert "model.kl_co_target = 0.2: kept as hyper.kl_co_target = 0.2; there |KL - target|" in said
    assert main(["generate", "experiments/reach.yaml", "--dry-run"]) == 0


def test_every_key_gets_one_fate_and_json_has_them_all(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(package.rglob("*"))
    assert main(["import", "configs/model/reach.yaml", "configs/datamodule/reach.yaml", "--dry-run", "--json"]) == 4
    fates = json.loads(capsys.readouterr().out)["fates"]
    keys = {fate["key"] for fate in fates}
    for group, text in (("model", MODEL), ("datamodule", DATAMODULE)):
        for line in text.splitlines():
            if line[0].isalpha() or line[0] == "_":
                name = f"{group}.{line.partition(':')[0]}"
                assert any(key.split(" ")[0] == name or key.startswith(f"{name}.") for key in keys), name
    assert all(fate.get("ours", fate.get("why", "read")) for fate in fates)
    assert sorted(package.rglob("*")) == before


def test_what_keys_become_exists_here() -> None:
    assert set(SAME.values()) <= {*FIELDS} and len(KNOWN) == len(set(KNOWN))


def test_a_search_space_is_read_without_running_its_script(package: Path) -> None:
    assert main(["import", "configs/model/reach.yaml", "scripts/run_pbt.py", "--out", "reach.yaml"]) == 4
    assert not (package / "it_ran").exists()
    values = base(package / "reach.yaml")
    assert (values["arch.fac_dim"], values["hyper.kl_co_scale"]) == (12, 12.0)
    pbt = plain(read_yaml(package / "reach.pbt.yaml"))["pbt"]
    assert {key: value for key, value in pbt.items() if key != "space"} == {
        "members": 20, "every_epochs": 25, "burn_in_epochs": 105, "selection": "tournament", "stop_generations": 4,
        "stop_ratio": 5e-4,
    }  # fmt: skip
    assert pbt["space"]["hyper.lr"] == {
        "low": 1e-5, "high": 5e-3, "draw": "loguniform", "start": 4e-3, "change": 0.3, "explore": "linear",
    }  # fmt: skip
    assert pbt["space"]["hyper.cd_rate"]["start"] == 0.5 and pbt["space"]["hyper.dropout_rate"]["draw"] == "uniform"
    assert pbt["space"]["hyper.cd_rate"]["max"] == 0.99, "without limits of its own a rate stays a rate"
    assert "model.my_own" in (package / "reach.pbt.yaml").read_text()
    here = ["--set", f"data.path={package}/datasets/reach.h5", "--set", "batch_size=8"]
    assert main(["generate", "reach.yaml", "--dry-run", *here]) == 0
    assert main(["generate", "reach.pbt.yaml", *here]) == 0
    manifest = read_manifest(package / "sweeps" / "reach.pbt")
    config = run_config_from_dict(manifest.run_config(manifest.runs[0]))
    assert (config.pbt.members, config.train.monitor, config.arch.fac_dim) == (20, "valid_recon", 12)
    assert config.pbt.searched()["hyper.lr"].limits == (1e-5, 5e-3)


def test_the_earlier_form_of_a_search_space_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "run_pbt.py"
    path.write_text(NESTED)
    found = read_pbt(path)
    assert found.params["hyper.lr"].start == 1e-2 and found.params["hyper.lr"].high == 5e-3
    assert found.params["hyper.cd_rate"].draw == "uniform" and found.every_epochs == 70 and found.members == 8
    assert found.selection == "truncation", "Ray's own scheduler replaces the worst quarter"
    assert found.params["hyper.lr"].ours("hyper.lr").limits == (1e-5, 1e-2), "where it starts is within its limits"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:", "no Python"),
        ("x = 1", "search space"),
        ("S = {'model.lr_init': HyperParam(1e-3, 1e-5)}", "first below the second"),
        ("S = {'model.lr_init': HyperParam(0, 1e-5)}", "above 0"),
        ("S = {'model.lr_init': HyperParam(1)}", "two numbers"),
        ("S = {'model.lr_init': HyperParam(os.getpid(), 1)}", "two numbers"),
        ("S = {'model.lr_init': tune.choice([1, 2])}", "one number"),
        ("a = a + a\nS = {'model.lr_init': HyperParam(a, 1)}", "two numbers"),
        (
            "\n".join(f"a{i} = a{i + 1} + a{i + 1}" for i in range(60)) + "\nS = {'model.lr_init': HyperParam(a0, 1)}",
            "two",
        ),
    ],
)
def test_a_script_without_a_plain_search_space_is_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run_pbt.py"
    path.write_text(text)
    with pytest.raises(ForeignError, match=words) as caught:
        read_pbt(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr_init: 4.0e-3", "lr_init: fast", ["model/reach.yaml:", "model.lr_init", "hyper.lr", "'fast'"]),
        ("gen_dim: 20", "gen_dim: 0", ["model/reach.yaml:", "model.gen_dim", "at least 1"]),
        ("gen_dim: 20", "gen_dim: ${model.gen_dim}", ["refers to itself"]),
        ("gen_dim: 20", "gen_dim: ${model.nothing}", ["model.nothing", "none of the given files"]),
        ("gen_dim: 20", "gen_dim: !!python/object/apply:os.system [x]", ["tags are not used"]),
        ("encod_seq_len: 12", "encod_len: 12", []),
    ],
)
def test_a_value_that_breaks_a_rule_is_named_with_its_line(
    old: str, new: str, words: list[str], package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "configs/model/reach.yaml").write_text(MODEL.replace(old, new, 1))
    assert main(["import", "configs/single.yaml", "--out", "reach.yaml"]) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words) and "Traceback" not in said, said
    assert not (package / "reach.yaml").exists()


def test_files_of_no_kind_and_files_that_are_there_are_refused(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "other.yaml").write_text("a: 1")
    assert main(["import", "other.yaml"]) == 1
    assert "other.yaml: must be a model" in capsys.readouterr().err
    (package / "configs/single.yaml").write_text(SINGLE.replace("model: reach", "model: gone"))
    assert main(["import", "configs/single.yaml"]) == 1
    assert "configs/model/gone.yaml" in capsys.readouterr().err
    (package / "mine.yaml").write_text("base: {}")
    assert main(["import", "configs/model/reach.yaml", "--out", "mine.yaml"]) == 1
    assert "--force" in capsys.readouterr().err and (package / "mine.yaml").read_text() == "base: {}"


def test_sessions_a_controller_that_is_off_and_a_rate_that_stays_are_told(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MODEL.replace("con_dim: 16", "con_dim: 0").replace("lr_scheduler: True", "lr_scheduler: False")
    multi = "readin:\n  _target_: lfads_torch.modules.readin_readout.MultisessionReadin"
    text = text.replace("readin:\n  - _target_: torch.nn.Identity", multi)
    (package / "configs/model/reach.yaml").write_text(text)
    assert main(["import", "configs/model/reach.yaml", "--out", "reach.yaml"]) == 4
    values = base(package / "reach.yaml")
    assert (values["arch.co_dim"], values["hyper.lr_decay"]) == (0, 1.0)
    assert (values["arch.readin"], values["arch.readin_dim"]) == ("pcr_fixed", 9)


KEYS = [line.partition(":")[0].strip(" -") for line in MODEL.splitlines() if ":" in line]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text("a${.}: 1", max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@example({"co_prior": []})
@given(st.dictionaries(st.sampled_from(KEYS), ODD, min_size=1, max_size=3))
def test_whatever_stands_in_a_configuration_only_an_error_of_ours_comes_out(odd: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(MODEL), **odd}))
        with suppress(BandError):
            fates = convert(read_config([path]))
            run_config(values_of(fates))
            json.dumps([fate.to_json() for fate in fates])
            sweep_text(fates, sources=["model.yaml"])
