"""Whether a configuration fits its recording, told from the shapes of the recording's arrays alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from band.errors import ConfigError, DataError

Shapes = Mapping[str, Mapping[str, Sequence[int]]]
Config = Mapping[str, Any]
SPLITS = ("train", "valid", "test")
# Of each reconstruction the support that its data must lie in, a key of band.data.checks.SUPPORTS.
SUPPORT_OF = {
    "poisson": "poisson",
    "poisson_stirling": "poisson",
    "gaussian": "gaussian",
    "gamma": "gamma",
    "zero_inflated_gamma": "zero_inflated_gamma",
    "mse": "mse",
}
SLACK = 2  # trials by which a real split may exceed the expected one


def check_recording(shapes: Shapes, *, path: str) -> None:
    """Raise DataError unless the recording has trials to train on."""
    shape = shapes.get("train", {}).get("encod_data")
    if shape is None:
        found = ", ".join(f"{split}_{key}" for split, keys in shapes.items() for key in keys) or "no such arrays"
        raise DataError(f"{path}: train_encod_data (trials, time bins, neurons) is missing, found {found}")
    if len(shape) != 3:
        raise DataError(f"{path}: train_encod_data must have axes (trials, time bins, neurons), found {list(shape)}")


def check_fit(config: Config, shapes: Shapes, *, path: str) -> None:
    """Raise ConfigError, its message beginning with the full key, where a run cannot be done on this recording.

    Args:
        config: a full run configuration as nested plain values.
        shapes: {split: {key: shape}} as `data.digest.dataset_shapes` gives them, checked by `check_recording`.
        path: the recording, for messages.
    """
    _check_sessions(config, shapes, path)
    _check_bins(config, shapes, path)
    _check_behavior(config, shapes, path)
    _check_lag(config, shapes, path)
    _check_labels(config, shapes, path)
    _check_folds(config, shapes, path)
    _check_batch(config, shapes, path)


def split_sizes(data: Mapping[str, Any], shapes: Shapes) -> dict[str, float]:
    """Return how many trials are expected in train, valid and test; real splits differ by a trial or so, and by guards.

    Args:
        data: the section of a full run configuration.
        shapes: as for `check_fit`.
    """
    counts = {split: _trials(shapes, split) for split in SPLITS}
    total = sum(counts.values())
    if data["num_folds"] > 1:
        fold = total / data["num_folds"]
        return {"train": total - 2 * fold, "valid": fold, "test": fold}
    is_shipped = data["split"] in ("auto", "shipped")
    pool = counts["train"] if is_shipped else total
    sizes = {
        split: float(counts[split]) if is_shipped and counts[split] else pool * data[f"{split}_share"]
        for split in ("valid", "test")
    }
    cut = sum(size for split, size in sizes.items() if not (is_shipped and counts[split]))
    return {"train": pool - cut, **sizes}


def not_reached(config: Config, shapes: Shapes) -> dict[str, str]:
    """Return {full key: why} of the fields of the split that change nothing in a run on this recording."""
    data = config["data"]
    if data["split"] != "auto" or data["num_folds"] > 1:
        return {}
    shipped = [split for split in ("valid", "test") if _trials(shapes, split)]
    found = {f"data.{split}_share": f"the recording ships its {split} split" for split in shipped}
    if len(shipped) == 2:
        keys = ("data.split_seed", "data.guard_trials", "data.group_key")
        found |= dict.fromkeys(keys, "the recording ships its splits")
    return found


def _trials(shapes: Shapes, split: str) -> int:
    return (shapes.get(split, {}).get("encod_data") or [0])[0]


def _check_sessions(config: Config, shapes: Shapes, path: str) -> None:
    sessions = shapes.get("sessions", {})
    if len(sessions) > 1 and not config["arch"]["readin_dim"]:
        raise ConfigError(
            f"arch.readin_dim must be above 0 where a recording has several sessions, got 0: {path} has "
            f"{len(sessions)} ({', '.join(sessions)}), whose neurons are mapped to that many channels"
        )


def _check_bins(config: Config, shapes: Shapes, path: str) -> None:
    bins = shapes["train"]["encod_data"][1] - config["data"]["forward_bins"]
    if bins < 1:
        raise ConfigError(
            f"data.forward_bins must be below the time bins of {path}, got {config['data']['forward_bins']}"
        )
    if config["arch"]["ic_enc_seq_len"] >= bins:
        raise ConfigError(
            f"arch.ic_enc_seq_len must be below the {bins} encoded time bins of {path}, "
            f"got {config['arch']['ic_enc_seq_len']}"
        )


def _check_behavior(config: Config, shapes: Shapes, path: str) -> None:
    weight = config["hyper"]["behavior_weight"]
    missing = [split for split in ("train", "valid") if _trials(shapes, split) and "behavior" not in shapes[split]]
    if weight and missing:
        found = ", ".join(shapes["train"])
        raise ConfigError(
            f"hyper.behavior_weight must be 0 where the recording has no behaviour, got {weight:g}: "
            f"{path} has no {missing[0]}_behavior (its trials have {found})"
        )


def _check_lag(config: Config, shapes: Shapes, path: str) -> None:
    lag = config["arch"]["ci_lag"]
    bins = shapes["train"]["encod_data"][1] - config["data"]["forward_bins"] - config["arch"]["ic_enc_seq_len"]
    if config["arch"]["co_dim"] and lag >= bins:
        raise ConfigError(f"arch.ci_lag must be below the {bins} time bins of {path}, got {lag}")


def _check_labels(config: Config, shapes: Shapes, path: str) -> None:
    data = config["data"]
    needed = [("data.group_key", data["group_key"], data["group_key"])]
    if data["split"] == "stratified":
        needed.append(("data.split", "cond", "stratified"))
    for field, key, value in needed:
        missing = [split for split in SPLITS if key and _trials(shapes, split) and key not in shapes[split]]
        if missing:
            raise ConfigError(
                f"{field} must find one label a trial in {missing[0]}_{key}, got {value!r}: {path} has "
                f"{', '.join(shapes[missing[0]])}"
            )


def _check_folds(config: Config, shapes: Shapes, path: str) -> None:
    data, counts = config["data"], {split: _trials(shapes, split) for split in SPLITS}
    total = sum(counts.values())
    if data["num_folds"] > total:
        raise ConfigError(f"data.num_folds must be at most the {total} trials of {path}, got {data['num_folds']}")
    if data["split"] != "shipped":
        return
    missing = [split for split in SPLITS if not counts[split]]
    if missing:
        raise ConfigError(f"data.split must not be shipped where a split is missing: {path} has no {missing[0]} trials")
    if data["num_folds"] > 1:
        raise ConfigError(f"data.num_folds must be 1 where data.split is shipped, got {data['num_folds']}")


def _check_batch(config: Config, shapes: Shapes, path: str) -> None:
    batch_size, trials = config["train"]["batch_size"], split_sizes(config["data"], shapes)["train"]
    if batch_size > math.ceil(trials) + SLACK:
        raise ConfigError(
            f"train.batch_size must be at most the trials that train, about {trials:.0f} of {path}, got {batch_size}"
        )
