"""What a run will cost, from its configuration and the shapes of its recording: seconds, memory and bytes at home.

Floating-point operations are counted layer by layer and divided by a rate that is measured on this machine as soon as
a task has finished here. Nothing is imported but the standard library, so a thousand estimates cost milliseconds.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from band.files import write_atomic

FLOPS_PER_S = 40e9  # of one CPU core inside the large matrix products of a training step
SECONDS_PER_BIN = 0.5e-3  # of one step, whatever its sizes: recurrent cells called one bin after the other, and back
BACKWARD = 2.0  # backward pass, in forward passes
PROCESS_BYTES = 400 * 2**20  # an interpreter with the training library loaded, paid once a task
FLOAT_BYTES = 4
COPIES = 5  # weights, gradients, two moments of the optimiser, best copy
METRICS_BYTES_PER_EPOCH = 300
RESULT_BYTES = 24_000
NOISE_BYTES = 8_192  # file headers and attributes

Shapes = Mapping[str, Mapping[str, Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Cost of one run alone on one CPU core.

    `memory_bytes` is this member's own share: a task adds `PROCESS_BYTES` once. `home_bytes` is the finished folder.
    """

    seconds: float
    memory_bytes: int
    home_bytes: int


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the cost of a run depends on: trials of each split, time bins, channels."""

    train: int
    valid: int
    test: int
    bins: int
    recon_bins: int
    neurons: int
    recon_neurons: int
    behavior: int
    external: int


def _shape(shapes: Shapes, *, split: str, key: str) -> Sequence[int]:
    arrays = shapes.get(split) or {}
    return arrays.get(key) or arrays.get(f"{split}_{key}") or ()


def _split_counts(data: Mapping[str, Any], shapes: Shapes) -> tuple[int, int, int]:
    """Return the expected trials of train, valid and test after the configured split."""
    shipped = [(_shape(shapes, split=split, key="encod_data") or (0,))[0] for split in ("train", "valid", "test")]
    test_share, valid_share = data["test_share"], data["valid_share"]
    if data["num_folds"] > 1:
        fold = math.ceil(sum(shipped) / data["num_folds"])  # one fold tests, the next one chooses, the rest trains
        return max(sum(shipped) - 2 * fold, 1), fold, fold
    train, valid, test = shipped
    if data["split"] in ("auto", "shipped") and valid:
        cut = 0 if test else math.ceil(train * test_share)
        return train - cut, valid, test + cut
    total = sum(shipped)
    test, valid = math.ceil(total * test_share), math.ceil(total * valid_share)
    return max(total - test - valid, 1), valid, test


def sizes_of(config: Mapping[str, Any], shapes: Shapes) -> Sizes:
    """Return the sizes a configuration has on a recording.

    Args:
        config: a whole run configuration as nested plain values.
        shapes: {split: {key: shape}} of the recording, keys with or without the prefix of their split.
    """
    encod = _shape(shapes, split="train", key="encod_data") or (1, 1, 1)
    recon = _shape(shapes, split="train", key="recon_data") or encod
    behavior = _shape(shapes, split="train", key="behavior")
    external = _shape(shapes, split="train", key="ext_input")
    train, valid, test = _split_counts(config["data"], shapes)
    return Sizes(
        train=train,
        valid=valid,
        test=test,
        bins=encod[1],
        recon_bins=recon[1],
        neurons=config["arch"].get("readin_dim") or encod[2],
        recon_neurons=recon[2],
        behavior=behavior[2] if len(behavior) == 3 else 0,
        external=external[2] if len(external) == 3 else 0,
    )


def _gru(inputs: int, units: int) -> int:
    """Return the parameters of a gated recurrent layer without biases."""
    return 3 * units * (inputs + units)


def _layers(arch: Mapping[str, Any], sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Return {layer: (weights, times a trial they are applied)}."""
    bins, recon_bins = sizes.bins, sizes.recon_bins
    has_controller: int = arch["co_dim"] > 0
    layers = {
        "ic_encoder": (2 * _gru(sizes.neurons, arch["ic_enc_dim"]), bins),
        "initial_condition": (2 * arch["ic_enc_dim"] * 2 * arch["ic_dim"] + arch["ic_dim"] * arch["gen_dim"], 1),
        "generator": (_gru(arch["co_dim"] + sizes.external, arch["gen_dim"]), recon_bins),
        "factors": (arch["gen_dim"] * arch["fac_dim"], recon_bins),
        "readout": (arch["fac_dim"] * sizes.recon_neurons, recon_bins),
        "behavior_decoder": _behavior_decoder(arch, sizes),
    }
    if has_controller:
        layers["ci_encoder"] = (2 * _gru(sizes.neurons, arch["ci_enc_dim"]), bins)
        layers["controller"] = (_gru(2 * arch["ci_enc_dim"] + arch["fac_dim"], arch["con_dim"]), recon_bins)
        layers["controller_output"] = (arch["con_dim"] * 2 * arch["co_dim"], recon_bins)
    return layers


