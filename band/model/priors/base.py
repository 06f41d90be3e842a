"""What every prior has in common: its trained parameters, the posterior's draws, and the divergence between the two.

Axes: M member, B trial, R time bin (of inferred inputs alone), D dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from band.config import Arch


class Prior(ABC):
    """A prior, and the family of its posterior, given by location and log squared scale.

    A kind of its own needs `starts` and `divergence`; it is named `module:Class` in `arch.ic_prior` or `arch.co_prior`.
    """

    needs_draw = False  # whether the divergence is estimated from one more draw of the posterior

    def __init__(self, arch: Arch, room: str) -> None:
        """Take what the configuration says of `room`, "ic" or "co"."""
        self.arch = arch
        self.var = arch.ic_prior_var if room == "ic" else arch.co_prior_var

    @abstractmethod
    def starts(self) -> dict[str, float]:
        """Return the trained parameters, (D,) each: {name: where every dimension starts}."""

    @abstractmethod
    def divergence(self, own: Mapping[str, Tensor], mean: Tensor, log_var: Tensor, draw: Tensor | None) -> Tensor:
        """Return the divergence of posterior from prior of each trial, (M, B), or trial and bin, (M, B, R), in nats.

        Args:
            own: trained parameters of `starts`, (M, D) each.
            mean: (M, B, D) or (M, B, R, D), locations of the posteriors.
            log_var: the same shape, log squared scales, floor included.
            draw: the same shape, standard draws as of `draw`; None where `needs_draw` is not set.
        """

    def draw(self, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Return draws of a posterior at location 0 and scale 1."""
        return torch.randn(shape, generator=generator, dtype=dtype)
