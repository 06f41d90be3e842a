"""Files of a sweep are damaged by seed: commands say what is wrong, or do without, and nothing false is published."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_task import DRIVER
from fake_trainer import expected_state
from local_sweep import LocalSweep, make_sweep
from proc import wait_for

from band.cli.sweep import main as band_sweep
from band.errors import PublishError
from band.run_dir import verify
from band.sweep.manifest import read_manifest
from band.sweep.pack import Room
from band.sweep.schedulers import scheduler_for
from band.sweep.status import take_survey
from band.sweep.submit import plan, write
from reliability.calls import elsewhere
from reliability.ledger import Injection, Ledger

KIND = "damage"
EPOCHS = {"done-1": 2, "done-2": 2, "half": 8, "new": 2}
COMMANDS = (
    ("status",), ("status", "--json"), ("submit", "--dry-run"), ("why",), ("logs",),
)  # fmt: skip
FINE = {0, 1, 3, 4}  # 2 would be our own usage, 70 a fault of ours
GOES_ON = {"task file", "claim", "checkpoint", "event stream", "recording"}  # what the next attempt at a task reads
Damage = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, draws: random.Random) -> bytes:
    """Return the data with one bit the other way round."""
    place = draws.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :]


def cut(data: bytes, draws: random.Random) -> bytes:
    """Return a beginning."""
    return data[: draws.randrange(len(data))]


def zero(data: bytes, draws: random.Random) -> bytes:
    """Return the data with a stretch of zeros in it, as a disk that lost power leaves it."""
    begin = draws.randrange(len(data))
    end = min(len(data), begin + draws.randrange(1, 4096))
    return data[:begin] + bytes(end - begin) + data[end:]


def garbage(data: bytes, draws: random.Random) -> bytes:
    """Return something else of that size."""
    return draws.randbytes(len(data))


def half_a_line(data: bytes, draws: random.Random) -> bytes:
    """Return the data up to the middle of its last line."""
    begin = data.rstrip(b"\n").rfind(b"\n") + 1
    return data[: draws.randrange(begin + 1, len(data))] if len(data) > begin + 1 else data


DAMAGES: dict[str, Damage] = {
    "one bit flipped": flip, "truncated": cut, "zeros in it": zero, "replaced by garbage": garbage,
}  # fmt: skip
LINES = ("events/*.jsonl", "index/*.jsonl", "manifest.jsonl", "checkpoints.jsonl")
TARGETS = (
    ("manifest.jsonl", "manifest"),
    ("tasks/0002/task.json", "task file"),
    ("tasks/*/claim.*.json", "claim"),
    ("tasks/0002/population.*.pt", "checkpoint"),
    ("submissions/0001/intent.json", "request"),
    ("submissions/*/receipt.json", "receipt"),
    ("submissions/claim.*.json", "claim of the queue"),
    ("events/*.jsonl", "event stream"),
    ("index/*.jsonl", "index"),
    ("runs/done-1/result.json", "result.json"),
    ("runs/done-1/metrics.csv", "metrics.csv"),
    ("runs/done-1/outputs.h5", "outputs.h5"),
    ("../../recording.h5", "recording"),
)


@dataclass(frozen=True)
class Bed:
    """A sweep with two published runs, one of which half is trained, and one that is new."""

    home: Path  # of which there is a copy in `kept`
    kept: Path
    environment: dict[str, str]

    @property
    def sweep(self) -> LocalSweep:
        """The sweep."""
        from band.run_dir import SweepDir

        return LocalSweep(SweepDir(self.home / "sweeps" / "demo"), self.environment)

    def renew(self) -> None:
        """Have the sweep as it was."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.kept, self.home)


def make_bed(folder: Path) -> Bed:
    """Train a sweep up to there."""
    home = folder / "home"
    home.mkdir(parents=True)
    sweep = make_sweep(home, {run: {"epochs": epochs} for run, epochs in EPOCHS.items()}, base={"checkpoint_every": 1})
    bed = Bed(home, folder / "kept", {**sweep.environment, "FAKE_CONFIG": "{}"})
    bed.sweep.band_sweep("submit", "--jobs", "1", "--pack", "2", "--limit", "2", code=4)
    _submit_next(bed)
    _interrupt(bed, "0002")
    shutil.rmtree(home / "scratch")  # goes on elsewhere, from what is at home
    shutil.copytree(home, bed.kept)
    return bed


def _submit_next(bed: Bed) -> None:
    """Write the task of the next run; no queue is started."""
    sweep = bed.sweep.sweep
    manifest = read_manifest(sweep.path)
    survey = take_survey(sweep, manifest, scheduler=scheduler_for(sweep))
    room = Room(slots=1, threads=1, device="cpu", memory_bytes=10**10)
    write(plan(survey, sweep=sweep, room=room, members=1, limit=1), sweep=sweep, manifest=manifest)


