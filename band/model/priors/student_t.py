"""The Student-t prior: heavy tails, for inputs that are rare and large; the posterior is of the same family."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from band.model.priors.base import Prior


class StudentT(Prior):
    """Trained location and scale, fixed degrees of freedom `arch.prior_df`; the divergence is that of one draw.

    The prior's squared scale starts at `arch.ic_prior_var` or `arch.co_prior_var`.
    """

    needs_draw = True

    def starts(self) -> dict[str, float]:
        """Return location, which starts at 0, and log scale."""
        return {"loc": 0.0, "logscale": 0.5 * math.log(self.var)}

    def divergence(self, own: Mapping[str, Tensor], mean: Tensor, log_var: Tensor, draw: Tensor | None) -> Tensor:
        """Return log posterior minus log prior of one draw, of each trial, or trial and bin."""
        assert draw is not None
        df = self.arch.prior_df
        wide = (draw.shape[0], *(1,) * (draw.dim() - 2), -1)
        loc, log_scale = own["loc"].view(wide), own["logscale"].view(wide)
        in_prior = (mean + (0.5 * log_var).exp() * draw - loc) * (-log_scale).exp()
        # Both densities have the same normaliser: only scales and tails are left of their ratio.
        tails = torch.log1p(in_prior.square() / df) - torch.log1p(draw.square() / df)
        return (log_scale - 0.5 * log_var + 0.5 * (df + 1) * tails).sum(dim=-1)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Return draws of a standard Student-t: normal over the root of a scaled chi-square."""
        normal = torch.randn(shape, generator=generator, dtype=dtype)
        half = torch.full(shape, 0.5 * self.arch.prior_df, dtype=torch.float64)
        chi_square = 2 * torch._standard_gamma(half, generator=generator)
        return normal * (self.arch.prior_df / chi_square).sqrt().to(dtype)


class StudentTFromScale(StudentT):
    """As published in lfads-torch, where the location starts at the value of the scale."""

    def starts(self) -> dict[str, float]:
        """Return location and log scale, both from the scale."""
        return {"loc": math.sqrt(self.var), "logscale": 0.5 * math.log(self.var)}
