"""A sweep for the local queue whose runs the fake trainer trains, and the commands a user would type for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.attempts import read_claim
from band.config import RunConfig, to_dict
from band.files import sha256_file
from band.run_dir import SweepDir, read_events, verify
from band.sweep.manifest import Manifest, Run, manifest_text, read_manifest
from band.sweep.schedulers import scheduler_for
from band.sweep.status import Survey, take_survey

HELPERS = Path(__file__).parent
SHAPES = {"train": {"encod_data": [40, 10, 5], "behavior": [40, 10, 2]}, "valid": {"encod_data": [10, 10, 5]}}


@dataclass(frozen=True)
class LocalSweep:
    """A sweep folder and the environment its commands run in."""

    sweep: SweepDir
    environment: Mapping[str, str]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start `band-sweep` with the sweep's folder put after the command's name."""
        command = [sys.executable, "-m", "band.cli.sweep", arguments[0], str(self.sweep.path), *arguments[1:]]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": dict(self.environment)}
        return subprocess.Popen(command, **{**pipes, **options})

    def band_sweep(self, *arguments: str, code: int = 0, timeout_s: float = 60.0) -> str:
        """Run `band-sweep`, check its exit code and return what it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == code, f"{arguments} ended with {process.returncode}:\n{output}"
        return output

    def survey(self) -> Survey:
        """Return the present state."""
        return take_survey(self.sweep, read_manifest(self.sweep.path), scheduler=scheduler_for(self.sweep))

    def states(self) -> dict[str, str]:
        """Return {run id: state}."""
        return {run: status.state for run, status in self.survey().runs.items()}

    def published(self) -> list[str]:
        """Return the published runs, each verified."""
        folders = sorted(self.sweep.runs.glob("[!.]*"))
        assert all(verify(folder)["run_id"] == folder.name for folder in folders)
        return [folder.name for folder in folders]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of one name of all tasks, in order of time, with their stream's name as "stem"."""
        found = [
            {**event, "stem": path.name.removesuffix(".jsonl")}
            for path in self.sweep.events.glob("*.jsonl")
            for event in read_events(path)[0]
            if event["event"] == name
        ]
        return sorted(found, key=lambda event: event["t"])

    def epochs(self) -> Counter[str]:
        """Return how often each epoch of each run was trained."""
        path = Path(self.environment["FAKE_LEDGER"])
        return Counter(path.read_text().split("\n")[:-1]) if path.exists() else Counter()

    def queue_pid(self) -> int:
        """Return the process id of the newest queue."""
        claim = read_claim(self.sweep.submissions)
        assert claim is not None
        return claim.attempt.pid

    def supervisor_pids(self) -> list[int]:
        """Return the process ids of the attempts that hold a task."""
        claims = [read_claim(folder) for folder in sorted(self.sweep.tasks.iterdir())]
        return [c.attempt.pid for c in claims if c and not c.is_released and not c.attempt.has_ended_here()]

    def processes(self) -> list[str]:
        """Return the command lines of living processes that name this sweep's folder or its scratch."""
        marks = [str(self.sweep.path).encode(), self.environment["BAND_SCRATCH"].encode()]
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if any(mark in line for mark in marks):
                found.append(line.replace(b"\0", b" ").decode())
        return found


def make_sweep(
    folder: Path, runs: Mapping[str, Mapping[str, Any]], *, base: Mapping[str, Any] | None = None
) -> LocalSweep:
    """Return a sweep of `runs`, {id: overrides}, that the fake trainer trains.

    Args:
        folder: an empty folder.
        runs: what sets each run apart; keys as in a manifest, and those that the fake trainer knows.
        base: what they have in common beyond a default configuration: such as {"epochs": 4, "epoch_s": 0.1}.
    """
    sweep = SweepDir(folder / "sweeps" / "demo")
    sweep.path.mkdir(parents=True)
    recording = folder / "recording.h5"
    recording.write_bytes(b"spikes" * 1000)
    dataset = {"path": str(recording), "digest": "d", "file_digest": sha256_file(recording), "size_bytes": 6000}
    manifest = Manifest(
        name="demo", base={**to_dict(RunConfig()), "epochs": 3, **(base or {})},
        datasets=[{**dataset, "shapes": SHAPES}], runs=[Run(run, 0, dict(own)) for run, own in runs.items()],
    )  # fmt: skip
    sweep.manifest.write_text(manifest_text(manifest))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])]),
        "BAND_SCRATCH": str(folder / "scratch"),
        "BAND_TRAINER": f"{sys.executable} {HELPERS / 'fake_trainer.py'}",
        "FAKE_LEDGER": str(folder / "ledger"),
    }
    return LocalSweep(sweep, environment)
