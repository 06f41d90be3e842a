"""A finished run as a checkpoint in the key layout of lfads-torch and BAND-torch."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from band.bridge.keys import SAME
from band.config import RunConfig, run_config_from_dict
from band.errors import BandError
from band.files import write_atomic
from band.model.interchange import to_lfads_torch, untrained
from band.model.params import Params
from band.run_dir import read_result

LAYOUT = "2.0.0"  # the version of Lightning whose layout of a checkpoint this is


def write_release(run: Path, target: Path) -> dict[str, Any]:
    """Write a run's parameters as a `.ckpt` that `torch.load(weights_only=True)` reads; return what it holds in words.

    Args:
        run: folder of a finished run.
        target: replaced as a whole where it exists.

    Raises:
        BandError: the folder holds no finished run.
        OSError: the disk is full, read-only …
    """
    content = _content(run)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(target, buffer.getvalue())
    sizes = [value.numel() for value in content["state_dict"].values()]
    return {"path": str(target), "tensors": len(sizes), "values": sum(sizes)}


def _content(run: Path) -> dict[str, Any]:
    params, config = load_run_model(run)
    training = read_result(run)["training"]
    state = to_lfads_torch(params, 0)
    state |= untrained(state, config.arch)
    return {
        "state_dict": OrderedDict(state),
        "epoch": max(int(training["epochs"]) - 1, 0),
        "global_step": int(training["steps"]),
        "hyper_parameters": their_values(config),
        "pytorch-lightning_version": LAYOUT,
    }


def their_values(config: RunConfig) -> dict[str, Any]:
    """Return the settings of a run under the names that their models take."""
    found = {}
    for theirs, ours in SAME.items():
        section, _, name = ours.rpartition(".")
        if theirs.startswith("model."):
            found[theirs.removeprefix("model.")] = getattr(getattr(config, section), name)
    return found


def load_run_model(folder: Path) -> tuple[Params, RunConfig]:
    """Return parameters, as a population of one, and configuration of a finished run.

    Raises:
        BandError: the folder has no model, or not one that was written here.
    """
    path = folder / "model.pt"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        config = run_config_from_dict(json.loads(content["meta"])["config"])
        values = content["params"]
    except Exception as error:  # whatever a torn or foreign file raises
        raise BandError(f"{path} must be the model of a finished run ({type(error).__name__}: {error})") from None
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    return Params(torch.cat([value.reshape(-1) for value in values.values()])[None], shapes), config
