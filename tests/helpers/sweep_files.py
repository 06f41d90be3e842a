"""Makers of sweep files and of recordings without meaning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from band.sweep.document import read_document
from band.sweep.grid import Expansion, expand


def write_shapes(
    path: Path,
    *,
    trials: tuple[int, int, int] = (90, 30, 0),
    bins: int = 10,
    neurons: int = 4,
    keys: Sequence[str] = ("behavior", "cond"),
    fill: float = 0.0,
) -> Path:
    """Write random counts, `fill` added; `trials` of train, valid and test, no split where there are none."""
    counts = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, count in zip(("train", "valid", "test"), trials, strict=True):
            if count:
                spikes = counts.poisson(2.0, (count, bins, neurons)).astype(np.float32) + np.float32(fill)
                file[f"{split}_encod_data"] = spikes
                file[f"{split}_recon_data"] = spikes
                for key in keys:
                    shape = (count, bins, 2) if key == "behavior" else (count,)
                    file[f"{split}_{key}"] = np.zeros(shape, np.float32)
    return path


def write_sweep(path: Path, values: dict[str, Any]) -> Path:
    """Write a sweep file; JSON is YAML."""
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return path


def expand_file(path: Path, *sets: str) -> Expansion:
    """Return the expansion of a sweep file."""
    return expand(read_document(path, sets=sets))


def expand_text(folder: Path, text: str, *sets: str) -> Expansion:
    """Return the expansion of a sweep file of this text in `folder`, beside a recording named r.h5."""
    if not (folder / "r.h5").exists():
        write_shapes(folder / "r.h5")
    (folder / "s.yaml").write_text(text)
    return expand_file(folder / "s.yaml", *sets)


def band_sweep(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `band-sweep` in a process of its own."""
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "band.cli.sweep", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
