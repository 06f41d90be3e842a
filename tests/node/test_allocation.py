"""The job that an attempt runs in: what its environment and a controller say of it, and how it is queued again."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from told_slurm import ENVIRONMENT, START, TimedController

from band.attempts import Attempt, Claim
from band.node import allocation
from band.node.allocation import Allocation, is_over, undisturbed
from band.slurm.command import SlurmError


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> TimedController:
    return TimedController(monkeypatch)


def allocated(**environment: str) -> Allocation:
    found = Allocation.current({**ENVIRONMENT, **environment})
    assert found is not None
    return found


ENDLESS = {"BAND_TIME_LIMIT_S": ""}


@pytest.mark.parametrize(
    ("environment", "label", "restart", "node", "seconds"),
    [
        ({}, "70_3", 1, "n1", 3600),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": ""}, "70_0", 0, "n1", 3600),
        ({"SLURM_ARRAY_JOB_ID": "", "SLURM_ARRAY_TASK_ID": ""}, "73", 1, "n1", 3600),
        ({"SLURM_ARRAY_TASK_ID": "x", "SLURM_RESTART_COUNT": "x"}, "70", 0, "n1", 3600),
        ({"SLURMD_NODENAME": ""}, "70_3", 1, os.uname().nodename, 3600),
        ({"SLURM_JOB_END_TIME": f"{START + 50:.0f}"}, "70_3", 1, "n1", 50),
        ({"SLURM_JOB_END_TIME": "soon"}, "70_3", 1, "n1", 3600),
        (ENDLESS, "70_3", 1, "n1", None),
        ({"BAND_TIME_LIMIT_S": "long"}, "70_3", 1, "n1", None),
    ],
)
def test_the_environment_says_which_job_it_is(
    slurm: TimedController, environment: dict[str, str], label: str, restart: int, node: str, seconds: float | None
) -> None:
    found = allocated(**environment)
    assert (found.label, found.restart, found.node, found.start_t) == (label, restart, node, START)
    assert found.promised_end_t == (None if seconds is None else START + seconds)


def test_variables_that_are_missing_say_nothing_and_without_the_id_of_a_job_there_is_none(
    slurm: TimedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "73")
    for name in ENVIRONMENT.keys() - {"SLURM_JOB_ID"}:
        monkeypatch.delenv(name, raising=False)
    found = Allocation.current()
    assert found is not None and (found.label, found.restart, found.promised_end_t) == ("73", 0, None)
    assert found.node == os.uname().nodename
    for environment in ({}, {"SLURM_JOB_ID": "x"}, {"SLURM_JOB_ID": "-1"}):
        assert Allocation.current(environment) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"JobState": "COMPLETING"}, {"state": "COMPLETING"}),
        ({"Restarts": "4"}, {"restarts": 4}),
        ({"Restarts": "some"}, {"restarts": 0}),
        ({"PreemptTime": "None"}, {}),
        ({"PreemptTime": f"{START:.0f}"}, {"is_preempted": True}),
        ({"EndTime": "Unknown"}, {"end_t": None}),
        ({"StartTime": f"{START - 100:.0f}"}, {}),  # its beginning may lie before this process, by one clock
        ({"StartTime": f"{START + 100:.0f}"}, {"end_t": START + 3500}),  # and not after it
        ({"StartTime": f"{START:.0f}", "EndTime": "Unknown"}, {"end_t": None}),
        ({"ExcNodeList": "(null)"}, {}),
        ({"ExcNodeList": "n[2-3]"}, {"excluded": "n[2-3]"}),
        ({"ExcNodeList": "(a"}, {"excluded": "(a"}),
        ({"ExcNodeList": "~"}, {"excluded": "~"}),
    ],
)
def test_what_the_controller_shows_is_understood(
    slurm: TimedController, fields: dict[str, str], expected: dict[str, Any]
) -> None:
    slurm.fields |= fields
    usual = {"state": "RUNNING", "restarts": 1, "is_preempted": False, "end_t": START + 3600, "excluded": ""}
    look = allocated().look()
    assert look is not None and dataclasses.asdict(look) == usual | expected


def test_no_answer_is_no_look(slurm: TimedController) -> None:
    slurm.fields = {}
    assert allocated().look() is None
    slurm.is_silent = True
    assert allocated().look() is None


class Refusing(TimedController):
    """One that answers some of its commands with an error, as often as is said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.errors: dict[str, list[str]] = {}  # kinds of errors still to come, by the command's second word

    def run(self, argv: Sequence[str], *, timeout_s: float = 20.0) -> str:
        if self.errors.get(argv[1]):
            self.asked += 1
            raise SlurmError("an error", kind=self.errors[argv[1]].pop(0))
        return super().run(argv, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("fields", "errors", "runs_again", "seconds", "asked"),
    [
        ({}, {}, True, 0, 2),
        ({}, {"show": ["timeout"] * 2}, True, 4, 4),
        ({}, {"show": ["timeout"] * 3}, False, 4, 3),
        ({}, {"requeue": ["timeout"]}, True, 2, 4),
        ({}, {"requeue": ["unreachable"] * 2}, True, 4, 6),
        ({}, {"requeue": ["timeout"] * 3}, False, 4, 6),
        ({}, {"requeue": ["refused"]}, False, 0, 2),
        ({}, {"requeue": ["absent"]}, False, 0, 2),
        ({"Restarts": "2"}, {}, True, 0, 1),  # done already, by Slurm, or at a request whose answer was lost
        ({"Restarts": "2", "JobState": "PENDING"}, {}, True, 0, 1),
        ({"Restarts": "0"}, {}, True, 0, 2),
        ({"JobState": "COMPLETING"}, {}, False, 0, 1),  # it was cancelled, which a requeue would undo
        ({"JobState": "SUSPENDED"}, {}, False, 0, 1),
    ],
)
def test_a_job_is_queued_again_once_and_tried_so_again_by_who_gets_no_answer(
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, str],
    errors: dict[str, list[str]],
    runs_again: bool,
    seconds: float,
    asked: int,
) -> None:
    slurm = Refusing(monkeypatch)
    slurm.fields |= fields
    slurm.errors = errors
    assert allocated().requeue() == runs_again
    assert (slurm.now, slurm.asked) == (seconds, asked)
    is_ours = runs_again and fields.get("Restarts") != "2"
    assert slurm.told == (["scontrol requeue 70_3"] if is_ours else [])


