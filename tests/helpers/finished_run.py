"""A small run, trained and published, for tests of what comes after training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
from tiny import make_loop, write_recording

from band.config import RunConfig
from band.data.digest import dataset_digest
from band.train.export import export_member


def finish(folder: Path, recording: Path, config: RunConfig, *, steps: int = 60) -> Path:
    """Train one member for some steps and return its finished folder."""
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(recording)))
    loop = make_loop(recording, {"run": config})
    for _ in range(steps):
        loop.end_epochs(loop.step())
    export_member(
        loop.population, 0, loop._trials, 0, folder=folder,
        dataset={"path": str(recording), "digest": dataset_digest(recording)}, provenance={},
    )  # fmt: skip
    return folder


def write_long_recording(path: Path, *, trials: int = 120) -> Path:
    """Write the tiny recording with epochs a bin, as an int array."""
    write_recording(path, trials=trials)
    with h5py.File(path, "a") as file:
        for split in ("train", "valid"):
            count, bins, _ = file[f"{split}_encod_data"].shape
            file[f"{split}_epoch"] = np.tile(np.arange(bins) // 6, (count, 1))
    return path
