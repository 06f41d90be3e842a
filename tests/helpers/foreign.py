"""Checkpoints and configurations in the layout of BAND-torch, made from a golden case by the real pytorch-lightning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import omegaconf
import pytorch_lightning as lightning
import torch
from golden_case import GoldenCase
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

TARGET = "lfads_torch.modules"
PRIORS = {
    "mvn": {"_target_": f"{TARGET}.priors.MultivariateNormal", "mean": 0, "variance": 0.1},
    "ar": {"_target_": f"{TARGET}.priors.AutoregressiveMultivariateNormal", "tau": 10.0, "nvar": 0.1},
}
GAMMA = {"gamma_loc": 0.02, "scale_init": 20.0, "scale_prior": 1.0, "scale_penalty": 0.1}


class CoordinatedDropout:
    """An augmentation that is pickled whole into the checkpoint."""

    def __init__(self, cd_rate: float) -> None:
        self.cd_rate, self.cd_pass_rate, self.grad_masks = cd_rate, 0.0, [torch.ones(2, 3)]
        self.cd_input_dist = torch.distributions.Bernoulli(1 - cd_rate)


class AugmentationStack:
    """What holds augmentations."""

    def __init__(self, transforms: list[Any]) -> None:
        self.batch_transforms = self.loss_transforms = transforms


class MadeUpPrior(nn.Module):
    """A prior among the hyperparameters."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(size))


class Foreign(lightning.LightningModule):
    """A module whose state dict has the given names, and whose training changes nothing but the optimiser's state."""

    def __init__(self, config: dict[str, Any], train_aug_stack: Any, co_prior: Any, run_dir: Path, more: Any) -> None:
        super().__init__()
        self.save_hyperparameters({**config, "train_aug_stack": train_aug_stack, "co_prior": co_prior})
        self.save_hyperparameters("run_dir", "more")

    def fill(self, state: Mapping[str, Tensor]) -> Foreign:
        for name, value in state.items():
            *rooms, last = name.split(".")
            inner: nn.Module = self
            for room in rooms:
                if room not in inner._modules:
                    inner.add_module(room, nn.Module())
                inner = inner.get_submodule(room)
            is_trained = last not in ("bias_hh", "logvar")
            inner.register_parameter(last, nn.Parameter(value.clone(), requires_grad=is_trained))
        return self

    def training_step(self, batch: Any, index: int) -> Tensor:
        return sum((index + 1) * p.cos().sum() for p in self.parameters() if p.requires_grad)  # type: ignore[return-value]

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("valid/recon_smth", torch.tensor(3.5 - self.current_epoch / 8))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.0, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.95, patience=6)
        return {"optimizer": optimizer, "lr_scheduler": schedule, "monitor": "valid/recon_smth"}


def state_of(case: GoldenCase) -> dict[str, Tensor]:
    """Return a golden case's parameters under their names, in the order in which their modules keep them."""
    return {k.removeprefix("param/"): torch.from_numpy(v) for k, v in case.arrays.items() if k.startswith("param/")}


def save(path: Path, state: Mapping[str, Tensor], config: dict[str, Any], *, epochs: int = 2) -> Path:
    """Write a checkpoint after `epochs` epochs of three steps."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    stack = AugmentationStack([CoordinatedDropout(config.get("cd_rate", 0.25))])
    more = omegaconf.OmegaConf.create({"datamodule": {"paths": ["a.h5"]}})
    module = Foreign(config, stack, MadeUpPrior(3), Path("/data/runs/band"), more).fill(state)
    loader = DataLoader(TensorDataset(torch.zeros(6, 1)), batch_size=2)
    keep = lightning.callbacks.ModelCheckpoint(
        monitor="valid/recon_smth", dirpath=path.parent, filename=path.stem, enable_version_counter=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=epochs, callbacks=[keep], logger=False, accelerator="cpu", enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, loader, loader)
    return path


def model_config(case: GoldenCase) -> dict[str, Any]:
    """Return the Hydra model configuration of a golden case, as BAND-torch has it."""
    meta, sessions = case.meta, len(case.meta["neurons"])
    config = {"_target_": "lfads_torch.band_model.BAND", **meta["config"]}
    has_readin = "param/readin.0.weight" in case.arrays
    dropout = {"_target_": f"{TARGET}.augmentations.CoordinatedDropout", "cd_rate": 0.3, "cd_pass_rate": 0}
    linear = {"_target_": f"{TARGET}.readin_readout.FanInLinear", "in_features": "${model.fac_dim}"}
    recon = {"_target_": f"{TARGET}.recons.{meta['reconstruction']}"}
    if meta["reconstruction"] == "ZeroInflatedGamma":
        recon |= {"recon_dim": meta["recon_neurons"][0], **GAMMA}
    multi = {"_target_": f"{TARGET}.readin_readout.MultisessionReadin", "datafile_pattern": "${datamodule.pattern}"}
    multi.pop("datafile_pattern")
    return {
        **config,
        "readin": multi if has_readin else [{"_target_": "torch.nn.Identity"}],
        "readout": {"_target_": "torch.nn.ModuleList", "modules": [linear] * sessions},
        "behavior_readout": {"_target_": f"{TARGET}.readin_readout.FanInSeq2Seq", "out_features": meta["behavior_dim"]},
        "reconstruction": [recon] * sessions,
        "behavior_reconstruction": [{"_target_": f"{TARGET}.recons.MSE"}] * sessions,
        "ic_prior": {**PRIORS[meta["ic_prior"]], "shape": "${model.ic_dim}"},
        "co_prior": {**PRIORS[meta["co_prior"]], "shape": "${model.co_dim}"},
        "train_aug_stack": {
            "_target_": f"{TARGET}.augmentations.AugmentationStack", "batch_order": [0], "loss_order": [0],
            "transforms": [dropout],
        },
        "infer_aug_stack": {"_target_": f"{TARGET}.augmentations.AugmentationStack"},
        "lr_init": 4e-3, "lr_stop": 1e-5, "lr_decay": 0.95, "lr_patience": 6, "lr_scheduler": True,
    }  # fmt: skip


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """Write a configuration as YAML."""
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
