"""Steps through every call by which an operation changes a file: dies there, or fails there, and is done again."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability.ledger import Injection, Ledger
from reliability.shim import FAULTS, Fault, Shim, run_under

KIND = "system calls"
TIMEOUT_S = 120.0
MOST_CALLS = 2000


@dataclass(frozen=True)
class Answer:
    """What a process said before it ended."""

    value: Any = None
    error: str = ""  # class and message of what it raised
    is_users: bool = False  # whether that was an error a user can mend, or the system's own
    struck: int = 0
    seen: int = 0
    word: str = ""  # the call that was struck
    was_killed: bool = False


def elsewhere(work: Callable[[], Any], *, shim: Shim | None = None) -> Answer:
    """Do work in a process of its own, as a command would, and return what came of it."""
    ear, mouth = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ear)
        os._exit(_speak(work, mouth, shim=shim))
    os.close(mouth)
    said = b""
    while chunk := os.read(ear, 65536):
        said += chunk
    os.close(ear)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        return Answer(was_killed=True, struck=1)
    return Answer(**json.loads(said))


def _speak(work: Callable[[], Any], mouth: int, *, shim: Shim | None) -> int:
    from band.errors import BandError

    answer: dict[str, Any] = {}
    signal.alarm(int(TIMEOUT_S))
    try:
        answer["value"] = work()
    except Exception as error:
        answer |= {"error": f"{type(error).__name__}: {error}", "is_users": isinstance(error, (BandError, OSError))}
    if shim is not None:
        answer |= {"struck": shim.struck, "seen": shim.seen, "word": shim.word}
        shim.disarm()
    os.write(mouth, json.dumps(answer).encode())
    return 0


class Stepper:
    """Steps through one operation under one fault."""

    def __init__(self, operation: Any, *, folder: Path, shim: Shim) -> None:
        self.operation, self.folder, self.shim = operation, folder, shim
        self.before = self._undisturbed(act=False)
        self.after = self._undisturbed(act=True)
        assert self.before != self.after, f"{operation.name} changes nothing that its view shows"

    def _undisturbed(self, *, act: bool) -> Any:
        place = self._fresh()
        if act:
            self.operation.act(place)
        view = _plain(self.operation.view(place))
        shutil.rmtree(place)
        return view

    def _fresh(self) -> Path:
        place = self.folder / "here"
        place.mkdir()
        self.operation.prepare(place)
        return place

    def steps(self, fault: Fault) -> Iterator[Injection]:
        """Yield an injection for each call there is."""
        for number in range(MOST_CALLS):
            place = self._fresh()
            injection = self._inject(place, fault, number=number)
            shutil.rmtree(place)
            if injection is None:
                return
            yield injection

    def _inject(self, place: Path, fault: Fault, *, number: int) -> Injection | None:
        """Return what came of a fault at the n-th call; None where there is no such call."""

        def work() -> None:
            self.shim.arm(place, at=number, fault=fault)
            _plain(self.operation.act(place))

        struck = elsewhere(work, shim=self.shim)
        if not struck.struck and struck.seen <= number:
            return None
        found = self._problems(place, fault, struck)
        return Injection(
            kind=KIND,
            fault=fault.name,
            seed=f"{self.operation.name}, call {number}",
            hit=bool(struck.struck),
            lost=sum(what == "lost" for what, _ in found),
            duplicated=sum(what == "duplicated" for what, _ in found),
            wrong=sum(what == "wrong" for what, _ in found),
            note="; ".join(text for _, text in found),
        )

    def _problems(self, place: Path, fault: Fault, struck: Answer) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        if struck.error and not struck.is_users:
            found.append(("wrong", f"raised {struck.error}"))
        said_done = not struck.error and not struck.was_killed
        answer = elsewhere(lambda: self._look_and_do_again(place))
        assert not answer.was_killed
        if answer.error:  # from a stage that it names
            return [*found, ("wrong", answer.error)]
        seen, temporaries, view, duplicates = answer.value
        wanted = self.after if said_done else None
        found += [(what, f"right after it {text}") for what, text in self._compare(seen, wanted)]
        # What a disk refuses to remove stays.
        if temporaries and not struck.was_killed and not fault.lasts and struck.word != "unlink":
            found.append(("wrong", f"left {temporaries}"))
        found += [(what, f"done again {text}") for what, text in self._compare(view, self.after)]
        if duplicates:
            found.append(("duplicated", f"{duplicates} twice"))
        return found

    def _look_and_do_again(self, place: Path) -> list[Any]:
        """Return what a fresh process sees, does and sees then: view, temporary files, view, duplicates."""
        said: list[Any] = []
        stage = "a reader"
        try:
            said += [self.operation.view(place), [path.name for path in place.rglob(".*.tmp")]]
            stage = "done again it"
            self.operation.act(place)
            stage = "done again, a reader"
            return [_plain(value) for value in (*said, self.operation.view(place), self.operation.duplicates(place))]
        except Exception as error:
            raise AssertionError(f"{stage} meets {type(error).__name__}: {error}") from None

    def _compare(self, view: dict[str, Any], wanted: dict[str, Any] | None) -> list[tuple[str, str]]:
        """Return how a view leaves what is wanted; None: what was before, what is to be, or, if gradual, in between."""
        if wanted is not None:
            found = [("lost", f"lacks {key}") for key in wanted if key not in view]
            found += [("wrong", f"has {key} = {view[key]!r}") for key in view if view[key] != wanted.get(key)]
            return found
        if view in (self.before, self.after):
            return []
        if not self.operation.is_gradual:
            return [("wrong", f"shows {view!r}, neither the old nor the new")]
        found = [("lost", f"lacks {key}") for key in self.before if key in self.after and key not in view]
        for key, value in view.items():
            if value not in (self.before.get(key), self.after.get(key)):
                found.append(("wrong", f"has {key} = {value!r}"))
        return found


def _plain(value: Any) -> Any:
    """Return what JSON makes of a value, so that one from another process can be compared with it."""
    return json.loads(json.dumps(value, default=str))


def bench(ledger: Ledger, *, folder: Path, seed: int, until: float) -> None:
    """Step through all operations under all faults, in an order drawn by `seed`, until the time is over."""
    step(ledger, folder=folder, seed=seed, seconds=max(1.0, until - time.monotonic()))


def step(ledger: Ledger, *, folder: Path, seed: int, seconds: float, **options: object) -> None:
    """Step in a process that runs under the shim; options as `main` has them."""
    given = [f"--{name}={value}" for name, value in {"seed": seed, "seconds": seconds, **options}.items()]
    with ledger.extended():
        run_under("reliability.calls", folder, ledger.path, *given, timeout_s=seconds + TIMEOUT_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Step, under the shim."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--most", type=int, default=10**6, help="so many injections")
    parser.add_argument("--only", default="", help="operations whose names hold this")
    parser.add_argument("--fault", default="", help="faults whose names hold this")
    given = parser.parse_args(arguments)
    from reliability.operations import NAIVE, OPERATIONS

    end, shim, ledger = time.monotonic() + given.seconds, Shim(), Ledger(given.ledger)
    chosen = [each for each in (*OPERATIONS, NAIVE) if given.only in each.name and (given.only or each is not NAIVE)]
    jobs = [(operation, fault) for operation in chosen for fault in FAULTS if given.fault in fault.name]
    random.Random(given.seed).shuffle(jobs)
    steppers: dict[str, Stepper] = {}
    for operation, fault in jobs:
        if operation.name not in steppers:
            steppers[operation.name] = Stepper(operation, folder=given.folder, shim=shim)
        for injection in steppers[operation.name].steps(fault):
            ledger.add(injection)
            if time.monotonic() > end or len(ledger.made) >= given.most:
                return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
