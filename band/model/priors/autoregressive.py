"""The autoregressive prior of inferred inputs: each a process with a trained time constant and innovation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from band.model.priors.base import Prior

LOG_2PI = math.log(2 * math.pi)


class Autoregressive(Prior):
    """x(t) = a x(t - 1) + innovation, a = exp(-1 / tau), tau in bins; x(0) has the variance of the process.

    `arch.co_prior_nvar` is the variance of the innovation: the process has nvar / (1 - exp(-2 / tau)). The divergence
    is estimated from one draw, bin by bin. Source: Sussillo et al. 2016; the parametrisation of lfads-torch.
    """

    needs_draw = True

    def starts(self) -> dict[str, float]:
        """Return log time constant and log innovation variance."""
        return {"logtaus": math.log(self.arch.co_prior_tau), "lognvars": math.log(self.arch.co_prior_nvar)}

    def divergence(self, own: Mapping[str, Tensor], mean: Tensor, log_var: Tensor, draw: Tensor | None) -> Tensor:
        """Return log posterior minus log prior of one draw, of each trial and bin (M, B, R)."""
        assert draw is not None
        sample = mean + (0.5 * log_var).exp() * draw
        a = torch.exp(-torch.exp(-own["logtaus"]))[:, None, None]
        log_innovation = own["lognvars"][:, None, None]
        log_process = log_innovation - torch.log1p(-a.square())
        before = torch.cat((torch.zeros_like(sample[:, :, :1]), a * sample[:, :, :-1]), dim=2)
        first = torch.zeros(sample.shape[2], 1, dtype=torch.bool, device=sample.device)
        first[0] = True
        log_prior_var = torch.where(first, log_process, log_innovation)
        log_posterior = -0.5 * (draw.square() + log_var + LOG_2PI)
        log_prior = -0.5 * ((sample - before).square() * (-log_prior_var).exp() + log_prior_var + LOG_2PI)
        return (log_posterior - log_prior).sum(dim=-1)