@pytest.mark.parametrize(
    ("errors", "runs_again", "told"),
    [
        ({"update": ["refused"]}, True, ["scontrol requeue 70_3"]),
        ({"requeue": ["refused"]}, False, []),  # then it must not be kept from its own node either
        ({"show": ["timeout"]}, False, []),
    ],
)
def test_a_node_is_avoided_as_far_as_slurm_lets_us(
    monkeypatch: pytest.MonkeyPatch, errors: dict[str, list[str]], runs_again: bool, told: list[str]
) -> None:
    slurm = Refusing(monkeypatch)
    slurm.errors = errors
    assert allocated().avoid_node() == runs_again and slurm.told == told


def test_commands_are_given_while_no_signal_disturbs_them(
    slurm: TimedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2}
    blocked: list[set[int]] = []
    slurm.others["60_2"] = "FAILED"
    real = slurm.run

    def run(argv: Sequence[str], *, timeout_s: float = 20.0) -> str:
        # what a child of ours would see: the kernel's word, not Python's
        status = subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True, check=True).stdout
        mask = int(status.partition("SigBlk:")[2].split()[0], 16)
        blocked.append({number for number in numbers if mask & 1 << number - 1})
        return real(argv, timeout_s=timeout_s)

    monkeypatch.setattr(allocation, "run", run)
    monkeypatch.setattr(allocation.jobs, "run", run)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert allocated().requeue() and is_over_elsewhere(job_id="60", array_task=2)
    assert blocked == [numbers] * 3
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    with pytest.raises(KeyError), undisturbed():
        raise KeyError
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def is_over_elsewhere(**fields: Any) -> bool:
    attempt = dataclasses.replace(Attempt.current({}), host="elsewhere", **fields)
    return is_over(Claim(folder=Path("task"), number=1, attempt=attempt, t=START))


def test_an_attempt_elsewhere_is_over_when_slurm_says_so_and_one_here_when_its_process_is_gone(
    slurm: TimedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_over_elsewhere()  # outside Slurm: nobody knows
    assert slurm.asked == 0
    slurm.others = {"60_2": "RUNNING", "61": "COMPLETED"}
    assert not is_over_elsewhere(job_id="60", array_task=2)
    slurm.others["60_2"] = "FAILED"
    assert is_over_elsewhere(job_id="60", array_task=2) and is_over_elsewhere(job_id="61")
    slurm.is_silent = True
    assert not is_over_elsewhere(job_id="60", array_task=2)
    asked = slurm.asked
    gone = subprocess.Popen(["true"])
    gone.wait()
    attempt = dataclasses.replace(Attempt.current({}), pid=gone.pid, job_id="60")
    assert is_over(Claim(folder=Path("task"), number=1, attempt=attempt, t=time.time())) and slurm.asked == asked
