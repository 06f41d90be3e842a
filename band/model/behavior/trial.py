"""The decoder of BAND: every bin of behaviour from the factors of all bins of its trial."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from band.model.behavior.base import BehaviorDecoder


class Trial(BehaviorDecoder):
    """One linear map of the whole trial; not causal, and as large as the square of its bins."""

    def shapes(self, num_bins: int, channels: int) -> dict[str, tuple[int, ...]]:
        """Return weight and bias over all bins."""
        return {"weight": (num_bins * channels, num_bins * self.arch.fac_dim), "bias": (num_bins * channels,)}

    def decode(self, factors: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return (M, B, R, C)."""
        flat = torch.baddbmm(own["bias"][:, None], factors.flatten(2), own["weight"].transpose(1, 2))
        return flat.unflatten(2, (factors.shape[2], -1))
