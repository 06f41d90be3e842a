"""Temporal shift: the model cannot learn how neurons are timed against each other from trial to trial."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from band.train.augmentations.base import Augmentation, Counts, Draws


class Shift(Augmentation):
    """Every neuron of every trial moves as a whole, by a whole number of bins; its first or last value is repeated.

    The number is normal with standard deviation `hyper.shift_std`, rounded, at most `hyper.shift_max` either way.
    """

    def is_active(self) -> bool:
        """Return whether any member moves."""
        return any(config.hyper.shift_std and config.hyper.shift_max for config in self.configs)

    def change(self, counts: Counts, draws: Draws) -> Counts:
        """Return the counts, and what of them was observed, moved."""
        _, trials, bins, _ = counts.encod.shape
        most = self.each("shift_max", like=counts.encod)
        drawn = draws.normal("bins", trials, 1, counts.recon.shape[3]) * self.each("shift_std", like=counts.encod)
        shift = torch.maximum(torch.minimum(drawn.round(), most), -most).long()
        source = (torch.arange(bins, device=shift.device).view(-1, 1) - shift).clamp(0, bins - 1)

        def move(values: Tensor) -> Tensor:
            return values.gather(2, source[..., : values.shape[3]])

        observed = None if counts.observed is None else counts.in_seen_bins(counts.observed, move)
        return replace(counts.moved(move), observed=observed)
