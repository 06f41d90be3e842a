"""Kills trainer, supervisor and queue of a real sweep at random moments: its results are as if nothing had happened."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from local_sweep import LocalSweep
from proc import children_of, kill, wait_for
from tiny import write_recording

from band.attempts import read_claim
from band.run_dir import SweepDir, read_result
from band.sweep.local import queue_claim

SEED = 20
KILLS = 20
PACED_TRAINER = Path(__file__).parents[1] / "helpers" / "paced_trainer.py"
MOST_FRUITLESS = {"trainer": 1, "supervisor": 2}  # more, without a checkpoint in between, count as a fault of the task
SWEEP = """
name: crash
base:
  data.path: ../recording.h5
  arch: {ic_enc_dim: 8, ci_enc_dim: 8, con_dim: 8, co_dim: 2, ic_dim: 6, gen_dim: 12, fac_dim: 6}
  hyper: {kl_increase_epoch: 20, lr: 0.01}
  train: {batch_size: 8, max_epochs: 250, stop_patience: 0, posterior_samples: 3, checkpoint_s: 0.05}
pair: {hyper.behavior_weight: [0.5]}
seeds: 2
"""


def make(folder: Path) -> LocalSweep:
    """Generate the sweep in a folder of its own, on the recording beside that folder."""
    folder.mkdir()
    (folder / "crash.yaml").write_text(SWEEP)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "BAND_SCRATCH": str(folder / "scratch")}
    command = [sys.executable, "-m", "band.cli.sweep", "generate", "crash.yaml"]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
    return LocalSweep(SweepDir(folder / "sweeps" / "crash"), environment)


class Killer:
    """Kills one process of a sweep after the other."""

    def __init__(self, sweep: LocalSweep, *, seed: int) -> None:
        self.sweep = sweep
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.fruitless: Counter[tuple[str, str]] = Counter()  # (task, victim): kills since its last checkpoint
        self.checkpoints: Counter[str] = Counter()

    def kill_one(self) -> None:
        """Wait a random while and kill the queue, a supervisor or a trainer; the queue is started again before."""
        if queue_claim(self.sweep.sweep) is None:
            self.sweep.band_sweep("submit", "--detach", "--jobs", "2")
        time.sleep(self.random.uniform(0.0, 1.6))
        victims = self._victims()
        if victims:
            wanted = self.random.choice(sorted({kind for kind, _, _ in victims}))
            kind, task, pid = self.random.choice([victim for victim in victims if victim[0] == wanted])
            kill(pid)
            self.kills[kind] += 1
            self.fruitless[task, kind] += 1

    def _victims(self) -> list[tuple[str, str, int]]:
        made = Counter(event["stem"].split(".")[0] for event in self.sweep.events("checkpoint"))
        for task, kind in list(self.fruitless):
            if made[task] > self.checkpoints[task]:
                self.fruitless[task, kind] = 0
        self.checkpoints = made
        victims = []
        claim = queue_claim(self.sweep.sweep)
        if claim is not None:
            victims.append(("queue", "", claim.attempt.pid))
        for folder in sorted(self.sweep.sweep.tasks.iterdir()):
            held = read_claim(folder)
            if held is None or held.is_released or held.attempt.has_ended_here():
                continue
            found = [("supervisor", held.attempt.pid), *(("trainer", pid) for pid in children_of(held.attempt.pid))]
            victims += [
                (kind, folder.name, pid)
                for kind, pid in found
                if self.fruitless[folder.name, kind] < MOST_FRUITLESS[kind]
            ]
        return victims


def test_kills_at_random_moments_change_no_result_and_repeat_no_step(tmp_path: Path) -> None:
    write_recording(tmp_path / "recording.h5")
    undisturbed = make(tmp_path / "undisturbed")
    undisturbed.band_sweep("submit", "--jobs", "2", timeout_s=120)
    sweep = make(tmp_path / "killed")
    kills = kill_while_it_trains(sweep, slow=tmp_path / "slow")
    assert set(kills) == {"queue", "supervisor", "trainer"}
    finish(sweep)
    assert_same_results(sweep, undisturbed)
    assert_no_step_repeated(sweep)
    published = Counter(event["run"] for event in sweep.events("published"))
    assert max(published.values()) == 1
    assert not sweep.sweep.superseded.exists() and not any(sweep.sweep.incoming.iterdir())
    wait_for(lambda: not sweep.processes())
    assert not list(Path(sweep.environment["BAND_SCRATCH"]).glob("work/*/*")), "nothing may be left on scratch"


def kill_while_it_trains(sweep: LocalSweep, *, slow: Path) -> Counter[str]:
    """Kill so often at random moments, in a training that is slowed down until then: no machine is too quick for it."""
    pace = {"BAND_TRAINER": f"{sys.executable} {PACED_TRAINER}", "PACED_STEP_S": "0.1", "PACED_WHILE": str(slow)}
    slow.touch()
    killer = Killer(LocalSweep(sweep.sweep, {**sweep.environment, **pace}), seed=SEED)
    while sum(killer.kills.values()) < KILLS:
        assert not sweep.survey().is_complete, f"over before its kills: {dict(killer.kills)}"
        killer.kill_one()
    slow.unlink()
    print(f"killed: {dict(killer.kills)}; attempts: {len(sweep.events('claimed'))}")
    return killer.kills


def finish(sweep: LocalSweep) -> None:
    """Submit until the sweep is complete, as a user would."""
    for _ in range(5):
        wait_for(lambda: queue_claim(sweep.sweep) is None, timeout_s=120)
        process = sweep.start("submit", "--jobs", "2")
        output, _ = process.communicate(timeout=120)
        if process.returncode == 0:
            return
    raise AssertionError(output)


def assert_same_results(sweep: LocalSweep, other: LocalSweep) -> None:
    """Check that every run of both came to the same, to the last bit."""
    assert sweep.published() == other.published() and len(sweep.published()) == 4
    for run in sweep.published():
        one, two = sweep.sweep.run(run), other.sweep.run(run)
        assert (one / "metrics.csv").read_bytes() == (two / "metrics.csv").read_bytes(), run
        assert (one / "model.pt").read_bytes() == (two / "model.pt").read_bytes(), run
        assert essence(one) == essence(two), run
        with h5py.File(one / "outputs.h5") as first, h5py.File(two / "outputs.h5") as second:
            assert sorted(first) == sorted(second)
            for name in first:
                np.testing.assert_array_equal(first[name][()], second[name][()], err_msg=f"{run} {name}")


def essence(folder: Path) -> dict[str, Any]:
    """Return a result without what says when, where and how fast it came about."""
    result = read_result(folder)
    for key in ("provenance", "manifest", "digest"):
        del result[key]
    del result["training"]["seconds"]
    return result


def assert_no_step_repeated(sweep: LocalSweep) -> None:
    """Check that every start went on from the last checkpoint that had been reported for the task."""
    for task in sorted(path.name for path in sweep.sweep.tasks.iterdir()):
        events = [
            (event["t"], event["step"], name)
            for name in ("checkpoint", "started")
            for event in sweep.events(name)
            if event["stem"].startswith(f"{task}.")
        ]
        last = 0
        for _, step, name in sorted(events):
            assert step >= last, f"task {task} went back to step {step} though {last} was saved"
            last = max(last, step) if name == "checkpoint" else last
