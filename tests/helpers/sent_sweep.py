"""A sweep whose tasks were sent to a lab's Slurm by hand: any script, any options, any journal."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_sweep import LocalSweep, make_sweep
from slurm_lab.lab import Lab

from band.config import RunConfig, to_dict
from band.files import canonical_json
from band.sweep.journal import append
from band.sweep.ledger import new_task, record

SUPERVISOR = f"exec {sys.executable} -m band.node.task {{task}}"


class SentSweep:
    """A sweep of one run a task, each task an array of its own."""

    def __init__(self, folder: Path, lab: Lab, runs: Sequence[str], *, base: Mapping[str, Any] | None = None) -> None:
        """Make the sweep; no task of it is sent yet."""
        made = make_sweep(folder, {run: {} for run in runs}, base=base)
        self.lab = lab
        own = {key: made.environment[key] for key in ("PYTHONPATH", "BAND_SCRATCH", "BAND_TRAINER", "FAKE_LEDGER")}
        self.environment = {**lab.environment, **own, "BAND_SETTLE_S": "600", "NO_COLOR": "1", "COLUMNS": "120"}
        self.local = LocalSweep(made.sweep, self.environment)
        self.sweep = made.sweep
        self.sweep.logs.mkdir()
        self.base = {**to_dict(RunConfig()), "epochs": 3, **(base or {})}
        dataset = json.loads(self.sweep.manifest.read_text().split("\n")[0])["datasets"][0]
        self.dataset = {key: dataset[key] for key in ("path", "digest", "file_digest", "size_bytes")}
        self.tasks: dict[str, str] = {}  # run: task

    def plan(self, run: str) -> str:
        """Ask for a run, in the same task each time, and return the number of the submission; nothing is sent."""
        task = self.tasks.get(run) or new_task(self.sweep)
        values = {"schema": 1, "sweep": self.sweep.name, "task": task, "runs": [{"id": run, "config": self.base}]}
        values |= {"dataset": self.dataset, "threads": 1, "device": "cpu", "memory_bytes": 2**20}
        self.sweep.task(task).task_json.write_bytes(canonical_json(values) + b"\n")
        self.tasks[run] = task
        return record(self.sweep, "submit", runs=[run], tasks={task: [run]}, scheduler="slurm").number

    def note(self, submission: str, step: str, **fields: Any) -> None:
        """Put a step of the submission's array into the journal."""
        append(self.sweep, submission, array=1, step=step, **fields)

    def intend(self, run: str) -> tuple[str, str]:
        """Come to the moment before sbatch is called; return submission and token."""
        submission = self.plan(run)
        token = f"band-demo-{submission}-1-{os.urandom(3).hex()}"
        self.note(submission, "intent", token=token, tasks=[self.tasks[run]], script="array.1.sh")
        return submission, token

    def send(self, run: str, *options: str, script: str = SUPERVISOR, release: bool = True) -> str:
        """Send a run's task as an array of one, held until its receipt is noted; return the array's job id."""
        submission, token = self.intend(run)
        exports = [f"export {key}='{value}'" for key, value in self.environment.items() if key != "PATH"]
        command = script.format(task=self.sweep.task(self.tasks[run]).task_json)
        path = self.sweep.submission(submission) / "array.1.sh"
        path.write_text("\n".join(["#!/bin/bash", *exports, command, ""]))
        output = f"--output={self.sweep.logs}/%A_%a.out"
        fixed = ["--parsable", "--hold", "--array=0-0", f"--job-name={token}", output, "--open-mode=append"]
        done = self.lab.run(["sbatch", *fixed, "--requeue", "--mem=200M", *options, path], check=True)
        job_id = done.stdout.strip()
        self.note(submission, "queued", job_id=job_id)
        if release:
            self.lab.run(["scontrol", "release", job_id], check=True)
            self.note(submission, "released")
        return job_id

    def status(self, *, settle_s: float = 600, code: int = 4, **environment: str) -> dict[str, Any]:
        """Return what `band-sweep status --json` says."""
        settled = {**self.environment, "BAND_SETTLE_S": str(settle_s), **environment}
        local = dataclasses.replace(self.local, environment=settled)
        answer: dict[str, Any] = json.loads(local.band_sweep("status", "--json", code=code))
        return answer

    def states(self, *, settle_s: float = 600, **environment: str) -> dict[str, str]:
        """Return {run: state}."""
        return {run: s["state"] for run, s in self.status(settle_s=settle_s, **environment)["runs"].items()}

    def band_sweep(self, *arguments: str, code: int = 0) -> str:
        """Run a command on the sweep."""
        return self.local.band_sweep(*arguments, code=code)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command on the sweep."""
        return self.local.start(*arguments)

    def events(self, run: str) -> list[str]:
        """Return the names of all events of a run's task."""
        names = []
        for path in self.sweep.event_files(self.tasks[run]):
            names += [json.loads(line)["event"] for line in path.read_text().splitlines()]
        return names
