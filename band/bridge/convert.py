"""A foreign configuration as ours, and what became of each of its keys."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from typing import Any

from band.bridge.fates import READ, Fate, dropped, kept, unsupported
from band.bridge.keys import FROM_DATA, MONITORS, NOTES, SAME, WITHOUT_NEED
from band.bridge.objects import OBJECTS
from band.config import RunConfig, run_config_from_dict, section_from_dict
from band.errors import ConfigError, ForeignError
from band.yaml_file import Node, plain, read_scalar

BOTH_WAYS = "not in the file: the controller sees both directions, as in lfads-torch"
NO_CLIPPING = 1e9
_PATHS = ("datamodule.data_path", "datamodule.data_paths", "datamodule.datafile_pattern")
_MONITORED = ("callbacks.early_stopping.monitor", "callbacks.model_checkpoint.monitor")
_SPECIAL = (
    *_PATHS, *_MONITORED, "model.variational", "model.lr_scheduler", "model.perturb_time", "datamodule.sv_rate",
    "datamodule.dm_sv_rate", "datamodule.fold", "datamodule.reshuffle_tv_seed", "datamodule.reshuffle_tv_ratio",
)  # fmt: skip
KNOWN = (*SAME, *FROM_DATA, *OBJECTS, *_SPECIAL, *WITHOUT_NEED)


def convert(config: Mapping[str, Node]) -> list[Fate]:
    """Return what becomes of every key of a composed configuration, in its order.

    Raises:
        ForeignError: a value is of the wrong type or out of range; names file, line and key.
    """
    model = plain(config["model"]) if "model" in config else {}
    model = model if isinstance(model, dict) else {}
    fates: list[Fate] = []
    for key, node in config.items():
        _visit(key, node, model, fates)
    fates.sort(key=lambda fate: fate.key == "model.lr_scheduler")  # over model.lr_decay, wherever that stands
    return fates + _implied(config, model, fates)


def values_of(fates: list[Fate]) -> dict[str, Any]:
    """Return {our full key: value} of what was kept; of two that are kept as the same key the later holds."""
    return {fate.ours: fate.to for fate in fates if fate.ours}


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """Return the run that full keys and values describe.

    Raises:
        ForeignError: they do not go together.
    """
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    try:
        return run_config_from_dict(nested)
    except ConfigError as error:
        raise ForeignError(f"what the configuration becomes does not go together: {error}") from None


def _visit(key: str, node: Node, model: Mapping[str, Any], fates: list[Fate]) -> None:
    if key in OBJECTS:
        fates += OBJECTS[key](key, node, model)
    elif key in SAME:
        fates.append(_same(key, node, model))
    elif key in FROM_DATA:
        fates.append(Fate(key=key, value=plain(node), became=READ, where=str(node.source)))
    elif key in _SPECIAL:
        fates.append(_special(key, node))
    elif isinstance(node.value, dict) and any(known.startswith(f"{key}.") for known in KNOWN):
        for name, child in node.value.items():
            _visit(f"{key}.{name}", child, model, fates)
    else:
        fates.append(_other(key, node))


def _other(key: str, node: Node) -> Fate:
    """Return the fate of a key that has none of its own, after the nearest group above it that has."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        if why := WITHOUT_NEED.get(".".join(parts[:end])):
            return dropped(key, plain(node), why, str(node.source))
    return unsupported(key, plain(node), "it is not known here", str(node.source))


def _same(key: str, node: Node, model: Mapping[str, Any]) -> Fate:
    """Return the fate of a plain value that has a key of ours."""
    ours, where, value = SAME[key], str(node.source), node.value
    if value is None:
        return dropped(key, None, "none is given, so the default holds", where)
    if key in ("model.ci_enc_dim", "model.con_dim") and not value:
        return dropped(key, value, "there is no controller", where)
    if isinstance(value, str):
        value = read_scalar(
            value.replace("_", "") if value[:1].isdecimal() else value
        )  # their YAML reads 2_000 as 2000
    if key == "trainer.gradient_clip_val" and value == 0:
        return kept(key, value, ours, NO_CLIPPING, "as good as none", where)
    if ours == "arch.co_dim" and not _has_controller(model):
        value = 0
    section, _, name = ours.rpartition(".")
    try:
        checked = getattr(section_from_dict(section, {name: value}), name) if section else value
    except ConfigError as error:
        raise ForeignError(f"{where}: {key} becomes {ours}, but {error}") from None
    return kept(key, node.value, ours, checked, NOTES.get(key, "") if value else "", where)


def _has_controller(model: Mapping[str, Any]) -> bool:
    return all(model.get(name) != 0 for name in ("ci_enc_dim", "con_dim", "co_dim"))


def _special(key: str, node: Node) -> Fate:
    value, where = plain(node), str(node.source)
    if key in _PATHS:
        return _paths(key, value, where)
    if key in _MONITORED:
        ours = MONITORS.get(str(value))
        if ours is None:
            return unsupported(key, value, f"scores to choose by are {', '.join(MONITORS)}", where)
        return kept(key, value, "train.monitor", ours, "smoothed, as every monitored score", where)
    if key == "model.lr_scheduler":
        if value is False:
            return kept(key, value, "hyper.lr_decay", 1.0, "the rate stays as it is", where)
        return dropped(key, value, "the rate decays at a plateau unless hyper.lr_decay is 1", where)
    if key == "model.variational":
        if value:
            return dropped(key, value, "every model here is", where)
        return unsupported(key, value, "every model here is variational", where, is_model=True)
    if key == "datamodule.fold" and value is not None:
        return unsupported(key, value, f"give the fold's own file as data.path: it ends in _cv{value}.h5", where)
    if value in (None, 0, 0.0, -1):
        return dropped(key, value, "it is switched off", where)
    return unsupported(key, value, "there is nothing like it in training here", where)


def _paths(key: str, value: Any, where: str) -> Fate:
    """Return the fate of the recordings, by one pattern or several."""
    patterns = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    found = [path for pattern in patterns for path in sorted(glob.glob(pattern)) or [pattern]]
    if len(found) == 1 and not glob.has_magic(found[0]):
        return kept(key, value, "data.path", found[0], "", where)
    if len(found) == 1:
        return unsupported(key, value, f"no file matches {found[0]}; set data.path", where)
    why = f"{len(found)} files; band-data import makes one recording of several sessions of them, for data.path"
    return unsupported(key, value, why, where)


def _implied(config: Mapping[str, Node], model: Mapping[str, Any], fates: list[Fate]) -> list[Fate]:
    """Return what the absence of keys means, where our default is another."""
    taken = values_of(fates)
    if "model" not in config:
        return []
    found = []
    if "hyper.cd_rate" not in taken:
        found.append(kept("model.train_aug_stack", None, "hyper.cd_rate", 0.0, "not in the file"))
    if "causal_con" not in model:
        found.append(kept("model.causal_con", None, "arch.causal_con", False, BOTH_WAYS))
    if not _has_controller(model):
        found.append(kept("model (no controller)", None, "arch.co_dim", 0, "one of its sizes is 0"))
    return found
