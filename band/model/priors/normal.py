"""The normal prior: a trained mean, a fixed variance, no memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from band.model.priors.base import Prior


class Normal(Prior):
    """Independent normal dimensions; the divergence has a closed form."""

    def starts(self) -> dict[str, float]:
        """Return the mean, which starts at 0."""
        return {"mean": 0.0}

    def divergence(self, own: Mapping[str, Tensor], mean: Tensor, log_var: Tensor, draw: Tensor | None) -> Tensor:
        """Return the divergence of each trial, or trial and bin."""
        prior = own["mean"]
        prior = prior.view(prior.shape[0], *(1,) * (mean.dim() - 2), -1)
        terms = (log_var.exp() + (mean - prior).square()) / self.var - log_var + (math.log(self.var) - 1)
        return 0.5 * terms.sum(dim=-1)
