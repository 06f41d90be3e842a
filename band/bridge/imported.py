"""A checkpoint with its configuration: what both say together, ready to become a run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from band.bridge.checkpoint import ForeignCheckpoint, read_checkpoint
from band.bridge.convert import convert, values_of
from band.bridge.fates import UNSUPPORTED, Fate
from band.bridge.hydra import read_config
from band.bridge.reconcile import from_checkpoint
from band.errors import ForeignError

SIZES = ("encod_seq_len", "recon_seq_len", "ext_input_dim")
START = "regressed once, before it was trained; the checkpoint has what became of it"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a checkpoint and its configuration come to."""

    checkpoint: ForeignCheckpoint = field(repr=False)
    fates: list[Fate]
    values: dict[str, Any]  # {our full key: value}
    sizes: dict[str, int]  # encod_seq_len, recon_seq_len, ext_input_dim


def read_import(path: Path, configs: Sequence[Path]) -> Imported:
    """Return a checkpoint with its configuration; settings that the checkpoint itself holds go over those.

    Raises:
        ForeignError: one of the files breaks a rule, or the model is of a kind that is not known here.
        ConfigError: a configuration is no YAML.
    """
    config = read_config(configs)
    names = ", ".join(str(name) for name in configs)
    if "model" not in config:
        raise ForeignError(
            f"{names}: must hold the configuration of the model (with encod_seq_len); give that file too"
        )
    fates = convert(config)
    for fate in fates:
        if fate.became == UNSUPPORTED and fate.is_model:
            raise ForeignError(f"{fate.where}: {fate.key}: {fate.why}; such a model cannot be taken over")
    checkpoint = read_checkpoint(path)
    fates += from_checkpoint(checkpoint, values_of(fates))
    values = values_of(fates)
    if str(values.get("arch.readin", "")).startswith("pcr_"):
        values["arch.readin"] = values["arch.readin"].removeprefix("pcr_")
    return Imported(checkpoint=checkpoint, fates=fates, values=values, sizes=_sizes(fates, names))


def _sizes(fates: Sequence[Fate], names: str) -> dict[str, int]:
    said: Mapping[str, Any] = {fate.key.removeprefix("model."): fate.value for fate in fates}
    sizes = {name: said.get(name, 0 if name == "ext_input_dim" else said.get("encod_seq_len")) for name in SIZES}
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < (0 if name == "ext_input_dim" else 1):
            raise ForeignError(f"{names}: model.{name} must be a whole number, found {value!r}")
    return sizes
