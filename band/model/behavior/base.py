"""What every behaviour decoder has in common.

Axes: M member, B trial, R time bin, F factor, C decoded channel (behaviour channels times the numbers each needs).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from band.config import Arch


class BehaviorDecoder(ABC):
    """A map from factors to behaviour; a kind of its own is named `module:Class` in `arch.behavior_decoder`."""

    def __init__(self, arch: Arch) -> None:
        """Take what the configuration says."""
        self.arch = arch

    @abstractmethod
    def shapes(self, num_bins: int, channels: int) -> dict[str, tuple[int, ...]]:
        """Return what is trained, for R bins and C channels: {name: shape}.

        A name that begins with `weight` starts at random with variance 1 / its last axis, every other one at 0.
        """

    @abstractmethod
    def decode(self, factors: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return (M, B, R, C) from factors (M, B, R, F), dropout already applied; `own` holds the parameters (M, …)."""
