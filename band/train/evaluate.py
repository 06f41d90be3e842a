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
from band.model.params import Params, Widths
from band.model.reconstructions import behavior_likelihood_of, reconstruction_of

SCORES = (
    "valid_recon", "valid_behavior", "valid_kl_ic", "valid_kl_co", "valid_loss",
    "valid_bits_per_spike", "valid_behavior_r2",
)  # fmt: skip


@torch.no_grad()
def evaluate(
    params: Params, batch: Batch, draws: Sequence[Noise], *,
    arch: Arch, widths: Widths, scales: Scales, ramps: Tensor, trials_at_once: int = 0,
) -> Tensor:  # fmt: skip
    """Return losses and scores (len(SCORES), M) of each member on some trials, averaged over posterior draws.

    Args:
        params: M members.
        batch: the trials.
        draws: posterior draws, without masks.
        arch: sizes.
        widths: of the recording.
        scales: weights of the loss terms, of the same M members.
        ramps: (2, M), KL and L2 ramps.
        trials_at_once: as in `run_model`.
    """
    total = torch.zeros(len(SCORES), ramps.shape[1], dtype=torch.float64, device=ramps.device)
    for noise in draws:
        latents = run_model(params, batch, arch=arch, widths=widths, noise=noise, trials_at_once=trials_at_once)
        terms = compute_losses(
            params, latents, batch, arch=arch, scales=scales, kl_ramp=ramps[0], l2_ramp=ramps[1],
            noise=Noise(kl_ic=noise.kl_ic, kl_co=noise.kl_co),
        )  # fmt: skip
        losses = (terms.recon, terms.behavior, terms.kl_ic, terms.kl_co, terms.loss)
        scores = (bits_per_spike(latents, batch, arch=arch), behavior_r2(params, latents, batch, arch=arch))
        total += torch.stack([*losses, *scores])
    return total / len(draws)


def scores_by_member(found: Tensor) -> list[dict[str, float]]:
    """Return {name: value} of each member, from what `evaluate` returns."""
    return [dict(zip(SCORES, values, strict=True)) for values in found.T.tolist()]


def bits_per_spike(latents: Latents, batch: Batch, *, arch: Arch) -> Tensor:
    """Return the information (M,) per spike gained over each neuron's mean rate on these trials, pooled.

    Args:
        latents: log rates of each session.
        batch: its counts, trial weights and, where some are unobserved, their mask.
        arch: its reconstruction; of values that are no counts NaN comes back.

    Returns:
        (M,), of several sessions the mean.

    Source: Pei et al. 2021, Neural Latents Benchmark.
    """
    if not reconstruction_of(arch).is_counts:
        return torch.full_like(batch.weight[:, 0], math.nan)
    weights = batch.weight.split(batch.sizes, dim=1)
    found = []
    for session, (outputs, counts) in enumerate(zip(latents.outputs, batch.recon, strict=True)):
        log_rates = outputs[..., : counts.shape[3]]
        observed = None if batch.recon_observed is None else batch.recon_observed[session]
        found.append(_session_bits_per_spike(log_rates, counts, _seen(counts, weights[session], observed)))
    return torch.stack(found).mean(dim=0)


def _seen(values: Tensor, weight: Tensor, observed: Tensor | None) -> Tensor:
    """Return weights (M, B, R, 1 or channels) of values (M, B, R, ·): 0 for padding and for what was not observed."""
    seen = weight[..., None, None].expand(*values.shape[:3], 1)
    return seen if observed is None else seen * observed


def _session_bits_per_spike(log_rates: Tensor, counts: Tensor, seen: Tensor) -> Tensor:
    counts = counts * seen
    mean = counts.sum(dim=(1, 2), keepdim=True) / seen.sum(dim=(1, 2), keepdim=True)
    model = (counts * log_rates - log_rates.exp() * seen).sum(dim=(1, 2, 3))
    # xlogy: a neuron silent in every trial adds 0, not NaN; the null's expected counts sum to its spikes.
    null = (torch.xlogy(counts.sum(dim=(1, 2)), mean[:, 0, 0]) - counts.sum(dim=(1, 2))).sum(dim=1)
    return (model - null) / counts.sum(dim=(1, 2, 3)) / math.log(2)


def behavior_r2(params: Params, latents: Latents, batch: Batch, *, arch: Arch) -> Tensor:
    """Return R² (M,) of the model's own decoder, mean over channels; NaN where there is no behaviour to measure."""
    likelihood = behavior_likelihood_of(arch)
    if latents.behavior is None or batch.behavior is None or not likelihood.is_quantity:
        return torch.full_like(batch.weight[:, 0], math.nan)
    decoded = likelihood.means(likelihood.split(latents.behavior), params.room("behavior_likelihood"))
    seen = _seen(batch.behavior, batch.weight, batch.behavior_observed)
    mean = (batch.behavior * seen).sum(dim=(1, 2), keepdim=True) / seen.sum(dim=(1, 2), keepdim=True)
    residual = ((decoded - batch.behavior).square() * seen).sum(dim=(1, 2))
    total = ((batch.behavior - mean).square() * seen).sum(dim=(1, 2))
    return (1 - residual / total).mean(dim=1)
