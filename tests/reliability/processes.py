"""Supervisor, queue and submitter die, or find home or scratch failing, at a call drawn by seed; then submit again."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_task import DRIVER
from fake_trainer import expected_state
from local_sweep import LocalSweep, make_sweep
from proc import wait_for

from band.errors import PublishError
from band.run_dir import SweepDir, read_events, verify
from band.sweep.manifest import read_manifest
from band.sweep.pack import Room
from band.sweep.schedulers import scheduler_for
from band.sweep.status import take_survey
from band.sweep.submit import plan, write
from reliability.ledger import Injection, Ledger
from reliability.shim import DEATHS, FAIL_ON, FAILURES, Fault, under

EPOCHS = {"run-0": 3, "run-1": 4, "run-2": 5}
TIMEOUT_S = 120.0
# Home or scratch that works again after a while, which is drawn.
PASSING = (
    Fault("no space left (ENOSPC), for a while", FAIL_ON, errno.ENOSPC),
    Fault("read-only (EROFS), for a while", FAIL_ON, errno.EROFS),
    Fault("input/output error (EIO), for a while", FAIL_ON, errno.EIO),
)
EVERY = (*DEATHS, *FAILURES, *PASSING)


@dataclass(frozen=True)
class Place:
    """A sweep as it was when it had been submitted, of which there is a copy."""

    folder: Path

    @property
    def sweep(self) -> LocalSweep:
        """The sweep."""
        return LocalSweep(SweepDir(self.folder / "here" / "sweeps" / "demo"), self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """The surroundings of its commands."""
        from local_sweep import HELPERS

        here = self.folder / "here"
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])]),
            "BAND_SCRATCH": str(here / "scratch"),
            "BAND_TRAINER": f"{sys.executable} {HELPERS / 'fake_trainer.py'}",
            "FAKE_LEDGER": str(here / "ledger"),
        }

    def renew(self) -> None:
        """Have all as it was."""
        shutil.rmtree(self.folder / "here", ignore_errors=True)
        shutil.copytree(self.folder / "kept", self.folder / "here")


def make_place(folder: Path, *, is_submitted: bool) -> Place:
    """Make a sweep of three runs, submitted as one task if it shall be."""
    here = folder / "here"
    here.mkdir(parents=True)
    sweep = make_sweep(here, {run: {"epochs": epochs} for run, epochs in EPOCHS.items()}).sweep
    if is_submitted:
        manifest = read_manifest(sweep.path)
        survey = take_survey(sweep, manifest, scheduler=scheduler_for(sweep))
        room = Room(slots=1, threads=1, device="cpu", memory_bytes=10**10)
        options = {**vars(room), "gpus": [], "cores": 1}
        write(plan(survey, sweep=sweep, room=room, members=3), sweep=sweep, manifest=manifest, options=options)
    shutil.copytree(here, folder / "kept")
    return Place(folder)


def attempt(place: Place) -> list[str]:
    """Return the command of one attempt at the task."""
    return [sys.executable, "-c", DRIVER, str(place.sweep.sweep.task("0001").task_json)]


def queue(place: Place) -> list[str]:
    """Return the command of the local queue."""
    return [sys.executable, "-m", "band.sweep.queue", str(place.sweep.sweep.path), "0001"]


def submit(place: Place) -> list[str]:
    """Return the command that a user types."""
    return [sys.executable, "-m", "band.cli.sweep", "submit", str(place.sweep.sweep.path), "--jobs", "1"]


VICTIMS: dict[str, tuple[Callable[[Place], list[str]], bool]] = {
    "supervisor": (attempt, True),
    "queue": (queue, True),
    "submit": (submit, False),
}


def run(command: Sequence[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command to its end and return its code and what it said."""
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", timeout=TIMEOUT_S,
    )  # fmt: skip
    return done.returncode, done.stdout


def finish(place: Place) -> str:
    """Submit until all is published, as a user would; return what was said last, "" if all is."""
    said = ""
    for _ in range(4):
        wait_for(lambda: not place.sweep.processes())
        code, said = run([*submit(place), "--retry-failed"], place.environment)
        if code == 0:
            return ""
    return said[-400:] or "nothing was said"


