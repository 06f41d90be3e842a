"""Encoder and decoder of small models under every option, by one path of the recurrences."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from band.config import Arch
from band.model.decoder import decode
from band.model.encoder import encode
from band.model.noise import Noise
from band.model.params import Widths, initial_params

BINS = 7
CASES = {
    "tails of vectors": ({}, {}),
    "whole vectors": ({"gen_dim": 32, "con_dim": 16, "fac_dim": 16, "co_dim": 8}, {}),
    "clipped": ({"cell_clip": 0.2}, {}),
    "no controller": ({"co_dim": 0}, {}),
    "encoders of two sizes": ({"ci_enc_dim": 9, "causal_con": False}, {}),
    "a segment of its own": ({"ic_enc_seq_len": 3}, {}),
    "no masks": ({}, {"factor_mask": None, "controller": None, "generator": None}),
    "means": ({}, {"eps_co": None}),
    "inputs off": ({}, {"co_off": True}),
    "pushed": ({}, {"push": torch.randn(3, BINS, 3, generator=torch.Generator().manual_seed(3))}),
}


def run(
    case: str, path: str, monkeypatch: pytest.MonkeyPatch, *, trials: int, dtype: torch.dtype, device: str = "cpu"
) -> list[Tensor]:
    """Return what encoder and decoder come to, and the gradient of all parameters, by one path."""
    monkeypatch.setenv("BAND_KERNELS", path)
    sizes, options = CASES[case]
    arch = dataclasses.replace(
        Arch(ic_enc_dim=11, ci_enc_dim=11, con_dim=9, co_dim=3, ic_dim=4, gen_dim=13, fac_dim=5), **sizes
    )
    widths = Widths(num_bins=BINS, num_recon_bins=BINS, num_neurons=(6,), num_recon_neurons=(6,))
    params = initial_params(arch, widths, [1, 2, 3], dtype=dtype, device=device)
    source = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(3, *shape, generator=source).to(device, dtype)

    control = arch.ci_enc_dim * (1 if arch.causal_con else 2) + arch.fac_dim
    given = {
        "eps_co": draw(BINS, trials, max(arch.co_dim, 1)).transpose(1, 2),
        "controller": (draw(BINS, trials, control) > 0).to(dtype).transpose(1, 2),
        "generator": (draw(BINS, trials, arch.gen_dim) > 0).to(dtype).transpose(1, 2),
    } | options
    noise = Noise(**{name: given[name] for name in ("eps_co", "controller", "generator")})
    mean, log_var, control_input = encode(params, draw(trials, BINS, 6).abs(), arch=arch, noise=noise)
    decoded = decode(
        params, mean, control_input, None, arch=arch, num_bins=BINS, noise=noise,
        co_off=given.get("co_off", False), push=given["push"].to(device, dtype) if "push" in given else None,
    )  # fmt: skip
    loss = (
        decoded.factors.square().mean(dim=(1, 2, 3)) + mean.square().sum(dim=(1, 2)) + log_var.mean(dim=(1, 2))
    ).sum()
    if decoded.co_means is not None:
        loss = loss + decoded.co_means.square().sum() + 0.1 * decoded.co_log_vars.sum()
    found = [mean, log_var, decoded.factors, decoded.gen_states, decoded.gen_inputs]
    return [value.detach() for value in found] + [params.gradient(loss)]
