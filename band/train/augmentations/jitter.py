"""Spike jitter: the model cannot learn the bin in which a spike happened to fall."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from band.errors import ConfigError
from band.model.reconstructions import reconstruction_of
from band.train.augmentations.base import Augmentation, Counts, Draws


class Jitter(Augmentation):
    """Every spike moves by a uniform whole number of bins, at most `hyper.jitter_width`, and none is lost.

    At the ends of a trial a move is reflected, between the last bin and where the next would be, so that a flat rate
    stays flat; a spike that would land where nothing was observed stays where it is.
    """

    def is_active(self) -> bool:
        """Return whether any member has a width; refuse what is no count.

        Raises:
            ConfigError: the data are no counts, which have no spikes to move.
        """
        active = any(config.hyper.jitter_width for config in self.configs)
        arch = self.configs[0].arch
        if active and not reconstruction_of(arch).is_counts:
            kind = arch.reconstruction
            raise ConfigError(f"hyper.jitter_width must be 0 where arch.reconstruction is {kind}, which has no spikes")
        return active

    def change(self, counts: Counts, draws: Draws) -> Counts:
        """Return the counts with their spikes moved; a bin's k-th spike moves alike wherever it stands."""
        _, trials, bins, _ = counts.encod.shape
        shape = (trials, bins, counts.recon.shape[3])
        width = self.each("jitter_width", like=counts.encod)
        observed = None if counts.observed is None else counts.observed[:, :, :bins]

        def offsets(spike: int, neurons: int) -> Tensor:
            """Return by how much spike number `spike` of each bin moves, (M, B, T, n)."""
            part = draws.uniform(str(spike), *shape)[..., :neurons]
            return torch.minimum(((2 * width + 1) * part - width).floor(), width).long()

        def move(values: Tensor) -> Tensor:
            return _moved(values, offsets, observed)

        return counts.moved(move)


def _moved(values: Tensor, offsets: Callable[[int, int], Tensor], observed: Tensor | None) -> Tensor:
    """Return counts (M, B, T, n) with the k-th spike of every bin moved by `offsets(k, n)`."""
    bins, neurons = values.shape[2:]
    moved, spike = values.clamp(max=0), 0
    while bool((values > spike).any()):
        member, trial, bin_, neuron = here = (values > spike).nonzero(as_tuple=True)
        target = (bin_ + offsets(spike, neurons)[here]) % (2 * bins)
        target = torch.minimum(target, 2 * bins - 1 - target)
        if observed is not None:
            target = torch.where(observed[member, trial, target, neuron] > 0, target, bin_)
        # The last of what is no whole number moves as the part that it is, so that the sum stays.
        amount = (values[here] - spike).clamp(max=1)
        moved.index_put_((member, trial, target, neuron), amount, accumulate=True)
        spike += 1
    return moved
