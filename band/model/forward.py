"""One pass of LFADS/BAND for a population: data and noise in, latents, rates, behaviour and losses out.

Axes: M member, B trial, T time bin of the encoder, R reconstructed bin, N neuron, N' reconstructed neuron, F factor,
K behaviour channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from band.config import Arch
from band.errors import ShapeError
from band.model import losses
from band.model.decoder import Decoded, decode
from band.model.encoder import encode
from band.model.noise import Noise, dropped
from band.model.params import Params, Widths


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Trials that every member sees in one pass; NaN never stands in here: `observed` masks do."""

    encod: Tensor  # (M, B, T, N), counts the encoders see
    recon: Tensor  # (M, B, R, N'), counts to reconstruct, 0 where unobserved
    weight: Tensor  # (M, B), 0 for padding
    ext_input: Tensor | None = None  # (M, B, <= R, E)
    behavior: Tensor | None = None  # (M, B, R, K), 0 where unobserved
    recon_observed: Tensor | None = None  # (M, B, R, N')
    behavior_observed: Tensor | None = None  # (M, B, R, K)
    recon_constant: Tensor | None = None  # (M, B), see losses.count_constant


@dataclass(frozen=True, kw_only=True)
class Latents:
    """What a pass computes."""

    ic_mean: Tensor  # (M, B, ic_dim)
    ic_log_var: Tensor  # (M, B, ic_dim), without its floor
    decoded: Decoded
    log_rates: Tensor  # (M, B, R, N')
    behavior: Tensor | None  # (M, B, R, K)


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Weights of the loss terms, each (M,), ramps not yet applied."""

    behavior_weight: Tensor
    kl_ic_scale: Tensor
    kl_co_scale: Tensor
    kl_ic_target: Tensor
    kl_co_target: Tensor
    l2: dict[str, Tensor]  # by room: ic_enc, ci_enc, gen, con
    loss_scale: float = 1.0
    recon_reduce_mean: bool = False
    kl_co_reduce: str = "sum"


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Terms of the loss, each (M,)."""

    loss: Tensor
    recon: Tensor
    behavior: Tensor
    kl_ic: Tensor  # nats, as they are: neither scaled nor ramped, target not taken off
    kl_co: Tensor
    l2: Tensor


def run_model(
    params: Params, batch: Batch, *, arch: Arch, widths: Widths, noise: Noise, co_off: bool = False
) -> Latents:
    """Return latents, log rates and decoded behaviour.

    Raises:
        ShapeError: the batch does not have the bins and neurons of `widths`.
    """
    expected = (widths.num_bins, widths.num_neurons)
    if batch.encod.shape[2:] != expected:
        raise ShapeError(f"encod (M, B, T, N) {tuple(batch.encod.shape)} does not have (T, N) {expected} of the model")
    encod = batch.encod
    if noise.cd_keep is not None:
        encod = encod * noise.cd_keep
    ic_mean, ic_log_var, controller_input = encode(params, encod, arch=arch, noise=noise)
    ic = ic_mean
    if noise.eps_ic is not None:
        ic = torch.addcmul(ic_mean, (ic_log_var.exp() + arch.ic_post_var_min).sqrt(), noise.eps_ic)
    decoded = decode(
        params,
        ic,
        controller_input,
        batch.ext_input,
        arch=arch,
        num_bins=widths.num_recon_bins,
        noise=noise,
        co_off=co_off,
    )
    log_rates, behavior = read_out(params, decoded.factors, widths=widths, noise=noise)
    return Latents(ic_mean=ic_mean, ic_log_var=ic_log_var, decoded=decoded, log_rates=log_rates, behavior=behavior)


