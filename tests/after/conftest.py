"""One small run for all tests of what comes after training, and one of two sessions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import pytest
from finished_run import finish, write_long_recording
from tiny import config, write_recording


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BAND run with a controller."""
    folder = tmp_path_factory.mktemp("after")
    recording = write_long_recording(folder / "recording.h5")
    run = config(seed=3, behavior_weight=1.0, dropout_rate=0.0, cd_rate=0.1, train={"posterior_samples": 4})
    run = dataclasses.replace(run, hyper=dataclasses.replace(run.hyper, lr=2e-2, behavior_dropout_rate=0.0))
    return finish(folder / "run", recording, run, steps=150)


@pytest.fixture(scope="session")
def recording(finished: Path) -> Path:
    """The recording that it was trained on."""
    return finished.parent / "recording.h5"


@pytest.fixture(scope="session")
def of_two_sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two sessions with different neurons."""
    folder = tmp_path_factory.mktemp("sessions")
    with h5py.File(folder / "two.h5", "w") as file:
        file.attrs["bin_ms"] = 20.0
        for seed, (name, neurons) in enumerate((("day1", 9), ("day2", 7))):
            part = write_recording(folder / f"{name}.h5", trials=48, neurons=neurons, seed=seed)
            with h5py.File(part) as source:
                for key in source:
                    source.copy(key, file.require_group(name))
    run = config(behavior_weight=0.5, train={"posterior_samples": 2, "batch_size": 16})
    run = dataclasses.replace(run, arch=dataclasses.replace(run.arch, readin_dim=5))
    return finish(folder / "run", folder / "two.h5", run, steps=20)
