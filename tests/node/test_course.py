"""The course of an attempt where more happens than training: a node is left, a limit comes twice, a canary ends."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_task import QUICK, TRAINER, FakeTask, make_task
from fake_trainer import expected_state
from told_slurm import Controller, TimedController, in_slurm

from band.node import course
from band.node.job import Timing
from band.node.stop import StopRequest
from band.node.task import run_task
from band.run_dir import EventWriter


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(**runs: dict[str, Any]) -> FakeTask:
        return make_task(tmp_path, runs, monkeypatch=monkeypatch)

    return made


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Controller:
    controller = Controller(monkeypatch)
    controller.fields["EndTime"] = f"{time.time() + 3600:.0f}"
    return controller


def attempt(task: FakeTask, stop: StopRequest, *, reason: str = "") -> int:
    with stop:
        if reason:
            stop.ask(reason)
        return run_task(task.task_json, trainer=TRAINER, timing=QUICK, stop=stop)


def died(task: FakeTask, number: int, *, host: str = "", ended: bool = False, prefix: str = "j") -> None:
    """Write the stream of an attempt that claimed the task and said no more, unless it ended."""
    name = f"{prefix}{number}-r0"
    events = EventWriter(task.sweep.event_file("0000", attempt=name))
    host = host or os.uname().nodename
    events.write("claimed", claim=number, attempt=name, host=host, pid=1, scratch="/x", volatile=False)
    for event in ("staged", "started", "epoch", "mirrored"):
        events.write(event)
    if ended:
        events.write("ended", code=1)


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_node_on_which_attempts_died_without_a_word_is_left_once(make: Any, slurm: Controller, deaths: int) -> None:
    task = make(a={"epochs": 2})
    for number in range(3 - deaths, 2):  # of three, one when Slurm did not answer
        died(task, number)
    died(task, 2, prefix="zzz")  # by name after this one, whose own stream has no end either
    assert attempt(task, in_slurm()) == 4
    assert slurm.told == ["scontrol requeue 70_3", "scontrol update JobId=70_3 ExcNodeList=n1"]
    (event,) = task.events("interrupted")
    host = os.uname().nodename
    assert (event["left"], event["requeued"], event["reason"]) == (
        host,
        True,
        f"2 attempts died on {host} without a word",
    )
    assert not task.ledger() and len(task.events("staged")) == deaths
    died(task, 3)
    died(task, 4)
    assert attempt(task, in_slurm()) == 0, "or a task that is at fault itself would go through all nodes"
    assert len(slurm.told) == 2 and task.published() == {"a": expected_state("a", epochs=2)}


@pytest.mark.parametrize("kind", ["once", "elsewhere", "not without a word", "no slurm", "slurm does not answer"])
def test_a_node_is_not_left_for_less(make: Any, slurm: Controller, kind: str) -> None:
    task = make(a={"epochs": 2})
    died(task, 1, prefix="zzz")
    if kind != "once":
        died(task, 2, host="elsewhere" if kind == "elsewhere" else "", ended=kind == "not without a word")
    slurm.is_silent = kind == "slurm does not answer"
    assert attempt(task, StopRequest() if kind == "no slurm" else in_slurm()) == 0
    assert list(task.published()) == ["a"] and not slurm.told


def test_a_task_that_comes_to_no_checkpoint_within_its_limit_is_not_queued_again_for_ever(
    make: Any, slurm: Controller
) -> None:
    task = make(a={"epochs": 2}, b={"epochs": 9, "raise_at": 4})
    assert task.attempt() == 1  # a is published, b has a checkpoint: more than there was at its start
    requeues = []
    for number in range(3):
        if number == 2:
            died(task, 50, host="elsewhere")  # which says nothing of the limit
        before = len(slurm.told)
        assert attempt(task, in_slurm(), reason="time limit") == 4
        requeues.append(len(slurm.told) - before)
    assert requeues == [1, 0, 0]
    assert [event["headway"] for event in task.events("interrupted")] == [False, False, False]
    assert [event["requeued"] for event in task.events("interrupted")] == [True, False, False]
    assert attempt(task, in_slurm(), reason="preemption") == 4
    assert task.events("interrupted")[-1]["requeued"], "which says nothing of the task"
    assert attempt(task, in_slurm(), reason="time limit") == 4
    assert task.events("interrupted")[-1]["requeued"], "the one before had another reason"


def test_one_that_gets_further_within_its_limit_is_queued_again(make: Any, slurm: Controller) -> None:
    task = make(a={"epochs": 500, "epoch_s": 0.01})
    for _ in range(2):
        assert attempt(task, in_slurm(), reason="time limit") == 4  # it got no further
        stop = in_slurm()

        def tell(event: Any, stop: StopRequest = stop) -> None:
            if event["event"] == "checkpoint" and not stop.reason:
                stop.ask("time limit")

        with stop:
            assert run_task(task.task_json, trainer=TRAINER, timing=QUICK, stop=stop, on_event=tell) == 4
    assert slurm.told == ["scontrol requeue 70_3"] * 4
    assert [event["headway"] for event in task.events("interrupted")] == [False, True, False, True]
    assert all(event["requeued"] for event in task.events("interrupted"))


def test_a_canary_ends_by_itself_and_the_next_attempt_goes_on_from_there(
    make: Any, slurm: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(a={"epochs": 20, "epoch_s": 0.01})
    with monkeypatch.context() as patch:
        patch.setenv("BAND_CANARY_S", "0.05")
        assert attempt(task, in_slurm()) == 4
    (event,) = task.events("interrupted")
    assert event["reason"] == "the canary has shown what it takes" and not event["requeued"] and not slurm.told
    assert 0 < task.events("rehearsed")[0]["share"] < 1 and not task.events("failed")
    assert task.attempt() == 0
    assert task.published() == {"a": expected_state("a", epochs=20)} and set(task.ledger().values()) == {1}


def test_a_canary_that_is_told_to_stop_once_it_has_ended_is_queued_again_for_that(
    make: Any, slurm: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(a={"epochs": 20, "epoch_s": 0.01})
    monkeypatch.setenv("BAND_CANARY_S", "0.05")
    stop = in_slurm()

    def tell(event: Any) -> None:
        if event["event"] == "mirrored":
            stop.ask("preemption")

    with stop:
        timing = dataclasses.replace(QUICK, mirror_s=1000.0)
        assert run_task(task.task_json, trainer=TRAINER, timing=timing, stop=stop, on_event=tell) == 4
    (event,) = task.events("interrupted")
    assert task.events("rehearsed") and event["reason"] == "preemption" and event["requeued"]
    assert slurm.told == ["scontrol requeue 70_3"]


def test_where_scratch_is_required_home_does_not_take_its_place(
    make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make(a={"epochs": 2})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BAND_SCRATCH", str(tmp_path / "file"))
    monkeypatch.setenv("BAND_SCRATCH_REQUIRED", "1")
    assert task.attempt() == 1
    assert "BAND_SCRATCH_REQUIRED is set" in capsys.readouterr().err and not task.ledger()
    (event,) = task.events("failed")
    assert event["runs"] == ["a"] and event["error"] == "StageError" and "cannot be used" in event["message"]
    monkeypatch.setenv("BAND_SCRATCH_REQUIRED", "0")
    assert task.attempt() == 0


def test_a_scratch_that_is_full_when_training_begins_is_named(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make(a={"epochs": 2}, b={"epochs": 2})
    real = os.mkdir

    def full(path: Any, *args: Any, **kwargs: Any) -> None:
        if Path(path).parent.parent == task.work:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", full)
        assert task.attempt() == 1
    (event,) = task.events("failed")
    assert event["runs"] == ["a", "b"] and event["error"] == "StageError" and not task.ledger()
    assert "No space left on device" in event["message"] and "free some room, or set BAND_SCRATCH" in event["message"]
    assert f"error: {task.work}" in capsys.readouterr().err
    assert task.attempt() == 0


@pytest.mark.parametrize(("error", "code"), [("VersionMismatch", 78), ("StageError", 1), ("DeviceError", 1)])
def test_what_no_division_mends_ends_the_task_with_its_own_code(
    make: Any, capsys: pytest.CaptureFixture[str], error: str, code: int
) -> None:
    task = make(a={"epochs": 3, "raise_at": 1, "raise_as": error}, b={"epochs": 3})
    assert task.attempt() == code
    (event,) = task.events("failed")
    assert event["runs"] == ["a", "b"] and event["error"] == error and event["traceback"] == "Traceback: here"
    assert event["message"] in capsys.readouterr().err and not task.events("split")
    assert [event["code"] for event in task.events("ended")] == [code]


@pytest.mark.parametrize("where", ["task_events", "salvage", "is_published"])
def test_a_home_that_fails_for_a_moment_at_the_start_of_a_job_is_waited_for(
    make: Any, slurm: Controller, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    task = make(a={"epochs": 1})
    failures, real = [OSError(errno.ESTALE, "Stale file handle")] * 4, getattr(course, where)

    def fail(*arguments: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*arguments, **more)

    monkeypatch.setattr(course, where, fail)
    assert task.attempt() == 75 and len(failures) == 3, "nobody but a job waits"
    assert attempt(task, in_slurm()) == 0 and not failures
    assert list(task.published()) == ["a"]


def test_a_division_that_makes_no_sense_is_passed_over_for_the_one_before(make: Any) -> None:
    task = make(a={"epochs": 1}, b={"epochs": 1}, c={"epochs": 1})
    stream = EventWriter(task.sweep.event_file("0000", attempt="j5-r0"))
    for parts in ([["a"], ["b", "c"]], None, 3, "ab", [["a"], 3], {"a": ["b"]}):
        stream.write("split", parts=parts)
    assert task.attempt() == 0
    assert [event["runs"] for event in task.events("started")] == [["a"], ["b", "c"]]


def test_halves_stay_halves_for_the_next_attempt(make: Any) -> None:
    whole, broken = {"epochs": 4}, {"epochs": 4, "raise_at": 2}
    task = make(a=whole, b=whole, c=whole, d=whole, e=whole, f=whole, g=whole, h=broken)
    splits = []
    with StopRequest() as stop:

        def tell(event: Any) -> None:
            if event["event"] == "split":
                splits.append(event["parts"])
                if len(splits) == 3:
                    stop.ask("enough")

        assert run_task(task.task_json, trainer=TRAINER, timing=QUICK, stop=stop, on_event=tell) == 4
    assert splits == [[list("abcd"), list("efgh")], [list("ef"), list("gh")], [["g"], ["h"]]]
    assert task.attempt() == 1
    started = [event["runs"] for event in task.events("started")]
    assert started == [list("abcdefgh"), list("abcd"), list("efgh"), list("ef"), list("gh"), ["g"], ["h"]]
    assert sorted(task.published()) == list("abcdefg")
    assert {epoch for epoch, times in task.ledger().items() if times > 1} <= {f"epoch {run} 2" for run in "abcdefg"}


def test_halves_stay_halves_though_neither_came_to_a_checkpoint(make: Any) -> None:
    whole = {"epochs": 2}
    task = make(a=whole, b=whole, c=whole, d=whole, e=whole)
    events = EventWriter(task.sweep.event_file("0000", attempt="j1-r0"))
    events.write("claimed", claim=1, attempt="j1-r0", host="elsewhere", pid=1, scratch="/x", volatile=False)
    events.write("split", runs=list("abcde"), parts=[list("abcde"), []], error="E", message="m", traceback="")
    events.write("split", runs=list("abcde"), parts=[list("ab"), list("cde")], error="E", message="m", traceback="")
    events.write("staged", path="/x", source="scratch", volatile=False, copied=True, reason="")
    events.write("started", runs=["a", "b"], step=0)
    events.write("superseded", run="e", outcome="ok")
    assert task.attempt() == 0
    assert [event["runs"] for event in task.events("started")][1:] == [list("ab"), list("cde")]


def test_how_often_a_population_was_killed_is_counted_from_its_newest_checkpoint(
    make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("band.node.course.MOST_KILLS", 2)
    task = make(a={"epochs": 9})
    script = """
