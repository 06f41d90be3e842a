"""What earlier attempts left on a node or on the way home is brought in, and what is not needed any more goes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from fake_task import FakeTask, make_task
from fake_trainer import expected_state

from band.attempts import Attempt, take
from band.node import course
from band.node.scratch import home_scratch
from band.run_dir import seal


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(*runs: str) -> FakeTask:
        return make_task(tmp_path, {run: {"epochs": 2} for run in runs}, monkeypatch=monkeypatch)

    return made


def left(folder: Path, run: str, *, half: bool = False) -> Path:
    """Leave a finished run in a folder, or what has come of one that was broken off."""
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("state\nearlier\n")
    seal(folder, result={"run_id": run, "training": {"outcome": "diverged"}})
    if half:
        (folder / "result.json").unlink()
    return folder


def test_a_run_that_had_come_home_whole_is_published_and_not_trained_again(make: Any) -> None:
    task = make("a", "b")
    left(task.sweep.incoming_run("a", attempt="j5-r0"), "a")
    half = left(task.sweep.incoming_run("b", attempt="j5-r0"), "b", half=True)
    assert task.attempt() == 0
    assert task.published() == {"a": "earlier", "b": expected_state("b", epochs=2)}
    (event,) = [event for event in task.events("published") if event["run"] == "a"]
    assert event["outcome"] == "diverged" and [event["runs"] for event in task.events("started")] == [["b"]]
    assert not half.exists() and list(task.sweep.incoming.iterdir()) == []


def test_the_second_of_a_run_that_came_home_twice_is_kept_aside(make: Any) -> None:
    task = make("run-a")
    for number in (4, 5):
        folder = left(task.sweep.incoming_run("run-a", attempt=f"j{number}-r0"), "run-a")
        (folder / "metrics.csv").write_text(f"state\n{number}\n")
        seal(folder, result={"run_id": "run-a", "training": {"outcome": "ok"}})
    stray = task.sweep.incoming / "run-a.stray"
    stray.write_text("a file, which is nobody's run")
    assert task.attempt() == 0
    assert task.published() == {"run-a": "4"} and not task.ledger()
    assert [path.name for path in task.sweep.superseded.iterdir()] == ["run-a.j5-r0"]
    assert [event["event"] for event in task.events() if event.get("run") == "run-a"] == ["published", "superseded"]
    assert list(task.sweep.incoming.iterdir()) == [stray]


def test_what_is_on_its_way_for_a_run_of_a_longer_name_is_left_alone(make: Any) -> None:
    task = make("a")
    others = [left(task.sweep.incoming_run(run, attempt="j5-r0"), run, half=run == "a.b") for run in ("a.b", "a.c")]
    assert task.attempt() == 0
    assert sorted(task.published()) == ["a"] and all(path.exists() for path in others)


def test_a_finished_run_on_the_node_is_published_unless_it_is_another_tasks(make: Any, tmp_path: Path) -> None:
    task = make("a", "b")
    for run in ("a", "z"):
        left(task.work / "0000.j5-r0" / "0" / "runs" / run, run)
    left(task.work / "0000.j5-r0" / "1" / "runs" / "b", "b", half=True)
    strangers = [left(task.work / name / "0" / "runs" / "b", "b") for name in ("0001.j5-r0", "000.j5-r0")]
    (task.work / "0000.j6-r0").symlink_to(left(tmp_path / "elsewhere" / "0" / "runs" / "b", "b").parents[2])
    (task.work / "0000.j7-r0").write_text("no folder")
    (task.work / "0000.j5-r0" / "0" / "population.2.pt").mkdir()  # no file
    (task.work / "0000.j5-r0" / "2").symlink_to(tmp_path / "elsewhere" / "0")
    (task.work / "0000.j5-r0" / "notes.txt").write_text("no folder")
    assert task.attempt() == 0
    assert task.published() == {"a": "earlier", "b": expected_state("b", epochs=2)}
    assert sorted(path.name for path in task.work.iterdir()) == ["000.j5-r0", "0000.j6-r0", "0000.j7-r0", "0001.j5-r0"]
    assert all(path.exists() for path in [*strangers, tmp_path / "elsewhere/0/runs/b"])


def test_what_an_attempt_without_scratch_left_at_home_is_published_and_swept_up_by_one_that_has_it(make: Any) -> None:
    task = make("a")
    left(home_scratch(task.sweep).sweep_work(task.sweep) / "0000.j5-r0" / "0" / "runs" / "a", "a")
    assert task.attempt() == 0
    assert task.published() == {"a": "earlier"} and not task.ledger()
    assert not (home_scratch(task.sweep).path / "work").exists()


@pytest.mark.parametrize("is_volatile", [True, False])
def test_a_copy_of_the_recording_stays_on_a_node_unless_its_scratch_goes_with_the_job(
    make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_volatile: bool
) -> None:
    task = make("a")
    scratch = tmp_path / "78" / "scratch"
    monkeypatch.setenv("BAND_SCRATCH", str(scratch))
    monkeypatch.setenv("SLURM_JOB_ID", "78" if is_volatile else "79")
    assert task.attempt() == 0
    assert task.events("claimed")[0]["volatile"] is is_volatile
    assert [path.name for path in scratch.glob("data/*/recording.h5")] == ([] if is_volatile else ["recording.h5"])
    assert not (scratch / "work").exists()


def test_the_work_of_an_attempt_that_has_taken_over_is_not_swept_up(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make("a")
    earlier, later = (left(task.work / f"0000.j5-r{n}" / "0" / "runs" / "a", "a", half=True) for n in (0, 1))
    moved = later.parents[2].rename(task.work.with_name("aside"))
    real = course.sweep_up

    def wake_up(*arguments: Any) -> None:
        moved.rename(later.parents[2])  # the next attempt has begun on this node while this one hung
        real(*arguments)

    monkeypatch.setattr(course, "sweep_up", wake_up)
    assert task.attempt() == 0
    assert not earlier.exists() and (later / "metrics.csv").exists()


@pytest.mark.parametrize("holder", ["alive", "dead", "done", "of another node", "of another job"])
def test_of_other_tasks_that_are_done_the_work_goes_unless_an_attempt_here_is_at_it(make: Any, holder: str) -> None:
    task = make("a")
    other = task.sweep.task("0001")
    other.path.mkdir()
    values = json.loads(task.task_json.read_text())
    other.task_json.write_text(json.dumps({**values, "task": "0001", "runs": [{**values["runs"][0], "id": "b"}]}))
    left(task.sweep.run("b"), "b")
    mine = Attempt.current({"SLURM_JOB_ID": "7"})
    (task.work / f"0001.{mine.name}").mkdir(parents=True)
    claim = take(other.path, attempt=dataclasses.replace(mine, start_ticks=1) if holder == "dead" else mine)
    if holder == "done":
        claim.release()
    elif holder == "of another node":
        take(other.path, attempt=dataclasses.replace(mine, restart=1, host="c2"))
    elif holder == "of another job":
        claim.release()
        take(other.path, attempt=Attempt.current({"SLURM_JOB_ID": "6"}))
    assert task.attempt() == 0
    assert (task.work / f"0001.{mine.name}").exists() == (holder == "alive")
