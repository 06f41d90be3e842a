"""Recordings for the tests: the real ones where they are, and small files that keep or break one rule."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

REAL = Path(os.environ.get("BAND_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def real(name: str) -> Path:
    """Return a real recording, or skip the test with where it was looked for."""
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{path} is not there; BAND_DATA names the folder with the real recordings")
    return path


def small_arrays(
    *, counts: tuple[int, ...] = (12, 6), bins: int = 8, neurons: int = 5, conditions: int = 3, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the arrays of a valid file with as many splits as `counts`."""
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for split, count in zip(("train", "valid", "test"), counts, strict=False):
        spikes = random.poisson(1.5, (count, bins, neurons)).astype(np.float32)
        arrays[f"{split}_encod_data"] = spikes
        arrays[f"{split}_recon_data"] = spikes
        arrays[f"{split}_behavior"] = random.standard_normal((count, bins, 2)).astype(np.float32)
        if conditions:
            arrays[f"{split}_cond"] = np.arange(count) % conditions
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray], **attributes: float) -> Path:
    """Write arrays plainly with h5py, and return the path."""
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for name, values in arrays.items():
            file[name] = values
    return path


def continuous_arrays(
    *, blocks: list[tuple[str, int]], bins: int = 10, neurons: int = 20, seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return one smooth recording cut into chops, shipped by blocks, and the place of each pooled chop in time."""
    random = np.random.default_rng(seed)
    total = sum(count for _, count in blocks)
    state, path = np.zeros(2), []
    for _ in range(total * bins):
        state = 0.97 * state + 0.25 * random.standard_normal(2)
        path.append(state)
    velocity = np.array(path)
    counts = random.poisson(np.exp(0.5 + velocity @ random.standard_normal((2, neurons)) * 0.5)).astype(np.float32)
    labels = np.repeat([name for name, _ in blocks], [count for _, count in blocks])
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "valid"):
        chosen = labels == split
        spikes = counts.reshape(total, bins, neurons)[chosen]
        behavior = velocity.reshape(total, bins, 2)[chosen].astype(np.float32)
        arrays |= {f"{split}_encod_data": spikes, f"{split}_recon_data": spikes, f"{split}_behavior": behavior}
    return arrays, np.concatenate([np.flatnonzero(labels == "train"), np.flatnonzero(labels == "valid")])
