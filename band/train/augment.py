"""What happens to the trials of a minibatch before the model sees them: samples held out, then augmentations in order.

Random numbers come from generators seeded by (seed, purpose): members of equal seed share them, neighbours and what
was drawn before do not matter, and a resumed run needs no state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from band.config import RunConfig
from band.model.forward import Batch
from band.model.reconstructions import reconstruction_of
from band.train.augmentations import augmentations_of
from band.train.augmentations.base import Augmentation, Counts, Draws
from band.train.augmentations.sample_validation import SampleValidation


class Augmenter:
    """Changes the batches of M members."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        """Take the configurations of the members, which differ in hyperparameters, folds and seeds alone.

        Raises:
            ConfigError: an augmentation is not there, or does not go with the data.
        """
        self._training = augmentations_of(configs, "augmentations")
        self._inference = augmentations_of(configs, "inference_augmentations")
        self._held_out = SampleValidation(configs)
        self._seeds = [config.seed for config in configs]
        self._kind = reconstruction_of(configs[0].arch)

    def training(self, batch: Batch, index: Sequence[Tensor], *, step: int) -> tuple[Batch, Batch | None]:
        """Return what a training step sees, and the samples held out from it, moved alike; None where there are none.

        Args:
            batch: the trials.
            index: of each session (M, B), their places in the recording.
            step: of the optimiser.
        """
        if not self._held_out.is_active():
            return self._augmented(batch, self._training, ("augment", step)), None
        # The same purpose, hence the same draws. What is held out stays apart: no spike moves where none is observed.
        rest, held = (
            self._augmented(part, self._training, ("augment", step)) for part in self._held_out.split(batch, index)
        )
        return self._held_out.scaled(replace(rest, recon_constant=self._constant(rest))), held

    def inference(self, batch: Batch, *purpose: object) -> Batch:
        """Return what a pass of validation or for outputs sees."""
        return self._augmented(batch, self._inference, ("augment", *purpose))

    def _augmented(self, batch: Batch, stack: Mapping[int, Augmentation], purpose: tuple[object, ...]) -> Batch:
        if not stack:
            return batch
        sessions = [self._session(batch, session, stack, purpose) for session in range(len(batch.encod))]
        observed = tuple(counts.observed for counts in sessions)
        changed = replace(
            batch,
            encod=tuple(counts.encod for counts in sessions),
            recon=tuple(counts.recon for counts in sessions),
            recon_observed=None if all(part is None for part in observed) else observed,
        )
        return replace(changed, recon_constant=self._constant(changed))

    def _session(
        self, batch: Batch, session: int, stack: Mapping[int, Augmentation], purpose: tuple[object, ...]
    ) -> Counts:
        observed = None if batch.recon_observed is None else batch.recon_observed[session]
        counts = Counts(encod=batch.encod[session], recon=batch.recon[session], observed=observed)
        for place, augmentation in stack.items():
            draws = Draws(
                seeds=self._seeds, purpose=(*purpose, type(augmentation).__qualname__, place, session),
                dtype=counts.encod.dtype, device=counts.encod.device,
            )  # fmt: skip
            counts = augmentation.change(counts, draws)
        return counts

    def _constant(self, batch: Batch) -> Tensor | None:
        """Return `recon_constant` of counts that are no longer those of the recording."""
        parts = [self._kind.constant(data) for data in batch.recon]
        return None if parts[0] is None else torch.cat([part for part in parts if part is not None], dim=1)
