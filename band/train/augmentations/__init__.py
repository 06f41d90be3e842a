"""Augmentations: changes of the counts before a pass. One small file each; yours by its import path."""

from __future__ import annotations

from collections.abc import Sequence

from band.config import RunConfig, option_names
from band.model.options import named_option
from band.train.augmentations.base import Augmentation

BUILT_IN = {
    "jitter": "band.train.augmentations.jitter:Jitter",
    "shift": "band.train.augmentations.shift:Shift",
}


def augmentations_of(configs: Sequence[RunConfig], key: str) -> dict[int, Augmentation]:
    """Return {place: augmentation} of members of these configurations, in order, those without effect left out.

    The place is that among all that are named, so that it does not depend on which have an effect in a neighbour.

    Args:
        configs: of the members, equal in all but hyperparameters, folds and seeds.
        key: "augmentations", those of training, or "inference_augmentations".

    Raises:
        ConfigError: there is no such name, or `module:Class` cannot be imported.
    """
    names = option_names(getattr(configs[0].train, key))
    kinds = [named_option(name, BUILT_IN, key=f"train.{key}", base=Augmentation) for name in names]
    found: list[Augmentation] = [kind(configs) for kind in kinds]
    return {place: augmentation for place, augmentation in enumerate(found) if augmentation.is_active()}