def _start(bed: Bed, task: str, **config: Any) -> subprocess.Popen[str]:
    path = bed.sweep.sweep.task(task).task_json
    environment = {**bed.environment, "FAKE_CONFIG": json.dumps(config)}
    command = [sys.executable, "-c", DRIVER, str(path)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


def _attempt(bed: Bed, task: str) -> tuple[int, str]:
    process = _start(bed, task)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def _interrupt(bed: Bed, task: str) -> None:
    """Kill an attempt once two checkpoints of it are at home."""
    process = _start(bed, task, epoch_s=0.3)
    folder = bed.sweep.sweep.task(task).path
    wait_for(lambda: len(list(folder.glob("population.*.pt"))) == 2)
    process.kill()
    process.communicate()
    wait_for(lambda: not bed.sweep.processes())


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    words: tuple[str, ...]
    code: int
    text: str

    @property
    def fault(self) -> str:
        """What is wrong with that, "" if nothing is."""
        if self.code not in FINE or "Traceback" in self.text:
            last = self.text.strip().splitlines()[-1:] or [""]
            return f"{' '.join(self.words)} ended with {self.code}: {last[0][:200]}"
        return f"{' '.join(self.words)} ended with {self.code} and said nothing" if self.code and not self.text else ""


def command(bed: Bed, *words: str) -> Said:
    """Give a command to `band-sweep` in a process of its own, without waiting for Python to start."""

    def work() -> Any:
        os.environ.update(bed.environment)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                code = band_sweep([words[0], str(bed.sweep.sweep.path), *words[1:]])
            except SystemExit as end:
                code = int(end.code or 0)
        return [code, out.getvalue()]

    answer = elsewhere(work)
    code, text = (-1, answer.error) if answer.error else answer.value
    return Said(words, code, text)


def judge(bed: Bed, *, target: str, goes_on: bool) -> dict[str, Any]:
    """Give every command, let the half-trained task go on, and return what is lost, doubled or wrong.

    Args:
        bed: the sweep, one file of which is damaged.
        target: that file, seen from the sweep.
        goes_on: whether the task is to go on.
    """
    notes = [said.fault for words in COMMANDS if (said := command(bed, *words)).fault]
    if goes_on:
        code, text = _attempt(bed, "0002")
        if "Traceback" in text or code not in (0, 1, 4, 75, 78):
            notes.append(f"the attempt ended with {code}: {text.strip()[-300:]}")
        if code and not text.strip():
            notes.append(f"the attempt ended with {code} and said nothing")
    lost, wrong = 0, len(notes)
    for run, epochs in EPOCHS.items():
        folder = bed.sweep.sweep.run(run)
        try:
            verify(folder)
        except PublishError as error:
            if run.startswith("done") and not target.startswith(f"runs/{run}/"):
                lost, notes = lost + 1, [*notes, f"{run} was lost: {error}"]
            continue
        state = (folder / "metrics.csv").read_text().split()[1]
        if state != expected_state(run, epochs=epochs):
            wrong, notes = wrong + 1, [*notes, f"{run} is published with another result"]
    doubles = len(list(bed.sweep.sweep.superseded.glob("*")))
    return {"lost": lost, "duplicated": doubles, "wrong": wrong, "note": "; ".join(notes)}


def faults(seed: int) -> Iterator[tuple[str, str, str, Damage]]:
    """Yield pattern, name of the target, name of the damage and the damage, without end, in an order by seed."""
    draws = random.Random(seed)
    kinds = [(pattern, what, name, damage) for pattern, what in TARGETS for name, damage in DAMAGES.items()]
    kinds += [(pattern, what, "half a last line", half_a_line) for pattern, what in TARGETS if pattern in LINES]
    while True:
        draws.shuffle(kinds)
        yield from kinds


def bench(ledger: Ledger, *, folder: Path, seed: int, until: float) -> None:
    """Damage one file after the other until the time is over."""
    damage_files(ledger, make_bed(folder), seed=seed, until=until)


def damage_files(ledger: Ledger, bed: Bed, *, seed: int, until: float, most: int = 10**6) -> None:
    """Damage one file after the other, each in the sweep as it was."""
    for number, (pattern, what, name, damage) in enumerate(faults(seed)):
        if time.monotonic() > until or number >= most:
            return
        bed.renew()
        draws = random.Random(f"{seed} {number}")
        paths = sorted(bed.sweep.sweep.path.glob(pattern))
        assert paths, f"there is no {pattern}"
        path = draws.choice(paths)
        before = path.read_bytes()
        after = damage(before, draws) if before else before
        path.write_bytes(after)
        target = os.path.relpath(path, bed.sweep.sweep.path)
        found = judge(bed, target=target, goes_on=what in GOES_ON) if after != before else {}
        ledger.add(Injection(kind=KIND, fault=f"{what}: {name}", seed=f"{seed}.{number}", hit=after != before, **found))
