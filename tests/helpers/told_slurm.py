"""The controller of a Slurm that has one job, as an attempt in that job meets it: it shows what it is told to."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from band.node import allocation
from band.node.allocation import Allocation
from band.node.stop import StopRequest
from band.slurm import jobs
from band.slurm.command import SlurmError

START = 1_800_000_000.0
ENVIRONMENT = {
    "SLURM_ARRAY_JOB_ID": "70", "SLURM_JOB_ID": "73", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1",
    "SLURMD_NODENAME": "n1", "BAND_TIME_LIMIT_S": "3600",
}  # fmt: skip


class Controller:
    """Takes the place of Slurm's commands within a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fields = {"JobState": "RUNNING", "Restarts": "1"}  # what it shows of the job
        self.others: dict[str, str] = {}  # states of other jobs
        self.told: list[str] = []  # commands that change something
        self.asked = 0
        self.is_silent = False
        monkeypatch.setattr(jobs, "run", self.run)
        monkeypatch.setattr(allocation, "run", self.run)

    def run(self, argv: Sequence[str], *, timeout_s: float = 20.0) -> str:
        self.asked += 1
        if self.is_silent:
            raise SlurmError("no answer", kind="timeout")
        if argv[:3] == ["scontrol", "show", "job"]:
            if argv[-1] in self.others:
                return f"JobId=1 JobState={self.others[argv[-1]]} Restarts=0"
            assert argv[-1] == "70_3"
            return " ".join(f"{key}={value}" for key, value in {"JobId": "73", **self.fields}.items())
        self.told.append(" ".join(argv))
        return ""


class TimedController(Controller):
    """One whose job ends in an hour, by a clock that moves when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.fields["EndTime"] = f"{START + 3600:.0f}"
        self.now = 0.0
        monkeypatch.setattr(time, "time", lambda: START + self.now)
        monkeypatch.setattr(time, "monotonic", lambda: 5000.0 + self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def in_slurm(**environment: str) -> StopRequest:
    """Return what is to be entered by an attempt in that job."""
    return StopRequest(Allocation.current({**ENVIRONMENT, **environment}))
