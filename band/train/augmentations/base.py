"""What every augmentation has in common: the counts that it changes, and where its random numbers come from.

Axes: M member, B trial, T time bin of the encoders, R >= T reconstructed bin, N neuron of the encoders, N' >= N
reconstructed neuron; the encoders' bins and neurons are the first of those reconstructed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from band.config import RunConfig
from band.model.params import derived_generator


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The counts of one session in one pass."""

    encod: Tensor  # (M, B, T, N)
    recon: Tensor  # (M, B, R, N'), 0 where unobserved; the same tensor as `encod` where both are equal
    observed: Tensor | None = None  # (M, B, R, N'), 0 where unobserved; None: all is observed

    def moved(self, move: Callable[[Tensor], Tensor]) -> Counts:
        """Return the counts with the same move made in what is seen and in what is reconstructed.

        Forecast bins, R beyond T, stay: nothing of them may reach what the encoders see.

        Args:
            move: from values (M, B, T, n) of the first n neurons, n being N or N', to as many.
        """
        encod = move(self.encod)
        recon = encod if self.recon is self.encod else self.in_seen_bins(self.recon, move)
        return replace(self, encod=encod, recon=recon)

    def in_seen_bins(self, values: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
        """Return values (M, B, R, N') with the first T bins moved."""
        bins = self.encod.shape[2]
        moved = move(values[:, :, :bins])
        return moved if values.shape[2] == bins else torch.cat((moved, values[:, :, bins:]), dim=2)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers of one augmentation in one pass: by (seed, purpose), equal for members of equal seed."""

    seeds: Sequence[int]  # of each member
    purpose: tuple[object, ...]
    dtype: torch.dtype
    device: torch.device

    def normal(self, name: str, *shape: int) -> Tensor:
        """Return standard normal numbers (M, *shape); another name gives others."""
        return self._each(name, lambda generator: torch.randn(shape, generator=generator, dtype=self.dtype))

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Return numbers (M, *shape) in [0, 1)."""
        return self._each(name, lambda generator: torch.rand(shape, generator=generator, dtype=self.dtype))

    def bits(self, name: str, *shape: int) -> Tensor:
        """Return whole numbers (M, *shape) of 64 random bits each: four draws of 16 bits for the price of one."""
        whole = torch.iinfo(torch.int64)

        def draw(generator: torch.Generator) -> Tensor:
            return torch.empty(shape, dtype=torch.int64).random_(whole.min, None, generator=generator)

        return self._each(name, draw)

    def _each(self, name: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        found = {seed: draw(derived_generator(seed, *self.purpose, name)) for seed in set(self.seeds)}
        return torch.stack([found[seed] for seed in self.seeds]).to(self.device)


class Augmentation(ABC):
    """A change of the counts of each session before a pass.

    A kind of its own needs `change`; it is named `module:Class` in `train.augmentations`, for training, or in
    `train.inference_augmentations`, for validation and outputs.
    """

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        """Take the configurations of the members, which differ in hyperparameters, folds and seeds alone."""
        self.configs = configs

    def is_active(self) -> bool:
        """Return whether any member is changed at all."""
        return True

    @abstractmethod
    def change(self, counts: Counts, draws: Draws) -> Counts:
        """Return the changed counts of one session; all that is random comes from `draws`."""

    def each(self, name: str, *, like: Tensor) -> Tensor:
        """Return hyperparameter `name` of every member, (M, 1, 1, 1), in the type of `like` and where it lies."""
        values = [getattr(config.hyper, name) for config in self.configs]
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1)
