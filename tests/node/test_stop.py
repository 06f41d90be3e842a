"""Whether an attempt stops, why, and what becomes of its job: by a clock and a controller that are set."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from told_slurm import START, TimedController, in_slurm

from band.node.allocation import Allocation
from band.node.stop import StopRequest


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> TimedController:
    return TimedController(monkeypatch)


@pytest.mark.parametrize(
    ("limit_s", "slowest_s", "margin_s"),
    [
        *((3600, 0, 60), (103, 0, 25.75), (30, 0, 10), (20, 0, 10), (9, 0, 4.5)),
        *((3600, 30, 100), (3600, 1000, 1800), (-5, 0, 0)),  # the last: over when it begins
    ],
)
def test_an_attempt_stops_before_its_time_limit_as_early_as_a_checkpoint_needs(
    slurm: TimedController, limit_s: int, slowest_s: float, margin_s: float
) -> None:
    slurm.fields["EndTime"] = f"{START + limit_s:.0f}"
    with in_slurm() as stop:
        assert stop.has_deadline
        for seconds in (slowest_s / 2, slowest_s, slowest_s / 3):  # the slowest counts
            if seconds:
                stop.took(seconds)
        slurm.now = limit_s - margin_s - 1
        assert not stop.is_asked() and stop.time_left_s() is None
        slurm.now = limit_s - margin_s
        assert stop.is_asked() and stop.reason == "time limit"
        asked = slurm.asked
        assert stop.is_asked() and (slurm.asked, stop.count) == (asked, 1)
        assert stop.patience_s(stop_s=7.0) == margin_s / 2
        assert stop.time_left_s() == margin_s - 5
        assert stop.requeue() and slurm.told == ["scontrol requeue 70_3"]
        assert stop.requeue() and len(slurm.told) == 1


def test_a_limit_that_was_raised_meanwhile_counts(slurm: TimedController) -> None:
    with in_slurm() as stop:
        slurm.fields["EndTime"] = f"{START + 7200:.0f}"
        slurm.now = 3590.0
        assert not stop.is_asked()
        slurm.now = 7150.0
        assert stop.is_asked()


@pytest.mark.parametrize(("ahead_s", "end_s"), [(240, 3600), (-5, 3595)])
def test_a_node_whose_clock_is_behind_slurms_does_not_outstay_the_limit(
    slurm: TimedController, ahead_s: float, end_s: float
) -> None:
    begin = START + ahead_s  # by Slurm's clock; an attempt begins some seconds after its job
    slurm.fields |= {"StartTime": f"{begin:.0f}", "EndTime": f"{begin + 3600:.0f}"}
    with in_slurm() as stop:
        slurm.now = end_s - 61
        assert not stop.is_asked()
        slurm.now += 2
        assert stop.is_asked()


@pytest.mark.parametrize("limit_s", [60, 240])
def test_a_node_whose_clock_is_ahead_by_more_than_the_limit_has_the_limit_all_the_same(
    slurm: TimedController, limit_s: float
) -> None:
    begin = START - 240
    slurm.fields |= {"StartTime": f"{begin:.0f}", "EndTime": f"{begin + limit_s:.0f}"}
    with in_slurm() as stop:
        slurm.now = limit_s - limit_s / 4 - 1
        assert not stop.is_asked()
        slurm.now += 2
        assert stop.is_asked()


@pytest.mark.parametrize(
    ("environment", "end_s"),
    [({}, 3600), ({"SLURM_JOB_END_TIME": f"{START + 600:.0f}"}, 600), ({"BAND_TIME_LIMIT_S": ""}, None)],
)
def test_where_slurm_does_not_answer_the_limit_of_the_environment_counts(
    slurm: TimedController, environment: dict[str, str], end_s: float | None
) -> None:
    slurm.is_silent = True
    with in_slurm(**environment) as stop:
        assert stop.has_deadline == (end_s is not None)
        slurm.now = end_s - 61 if end_s else 1e9
        assert not stop.is_asked()
        slurm.now += 2
        assert stop.is_asked() == (end_s is not None)


@pytest.mark.parametrize(
    ("shown", "reason", "runs_again", "told"),
    [
        ({}, "SIGTERM", False, False),  # the user's scancel, which must not be undone
        ({"PreemptTime": "1800000100"}, "preemption", True, True),
        ({"PreemptTime": "1800000100", "JobState": "COMPLETING"}, "SIGTERM", False, False),
        ({"PreemptTime": "1800000100", "JobState": "SUSPENDED"}, "SIGTERM", False, False),
        ({"Restarts": "2"}, "requeued", True, False),  # Slurm has queued it again itself
        ({"Restarts": "0"}, "SIGTERM", False, False),  # a controller that came back with an older state
        (None, "SIGTERM", False, False),
    ],
)
def test_why_slurm_ends_a_job_decides_whether_it_is_queued_again(
    slurm: TimedController, shown: dict[str, str] | None, reason: str, runs_again: bool, told: bool
) -> None:
    with in_slurm() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_asked() and stop.reason == "SIGTERM" and stop.time_left_s() == 28.0
        assert stop.patience_s(stop_s=7.0) == 7.0
        slurm.is_silent = shown is None
        slurm.fields |= shown or {}
        stop.explain()
        slurm.is_silent = False
        assert (stop.reason, stop.requeue()) == (reason, runs_again)
        assert slurm.told == (["scontrol requeue 70_3"] if told else [])


@pytest.mark.parametrize("is_preempted", [True, False])
def test_a_warning_asks_to_stop_if_another_job_is_to_take_the_place(slurm: TimedController, is_preempted: bool) -> None:
    with in_slurm() as stop:
        assert not stop.take_warning()
        if is_preempted:
            slurm.fields["PreemptTime"] = "1800000100"
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.take_warning() and not stop.take_warning()
        assert stop.is_asked() == is_preempted and stop.reason == ("preemption" if is_preempted else "")
        assert stop.requeue() == is_preempted and bool(slurm.told) == is_preempted


def test_the_first_reason_stands_and_slurms_second_signal_is_no_haste(slurm: TimedController) -> None:
    for stop, is_hasty in ((in_slurm(), False), (StopRequest(), True)):
        with stop:
            assert not stop.is_hasty
            assert stop.waited_s(since=2000.0) == 3000.0 + slurm.now and stop.waited_s(since=0.0) == 5000.0 + slurm.now
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.is_asked() and not stop.is_hasty
            slurm.now += 10
            os.kill(os.getpid(), signal.SIGHUP)
            assert (stop.reason, stop.is_hasty) == ("SIGINT", is_hasty)
            assert stop.waited_s(since=0.0) == 10.0 and stop.waited_s(since=time.monotonic() - 4) == 4.0


def test_outside_slurm_nothing_has_a_limit_and_nobody_is_asked(slurm: TimedController) -> None:
    slurm.is_silent = True
    assert Allocation.current({"SLURM_JOB_ID": ""}) is None
    with StopRequest() as stop:
        slurm.now = 1e9
        assert not stop.is_asked() and not stop.has_deadline and not stop.leave_node()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.take_warning() and not stop.is_asked()
        stop.ask("enough")
        stop.explain()
        assert stop.time_left_s() is None and not stop.requeue() and stop.reason == "enough"


def test_signals_are_taken_within_the_block_alone_and_only_by_the_main_thread() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCONT)
    before = [signal.getsignal(number) for number in numbers]
    with StopRequest():
        assert [signal.getsignal(number) for number in numbers] != before
        assert signal.getsignal(signal.SIGCONT) == signal.SIG_DFL
    assert [signal.getsignal(number) for number in numbers] == before

    failed: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with StopRequest():
                assert [signal.getsignal(number) for number in numbers] == before
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not failed


@pytest.mark.parametrize(("excluded", "nodes"), [("(null)", "n1"), ("n7,n[8-9]", "n7,n[8-9],n1")])
def test_a_node_is_left_for_any_other(slurm: TimedController, excluded: str, nodes: str) -> None:
    slurm.fields["ExcNodeList"] = excluded
    with in_slurm() as stop:
        assert stop.leave_node()
        assert slurm.told == ["scontrol requeue 70_3", f"scontrol update JobId=70_3 ExcNodeList={nodes}"]


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_node_is_not_left_by_who_is_asked_to_stop_or_gets_no_answer(slurm: TimedController, is_silent: bool) -> None:
    with in_slurm() as stop:
        slurm.is_silent = is_silent
        if not is_silent:
            stop.ask("rescue")
        assert not stop.leave_node() and not slurm.told and slurm.now < 60


def seconds_waited(slurm: TimedController, stop: StopRequest) -> float:
    start = slurm.now
    stop.wait_to_be_killed()
    return slurm.now - start


def test_after_a_requeue_of_ours_the_end_is_awaited_and_not_for_ever(
    slurm: TimedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_slurm() as stop:
        assert seconds_waited(slurm, stop) == 0
        stop.ask("time limit")
        assert stop.requeue()
        assert seconds_waited(slurm, stop) == pytest.approx(120, abs=1)

        def signalled(seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
            sleep(seconds)
            if slurm.now - start > 3:
                os.kill(os.getpid(), signal.SIGTERM)

        start = slurm.now
        monkeypatch.setattr(time, "sleep", signalled)
        assert seconds_waited(slurm, stop) == pytest.approx(3, abs=0.5)


def test_a_job_that_slurm_queued_again_by_itself_ends_at_once(slurm: TimedController) -> None:
    with in_slurm() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        slurm.fields["Restarts"] = "2"
        assert stop.requeue() and seconds_waited(slurm, stop) == 0


def test_a_controller_that_answers_late_is_asked_again_for_a_requeue(
    slurm: TimedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        slurm.now += seconds
        slurm.is_silent = slurm.now < 3

    with in_slurm() as stop:
        monkeypatch.setattr(time, "sleep", sleep)
        slurm.is_silent = True
        stop.ask("time limit")
        assert stop.requeue() and slurm.told == ["scontrol requeue 70_3"]


def test_slurm_is_asked_why_once_and_not_before_there_is_a_reason(slurm: TimedController) -> None:
    with in_slurm() as stop:
        before = slurm.asked
        stop.explain()
        assert slurm.asked == before
        os.kill(os.getpid(), signal.SIGTERM)
        stop.explain()
        slurm.fields["PreemptTime"] = "1800000100"  # too late to tell
        stop.explain()
        assert slurm.asked == before + 1 and stop.reason == "SIGTERM"
