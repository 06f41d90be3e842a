"""Reads a golden case and runs it through the model: shared by the tests of values and of neighbours."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from band.config import Arch
from band.model.forward import Batch, Latents, Losses, Scales, compute_losses, run_model
from band.model.interchange import row_from_lfads_torch, to_lfads_torch
from band.model.losses import count_constant, ramp
from band.model.noise import Noise
from band.model.params import Params, Widths, parameter_shapes

ARCH_FIELDS = ("ic_enc_dim", "ci_enc_dim", "ci_lag", "causal_con", "con_dim", "co_dim", "ic_dim", "gen_dim", "fac_dim")


@dataclass(frozen=True)
class GoldenCase:
    """One .npz of the golden folder."""

    path: Path
    arrays: dict[str, np.ndarray] = field(repr=False)
    meta: dict[str, Any] = field(repr=False)

    @staticmethod
    def read(path: Path) -> GoldenCase:
        """Return the case in a file."""
        with np.load(path, allow_pickle=False) as npz:
            arrays = {key: npz[key] for key in npz.files if key != "meta"}
            return GoldenCase(path, arrays, json.loads(str(npz["meta"])))

    def tensor(self, key: str, dtype: torch.dtype) -> Tensor | None:
        """Return an array as a population of one, or None where the case has none."""
        array = self.arrays.get(key)
        return None if array is None else torch.from_numpy(array).to(dtype)[None]

    def arch(self) -> Arch:
        """Return the sizes; raise NotImplementedError naming what the model cannot do yet."""
        config, meta = self.meta["config"], self.meta
        wants = {
            "reconstruction": meta["reconstruction"] == "Poisson",
            "priors": meta["ic_prior"] == meta["co_prior"] == "mvn",
            "sessions": len(meta["neurons"]) == 1,
            "ic_enc_seq_len": config["ic_enc_seq_len"] == 0,
            "forward prediction": config["recon_seq_len"] == config["encod_seq_len"],
        }
        missing = [name for name, is_there in wants.items() if not is_there]
        if missing:
            raise NotImplementedError(f"{self.path.stem}: the model has no {', '.join(missing)} of this kind")
        values = {name: config[name] for name in ARCH_FIELDS}
        return Arch(
            **values,
            cell_clip=config["cell_clip"],
            ic_post_var_min=config["ic_post_var_min"],
            ic_prior_var=math.exp(self.arrays["param/ic_prior.logvar"][0]),
            co_prior_var=math.exp(self.arrays.get("param/co_prior.logvar", np.array([math.log(0.1)]))[0]),
        )

    def widths(self) -> Widths:
        """Return the sizes of the data."""
        config, meta = self.meta["config"], self.meta
        return Widths(
            num_bins=config["encod_seq_len"],
            num_recon_bins=config["recon_seq_len"],
            num_neurons=meta["neurons"][0],
            num_recon_neurons=meta["recon_neurons"][0],
            behavior_dim=meta["behavior_dim"],
            ext_input_dim=config["ext_input_dim"],
        )

    def params(self, dtype: torch.dtype) -> Params:
        """Return the parameters as a population of one."""
        shapes = parameter_shapes(self.arch(), self.widths())
        state = {
            k.removeprefix("param/"): torch.from_numpy(v) for k, v in self.arrays.items() if k.startswith("param/")
        }
        return Params(row_from_lfads_torch(state, shapes, dtype)[None], shapes, requires_grad=True)

    def batch(self, dtype: torch.dtype) -> Batch:
        """Return the input as a population of one."""
        recon = self.tensor("in/0/recon_data", dtype)
        encod = self.tensor("in/0/encod_data", dtype)
        assert recon is not None and encod is not None
        return Batch(
            encod=encod,
            recon=recon,
            weight=torch.ones(recon.shape[:2], dtype=dtype),
            ext_input=self.tensor("in/0/ext_input", dtype),
            behavior=self.tensor("in/0/behavior", dtype),
            recon_constant=count_constant(recon, stirling=True),
        )

    def noise(self, dtype: torch.dtype) -> Noise:
        """Return the draws of the training pass, coordinated dropout's scale included."""
        rate = self.meta["cd_rate"]
        keep = self.tensor("mask/0/cd_keep", dtype) if rate else None
        return Noise(
            eps_ic=self.tensor("noise/ic", dtype), eps_co=self.tensor("noise/co", dtype),
            cd_keep=None if keep is None else keep / (1 - rate),
        )  # fmt: skip

    def scales(self, dtype: torch.dtype) -> Scales:
        """Return the weights of the loss terms."""
        config = self.meta["config"]

        def one(name: str) -> Tensor:
            return torch.tensor([config[name]], dtype=dtype)

        return Scales(
            **{n: one(n) for n in ("behavior_weight", "kl_ic_scale", "kl_co_scale", "kl_ic_target", "kl_co_target")},
            l2={room: one(f"l2_{room}_scale") for room in ("ic_enc", "ci_enc", "gen", "con")},
            loss_scale=config["loss_scale"],
            recon_reduce_mean=config["recon_reduce_mean"],
            kl_co_reduce="mean",
        )

    def ramp(self, kind: str, dtype: torch.dtype) -> Tensor:
        """Return the factor (1,) of the KL or L2 ramp at the case's epoch."""
        config = self.meta["config"]
        start, increase = (
            torch.tensor([config[f"{kind}_{part}_epoch"]], dtype=dtype) for part in ("start", "increase")
        )
        return ramp(torch.tensor([self.meta["epoch"]], dtype=dtype), start=start, increase=increase)