def _behavior_decoder(arch: Mapping[str, Any], sizes: Sizes) -> tuple[int, int]:
    kind = arch.get("behavior_decoder", "trial")
    per_bin = arch["fac_dim"] * sizes.behavior
    if kind in ("bin", "causal_lag"):
        return per_bin * (arch["behavior_lags"] + 1 if kind == "causal_lag" else 1), sizes.recon_bins
    return sizes.recon_bins * sizes.recon_bins * per_bin, 1


def num_parameters(config: Mapping[str, Any], shapes: Shapes) -> int:
    """Return the weights of the model, biases left out (they are under a hundredth)."""
    return sum(weights for weights, _ in _layers(config["arch"], sizes_of(config, shapes)).values())


def forward_flops(config: Mapping[str, Any], shapes: Shapes) -> float:
    """Return the floating-point operations of one forward pass of one trial (a multiply and an add count two)."""
    return 2.0 * sum(weights * times for weights, times in _layers(config["arch"], sizes_of(config, shapes)).values())


def num_steps(train: Mapping[str, Any], *, num_trials: int) -> int:
    """Return the optimiser steps an epoch: incomplete batches are left out where `drop_last` says so."""
    whole, rest = divmod(num_trials, int(train["batch_size"]))
    return max(whole if train["drop_last"] or not rest else whole + 1, 1)


def _activation_bytes(arch: Mapping[str, Any], train: Mapping[str, Any], sizes: Sizes) -> int:
    """Return what the backward pass of one batch keeps: about eight arrays a gated unit, two a linear one."""
    controller: int = arch["con_dim"] + 2 * arch["ci_enc_dim"] if arch["co_dim"] else 0
    gated: int = 2 * arch["ic_enc_dim"] + arch["gen_dim"] + controller
    linear: int = arch["fac_dim"] + sizes.recon_neurons + 2 * arch["co_dim"] + sizes.neurons
    batch = min(int(train["batch_size"]), max(sizes.train, 1))
    return FLOAT_BYTES * batch * max(sizes.bins, sizes.recon_bins) * (8 * gated + 2 * linear)


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
    layers = _layers(config["arch"], sizes)
    weights = sum(count for count, _ in layers.values())
    flops = 2.0 * sum(count * times for count, times in layers.values())
    steps, batch = num_steps(train, num_trials=sizes.train), min(train["batch_size"], max(sizes.train, 1))
    sequential = (sizes.bins + sizes.recon_bins) / 2 * SECONDS_PER_BIN
    epoch_s = steps * (flops * batch * (1 + BACKWARD) / FLOPS_PER_S + sequential)
    epoch_s += flops * sizes.valid * train["valid_samples"] / FLOPS_PER_S + sequential / (1 + BACKWARD)
    epoch_s *= (members := num_members(config))
    trials = sizes.train + sizes.valid + sizes.test
    export_s = 2 * flops * trials * train["posterior_samples"] / FLOPS_PER_S  # intact, and without controller
    level_bytes = _output_bytes(config, sizes)
    return Estimate(
        seconds=speed_correction() * (train["max_epochs"] * epoch_s + export_s),
        memory_bytes=members * (COPIES * FLOAT_BYTES * weights + _activation_bytes(config["arch"], train, sizes))
        + level_bytes,
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
