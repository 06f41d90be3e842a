"""How large a model is on a recording, counted from the configuration alone: weights, operations, memory of a step.

Nothing is imported but the standard library, so a thousand counts cost milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FLOAT_BYTES = 4
COPIES = 5  # weights, gradients, two moments of the optimiser, best copy
RECOMPUTED = 1.4  # times as long a step takes whose way back begins with the way forward once more
# Floats a trial and bin of a training step at its peak, rounded from sixteen measured processes and benchmarks/GPU.md:
UNIT_FLOATS = 10  # of a unit of a recurrent cell, what its way back needs of its way forward, and adds to it
LASTING_FLOATS = 2  # of the same, what stays where few trials are on their way at once: states, masks
LINEAR_FLOATS = 4  # of what is read in and out
VALID_FLOATS = 6  # of a unit in validation, which has no way back
LEAST_TRIALS = 4  # that are on their way at once, for want of memory

Shapes = Mapping[str, Mapping[str, Sequence[int]]]


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


def layers(arch: Mapping[str, Any], sizes: Sizes) -> dict[str, tuple[int, int]]:
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
    return sum(weights for weights, _ in layers(config["arch"], sizes_of(config, shapes)).values())


def forward_flops(config: Mapping[str, Any], shapes: Shapes) -> float:
    """Return the floating-point operations of one forward pass of one trial (a multiply and an add count two)."""
    return 2.0 * sum(weights * times for weights, times in layers(config["arch"], sizes_of(config, shapes)).values())


def _activations(arch: Mapping[str, Any], train: Mapping[str, Any], sizes: Sizes) -> tuple[int, int]:
    """Return how many floats a step, and validation, take beside the weights at their peaks."""
    directions = 1 if arch.get("causal_con", True) else 2
    controller: int = arch["con_dim"] + directions * arch["ci_enc_dim"] if arch["co_dim"] else 0
    gated: int = 2 * arch["ic_enc_dim"] + arch["gen_dim"] + controller
    linear: int = arch["fac_dim"] + sizes.recon_neurons + 2 * arch["co_dim"] + sizes.neurons
    batch = min(int(train["batch_size"]), max(sizes.train, 1))
    at_once: int = train.get("trials_at_once") or max(batch, sizes.valid)
    step = gated * (UNIT_FLOATS * min(at_once, batch) + LASTING_FLOATS * batch) + LINEAR_FLOATS * linear * batch
    valid = gated * (VALID_FLOATS * min(at_once, sizes.valid) + sizes.valid) + LINEAR_FLOATS * linear * sizes.valid
    bins = max(sizes.bins, sizes.recon_bins)
    return bins * step, bins * valid


def with_trials_at_once(config: Mapping[str, Any], trials: int) -> dict[str, Any]:
    """Return a run configuration that goes through the model with so many trials at once."""
    return {**config, "train": {**config["train"], "trials_at_once": trials}}


def training_bytes(config: Mapping[str, Any], sizes: Sizes, *, members: int, is_recorded: bool = False) -> int:
    """Return the memory that so many members take in training, beside the process itself.

    Args:
        config: a whole run configuration as nested plain values.
        sizes: of its recording.
        members: how many train together.
        is_recorded: a step and validation have each memory of their own, as what a GPU records and replays has.
    """
    weights = sum(count for count, _ in layers(config["arch"], sizes).values())
    activations = _activations(config["arch"], config["train"], sizes)
    floats = COPIES * weights + (sum(activations) if is_recorded else max(activations))
    return members * FLOAT_BYTES * (2 if config["train"]["dtype"] == "float64" else 1) * floats


def trials_that_fit(
    config: Mapping[str, Any], sizes: Sizes, *, members: int, free_bytes: int, is_recorded: bool = False
) -> int | None:
    """Return how many trials may be on their way through the model at once.

    Args:
        config: a whole run configuration as nested plain values.
        sizes: of its recording.
        members: how many train together.
        free_bytes: what they have, beside the process itself.
        is_recorded: as in `training_bytes`.

    Returns:
        what is configured where that fits; else half a batch, a quarter … ; None where not even LEAST_TRIALS fit.
    """
    trials: int = config["train"].get("trials_at_once", 0)
    while (
        training_bytes(with_trials_at_once(config, trials), sizes, members=members, is_recorded=is_recorded)
        > free_bytes
    ):
        trials = ((trials or min(config["train"]["batch_size"], sizes.train)) + 1) // 2
        if trials < LEAST_TRIALS:
            return None
    return trials
