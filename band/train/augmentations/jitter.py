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
        width = self.each("jitter_width", like=counts.encod).flatten().long()
        observed = None if counts.observed is None else counts.observed[:, :, :bins]
        known: dict[int, Tensor] = {}

        def offsets(spike: int, places: Tensor, values: Tensor) -> Tensor:
            """Return by how many bins spike number `spike` moves at these places: uniform to 1 in 65536."""
            number, field = divmod(spike, 4)
            if number not in known:
                known[number] = draws.bits(str(number), *shape)
            drawn = known[number][..., : values.shape[3]].flatten()[places] >> 16 * field & 0xFFFF
            most = width[places // values[0].numel()]
            return (drawn * (2 * most + 1) >> 16) - most

        return counts.moved(lambda values: _moved(values, offsets, observed))


def _moved(values: Tensor, offsets: Callable[[int, Tensor, Tensor], Tensor], observed: Tensor | None) -> Tensor:
    """Return counts (M, B, T, n) with the k-th spike of every bin moved by `offsets(k, places, values)`.

    A place is an index into the flattened counts.
    """
    bins, neurons = values.shape[2:]
    flat, spike = values.flatten(), 0
    seen = None if observed is None else observed[..., :neurons].flatten() > 0
    moved, places = flat.clamp(max=0), (flat > 0).nonzero().flatten()
    while len(places):
        bin_ = places // neurons % bins
        target = (bin_ + offsets(spike, places, values)) % (2 * bins)
        target = places + (torch.minimum(target, 2 * bins - 1 - target) - bin_) * neurons
        if seen is not None:
            target = torch.where(seen[target], target, places)
        # The last of what is no whole number moves as the part that it is, so that the sum stays.
        rest = flat[places] - spike
        moved.index_add_(0, target, rest.clamp(max=1))
        spike, places = spike + 1, places[rest > 1]
    return moved.unflatten(0, values.shape)
