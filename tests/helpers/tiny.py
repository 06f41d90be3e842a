"""A tiny recording and tiny runs on it, for tests of the trainer."""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from band.config import Arch, DataConfig, Hyper, PbtConfig, RunConfig, TrainConfig, to_dict
from band.data.digest import dataset_digest
from band.search import read_space, space_text
from band.train.loop import Loop, train_population
from band.train.population import Population
from band.train.task import train_task
from band.train.trials import Trials

ARCH = Arch(ic_enc_dim=8, ci_enc_dim=8, con_dim=6, co_dim=2, ic_dim=5, gen_dim=12, fac_dim=6)
CPU = torch.device("cpu")


def write_recording(path: Path, *, trials: int = 40, bins: int = 12, neurons: int = 9, seed: int = 0) -> Path:
    """Write a small recording whose rates and behaviour follow one latent per trial."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (trials, 1, 1))
    time = np.arange(bins)[None, :, None]
    latent = np.concatenate([np.sin(phase + time / 2), np.cos(phase + time / 2)], axis=2)
    rates = np.exp(latent @ rng.normal(0, 0.7, (2, neurons)) - 0.5)
    spikes = rng.poisson(rates).astype(np.float32)
    behavior = (latent + rng.normal(0, 0.1, latent.shape)).astype(np.float32)
    cut = trials * 3 // 4
    with h5py.File(path, "w") as file:
        file.attrs["bin_ms"] = 20.0
        for name, part in (("train", slice(0, cut)), ("valid", slice(cut, None))):
            for key, values in (("encod_data", spikes), ("recon_data", spikes), ("behavior", behavior)):
                file[f"{name}_{key}"] = values[part]
            file[f"{name}_cond"] = (np.arange(trials) % 4)[part]
    return path


def config(
    *, seed: int = 0, fold: int = 0, num_folds: int = 1, train: dict[str, Any] | None = None, **hyper: Any
) -> RunConfig:
    """Return a small run."""
    training = {"batch_size": 8, "max_epochs": 6, "posterior_samples": 3, "stop_patience": 0, **(train or {})}
    return RunConfig(
        data=DataConfig(fold=fold, num_folds=num_folds),
        arch=ARCH,
        hyper=Hyper(**{"kl_increase_epoch": 2, "lr": 5e-3, **hyper}),
        train=TrainConfig(**training),
        seed=seed,
    )


SPACE = {
    "hyper.lr": {"low": 2e-3, "high": 2e-2, "change": 0.3},
    "hyper.cd_rate": {"draw": "uniform", "low": 0.01, "high": 0.7, "explore": "log"},
}


def searching(run: RunConfig, *, space: Mapping[str, Any] = SPACE, **pbt: Any) -> RunConfig:
    """Return a run that searches with a few members."""
    text = space_text(read_space(space, where="pbt.space"))
    given = {"members": 5, "every_epochs": 2, "burn_in_epochs": 4, "stop_generations": 0, "space": text, **pbt}
    return dataclasses.replace(run, pbt=PbtConfig(**given))


def make_loop(path: Path, configs: dict[str, RunConfig], *, device: torch.device = CPU) -> Loop:
    """Return the loop of an untrained population."""
    trials = Trials.load(path, list(configs.values()), device=device)
    population = Population.start(list(configs.items()), trials.widths, device=device)
    return Loop(population, trials, places={run: place for place, run in enumerate(configs)})


def train(
    path: Path, configs: dict[str, RunConfig], *, device: torch.device = CPU
) -> dict[str, tuple[torch.Tensor, Any]]:
    """Train a population to its end; return for each run its last flat row and its member."""
    ended: dict[str, tuple[torch.Tensor, Any]] = {}

    def on_ended(population: Population, positions: list[int]) -> None:
        for p in positions:
            ended[population.members[p].run_id] = (population.params.flat[p].clone(), population.members[p])

    loop = make_loop(path, configs, device=device)
    assert train_population(loop, on_epoch=lambda _: None, on_ended=on_ended, after_step=lambda _: False)
    return ended


def write_task(folder: Path, data: Path, configs: dict[str, RunConfig]) -> Path:
    """Write a task.json."""
    folder.mkdir(parents=True, exist_ok=True)
    task = {
        "schema": 1, "sweep": "tiny", "task": "0000", "threads": 1, "device": "cpu",
        "runs": [{"id": run, "config": to_dict(config)} for run, config in configs.items()],
        "dataset": {"path": str(data), "digest": dataset_digest(data)},
    }  # fmt: skip
    path = folder / "task.json"
    path.write_text(json.dumps(task))
    return path


class Silent:
    """Hears events."""

    def send(self, event: str, **fields: object) -> None:
        """Take one."""


def trained(folder: Path, data: Path, run: RunConfig) -> Path:
    """Train one run in this process and return its finished folder."""
    task = {
        "task": "0000", "threads": 1, "device": "cpu", "dataset": {"path": str(data), "digest": dataset_digest(data)},
        "runs": [{"id": "run", "config": to_dict(run)}],
    }  # fmt: skip
    code = train_task(task, work=folder, data=data, runs=["run"], events=Silent(), commands=queue.SimpleQueue())
    assert code == 0
    return folder / "runs" / "run"


def with_arch(run: RunConfig, **values: object) -> RunConfig:
    """Return a run with another architecture."""
    return dataclasses.replace(run, arch=dataclasses.replace(run.arch, **values))


def write_sessions(path: Path, *, neurons: tuple[int, ...] = (9, 6), trials: tuple[int, ...] = (40, 24)) -> Path:
    """Write a file of several sessions, each in a group of its own."""
    with h5py.File(path, "w") as file:
        file.attrs["bin_ms"] = 20.0
        for number, (width, count) in enumerate(zip(neurons, trials, strict=True)):
            single = write_recording(path.with_suffix(f".{number}.h5"), trials=count, neurons=width, seed=number)
            with h5py.File(single) as one:
                for name in one:
                    one.copy(name, file.require_group(f"day{number}"))
    return path


def joint(**changes) -> RunConfig:
    """Return a small run for several sessions."""
    arch = {"readin_dim": 5, **changes.pop("arch", {})}
    base = config(**changes)
    return dataclasses.replace(base, arch=dataclasses.replace(base.arch, **arch))


class Worker:
    """A trainer process with its pipes."""

    def __init__(self, task: Path, work: Path, data: Path, runs: list[str], **environment: str) -> None:
        work.mkdir(parents=True, exist_ok=True)
        read, write = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "band.train.worker",
                "--task", str(task), "--work", str(work), "--data", str(data),
                "--runs", ",".join(runs), "--events-fd", str(write),
            ],
            pass_fds=[write], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        os.close(write)
        self._events = os.fdopen(read)

    def command(self, word: str) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def events(self):
        """Yield events until the process ends."""
        for line in self._events:
            yield json.loads(line)

    def wait(self) -> int:
        """Return the exit code, all pipes drained."""
        for _ in self._events:
            pass
        self._events.close()
        self.process.communicate()
        return self.process.returncode