class Bench:
    """Strikes one process of a sweep again and again."""

    def __init__(self, folder: Path, victim: str, *, seed: int) -> None:
        self.command, is_submitted = VICTIMS[victim]
        self.place = make_place(folder / victim, is_submitted=is_submitted)
        self.victim, self.draws, self.trace = victim, random.Random(f"{seed} {victim}"), folder / "trace"
        self.calls = {root: self._count(root) for root in ("sweeps", "scratch")}

    def _count(self, root: str) -> int:
        self.place.renew()
        code, lines = self._go(root, AT=-1)
        assert code == 0, lines
        wait_for(lambda: not self.place.sweep.processes())
        return len(lines)

    def _go(self, root: str, **settings: object) -> tuple[int, list[str]]:
        self.trace.unlink(missing_ok=True)
        where = {"ROOT": self.place.folder / "here" / root, "TRACE": self.trace, "ALONE": 1}
        code, self.said = run(self.command(self.place), under(self.place.environment, **where, **settings))
        return code, self.trace.read_text().splitlines() if self.trace.exists() else []

    def strike(self, number: int, *, seed: int) -> Injection:
        """Strike once, do the rest undisturbed, and return what came of it."""
        root = self.draws.choice([root for root, calls in self.calls.items() if calls])
        # A queue waits for ten minutes for a home that cannot be used.
        faults = [fault for fault in EVERY if self.victim != "queue" or fault in PASSING or not fault.lasts]
        fault, at = self.draws.choice(faults), self.draws.randrange(self.calls[root])
        self.place.renew()
        passes = {"FOR_S": round(self.draws.uniform(0.05, 1.0), 2)} if fault in PASSING else {}
        _, lines = self._go(root, AT=at, ACT=fault.act, ERRNO=fault.number, **passes)
        where = "home" if root == "sweeps" else root
        kind, what = "storage", f"{where} of the {self.victim}: {fault.name}"
        if fault.is_death:
            kind, what = "processes", f"{self.victim} killed at a call on {where}"
        struck = [lines[place - 1].split()[0] for place, line in enumerate(lines) if line.startswith("hit")]
        notes = [f"said {self.said[-300:]}"] if "Traceback" in self.said else []
        # What a disk refuses to remove stays; and what is killed after its last publication, until the next task there.
        is_over = {path.name for path in self.place.sweep.sweep.runs.glob("[!.]*")} == set(EPOCHS)
        may_leave = bool({"unlink", "rmdir"} & set(struck)) or (fault.is_death and is_over)
        found = self._found(finish(self.place), notes, may_leave=may_leave)
        return Injection(kind=kind, fault=what, seed=f"{seed}.{number}: call {at}", hit=bool(struck), **found)

    def _found(self, trouble: str, notes: list[str], *, may_leave: bool) -> dict[str, Any]:
        notes = [*notes, *([f"never complete: {trouble}"] if trouble else [])]
        sweep, lost = self.place.sweep.sweep, 0
        wrong = len(notes)
        for name, epochs in EPOCHS.items():
            try:
                verify(sweep.run(name))
                if (sweep.run(name) / "metrics.csv").read_text().split()[1] != expected_state(name, epochs=epochs):
                    wrong, notes = wrong + 1, [*notes, f"{name} came to something else"]
            except PublishError as error:
                lost, notes = lost + 1, [*notes, str(error)]
        said = Counter(
            event["run"]
            for path in sweep.events.glob("*.jsonl")
            for event in read_events(path)[0]
            if event["event"] == "published"
        )
        doubles = sum(count - 1 for count in said.values()) + len(list(sweep.superseded.glob("*")))
        again = {line: count for line, count in self.place.sweep.epochs().items() if count > 2}
        left = [str(path) for path in (self.place.folder / "here" / "scratch").glob("work/*/*")]
        left += [str(path) for path in sweep.incoming.glob("*")]
        left = [] if may_leave else left
        for what, bad in (("trained more than twice", again), ("left", left), ("published twice", doubles)):
            if bad:
                notes.append(f"{what}: {bad}")
        return {
            "lost": lost,
            "duplicated": doubles,
            "wrong": wrong + bool(again) + bool(left),
            "note": "; ".join(notes),
        }


def bench(ledger: Ledger, *, folder: Path, seed: int, until: float) -> None:
    """Strike one victim after the other until the time is over."""
    benches = [Bench(folder, victim, seed=seed) for victim in VICTIMS]
    number = 0
    while time.monotonic() < until:
        ledger.add(benches[number % len(benches)].strike(number, seed=seed))
        number += 1