import hashlib, os, sys
starts = int(os.path.basename(os.getcwd()))
if starts in (1, 3):
    open("population.0.pt", "w").write(str(starts))
    words = (starts, hashlib.sha256(b"%d" % starts).hexdigest().encode())
    os.write(int(sys.argv[-1]), b'{"event": "checkpoint", "step": %d, "slot": 0, "sha256": "%s"}\\n' % words)
os.kill(os.getpid(), 9)
"""
    assert run_task(task.task_json, trainer=[sys.executable, "-S", "-c", script], timing=QUICK) == 1
    # before the first checkpoint once; at the first one twice; at the second twice, and the third time is too often
    assert len(task.events("restarted")) == 5


@pytest.mark.parametrize("is_volatile", [True, False])
def test_where_finished_runs_are_that_home_did_not_take_is_said(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, is_volatile: bool
) -> None:
    task = make(a={"epochs": 2}, b={"epochs": 3})
    if is_volatile:
        monkeypatch.setenv("BAND_SCRATCH", str(tmp_path / "78" / "scratch"))
        monkeypatch.setenv("SLURM_JOB_ID", "78")
    real = os.mkdir

    def refuse(path: Any, *args: Any, **kwargs: Any) -> None:
        if Path(path).parent == task.sweep.incoming:
            raise OSError(30, "Read-only file system", str(path))
        real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        assert task.attempt() == 75
    (event,) = task.events("interrupted")
    assert event["runs"] == ["a", "b"] and event["host"] == os.uname().nodename and not event["requeued"]
    assert [told["run"] for told in task.events("run_finished")] == ["a", "b"]
    assert event["volatile"] is is_volatile and (Path(event["path"]) / "0" / "runs" / "a" / "result.json").exists()
    said = capsys.readouterr().err
    assert f"{event['host']} in {event['path']}: a, b;" in said and "Read-only file system" in said
    assert ("are lost when the job ends" if is_volatile else "are kept") in said
    assert task.attempt() == 0 and sorted(task.published()) == ["a", "b"] and set(task.ledger().values()) == {1}


@pytest.mark.parametrize(
    ("where", "reasons", "seconds"),
    [
        ("no slurm", [], 600), ("no slurm", ["SIGTERM"], 25), ("no slurm", ["SIGINT", "SIGINT"], 0),
        ("slurm", [], 3595), ("slurm", ["SIGTERM", "SIGTERM"], 28), ("slurm", ["time limit"], 3595),
    ],
)  # fmt: skip
def test_a_home_that_refuses_is_waited_for_as_long_as_there_is_time(
    make: Any, monkeypatch: pytest.MonkeyPatch, where: str, reasons: list[str], seconds: float
) -> None:
    task = make(a={"epochs": 1})
    real = os.mkdir

    def refuse(path: Any, *args: Any, **kwargs: Any) -> None:
        if Path(path).parent == task.sweep.incoming:
            raise OSError(30, "Read-only file system", str(path))
        real(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refuse)
    assert task.attempt(home_wait_s=0.0) == 75
    clock = TimedController(monkeypatch)
    stop = in_slurm() if where == "slurm" else StopRequest()
    with stop:
        for reason in reasons:
            stop.ask(reason)
        timing = Timing(tick_s=0.7, retry_s=20.0)
        assert run_task(task.task_json, trainer=["/nowhere"], timing=timing, stop=stop) == 75
    assert clock.now == pytest.approx(seconds, abs=2)
