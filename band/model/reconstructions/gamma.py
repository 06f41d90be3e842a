"""Positive values: the read-out is the natural log of a Gamma distribution's shape and rate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from band.model.reconstructions.base import Reconstruction


def gamma_nll(alpha: Tensor, beta: Tensor, data: Tensor) -> Tensor:
    """Return the negative log-likelihood of `data` above 0 under Gamma(shape alpha, rate beta), in nats."""
    return torch.lgamma(alpha) - alpha * beta.log() - (alpha - 1) * data.log() + beta * data


class Gamma(Reconstruction):
    """Negative log-likelihood in nats; not defined at 0."""

    num_params = 2
    support = "gamma"

    def terms(self, outputs: Tensor, data: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the negative log-likelihood."""
        alpha, beta = outputs.exp()
        return gamma_nll(alpha, beta, data)

    def means(self, outputs: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return shape over rate."""
        return (outputs[0] - outputs[1]).exp()
