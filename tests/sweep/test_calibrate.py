"""What a finished task teaches about the speed of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_sweep import SHAPES, make_sweep

from band.run_dir import SweepDir, seal
from band.sweep import estimate as module
from band.sweep.calibrate import learn_from_task
from band.sweep.estimate import estimate, speed_correction
from band.sweep.manifest import read_manifest
from band.sweep.pack import Room
from band.sweep.status import TaskState, take_survey
from band.sweep.submit import plan, write


class Nobody:
    """A scheduler that knows of nothing."""

    def task_states(self, tasks: object) -> dict[str, TaskState]:
        return {}


@pytest.fixture(autouse=True)
def uncalibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module.speed_correction.cache_clear()


def finished_task(folder: Path, *, seconds: float, threads: int = 1) -> SweepDir:
    """Return a sweep of one task of two runs that trained together for half of their epochs."""
    sweep = make_sweep(folder, {"a": {}, "b": {}}).sweep
    manifest = read_manifest(sweep.path)
    room = Room(slots=1, threads=threads, device="cpu", memory_bytes=2**40)
    write(
        plan(take_survey(sweep, manifest, scheduler=Nobody()), sweep=sweep, room=room), sweep=sweep, manifest=manifest
    )
    for run in "ab":
        sweep.run(run).mkdir(parents=True)
        seal(sweep.run(run), result={"run_id": run, "training": {"epochs": 350, "seconds": seconds}})
    return sweep


def test_members_that_trained_together_count_once(tmp_path: Path) -> None:
    sweep = finished_task(tmp_path, seconds=1.0)
    manifest = read_manifest(sweep.path)
    alone = estimate(manifest.run_config(manifest.runs[0]), SHAPES).seconds
    sweep = finished_task(tmp_path / "again", seconds=4 * alone)
    learn_from_task(sweep, task="0001")
    # Two runs, half the epochs of each: expected `alone`, found four times that, and half way there is a factor of 2.
    assert speed_correction() == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize(("seconds", "threads"), [(1.0, 1), (1e4, 2)])
def test_short_tasks_and_tasks_of_several_threads_teach_nothing(tmp_path: Path, seconds: float, threads: int) -> None:
    learn_from_task(finished_task(tmp_path, seconds=seconds, threads=threads), task="0001")
    assert speed_correction() == 1.0
