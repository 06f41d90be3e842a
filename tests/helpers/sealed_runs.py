"""Published runs of made-up bytes: a sweep folder that can be brought home, and nothing that could be trained."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from signed import signed

from band.config import RunConfig, to_dict
from band.files import canonical_json
from band.run_dir import SweepDir, seal, verify

FILES = {"metrics.csv": 2_000, "model.pt": 20_000, "outputs.h5": 60_000}


def run_id(number: int) -> str:
    """Return the id of the n-th run."""
    return f"band-s{number:04d}"


def publish(folder: Path, numbers: Iterable[int], *, sizes: Mapping[str, int] = FILES, salt: str = "") -> SweepDir:
    """Add published runs, the seed of each being its number, to a sweep, which is made where it is not there.

    Args:
        folder: the sweep's.
        numbers: of the runs.
        sizes: bytes of their files.
        salt: runs of one number and another salt are other runs of one id.
    """
    sweep = SweepDir(folder)
    sweep.runs.mkdir(parents=True, exist_ok=True)
    base = to_dict(RunConfig())
    known = sweep.manifest.read_text().splitlines() if sweep.manifest.exists() else [_head(sweep.name, base)]
    for number in numbers:
        run = run_id(number)
        write_run(sweep.run(run), number, base=base, sizes=sizes, salt=salt)
        line = {"kind": "run", "id": run, "dataset": 0, "overrides": {"seed": number}, "retired": False}
        text = canonical_json(line).decode()
        known += [text] if text not in known else []
    sweep.manifest.write_text(signed("\n".join(known)))
    return sweep


def _head(name: str, base: Mapping[str, Any]) -> str:
    dataset = {"path": "/data/maze.h5", "digest": "d" * 64, "file_digest": "f" * 64, "size_bytes": 1, "shapes": {}}
    return json.dumps({"kind": "sweep", "schema": 1, "name": name, "base": base, "datasets": [dataset]})


def write_run(folder: Path, number: int, *, base: Mapping[str, Any], sizes: Mapping[str, int], salt: str) -> None:
    """Write one published run."""
    folder.mkdir()
    draws = random.Random(f"{number} {salt}")
    for name, size in sizes.items():
        (folder / name).write_bytes(draws.randbytes(size))
    config = {**base, "seed": number}
    scores = {"test": {"bits_per_spike": 0.1}, "valid": {"bits_per_spike": 0.1}, "train": {}}
    result = {
        "schema": 1,
        "run_id": folder.name,
        "config": config,
        "dataset": {"path": "/data/maze.h5", "digest": "d" * 64},
        "training": {"outcome": "diverged" if number % 10 == 9 else "ok", "epochs": 3, "seconds": 1.5},
        "scores": scores,
        "split": {"train": 8, "valid": 2, "test": 2, "how": "stratified"},
        "provenance": {"by": salt},
    }
    seal(folder, result=result)


def verified(sweep: SweepDir) -> list[str]:
    """Return the ids of the runs of a sweep, each of which was read and is right."""
    folders = sorted(folder for folder in sweep.runs.iterdir() if not folder.name.startswith("."))
    assert all(verify(folder)["run_id"] == folder.name for folder in folders)
    return [folder.name for folder in folders]


def tree(folder: Path) -> dict[str, bytes]:
    """Return {path: content} of all files below a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
