"""What a checkpoint says of its own settings goes over its configuration: a search may have changed them since."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from band.bridge.checkpoint import ForeignCheckpoint
from band.bridge.fates import Fate, kept
from band.bridge.keys import SAME
from band.bridge.values import Placeholder, attributes_of
from band.config import section_from_dict
from band.errors import ConfigError, ForeignError

SAID = "said by the checkpoint, whatever the configuration says"


def from_checkpoint(checkpoint: ForeignCheckpoint, values: Mapping[str, Any]) -> list[Fate]:
    """Return the settings that the checkpoint itself holds and that `values` ({our key: value}) has otherwise.

    Raises:
        ForeignError: a prior's variance differs between dimensions, which no model here has.
    """
    said = {**_scalars(checkpoint.hyper_parameters), **_rates(checkpoint.hyper_parameters)}
    found = []
    for key, value in said.items():
        ours = SAME.get(key) or f"hyper.{key.rpartition('.')[2]}"
        if ours.startswith(("arch.co_dim", "arch.con_dim", "arch.ci_enc_dim")) or values.get(ours) == value:
            continue  # without a controller these are told otherwise here
        found.append(kept(key, value, ours, _checked(checkpoint, key, ours, value), SAID))
    for room in ("ic", "co"):
        log_variance = checkpoint.state.get(f"{room}_prior.logvar")
        if log_variance is not None and log_variance.size:
            found.append(_variance(checkpoint, room, log_variance))
    return found


def _scalars(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    keys = {key.removeprefix("model."): key for key in SAME if key.startswith("model.")}
    return {
        keys[name]: value for name, value in hyper_parameters.items()
        if name in keys and isinstance(value, (bool, int, float))
    }  # fmt: skip


def _rates(hyper_parameters: Mapping[str, Any]) -> dict[str, float]:
    """Return the rates of the coordinated dropout in the augmentation stack, whatever its class."""
    stack = attributes_of(hyper_parameters.get("train_aug_stack"))
    found: dict[str, float] = {}
    for part in stack.get("batch_transforms") or []:
        if isinstance(part, Placeholder) and part.name.rpartition(".")[2].startswith("CoordinatedDropout"):
            for name in ("cd_rate", "cd_pass_rate"):
                value = part.attributes().get(name)
                if isinstance(value, (int, float)):
                    found[f"model.train_aug_stack.{name}"] = float(value)
    return found


def _checked(checkpoint: ForeignCheckpoint, key: str, ours: str, value: Any) -> Any:
    section, _, name = ours.partition(".")
    try:
        return getattr(section_from_dict(section, {name: value}), name)
    except ConfigError as error:
        raise ForeignError(f"{checkpoint.path}: hyper_parameters: {key} becomes {ours}, but {error}") from None


def _variance(checkpoint: ForeignCheckpoint, room: str, log_variance: Any) -> Fate:
    numbers = [float(value) for value in log_variance.reshape(-1)]
    if any(number != numbers[0] for number in numbers) or not math.isfinite(numbers[0]):
        raise ForeignError(
            f"{checkpoint.path}: {room}_prior.logvar must be one finite number for every dimension, found from "
            f"{min(numbers):g} to {max(numbers):g}"
        )
    variance = math.exp(numbers[0])
    return kept(f"{room}_prior.logvar", numbers[0], f"arch.{room}_prior_var", variance, SAID)
