"""What files take: staging a recording, loading it, a checkpoint, and a copy of the same bytes for comparison."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from band.cli.data import main as band_data
from band.config import DataConfig, RunConfig
from band.files import sha256_file
from band.node.scratch import prepare
from band.node.stage import staged
from band.run_dir import ScratchDir
from band.train.checkpoint import newest_checkpoint, restore_population, save_checkpoint
from band.train.start import start_population
from band.train.trials import Trials

MEMBERS = 16


def timed(deed: Callable[[], object]) -> float:
    """Return how long something takes."""
    before = time.perf_counter()
    deed()
    return time.perf_counter() - before


def rows() -> list[list[str]]:
    """Return (what, MiB, seconds, MiB/s) of each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "reach.h5"
        assert band_data(["simulate", "reach", str(path), "--trials", "96", "12", "12", "--json"]) == 0
        return [*_recording(path, folder=folder), *_checkpoint(path, folder=folder)]


def _recording(path: Path, *, folder: Path) -> list[list[str]]:
    size = path.stat().st_size
    dataset = {"path": str(path), "digest": "d", "file_digest": sha256_file(path), "size_bytes": size}
    scratch = ScratchDir(folder / "scratch")
    prepare(scratch)

    def stage() -> None:
        with staged(dataset, scratch=scratch):
            pass

    config = RunConfig(data=DataConfig(path=str(path)))
    return [
        _row("copied by the system", size, timed(lambda: shutil.copy(path, folder / "copy.h5"))),
        _row("staged: copied, flushed, verified", size, timed(stage)),
        _row("found on scratch", size, timed(stage)),
        _row("loaded by the trainer", size, timed(lambda: Trials.load(path, [config], device=torch.device("cpu")))),
    ]


def _checkpoint(path: Path, *, folder: Path) -> list[list[str]]:
    device = torch.device("cpu")
    runs = [(f"run-{seed}", RunConfig(data=DataConfig(path=str(path)), seed=seed)) for seed in range(MEMBERS)]
    trials = Trials.load(path, [config for _, config in runs], device=device)
    population = start_population(runs, trials, {run: n for n, (run, _) in enumerate(runs)}, device=device)

    def restore() -> None:
        found = newest_checkpoint(folder)
        assert found is not None
        restore_population(found[1], dict(runs), trials.widths, device=device)

    names = [run for run, _ in runs]
    save = timed(lambda: save_checkpoint(population, folder, slot=0, packing=names))
    size = (folder / "population.0.pt").stat().st_size
    return [
        _row(f"checkpoint of {MEMBERS} members written and flushed", size, save),
        _row("read and restored", size, timed(restore)),
    ]


def _row(what: str, size: int, seconds: float) -> list[str]:
    return [what, f"{size / 2**20:.0f}", f"{seconds:.3f}", f"{size / 2**20 / seconds:.0f}"]
