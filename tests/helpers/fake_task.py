"""A one-task sweep for the fake trainer, and what can be asked of it afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from band.files import canonical_json, sha256_file
from band.node.job import Timing
from band.node.task import run_task
from band.run_dir import ScratchDir, SweepDir, read_events, verify

HELPERS = Path(__file__).parent
TRAINER = [sys.executable, str(HELPERS / "fake_trainer.py")]
QUICK = Timing(mirror_s=0.05, stop_s=5.0, retry_s=0.05, home_wait_s=0.3, epoch_s=0.0, tick_s=0.02)
DRIVER = (
    "import sys; from pathlib import Path; from band.node.task import run_task; from fake_task import QUICK, TRAINER; "
    "raise SystemExit(run_task(Path(sys.argv[1]), trainer=TRAINER, timing=QUICK))"
)


@dataclass(frozen=True)
class FakeTask:
    """The folders of one task."""

    home: Path
    scratch: Path

    @property
    def sweep(self) -> SweepDir:
        return SweepDir(self.home / "sweeps" / "demo")

    @property
    def task_json(self) -> Path:
        return self.sweep.task("0000").task_json

    @property
    def work(self) -> Path:
        return ScratchDir(self.scratch).sweep_work(self.sweep)

    def attempt(self, **timing: float) -> int:
        """Make an attempt in this process and return its exit code."""
        values = {**QUICK.__dict__, **timing}
        return run_task(self.task_json, trainer=TRAINER, timing=Timing(**values))

    def start(self, *, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start an attempt in a process of its own."""
        paths = os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])])
        out = open(log, "ab") if log else subprocess.DEVNULL  # noqa: SIM115
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.task_json)],
            env={**os.environ, "PYTHONPATH": paths},
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def published(self) -> dict[str, str]:
        """Return {run: state that its training came to} of the published runs, each verified."""
        states = {}
        for folder in sorted(self.sweep.runs.glob("[!.]*")):
            assert verify(folder)["run_id"] == folder.name
            states[folder.name] = (folder / "metrics.csv").read_text().split()[1]
        return states

    def ledger(self) -> Counter[str]:
        """Return how often each epoch of each run was trained."""
        path = Path(os.environ["FAKE_LEDGER"])
        return Counter(path.read_text().split("\n")[:-1]) if path.exists() else Counter()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the events of all attempts, in order of time, or those of one name."""
        events = [event for path in self.sweep.event_files("0000") for event in read_events(path)[0]]
        events.sort(key=lambda event: event["t"])
        return [event for event in events if name is None or event["event"] == name]

    def files(self) -> list[str]:
        """Return the names in the task's folder."""
        return sorted(path.name for path in self.task_json.parent.iterdir())


def make_task(folder: Path, runs: Mapping[str, Mapping[str, Any]], *, monkeypatch: pytest.MonkeyPatch) -> FakeTask:
    """Return a task of `runs`, {id: what it does}, with a home and a scratch of its own."""
    task = FakeTask(folder / "home", folder / "scratch")
    task.task_json.parent.mkdir(parents=True)
    recording = folder / "home" / "recording.h5"
    recording.write_bytes(b"spikes" * 1000)
    dataset = {"path": str(recording), "digest": "d", "file_digest": sha256_file(recording), "size_bytes": 6000}
    content = {
        "schema": 1, "sweep": "demo", "task": "0000", "threads": 1, "device": "cpu", "memory_bytes": 0,
        "runs": [{"id": run, "config": dict(config)} for run, config in runs.items()], "dataset": dataset,
    }  # fmt: skip
    task.task_json.write_bytes(canonical_json(content))
    monkeypatch.setenv("BAND_SCRATCH", str(task.scratch))
    monkeypatch.setenv("FAKE_LEDGER", str(folder / "ledger"))
    return task
