"""A rescue brings home what lies on a node, trains nothing, and says what was not there."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_task import QUICK, FakeTask, make_task

from band.attempts import Attempt, take
from band.node.rescue import main, rescue_task
from band.run_dir import read_events
from band.sweep.fold import by_task, read_folds


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTask:
    """Return a task of which one run is finished on the node, and the other has a checkpoint there."""
    runs = {"a": {"epochs": 3}, "b": {"epochs": 9, "raise_at": 5}}
    task = make_task(tmp_path, runs, monkeypatch=monkeypatch)
    with monkeypatch.context() as patch:
        real_open = os.open

        def read_only(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR) and str(task.home) in str(path) and "claim" not in str(path):
                raise OSError(30, "Read-only file system", str(path))
            return real_open(path, flags, *args, **kwargs)

        patch.setattr(os, "open", read_only)
        assert task.attempt() == 75
    assert task.published() == {}
    return task


def phases(task: FakeTask) -> dict[str, str]:
    """Return what the newest stream with a run says of it."""
    attempts = by_task(read_folds(task.sweep).values())["0000"]
    return {run: phase for fold in attempts for run, phase in fold.phases.items()}


def test_finished_runs_and_checkpoints_come_home_and_nothing_is_trained(task: FakeTask) -> None:
    before = task.ledger()
    assert rescue_task(task.task_json, timing=QUICK) == 0
    assert list(task.published()) == ["a"]
    assert task.ledger() == before
    assert not task.events("staged") and not task.events("started")
    assert [name for name in task.files() if name.startswith("population")]
    assert phases(task) == {"a": "published", "b": "started"}
    assert not task.work.exists()


def test_what_was_not_on_the_node_counts_as_unfinished(task: FakeTask, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(task.scratch)
    assert main([str(task.task_json)]) == 0
    assert phases(task) == {"a": "started", "b": "started"}
    (stream,) = task.sweep.events.glob("0000.rescue-*")
    told = [(event["event"], event.get("runs"), event.get("code")) for event in read_events(stream)[0]]
    assert told == [("missing", ["a", "b"], None), ("ended", None, 0)]
    assert "task 0000: not finished, or not on this node: a, b\n" in capsys.readouterr().err
    assert task.attempt() == 1  # b fails as it is made to
    assert list(task.published()) == ["a"]


def test_a_rescue_of_what_was_rescued_changes_nothing(task: FakeTask) -> None:
    for _ in range(2):
        assert rescue_task(task.task_json, timing=QUICK) == 0
    assert list(task.published()) == ["a"]


def test_of_what_is_at_home_or_not_to_be_trained_nothing_is_missing(
    task: FakeTask, capsys: pytest.CaptureFixture[str]
) -> None:
    task.task_json.with_name("skip.json").write_text('{"runs": ["b"]}')
    assert rescue_task(task.task_json, timing=QUICK) == 0
    assert list(task.published()) == ["a"] and not task.events("missing")
    assert "not on this node" not in capsys.readouterr().err


def test_that_what_is_missing_cannot_be_noted_is_an_error_and_done_again_it_is_noted(
    task: FakeTask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_open = os.open

    def read_only(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and "0000.rescue-" in str(path):
            raise OSError(30, "Read-only file system", str(path))
        return real_open(path, flags, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        assert main([str(task.task_json)]) == 75
    said = capsys.readouterr().err
    assert "error: the sweep's folder cannot be used: " in said and "cannot be written\n" in said
    assert "not on this node" not in said and not task.events("missing")
    assert main([str(task.task_json)]) == 0
    assert list(task.published()) == ["a"] and [event["runs"] for event in task.events("missing")] == [["b"]]


def test_it_is_a_program_of_its_own(task: FakeTask) -> None:
    command = [sys.executable, "-m", "band.node.rescue", str(task.task_json)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "task 0000: published a\n" in done.stderr
    assert list(task.published()) == ["a"]


def start_ticks(pid: int) -> int:
    """Return when a process was started, as a claim has it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_a_task_that_is_held_is_left_alone(task: FakeTask, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        holder = dataclasses.replace(Attempt.current(), pid=other.pid, start_ticks=start_ticks(other.pid))
        claim = take(task.task_json.parent, attempt=holder)
        assert rescue_task(task.task_json, timing=QUICK) == 4
        assert "is held by" in capsys.readouterr().err
        assert not task.events() and task.published() == {}
        claim.release()
        other.kill()
    assert rescue_task(task.task_json, timing=QUICK) == 0


def test_a_home_that_still_refuses_keeps_what_is_on_the_node(
    task: FakeTask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_open = os.open

    def read_only(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(task.sweep.runs) in str(path):
            raise OSError(30, "Read-only file system", str(path))
        return real_open(path, flags, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        assert rescue_task(task.task_json, timing=QUICK) == 75
    assert not task.events("missing")
    assert rescue_task(task.task_json, timing=QUICK) == 0
    assert list(task.published()) == ["a"]


def test_what_comes_home_is_printed_and_a_task_that_cannot_be_rescued_does_not_keep_others_from_it(
    task: FakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rescue", str(tmp_path / "nowhere/task.json"), str(task.task_json)])
    assert main() == 75
    said = capsys.readouterr().err
    assert "task 0000: published a\n" in said and "task 0000: mirrored a checkpoint\n" in said
    assert "claimed" not in said and "ended" not in said and said.count("error: ") == 1
    assert list(task.published()) == ["a"] and main([str(task.task_json)]) == 0 and main([]) == 0
