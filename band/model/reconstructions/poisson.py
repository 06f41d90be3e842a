"""Poisson counts: the read-out is the natural log of the expected count a bin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from band.model.losses import count_constant, poisson_loss
from band.model.reconstructions.base import Reconstruction


class Poisson(Reconstruction):
    """Negative log-likelihood of counts, in nats."""

    support = "poisson"
    rule = "non-negative whole counts"
    is_counts = True
    stirling = False

    def holds(self, data: Tensor) -> Tensor:
        """Return where data are counts."""
        return (data >= 0) & (data == data.floor())

    def terms(self, outputs: Tensor, data: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the negative log-likelihood but for log(count!)."""
        return outputs[0].exp() - data * outputs[0]

    def means(self, outputs: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return expected counts a bin."""
        return torch.exp(outputs[0])

    def constant(self, data: Tensor) -> Tensor:
        """Return log(count!) summed over bins and neurons."""
        return count_constant(data, stirling=self.stirling)

    def loss(
        self,
        outputs: Tensor,
        data: Tensor,
        own: Mapping[str, Tensor],
        *,
        gate: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """Return the same sum as the base class would, in one node of the graph."""
        return poisson_loss(outputs, data, gate=gate, observed=observed)


class PoissonStirling(Poisson):
    """The loss shifted by torch's approximate constant, as lfads-torch prints it; gradients are those of Poisson."""

    stirling = True
