"""Deconvolved calcium: zero, or with probability q a Gamma value beyond a fixed smallest one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from band.config import Arch
from band.model.reconstructions.base import Reconstruction
from band.model.reconstructions.gamma import gamma_nll

MIN_SIGMOID = 1e-5  # keeps shape, rate and q away from 0


class ZeroInflatedGamma(Reconstruction):
    """Negative log-likelihood in nats. Shape and rate are sigmoids times a scale that each neuron learns.

    Source: Zhu et al. 2022, RADICaL; the parametrisation of lfads-torch.
    """

    num_params = 3
    support = "zero_inflated_gamma"
    rule = "0 or values above arch.gamma_loc"

    def __init__(self, arch: Arch) -> None:
        """Take the smallest value; what stands in for data that are not there lies beyond it."""
        super().__init__(arch)
        self.harmless = arch.gamma_loc + 1.0

    def holds(self, data: Tensor) -> Tensor:
        """Return where data are 0 or beyond `arch.gamma_loc`."""
        return (data == 0) | (data > self.arch.gamma_loc)

    def terms(self, outputs: Tensor, data: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the negative log-likelihood of zeros and of values beyond `arch.gamma_loc`."""
        alpha, beta, q = self._scaled(outputs, own)
        is_zero = data == 0
        beyond = torch.where(is_zero, 1.0, data - self.arch.gamma_loc)
        return torch.where(is_zero, -torch.log1p(-q), gamma_nll(alpha, beta, beyond) - q.log())

    def means(self, outputs: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the expected value, zeros included."""
        alpha, beta, q = self._scaled(outputs, own)
        return q * (alpha / beta + self.arch.gamma_loc)

    def starts(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """Return the scales of shape and rate of each neuron."""
        return {"scale": ((2,), self.arch.gamma_scale_init)}

    def penalty(self, own: Mapping[str, Tensor]) -> Tensor:
        """Return what pulls the scales to their prior value."""
        distance = (own["scale"] - self.arch.gamma_scale_prior).square().flatten(1).sum(dim=1)
        return 0.5 * self.arch.gamma_scale_penalty * distance

    @staticmethod
    def _scaled(outputs: Tensor, own: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        alpha, beta, q = torch.sigmoid(outputs).clamp(min=MIN_SIGMOID)
        scale = own["scale"][:, :, None, None]  # (M, 2, 1, 1, N')
        return alpha * scale[:, 0], beta * scale[:, 1], q
