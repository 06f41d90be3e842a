"""An attempt is stopped at a call that changes a file, the next takes its task over, and the first wakes up."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_task import FakeTask, make_task
from fake_trainer import expected_state
from stepping import Held

from band.run_dir import read_events, read_result
from reliability.ledger import Injection, Ledger
from reliability.slurm_scene import repeated

KIND = "processes"
RUNS = {
    "a": {"epochs": 5, "epoch_s": 0.01},
    "b": {"epochs": 9, "epoch_s": 0.02, "checkpoint_every": 2},
    "c": {"epochs": 9, "epoch_s": 0.02},
}
# How many calls an attempt makes, about; of these names, by which a file or folder gets its own.
CALLS = {"": 250, "replace": 24, "link": 2, "renameat2": 3}
STREAM = "0000.j7-r{}.jsonl"


class Scene:
    """A task in a folder of its own, whose attempts are starts of one job, each on a node of its own."""

    def __init__(self, folder: Path, *, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.task: FakeTask = make_task(folder, RUNS, monkeypatch=patch)
        self.places: dict[str, int] = {}  # {run: inode of its folder} when it was first seen
        self.moved: list[str] = []

    def enter(self, restart: int) -> None:
        """Be the job's start of that number, which Slurm makes only once it takes the one before for over."""
        place = self.folder / f"node-{restart}"
        for name, value in (("SLURM_JOB_ID", 7), ("SLURM_RESTART_COUNT", restart), ("BAND_SCRATCH", place)):
            self.patch.setenv(name, str(value))

    def hold(self, *, number: int, named: str, dies: bool) -> Held:
        """Start the first attempt and return it when it stands before its n-th call of that name, or has ended."""
        self.enter(0)
        return Held(self.task.attempt, number=number, before=True, named=named, dies=dies)

    def go_on(self, restart: int, *, mirrors: int = 0) -> int:
        """Make a later attempt and return its code; it is asked to stop when it has brought home so many checkpoints.

        Args:
            restart: its number.
            mirrors: after how many; 0: it is left in peace.
        """
        self.enter(restart)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = self.task.attempt()
            finally:
                os._exit(code)
        while mirrors and not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if self._mirrored(restart) >= mirrors:
                os.kill(pid, signal.SIGTERM)
                break
            time.sleep(0.005)
        status = ended[1] if mirrors and ended[0] else os.waitpid(pid, 0)[1]
        self.look()
        return os.waitstatus_to_exitcode(status)

    def _mirrored(self, restart: int) -> int:
        events = read_events(self.task.sweep.events / STREAM.format(restart))[0]
        return sum(event["event"] == "mirrored" for event in events)

    def look(self) -> None:
        """See whether a run that was published stands where it stood."""
        there = {path.name: path.stat().st_ino for path in self.task.sweep.runs.glob("[!.]*")}
        self.moved += [run for run, inode in self.places.items() if there.get(run) != inode]
        self.places |= there

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is not as it should be, once an attempt has come to the end: (kind, words)."""
        sweep = self.task.sweep
        expected = {run: expected_state(run, epochs=int(values["epochs"])) for run, values in RUNS.items()}
        found = self.task.published()
        yield from (("lost", f"{run} is not published") for run in sorted(set(expected) - set(found)))
        yield from (("wrong", f"{run} came to something else") for run in found if found[run] != expected[run])
        yield from (("duplicated", f"{run} was put in place again") for run in self.moved)
        events = [(path.name, e) for path in sorted(sweep.events.iterdir()) for e in read_events(path)[0]]
        yield from (("lost", what) for what in repeated([("0000", name, event) for name, event in events]))
        for run in found:
            maker = read_result(sweep.run(run))["provenance"]["attempt"]
            others = [name for name, e in events if (e["event"], e.get("run")) == ("superseded", run)]
            if f"0000.{maker}.jsonl" in others:
                yield "wrong", f"{maker} says that its {run} came second, and it stands there"
        yield from (("wrong", f"left on its way in: {path.name}") for path in sweep.incoming.glob("*"))
        yield from (("wrong", f"left at home: {path.name}") for path in self.task.task_json.parent.glob("population.*"))


def take_over(folder: Path, *, number: int, named: str, dies: bool, mirrors: int) -> dict[str, Any]:
    """Stop an attempt before its n-th call, let the next work, wake the first, let a third end it; return what came.

    Args:
        folder: an empty one.
        number: of the call, from 0.
        named: only calls of this name are counted; "": all.
        dies: whether the first is killed when it has woken up and made that call, or goes on.
        mirrors: after how many checkpoints brought home the second attempt is interrupted; 0: it comes to its end.
    """
    with pytest.MonkeyPatch.context() as patch:
        scene = Scene(folder, patch=patch)
        first = scene.hold(number=number, named=named, dies=dies)
        codes = [scene.go_on(1, mirrors=mirrors)] if first.has_stopped else []
        code = first.finish()
        scene.look()
        codes.append(scene.go_on(2))
        found = list(scene.problems())
        if codes[-1] != 0:
            found.append(("wrong", f"attempts ended with {[code, *codes]}"))
    return {
        "hit": first.has_stopped,
        **{kind: sum(what == kind for what, _ in found) for kind in ("lost", "duplicated", "wrong")},
        "note": "; ".join(words for _, words in found),
    }


def inject(ledger: Ledger, *, folder: Path, number: int, mirrors: int, named: str = "", dies: bool = False) -> None:
    """Add one injection to the ledger."""
    place = Path(tempfile.mkdtemp(dir=folder))
    found = take_over(place, number=number, named=named, dies=dies, mirrors=mirrors)
    shutil.rmtree(place)
    fault = f"supervisor stopped, its task taken over, woken up{' and killed' if dies else ''}"
    ledger.add(Injection(kind=KIND, fault=fault, seed=f"{named or 'call'} {number}, {mirrors} mirrored", **found))


def bench(ledger: Ledger, *, folder: Path, seed: int, until: float) -> None:
    """Stop at calls drawn by `seed` until the time is over."""
    draws = random.Random(f"{seed} takeover")
    while time.monotonic() < until:
        named = draws.choice(list(CALLS))
        number, mirrors = draws.randrange(CALLS[named]), draws.randrange(4)
        inject(ledger, folder=folder, number=number, mirrors=mirrors, named=named, dies=draws.random() < 0.5)