def read_out(params: Params, factors: Tensor, *, widths: Widths, noise: Noise) -> tuple[Tensor, Tensor | None]:
    """Return log rates (M, B, R, N') and behaviour (M, B, R, K), or None without behaviour, from (M, B, R, F)."""
    by_bin = factors.transpose(1, 2)
    flat = by_bin.flatten(1, 2)
    log_rates = torch.baddbmm(params["readout.bias"][:, None], flat, params["readout.weight"].transpose(1, 2))
    log_rates = log_rates.unflatten(1, by_bin.shape[1:3]).transpose(1, 2)
    if not widths.behavior_dim:
        return log_rates, None
    flat = dropped(factors, noise.behavior).flatten(2)
    behavior = torch.baddbmm(params["behavior.bias"][:, None], flat, params["behavior.weight"].transpose(1, 2))
    return log_rates, behavior.unflatten(2, (widths.num_recon_bins, widths.behavior_dim))


def compute_losses(
    params: Params,
    latents: Latents,
    batch: Batch,
    *,
    arch: Arch,
    scales: Scales,
    kl_ramp: Tensor,
    l2_ramp: Tensor,
    noise: Noise,
) -> Losses:
    """Return every term of the loss and their weighted sum, (M,) each."""
    recon = losses.poisson_loss(
        latents.log_rates, batch.recon, gate=_gradient_gate(noise, batch.recon), observed=batch.recon_observed
    )
    if batch.recon_constant is not None:
        recon = recon + batch.recon_constant
    behavior = torch.zeros_like(recon)
    if latents.behavior is not None and batch.behavior is not None:
        behavior = losses.squared_error(latents.behavior, batch.behavior, observed=batch.behavior_observed)
    if scales.recon_reduce_mean:
        recon = recon / latents.log_rates[0, 0].numel()
        behavior = behavior if latents.behavior is None else behavior / latents.behavior[0, 0].numel()
    recon, behavior = (losses.weighted_mean(term, batch.weight) for term in (recon, behavior))
    kl_ic, kl_co = _divergences(params, latents, batch, arch, scales.kl_co_reduce)
    kl = scales.kl_ic_scale * (kl_ic - scales.kl_ic_target).clamp(min=0)
    kl = kl + scales.kl_co_scale * (kl_co - scales.kl_co_target).clamp(min=0)
    l2 = losses.recurrent_l2(params, scales=scales.l2)
    total = recon + scales.behavior_weight * behavior + kl_ramp * kl + l2_ramp * l2
    return Losses(loss=scales.loss_scale * total, recon=recon, behavior=behavior, kl_ic=kl_ic, kl_co=kl_co, l2=l2)


def _gradient_gate(noise: Noise, recon: Tensor) -> Tensor | None:
    """Return 1 where a count passes gradient: where the encoder did not see it, or it may pass all the same."""
    if noise.cd_keep is None:
        return None
    seen = noise.cd_keep > 0
    hidden = ~seen if noise.cd_pass is None else ~seen | (noise.cd_pass > 0)
    gate = hidden.to(recon.dtype)
    bins, neurons = recon.shape[2] - gate.shape[2], recon.shape[3] - gate.shape[3]
    return functional.pad(gate, (0, neurons, 0, bins), value=1.0) if bins or neurons else gate


def _divergences(params: Params, latents: Latents, batch: Batch, arch: Arch, reduce: str) -> tuple[Tensor, Tensor]:
    """Return the divergences (M,) of the initial condition and of the inferred inputs, in nats a trial."""
    kl_ic = losses.normal_kl(
        latents.ic_mean,
        latents.ic_log_var,
        prior_mean=params["ic_prior.mean"],
        prior_var=arch.ic_prior_var,
        var_floor=arch.ic_post_var_min,
    )
    decoded = latents.decoded
    if decoded.co_means is None or decoded.co_log_vars is None:
        return losses.weighted_mean(kl_ic, batch.weight), kl_ic.new_zeros(kl_ic.shape[0])
    by_bin = losses.normal_kl(
        decoded.co_means, decoded.co_log_vars, prior_mean=params["co_prior.mean"], prior_var=arch.co_prior_var
    )
    kl_co = by_bin.sum(dim=2) if reduce == "sum" else by_bin.mean(dim=2)
    return losses.weighted_mean(kl_ic, batch.weight), losses.weighted_mean(kl_co, batch.weight)
