"""What Lightning wrote into a checkpoint is found, and whatever else stands there, only our own errors come out."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from foreign import save
from hypothesis import given, settings
from hypothesis import strategies as st

from band.bridge.checkpoint import read_checkpoint
from band.bridge.reconcile import from_checkpoint
from band.errors import BandError, ForeignError

STATE = {"ic_prior.mean": torch.zeros(2), "ic_prior.logvar": torch.full((2,), -2.3), "a.bias_hh": torch.zeros(3)}


def test_what_lightning_counts_is_found(tmp_path: Path) -> None:
    found = read_checkpoint(save(tmp_path / "a.ckpt", STATE, {"dropout_rate": 0.2}, epochs=3))
    assert (found.epochs, found.steps, found.version.split(".")[0]) == (3, 9, "2")
    assert found.adam is not None and found.adam.step == 9 and set(found.adam.first) == {"ic_prior.mean"}
    assert (
        found.smoothed == 3.25 and found.plateau is not None and found.plateau.best == 3.375
    )  # saved before its last step
    assert found.hyper_parameters["dropout_rate"] == 0.2 and found.hyper_parameters["run_dir"] == "/data/runs/band"
    assert {"foreign.AugmentationStack", "omegaconf.dictconfig.DictConfig"} <= set(found.classes)
    assert not found.notes


def test_settings_of_the_checkpoint_go_over_those_of_the_configuration(tmp_path: Path) -> None:
    found = read_checkpoint(save(tmp_path / "a.ckpt", STATE, {"dropout_rate": 0.2, "gen_dim": 7, "cd_rate": 0.45}))
    fates = {fate.ours: fate.to for fate in from_checkpoint(found, {"arch.gen_dim": 7})}
    assert fates["hyper.dropout_rate"] == 0.2 and fates["hyper.cd_rate"] == 0.45 and "arch.gen_dim" not in fates
    assert fates["arch.ic_prior_var"] == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize(
    ("progress", "epochs", "words"),
    [
        ({"epoch": 4}, 5, ""),  # saved while epoch number 4 ended
        ({"epoch": 4, "pytorch-lightning_version": "1.5.10"}, 4, ""),  # versions before 1.6 counted it already
        ({"epoch": 4, "loops": {"fit_loop": {"epoch_progress": {"current": {"ready": 5, "completed": 4}},
          "epoch_loop.batch_progress": {"is_last_batch": False}}}}, 4, "within epoch 5"),
        ({"epoch": 5, "loops": {"fit_loop": {"epoch_progress": {"current": {"ready": 5, "completed": 5}},
          "epoch_loop.batch_progress": {"is_last_batch": True}}}}, 5, ""),
    ],
)  # fmt: skip
def test_completed_epochs_are_counted_whatever_the_version(
    progress: dict[str, Any], epochs: int, words: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": STATE, "global_step": 12, **progress}, tmp_path / "a.ckpt")
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert found.epochs == epochs and words in " ".join(found.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "dictionary"),
        ({}, "state_dict"),
        ({"state_dict": {"a": 1}}, "tensors by name, found int under 'a'"),
        ({"state_dict": {3: torch.ones(1)}}, "tensors by name"),
        ({"state_dict": STATE, "epoch": -1}, "epoch must be"),
        ({"state_dict": STATE, "global_step": "x"}, "global_step must be"),
    ],
)
def test_a_file_of_another_content_is_named_with_what_was_found(content: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(content, path)
    with pytest.raises(ForeignError, match=words) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


WORDS = (
    "state", "param_groups", "params", "step", "exp_avg", "exp_avg_sq", "lr", "best", "num_bad_epochs",
    "fit_loop", "epoch", "epoch_progress", "current", "ready", "epoch_loop.batch_progress", "is_last_batch",
    "monitor", "current_score", "ModelCheckpoint", "dropout_rate", "train_aug_stack", "batch_transforms",
    "cd_rate", "gen_dim", "ic_prior.logvar",
)  # fmt: skip
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(torch.ones(2))
    | st.just(torch.tensor(float("nan"))) | st.just(torch.zeros(0)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.integers(0, 2), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip
PARTS = ("epoch", "global_step", "loops", "optimizer_states", "lr_schedulers", "callbacks", "hyper_parameters",
         "pytorch-lightning_version", "state_dict")  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(PARTS), ODD, min_size=1))
def test_whatever_stands_in_a_checkpoint_only_an_error_of_ours_comes_out(odd: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.ckpt"
        torch.save({"state_dict": STATE, **odd}, path)
        with suppress(BandError):
            from_checkpoint(read_checkpoint(path), {})