@dataclass(frozen=True)
class Pass:
    """One training pass of a population made of a case and its neighbours, the case standing at `member`."""

    means: Latents
    drawn: Latents
    losses: Losses
    gradients: dict[str, Tensor]


def run_case(case: GoldenCase, dtype: torch.dtype, *, neighbours: int = 0, member: int = 0) -> Pass:
    """Run a case as one member among `neighbours` others of other parameters, data, noise and loss weights."""
    arch, widths = case.arch(), case.widths()
    rows, batch, noise, scales = case.params(dtype).flat, case.batch(dtype), case.noise(dtype), case.scales(dtype)
    size = neighbours + 1
    generator = torch.Generator().manual_seed(7)
    rows = rows.expand(size, -1).clone()
    others = [m for m in range(size) if m != member]
    for m in others:
        rows[m] += 0.3 * torch.randn(rows.shape[1], generator=generator, dtype=dtype)

    def mixed(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        value = value.expand(size, *value.shape[1:]).clone()
        for m in others:
            value[m] = value[m].flip(0) if value[m].dim() else value[m] * (m + 2)
        return value

    params = Params(rows, parameter_shapes(arch, widths), requires_grad=True)
    batch = Batch(**{name: mixed(value) for name, value in vars(batch).items()})
    noise = Noise(**{name: mixed(value) for name, value in vars(noise).items()})
    tensors = {name: mixed(value) for name, value in vars(scales).items() if isinstance(value, Tensor)}
    scales = Scales(**{**vars(scales), **tensors, "l2": {room: mixed(value) for room, value in scales.l2.items()}})
    with torch.no_grad():
        means = run_model(params, batch, arch=arch, widths=widths, noise=Noise())
    drawn = run_model(params, batch, arch=arch, widths=widths, noise=noise)
    terms = compute_losses(
        params, drawn, batch, arch=arch, scales=scales, noise=noise,
        kl_ramp=mixed(case.ramp("kl", dtype)), l2_ramp=mixed(case.ramp("l2", dtype)),
    )  # fmt: skip
    gradients = Params(params.gradient(terms.loss), params.shapes)
    return Pass(means, drawn, terms, to_lfads_torch(gradients, member))
