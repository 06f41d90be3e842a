"""Jobs that go back to the queue until Slurm has had enough of them and holds them, on a real Slurm: a minute each."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from local_sweep import HELPERS, make_sweep
from slurm_lab.lab import Lab

from band.run_dir import SweepDir
from reliability.ledger import Injection, Ledger

REASON = "JobHoldMaxRequeue"  # Slurm 22.05 holds a job at the fifth time that it misses its processes on a node
SETTINGS = {"BatchStartTimeout": 1, "MessageTimeout": 4}  # the sooner does it miss them
MISSED_S = 6.0
NUM_RUNS = 2
TEMPLATE = """#!/bin/bash
#SBATCH --time=5
#SBATCH --mem=1G
export BAND_SCRATCH=/disk/scratch/band BAND_SETTLE_S=1 FAKE_LEDGER={home}/ledger
export BAND_TRAINER="{python} {trainer}"
while [ -e {home}/gate ]; do sleep 0.1; done
"""


class Site:
    """A sweep of a task a run on a lab of one node; no supervisor starts while there is a gate."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.gate = lab, lab.home / "gate"
        runs = {f"run-{number}": {"seed": number} for number in range(NUM_RUNS)}
        self.sweep: SweepDir = make_sweep(lab.home, runs, base={"epochs": 2}).sweep
        words = {"home": lab.home, "python": sys.executable, "trainer": HELPERS / "fake_trainer.py"}
        (lab.home / "sbatch_templates").mkdir()
        (lab.home / "sbatch_templates/lab.sh").write_text(TEMPLATE.format(**words))
        self.gate.touch()

    def type(self, *arguments: str) -> str:
        """Run `band-sweep` on the sweep and return all it printed."""
        command = ["env", "BAND_SETTLE_S=1", sys.executable, "-m", "band.cli.sweep", arguments[0], self.sweep.path]
        done = self.lab.run([*command, *arguments[1:]], cwd=self.lab.home, timeout_s=90)
        return done.stdout + done.stderr

    def queue(self) -> list[str]:
        """Return state and reason of every task that is not over."""
        shown = self.lab.run(["squeue", "--noheader", "--array", "--format=%i|%T|%r"], check=True).stdout
        return [line.split("|", 1)[1] for line in shown.splitlines() if "_" in line]

    def lose_processes(self) -> None:
        """Kill what runs on the node, Slurm's own part too, and have slurmd say that it has no job."""
        node = self.lab.nodes["c1"]
        for pid in node.pids(command="slurmstepd") + node.pids(environment="SLURM_JOB_ID="):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.restart_slurmd()

    def has_settled(self) -> bool:
        """Return whether all tasks run, or all are held."""
        return self.queue() in ([line] * NUM_RUNS for line in ("RUNNING|None", f"REQUEUE_HOLD|{REASON}"))

    def wear_out(self) -> None:
        """Have the tasks go back to the queue until Slurm holds them."""
        while True:
            self.lab.wait_for(self.has_settled, timeout_s=60, what=f"all tasks to run or be held: {self.queue()}")
            if REASON in self.queue()[0]:
                return
            time.sleep(MISSED_S)
            self.lose_processes()
            self.lab.wait_for(lambda: not any(line.startswith("RUNNING") for line in self.queue()))


def hold(lab: Lab) -> list[str]:
    """Have a sweep's tasks held by Slurm, and a user submit again; return what is not as it should be."""
    site = Site(lab)
    site.type("submit", "--cluster", "lab", "--pack", "1")
    site.wear_out()
    site.gate.unlink()
    notes = []
    if f"{NUM_RUNS} REQUEUE_HOLD ({REASON})" not in site.type("status"):
        notes.append("status does not say that they are held")
    if f"which Slurm held ({REASON})" not in (said := site.type("submit", "--cluster", "lab")):
        notes.append(f"submit does not say that it lets them go: {said}")
    try:
        lab.wait_for(lambda: not lab.run(["squeue", "--noheader"], check=True).stdout)
    except Exception as error:
        notes.append(f"the queue does not empty: {error}")
    published = sorted(path.name for path in site.sweep.runs.glob("[!.]*"))
    epochs = Counter((lab.home / "ledger").read_text().split("\n")[:-1])
    if len(published) != NUM_RUNS or len(epochs) != 2 * NUM_RUNS or set(epochs.values()) != {1}:
        notes.append(f"published are {published}; epochs {dict(epochs)}")
    return notes


def bench(ledger: Ledger, *, folder: Path, seed: int, until: float) -> None:
    """Have jobs held until the time is over, once at least."""
    for number in range(10**6):
        with Lab(folder / f"lab{number}", nodes=1, settings=SETTINGS) as lab:
            notes = hold(lab)
        fault = f"held by Slurm ({REASON})"
        ledger.add(
            Injection(
                kind="slurm", fault=fault, seed=f"{seed}.{number}", hit=True, wrong=len(notes), note="; ".join(notes)
            )
        )
        if time.monotonic() > until:
            return
