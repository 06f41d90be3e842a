"""Validation scores of an epoch, one number a member.

Axes: M member, B trial, R time bin, N' neuron, K behaviour channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from band.config import Arch
from band.model.forward import Batch, Latents, Scales, compute_losses, run_model
from band.model.noise import Noise
from band.model.params import Params
from band.train.noise import NoiseSource
from band.train.trials import Trials


def evaluate(
    params: Params,
    trials: Trials,
    noise: NoiseSource,
    *,
    arch: Arch,
    scales: Scales,
    ramps: tuple[Tensor, Tensor],
    members: Sequence[int],
    purpose: tuple[object, ...],
    num_samples: int,
) -> list[dict[str, float]]:
    """Return each member's losses and scores on its valid split, averaged over posterior draws.

    Args:
        params: M members.
        trials: the recording.
        noise: source of the draws, of the same M members.
        arch: sizes.
        scales: weights of the loss terms, of the same M members.
        ramps: KL and L2 ramps, (M,) each.
        members: position of each of the M members among those of `trials`.
        purpose: what the draws depend on, beside the seed.
        num_samples: posterior draws.
    """
    index, weight = trials.whole("valid", members)
    batch = trials.batch(index, weight)
    totals: list[dict[str, float]] = [{} for _ in members]
    for sample in range(num_samples):
        drawn = noise.posterior(index.shape[1], *purpose, sample)
        with torch.no_grad():
            latents = run_model(params, batch, arch=arch, widths=trials.widths, noise=drawn)
            terms = compute_losses(
                params, latents, batch, arch=arch, scales=scales, kl_ramp=ramps[0], l2_ramp=ramps[1], noise=Noise()
            )
            values = {
                "valid_recon": terms.recon,
                "valid_behavior": terms.behavior,
                "valid_kl_ic": terms.kl_ic,
                "valid_kl_co": terms.kl_co,
                "valid_loss": terms.loss,
                "valid_bits_per_spike": bits_per_spike(latents.log_rates, batch),
                "valid_behavior_r2": behavior_r2(latents, batch),
            }
        for name, tensor in values.items():
            for total, value in zip(totals, tensor.tolist(), strict=True):
                total[name] = total.get(name, 0.0) + value / num_samples
    return totals


def bits_per_spike(log_rates: Tensor, batch: Batch) -> Tensor:
    """Return the information (M,) per spike gained over each neuron's mean rate on these trials, pooled.

    Args:
        log_rates: (M, B, R, N').
        batch: its counts, trial weights and, where some are unobserved, their mask.

    Source: Pei et al. 2021, Neural Latents Benchmark.
    """
    seen = batch.weight[..., None, None].expand(*batch.recon.shape[:3], 1)
    if batch.recon_observed is not None:
        seen = seen * batch.recon_observed
    counts = batch.recon * seen
    mean = counts.sum(dim=(1, 2), keepdim=True) / seen.sum(dim=(1, 2), keepdim=True)
    model = (counts * log_rates - log_rates.exp() * seen).sum(dim=(1, 2, 3))
    # xlogy: a neuron silent in every trial adds 0, not NaN; the null's expected counts sum to its spikes.
    null = (torch.xlogy(counts.sum(dim=(1, 2)), mean[:, 0, 0]) - counts.sum(dim=(1, 2))).sum(dim=1)
    return (model - null) / counts.sum(dim=(1, 2, 3)) / math.log(2)


def behavior_r2(latents: Latents, batch: Batch) -> Tensor:
    """Return R² (M,) of the model's own decoder, mean over channels; NaN where there is no behaviour."""
    if latents.behavior is None or batch.behavior is None:
        return torch.full_like(batch.weight[:, 0], math.nan)
    seen = batch.weight[..., None, None].expand(*batch.behavior.shape[:3], 1)
    if batch.behavior_observed is not None:
        seen = seen * batch.behavior_observed
    mean = (batch.behavior * seen).sum(dim=(1, 2), keepdim=True) / seen.sum(dim=(1, 2), keepdim=True)
    residual = ((latents.behavior - batch.behavior).square() * seen).sum(dim=(1, 2))
    total = ((batch.behavior - mean).square() * seen).sum(dim=(1, 2))
    return (1 - residual / total).mean(dim=1)
