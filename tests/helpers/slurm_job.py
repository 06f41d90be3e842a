"""Tasks as jobs of a lab: written and sent as a submission does it, without a sweep to plan or a ledger to keep."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm_lab.lab import Lab

from band.files import canonical_json, sha256_file
from band.node.job import Timing
from band.run_dir import SweepDir, read_events, verify

HELPERS = Path(__file__).parent
REPOSITORY = HELPERS.parents[1]
BRISK = Timing(mirror_s=1.0, retry_s=1.0, epoch_s=0.0, tick_s=0.1, home_wait_s=30.0)
FAKE_TRAINER = [sys.executable, str(HELPERS / "fake_trainer.py")]
PACED_TRAINER = [sys.executable, str(HELPERS / "paced_trainer.py")]


@dataclass(frozen=True)
class SlurmTask:
    """The one task of a sweep in the lab's home."""

    home: Path

    @property
    def sweep(self) -> SweepDir:
        return SweepDir(self.home / "sweeps" / "demo")

    @property
    def task_json(self) -> Path:
        return self.sweep.task("0000").task_json

    def attempts(self) -> list[list[dict[str, Any]]]:
        """Return the events of each attempt, in the order in which they began."""
        streams = [read_events(path)[0] for path in self.sweep.event_files("0000")]
        return sorted((events for events in streams if events), key=lambda events: events[0]["t"])

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of one name of all attempts."""
        return [event for events in self.attempts() for event in events if event["event"] == name]

    def endings(self) -> list[tuple[str, bool]]:
        """Return why each attempt that said so was interrupted, and whether it was to run again."""
        return [(event["reason"], event["requeued"]) for event in self.events("interrupted")]

    def published(self) -> dict[str, Path]:
        """Return {run: folder} of the published runs, each verified."""
        folders = sorted(self.sweep.runs.glob("[!.]*"))
        assert all(verify(folder)["run_id"] == folder.name for folder in folders)
        return {folder.name: folder for folder in folders}

    def state(self, run: str) -> str:
        """Return what the fake trainer's training of a published run came to."""
        return (self.published()[run] / "metrics.csv").read_text().split()[1]

    def trained(self) -> list[str]:
        """Return the epochs that the fake trainer trained, "RUN EPOCH", in order."""
        path = self.home / "ledger"
        return [line.removeprefix("epoch ") for line in path.read_text().splitlines()] if path.exists() else []

    def checkpoints_home(self) -> list[str]:
        """Return the names of the checkpoints at home."""
        return sorted(path.name for path in self.task_json.parent.glob("population.*.pt"))

    @property
    def gate(self) -> Path:
        """Return the file as long as which is there, gated runs of this task do not end."""
        return self.home / "gate"

    def log(self) -> str:
        """Return what the supervisors and trainers of all attempts printed."""
        return "".join(path.read_text() for path in sorted(self.sweep.logs.glob("*")))


def make_slurm_task(folder: Path, runs: Mapping[str, Mapping[str, Any]], *, recording: Path | None = None) -> SlurmTask:
    """Return a task of `runs`, {id: configuration}, in a new folder; without a recording, one for the fake trainer."""
    task = SlurmTask(folder)
    task.task_json.parent.mkdir(parents=True)
    task.sweep.logs.mkdir()
    task.gate.touch()
    if recording is None:
        recording = folder / "recording.h5"
        recording.write_bytes(b"spikes" * 1000)
    size = recording.stat().st_size
    dataset = {"path": str(recording), "digest": "d", "file_digest": sha256_file(recording), "size_bytes": size}
    content = {
        "schema": 1, "sweep": "demo", "task": "0000", "threads": 1, "device": "cpu", "memory_bytes": 0,
        "runs": [{"id": run, "config": dict(config)} for run, config in runs.items()], "dataset": dataset,
    }  # fmt: skip
    task.task_json.write_bytes(canonical_json(content))
    return task


def submit(
    lab: Lab,
    tasks: Sequence[SlurmTask],
    *options: str,
    trainer: Sequence[str] = FAKE_TRAINER,
    exports: Mapping[str, str] | None = None,
    timing: Timing = BRISK,
) -> str:
    """Submit tasks as one array and return its id: held, its calls written, then released."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    from band.node.task import slurm_task

    calls = lab.home / f"calls-{os.urandom(4).hex()}"
    calls.mkdir(mode=0o700)
    values = {
        "PYTHONPATH": f"{REPOSITORY}:{HELPERS}",
        "BAND_TRAINER": shlex.join(trainer),
        "SUBMITIT_EXECUTOR": "slurm",
        **(exports or {}),
    }
    script = calls / "script.sh"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    lines += [f"export FAKE_LEDGER=$(sed -n $((SLURM_ARRAY_TASK_ID + 1))p {calls}/ledgers)"]
    lines += [f"exec {sys.executable} -u -m band.node.call {calls}"]
    script.write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
    (calls / "ledgers").write_text("".join(f"{task.home}/ledger\n" for task in tasks))
    own = [f"--array=0-{len(tasks) - 1}", "--requeue", "--hold", "--open-mode=append", f"--output={calls}/%a.out"]
    job = lab.run(["sbatch", "--parsable", *own, *options, script], check=True).stdout.strip()
    for index, task in enumerate(tasks):
        call = DelayedSubmission(slurm_task, str(task.task_json), timing=timing)
        call.dump(JobPaths(calls, f"{job}_{index}").submitted_pickle)
        (task.sweep.logs / f"{job}.out").symlink_to(calls / f"{index}.out")
    lab.run(["scontrol", "release", job], check=True)
    return job
