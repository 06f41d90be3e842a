"""Losses of a population, one number a member.

Axes: M member, B trial, T/R time bin, N' reconstructed neuron, K behaviour channel.
A trial of weight 0 is padding: every mean over trials divides by the sum of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from band.model.params import Params


class _PoissonTerm(torch.autograd.Function):
    """exp(log rate) - count * log rate, summed over bins and neurons; the gradient needs no further pass forward."""

    @staticmethod
    def forward(ctx: Any, log_rates: Tensor, counts: Tensor, gate: Tensor | None, seen: Tensor | None) -> Tensor:  # type: ignore[override]
        rates = log_rates.exp()
        values = torch.addcmul(rates, counts, log_rates, value=-1)
        if seen is not None:
            values.mul_(seen)
        gradient = rates.sub_(counts)
        for mask in (gate, seen):
            if mask is not None:
                gradient.mul_(mask)
        ctx.save_for_backward(gradient)
        return values.sum(dim=(-2, -1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * grad[..., None, None], None, None, None


def poisson_loss(
    log_rates: Tensor, counts: Tensor, *, gate: Tensor | None = None, observed: Tensor | None = None
) -> Tensor:
    """Return the negative Poisson log-likelihood of each trial without its constant, see `count_constant`.

    Args:
        log_rates: (M, B, R, N'), natural log of the expected count a bin.
        counts: (M, B, R, N'), 0 where unobserved.
        gate: 0 where a count passes no gradient (coordinated dropout); its loss still counts.
        observed: 0 where a count is unobserved; neither loss nor gradient.

    Returns:
        (M, B), nats.
    """
    values: Tensor = _PoissonTerm.apply(log_rates, counts, gate, observed)
    return values


def count_constant(counts: Tensor, *, stirling: bool = False) -> Tensor:
    """Return what `poisson_loss` leaves out: log(count!) summed over bins and neurons.

    Args:
        counts: (..., R, N').
        stirling: the approximation above one that torch's PoissonNLLLoss(full=True), and so lfads-torch, uses; it is
            off by 0.04 nats at a count of 2.
    """
    if not stirling:
        return torch.lgamma(counts + 1).sum(dim=(-2, -1))
    big = counts.clamp(min=1)
    terms = big * big.log() - big + 0.5 * (2 * math.pi * big).log()
    return torch.where(counts > 1, terms, 0).sum(dim=(-2, -1))


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the mean (M,) over trials of (M, B), weighted by (M, B)."""
    return (values * weight).sum(dim=1) / weight.sum(dim=1)


def session_mean(values: Tensor, weight: Tensor, *, sizes: Sequence[int]) -> Tensor:
    """Return the mean (M,) over sessions of each session's mean over its trials, as lfads-torch weighs sessions.

    Args:
        values: (M, B), the trials of all sessions one after the other.
        weight: (M, B); a session all of whose trials weigh 0 is left out.
        sizes: trials of each session.
    """
    if len(sizes) == 1:
        return weighted_mean(values, weight)
    sums = torch.stack([part.sum(dim=1) for part in (values * weight).split(list(sizes), dim=1)])
    weights = torch.stack([part.sum(dim=1) for part in weight.split(list(sizes), dim=1)])
    means = torch.where(weights > 0, sums / weights.clamp(min=1e-30), 0)
    return means.sum(dim=0) / (weights > 0).sum(dim=0)


def ramp(epoch: Tensor, *, start: Tensor, increase: Tensor) -> Tensor:
    """Return the factor (M,) that rises from 0 at epoch `start` to 1 over `increase` epochs; reaches 1 at its end."""
    return ((epoch + 1 - start) / (increase + 1)).clamp(0, 1)


def recurrent_l2(params: Params, *, scales: dict[str, Tensor]) -> Tensor:
    """Return the L2 penalty (M,) on the recurrent weights: half the weighted squares over the number of weights.

    Args:
        params: M members.
        scales: (M,) for each of ic_enc, ci_enc, gen, con; a kernel of scale 0 does not enter the count either.

    Source: lfads-torch.
    """
    total = params.flat.new_zeros(params.flat.shape[0])
    size = torch.zeros_like(total)
    for room, scale in scales.items():
        name = f"{room}.weight_hh"
        if name in params:
            kernel = params[name]
            total = total + 0.5 * scale * kernel.square().flatten(1).sum(dim=1)
            size = size + (scale > 0) * kernel[0].numel()
    return total / (size + 1e-8)
