"""A sweep in a lab's home whose runs the fake trainer trains, sent as a submission sends it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import local_sweep
import pytest
from slurm_lab.lab import Lab, wait_for

from band.files import canonical_json
from band.run_dir import SweepDir, read_events, verify
from band.sweep.closing import look
from band.sweep.hold import hold
from band.sweep.journal import Array, read_journals
from band.sweep.ledger import Intent, new_task, read_intents, record
from band.sweep.manifest import read_manifest
from band.sweep.slurm_submit import feed
from band.sweep.snapshot import take_snapshot
from band.sweep.status import Survey

HELPERS = Path(__file__).parent
SETTLE_S = 4


@dataclass(frozen=True)
class LabSweep:
    """A sweep at a lab's Slurm; its runs do what their configuration says."""

    lab: Lab
    sweep: SweepDir
    exports: Mapping[str, str]

    def submit(self, *tasks: Sequence[str], sbatch: Mapping[str, str] | None = None, **options: Any) -> None:
        """Send tasks, each a list of runs."""
        manifest = read_manifest(self.sweep.path)
        made = {}
        for runs in tasks:
            made[new_task(self.sweep)] = list(runs)
        for task, runs in made.items():
            values = {
                "schema": 1, "sweep": self.sweep.name, "task": task, "threads": 1, "device": "cpu",
                "memory_bytes": 100 << 20, "populations": [runs],
                "runs": [{"id": run.id, "config": manifest.run_config(run)} for run in manifest.runs if run.id in runs],
                "dataset": {k: manifest.datasets[0][k] for k in ("path", "digest", "file_digest", "size_bytes")},
            }  # fmt: skip
            self.sweep.task(task).task_json.write_bytes(canonical_json(values))
        asked = {
            "sbatch": {"time": "10", "mem": "250M", "cpus-per-task": "1", **(sbatch or {})}, "origins": {},
            "max_parallel": 0, "time_s": 600, "mem_bytes": 250 << 20, "cpus": 1, "gpus": 0, "policy": {},
            "code": take_snapshot(self.sweep), "versions": {}, "allow_versions": True, "container": "",
            "setup": [f"export {name}={shlex.quote(value)}" for name, value in self.exports.items()], **options,
        }  # fmt: skip
        runs = [run for members in made.values() for run in members]
        self.sweep.logs.mkdir(exist_ok=True)
        record(self.sweep, "submit", runs=runs, tasks=made, options=asked, scheduler="slurm")
        with hold(self.sweep, wait_s=60) as claim:
            feed(self.sweep, claim=claim, survey=look(self.sweep))

    def survey(self) -> Survey:
        """Return the present state."""
        return look(self.sweep)

    def states(self) -> dict[str, str]:
        """Return {run id: state}."""
        return {run: status.state for run, status in self.survey().runs.items()}

    def arrays(self) -> list[Array]:
        """Return what was sent so far."""
        return read_journals(self.sweep)

    def submissions(self) -> list[Intent]:
        """Return the requests to submit."""
        return [intent for intent in read_intents(self.sweep) if intent.action == "submit"]

    def wait_until_closed(self, *, timeout_s: float = 60) -> None:
        """Wait until every array is closed and nothing is planned."""
        try:
            wait_for(lambda: all(a.is_closed for a in self.arrays()) and self._is_idle(), timeout_s=timeout_s)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.words()}") from None

    def _is_idle(self) -> bool:
        jobs = self.lab.run(["squeue", "--noheader", "--format=%i"], check=True).stdout
        return not jobs and all(array.is_closed for array in self.arrays())

    def published(self) -> list[str]:
        """Return the published runs, each verified."""
        folders = sorted(self.sweep.runs.glob("[!.]*"))
        assert all(verify(folder)["run_id"] == folder.name for folder in folders)
        return [folder.name for folder in folders]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of one name, in order of time, with their stream's name as "stem"."""
        streams = sorted(self.sweep.events.glob("*.jsonl"))
        found = [{**event, "stem": path.stem} for path in streams for event in read_events(path)[0]]
        return sorted((event for event in found if event["event"] == name), key=lambda event: event["t"])

    def epochs(self) -> list[str]:
        """Return a line for each epoch that was trained."""
        path = Path(self.exports["FAKE_LEDGER"])
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def words(self) -> str:
        """Return what a failing test needs: the journals, the logs and the queue."""
        journals = [path.read_text() for path in sorted(self.sweep.submissions.glob("*/journal.jsonl"))]
        logs = [f"--- {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.sweep.logs.glob("*"))]
        queue = self.lab.run(["squeue", "--states=all", "--array"]).stdout
        notes = sorted(self.sweep.events.glob("*closing*"))
        events = [f"--- {path.name}\n{path.read_text()[-1500:]}" for path in notes]
        return "\n".join([*journals, *logs, *events, queue])


def make_lab_sweep(
    lab: Lab,
    runs: Mapping[str, Mapping[str, Any]],
    *,
    monkeypatch: pytest.MonkeyPatch,
    base: Mapping[str, Any] | None = None,
    trainer: str = "hungry_trainer.py",
) -> LabSweep:
    """Return a sweep of `runs`, {id: what it does}, in the home of a lab whose commands then work in this process."""
    made = local_sweep.make_sweep(lab.home, runs, base=base)
    exports = {
        "BAND_TRAINER": f"{sys.executable} {HELPERS / trainer}",
        "BAND_SCRATCH": "/disk/scratch/band",
        "BAND_SETTLE_S": str(SETTLE_S),
        "FAKE_LEDGER": str(lab.home / "ledger"),
        "HOME": str(lab.home),
    }
    monkeypatch.setenv("SLURM_CONF", lab.environment["SLURM_CONF"])
    monkeypatch.setenv("BAND_SETTLE_S", str(SETTLE_S))
    monkeypatch.setenv("HOME", str(lab.home))
    return LabSweep(lab, made.sweep, exports)


def told(lab: Lab) -> list[dict[str, Any]]:
    """Return what a hook that appends to `told` in the lab's home was given."""
    path = lab.home / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
