"""Decoders that are the same in every bin: from the factors of that bin, or of it and the bins before."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from band.model.behavior.base import BehaviorDecoder


class CausalLag(BehaviorDecoder):
    """One linear map of the factors of a bin and of the `arch.behavior_lags` bins before it (0 before the first)."""

    @property
    def lags(self) -> int:
        """Number of earlier bins seen."""
        return self.arch.behavior_lags

    def shapes(self, num_bins: int, channels: int) -> dict[str, tuple[int, ...]]:
        """Return weight and bias over lags; the lag is the slower index of the weight's columns, the present first."""
        return {"weight": (channels, (self.lags + 1) * self.arch.fac_dim), "bias": (channels,)}

    def decode(self, factors: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return (M, B, R, C)."""
        bins = factors.shape[2]
        late = [functional.pad(factors, (0, 0, lag, 0))[:, :, :bins] for lag in range(self.lags + 1)]
        flat = torch.cat(late, dim=-1).flatten(1, 2)
        decoded = torch.baddbmm(own["bias"][:, None], flat, own["weight"].transpose(1, 2))
        return decoded.unflatten(1, factors.shape[1:3])


class Instantaneous(CausalLag):
    """The same without a lag."""

    lags = 0  # type: ignore[assignment]
