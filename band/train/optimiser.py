"""AdamW and gradient clipping over the flat rows of a population, every setting per member.

Axes: M member, P parameters of one member.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamWSettings:
    """Settings that stay as they are through a run, (M,) each."""

    beta1: Tensor
    beta2: Tensor
    epsilon: Tensor
    weight_decay: Tensor
    grad_clip: Tensor

    @cached_property
    def _betas(self) -> list[list[float]]:
        return [self.beta1.tolist(), self.beta2.tolist()]

    def corrections(self, step: int) -> Tensor:
        """Return what both moments are too small by at a step, counted from 1: one minus beta to its power, (2, M).

        On the CPU, and of one number at a time: a vector's powers differ in their last bit with its length.
        """
        return torch.tensor([[1 - beta**step for beta in betas] for betas in self._betas], dtype=self.beta1.dtype)


def clip_gradient_(gradient: Tensor, *, bound: Tensor) -> Tensor:
    """Scale each member's gradient (M, P) down to at most `bound` (M,) and return the norms (M,) from before."""
    norm = torch.linalg.vector_norm(gradient, dim=1)
    factor = (bound / (norm + 1e-6)).clamp(max=1)
    gradient.mul_(factor[:, None])
    return norm


def adamw_step_(
    flat: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    *,
    corrections: Tensor,
    lr: Tensor,
    decay_ramp: Tensor,
    settings: AdamWSettings,
    trained: Tensor | None = None,
) -> None:
    """Update parameters (M, P) and both moments in place, with decoupled weight decay.

    Args:
        flat: (M, P), parameters.
        gradient: (M, P), used up.
        moments: first and second moment, (M, P) each.
        corrections: (2, M), see `AdamWSettings.corrections`.
        lr: (M,), step size.
        decay_ramp: (M,), factor of the weight decay.
        settings: what stays as it is.
        trained: (P,), 0 where a parameter keeps its value, its gradient being 0; None: all are trained.

    Source: Loshchilov and Hutter 2019, as in torch.optim.AdamW.
    """
    first, second = moments
    beta1, beta2 = settings.beta1[:, None], settings.beta2[:, None]
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).add_(gradient.square_().mul_(1 - beta2))
    decay = (lr * decay_ramp * settings.weight_decay)[:, None]
    flat.mul_(1 - (decay if trained is None else decay * trained))
    root = torch.sqrt(second, out=gradient).mul_(corrections[1, :, None].rsqrt()).add_(settings.epsilon[:, None])
    flat.sub_(torch.div(first, root, out=root).mul_((lr / corrections[0])[:, None]))
