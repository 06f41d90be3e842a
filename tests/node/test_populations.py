"""A task of several populations trains them one after the other, and a continuation keeps to them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from fake_task import FakeTask, make_task
from fake_trainer import expected_state

from band.errors import SweepError
from band.node.job import read_task

RUNS = {run: {"epochs": 3} for run in "abcde"}


def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, populations: list[list[str]], **runs: object) -> FakeTask:
    task = make_task(tmp_path, {**RUNS, **runs}, monkeypatch=monkeypatch)  # type: ignore[dict-item]
    task.task_json.write_text(json.dumps({**json.loads(task.task_json.read_text()), "populations": populations}))
    return task


def test_populations_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(tmp_path, monkeypatch, [["a", "b"], ["c"], ["d", "e"]])
    assert task.attempt() == 0
    assert task.published() == {run: expected_state(run, epochs=3) for run in RUNS}
    assert [event["runs"] for event in task.events("started")] == [["a", "b"], ["c"], ["d", "e"]]
    assert set(task.ledger().values()) == {1}


def test_one_that_fails_costs_the_others_nothing_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"epochs": 3, "raise_at": 2}
    task = make(tmp_path, monkeypatch, [["a", "b"], ["c"], ["d", "e"]], b=broken)
    assert task.attempt() == 1
    assert sorted(task.published()) == ["a", "c", "d", "e"]
    assert [event["runs"] for event in task.events("failed")] == [["b"]]


def test_where_there_is_no_gpu_no_half_of_the_runs_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"epochs": 3, "raise_at": 0, "raise_as": "DeviceError"}
    task = make(tmp_path, monkeypatch, [["a", "b"], ["c"], ["d", "e"]], a=broken)
    assert task.attempt() == 1
    assert [event["runs"] for event in task.events("failed")] == [list(RUNS)] and not task.events("split")


def test_a_killed_trainer_goes_on_with_its_own_population(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(tmp_path, monkeypatch, [["a", "b"], ["c", "d", "e"]], d={"epochs": 3, "signal_at": [1, signal.SIGKILL]})
    task.attempt()
    assert sorted(task.published()) == ["a", "b", "c", "e"]
    started = [event["runs"] for event in task.events("started")]
    assert started[:2] == [["a", "b"], ["c", "d", "e"]]


def test_populations_that_do_not_name_each_run_once_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(tmp_path, monkeypatch, [["a", "b"], ["b", "c"]])
    with pytest.raises(SweepError, match="populations must name each run of the task once"):
        read_task(task.task_json)
