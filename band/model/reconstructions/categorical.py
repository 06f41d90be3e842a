"""Classes, such as the target of a reach: whole numbers from 0; the read-out is one logit a class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from band.config import Arch
from band.model.reconstructions.base import Reconstruction


class Categorical(Reconstruction):
    """Cross-entropy in nats; the expected value is the most probable class."""

    support = "poisson"
    rule = "whole numbers from 0 to below arch.behavior_classes"
    harmless = 0.0
    is_quantity = False

    def __init__(self, arch: Arch) -> None:
        """Take the number of classes."""
        super().__init__(arch)
        self.num_params = arch.behavior_classes

    def holds(self, data: Tensor) -> Tensor:
        """Return where data are one of the classes."""
        return (data >= 0) & (data < self.arch.behavior_classes) & (data == data.floor())

    def terms(self, outputs: Tensor, data: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return minus the log probability of the class."""
        log_probability = outputs.log_softmax(dim=0)
        return -log_probability.gather(0, data.long()[None])[0]

    def means(self, outputs: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """Return the most probable class."""
        return torch.argmax(outputs, dim=0).to(outputs.dtype)
