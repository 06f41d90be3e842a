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
from torch.nn import functional

from band.config import Arch
from band.model.forward import Batch, Latents, Losses, Scales, compute_losses, run_model
from band.model.interchange import row_from_lfads_torch, to_lfads_torch
from band.model.losses import ramp
from band.model.noise import Noise
from band.model.params import Params, Widths, parameter_shapes
from band.model.reconstructions import reconstruction_of

PRIORS = {"mvn": "normal", "ar": "autoregressive"}
RECONSTRUCTIONS = {
    "Poisson": "poisson_stirling", "Gaussian": "gaussian", "Gamma": "gamma", "ZeroInflatedGamma": "zero_inflated_gamma",
    "MSE": "mse",
}  # fmt: skip
ARCH_FIELDS = (
    "ic_enc_seq_len", "ic_post_var_min", "cell_clip", "ic_enc_dim", "ci_enc_dim", "ci_lag", "causal_con", "con_dim",
    "co_dim", "ic_dim", "gen_dim", "fac_dim",
)  # fmt: skip


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
        """Return the sizes and distributions."""
        config, meta = self.meta["config"], self.meta

        def variance(name: str) -> float:
            return math.exp(self.arrays.get(f"param/{name}_prior.logvar", np.array([math.log(0.1)]))[0])

        values = {name: config[name] for name in ARCH_FIELDS}
        return Arch(
            **values,
            ic_prior=PRIORS[meta["ic_prior"]],
            co_prior=PRIORS[meta["co_prior"]],
            ic_prior_var=variance("ic"),
            co_prior_var=variance("co"),
            reconstruction=RECONSTRUCTIONS[meta["reconstruction"]],
            readin_dim=config["encod_data_dim"] if "param/readin.0.weight" in self.arrays else 0,
            readin="fixed",
            **(
                {"gamma_loc": 0.02, "gamma_scale_prior": 1.0, "gamma_scale_penalty": 0.1}
                if "param/recon.0.scale" in self.arrays
                else {}
            ),
        )

    @property
    def sessions(self) -> range:
        """Sessions of the case."""
        return range(len(self.meta["neurons"]))

    def widths(self) -> Widths:
        """Return the sizes of the data."""
        config, meta = self.meta["config"], self.meta
        return Widths(
            num_bins=config["encod_seq_len"],
            num_recon_bins=config["recon_seq_len"],
            num_neurons=tuple(meta["neurons"]),
            num_recon_neurons=tuple(meta["recon_neurons"]),
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
        encod, recon = (self._tensors(key, dtype) for key in ("encod_data", "recon_data"))
        constants = [reconstruction_of(self.arch()).constant(counts) for counts in recon]
        behavior = torch.cat(self._tensors("behavior", dtype), dim=1)
        missing = recon[0].shape[2] - behavior.shape[2]
        observed = functional.pad(torch.ones_like(behavior), (0, 0, 0, missing)) if missing else None
        ext_input = self._tensors("ext_input", dtype)
        return Batch(
            encod=encod,
            recon=recon,
            weight=torch.ones(behavior.shape[:2], dtype=dtype),
            ext_input=torch.cat(ext_input, dim=1) if ext_input else None,
            behavior=functional.pad(behavior, (0, 0, 0, missing)),
            behavior_observed=observed,
            recon_constant=None if constants[0] is None else torch.cat(constants, dim=1),
        )

    def _tensors(self, key: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        found = [self.tensor(f"in/{session}/{key}", dtype) for session in self.sessions]
        return tuple(value for value in found if value is not None)

    def noise(self, dtype: torch.dtype) -> Noise:
        """Return the draws of the training pass, coordinated dropout's scale included."""
        rate = self.meta["cd_rate"]
        keep = [self.tensor(f"mask/{session}/cd_keep", dtype) for session in self.sessions] if rate else None
        return Noise(
            eps_ic=self.tensor("noise/ic", dtype), eps_co=self.tensor("noise/co", dtype),
            kl_co=self.tensor("noise/kl0", dtype),
            cd_keep=None if keep is None else tuple(mask / (1 - rate) for mask in keep),
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
            # The published autoregressive prior sums over bins where the normal one averages.
            kl_co_reduce="sum" if self.meta["co_prior"] == "ar" else "mean",
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

    params: Params
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

    def mixed(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tuple):
            return tuple(mixed(part) for part in value)
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
    return Pass(params, means, drawn, terms, to_lfads_torch(gradients, member))
