"""What every reconstruction has in common: how its read-out is shaped, and which counts pass loss and gradient.

Axes: M member, B trial, R time bin, N' neuron, P numbers a neuron and bin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from band.config import Arch


class Reconstruction(ABC):
    """A likelihood of the recorded data given the read-out.

    A kind of its own needs `num_params`, `terms` and `means`; it is named `module:Class` in `arch.reconstruction`.
    """

    num_params = 1  # P
    support = "gaussian"  # of the data: a key of band.data.checks.SUPPORTS
    rule = "what `holds` asks for"  # in words, for messages
    harmless = 1.0  # a value inside the support, which stands in for data that are not there
    is_counts = False  # bits per spike exist for counts alone; the first number is the log of the expected count
    is_quantity = True  # R² exists for quantities alone, not for classes

    def __init__(self, arch: Arch) -> None:
        """Take what the configuration says."""
        self.arch = arch

    @abstractmethod
    def terms(self, outputs: Tensor, data: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the loss (M, B, R, N') of every bin and neuron, in nats or as the kind defines it.

        Args:
            outputs: (P, M, B, R, N'), what the read-out gives.
            data: (M, B, R, N'), inside the support.
            own: trained parameters of `starts`, (M, …, N').
        """

    @abstractmethod
    def means(self, outputs: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the expected data (M, B, R, N'); arguments as of `terms`."""

    def holds(self, data: Tensor) -> Tensor | None:
        """Return where data can be as the configuration has it, beyond what `support` says; None: everywhere."""
        return None

    def starts(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """Return what is trained beside the read-out: {name: (shape before N', where it starts)}."""
        return {}

    def penalty(self, own: Mapping[str, Tensor]) -> Tensor | None:
        """Return a penalty (M,) on what `starts` names, which ramps with the L2 penalties; None: there is none."""
        return None

    def constant(self, data: Tensor) -> Tensor | None:
        """Return what `terms` leaves out because it depends on the data (…, R, N') alone, (…,); None: nothing."""
        return None

    def loss(
        self,
        outputs: Tensor,
        data: Tensor,
        own: Mapping[str, Tensor],
        *,
        gate: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """Return the loss (M, B) of each trial, summed over bins and neurons.

        Args:
            outputs: (M, B, R, P N'), what the read-out gives.
            data: (M, B, R, N'), 0 where unobserved.
            own: trained parameters of `starts`.
            gate: (M, B, R, N'), 0 where a value passes no gradient (coordinated dropout); its loss still counts.
            observed: (M, B, R, N'), 0 where a value is unobserved; neither loss nor gradient.
        """
        if observed is not None:
            # The stand-in keeps what is not there from making the gradient NaN: 0 times infinity is no 0.
            data = torch.where(observed > 0, data, self.harmless)
        terms = self.terms(self.split(outputs), data, own)
        if gate is not None:
            terms = terms * gate + (terms * (1 - gate)).detach()
        if observed is not None:
            terms = terms * observed
        return terms.sum(dim=(-2, -1))

    def split(self, outputs: Tensor) -> Tensor:
        """Return (P, M, B, R, N') of (M, B, R, P N'): all neurons of the first number, then of the second."""
        return torch.stack(outputs.chunk(self.num_params, dim=-1))
