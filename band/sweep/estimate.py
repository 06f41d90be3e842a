"""What a run will cost, from its configuration and the shapes of its recording: seconds, memory and bytes at home.

Floating-point operations are counted layer by layer and divided by a rate that is measured on this machine as soon as
a task has finished here. Nothing is imported but the standard library, so a thousand estimates cost milliseconds.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from band.files import write_atomic
from band.sizes import FLOAT_BYTES, RECOMPUTED, Shapes, Sizes, layers, sizes_of, training_bytes

FLOPS_PER_S = 40e9  # of one CPU core inside the large matrix products of a training step
SECONDS_PER_BIN = 0.5e-3  # of one step, whatever its sizes: recurrent cells called one bin after the other, and back
BACKWARD = 2.0  # backward pass, in forward passes
PROCESS_BYTES = 400 * 2**20  # a supervisor, and an interpreter with the training library loaded: paid once a task
METRICS_BYTES_PER_EPOCH = 300
RESULT_BYTES = 24_000
NOISE_BYTES = 8_192  # file headers and attributes


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Cost of one run alone on one CPU core.

    `memory_bytes` is this member's own share, of a search that of all its members and further processes: a task adds
    `PROCESS_BYTES` once. `home_bytes` is the finished folder.
    """

    seconds: float
    memory_bytes: int
    home_bytes: int


def num_steps(train: Mapping[str, Any], *, num_trials: int) -> int:
    """Return the optimiser steps an epoch: incomplete batches are left out where `drop_last` says so."""
    whole, rest = divmod(num_trials, int(train["batch_size"]))
    return max(whole if train["drop_last"] or not rest else whole + 1, 1)


def _output_bytes(config: Mapping[str, Any], sizes: Sizes) -> int:
    """Return the arrays of outputs.h5 at the configured level, uncompressed."""
    arch, level = config["arch"], config["output"]["level"]
    if level == "scores":
        return 0
    per_bin: int = sizes.recon_neurons + arch["fac_dim"] + sizes.behavior + arch["co_dim"]
    per_trial: int = 2 * arch["ic_dim"]
    if level == "full":
        per_bin += arch["gen_dim"] + arch["fac_dim"] + 2 * arch["co_dim"] + arch["con_dim"] + sizes.neurons
        per_trial += arch["gen_dim"]
    trials = sizes.train + sizes.valid + sizes.test
    return FLOAT_BYTES * trials * (sizes.recon_bins * per_bin + per_trial)


def num_members(config: Mapping[str, Any]) -> int:
    """Return how many members a run trains: one, or those of its search."""
    return int(config.get("pbt", {}).get("members", 0)) or 1


def estimate(config: Mapping[str, Any], shapes: Shapes) -> Estimate:
    """Return what one run costs alone on one CPU core.

    Args:
        config: a whole run configuration as nested plain values (`config.to_dict`).
        shapes: {split: {key: shape}} of its recording, as `data.digest.dataset_shapes` gives them.
    """
    sizes, train = sizes_of(config, shapes), config["train"]
    counted = layers(config["arch"], sizes)
    weights = sum(count for count, _ in counted.values())
    flops = 2.0 * sum(count * times for count, times in counted.values())
    steps, batch = num_steps(train, num_trials=sizes.train), min(train["batch_size"], max(sizes.train, 1))
    sequential = (sizes.bins + sizes.recon_bins) / 2 * SECONDS_PER_BIN
    epoch_s = steps * (flops * batch * (1 + BACKWARD) / FLOPS_PER_S + sequential)
    epoch_s *= RECOMPUTED if 0 < train.get("trials_at_once", 0) < batch else 1
    epoch_s += flops * sizes.valid * train["valid_samples"] / FLOPS_PER_S + sequential / (1 + BACKWARD)
    epoch_s *= (members := num_members(config))
    others = config["pbt"].get("shards", 1) - 1 if members > 1 else 0  # processes that share a search
    trials = sizes.train + sizes.valid + sizes.test
    export_s = 2 * flops * trials * train["posterior_samples"] / FLOPS_PER_S  # intact, and without controller
    level_bytes = _output_bytes(config, sizes)
    return Estimate(
        seconds=speed_correction() * (train["max_epochs"] * epoch_s + export_s),
        memory_bytes=training_bytes(config, sizes, members=members) + level_bytes + others * PROCESS_BYTES,
        home_bytes=FLOAT_BYTES * weights
        + level_bytes
        + METRICS_BYTES_PER_EPOCH * train["max_epochs"]
        + RESULT_BYTES
        + NOISE_BYTES,
    )


def calibration_path() -> Path:
    """Return the file that keeps how fast this machine trains, in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "band" / "calibration.json"


@cache
def speed_correction() -> float:
    """Return measured over estimated seconds on this machine; 1 where nothing was measured or the file is damaged."""
    try:
        value = float(json.loads(calibration_path().read_text())["seconds_ratio"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1.0
    return value if math.isfinite(value) and 0.01 <= value <= 100 else 1.0


def calibrate(measured_s: float, *, estimated_s: float) -> None:
    """Note that work estimated at `estimated_s` (with the present correction) took `measured_s` on one core.

    The new correction moves half way to what was measured, on a logarithmic scale, so that one odd task does little.
    """
    if measured_s <= 0 or estimated_s <= 0:
        return
    ratio = speed_correction() * math.sqrt(measured_s / estimated_s)
    ratio = min(max(ratio, 0.01), 100.0)
    path = calibration_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"seconds_ratio": ratio}).encode())
    speed_correction.cache_clear()
