"""Stops a process before, after or in the middle of each system call that changes a file, makes that call fail, or
holds the process there while others go on.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from band import files

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CALLS = ("open", "write", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")
Hook = Callable[[str, Callable[[], Any], tuple[Any, ...]], Any]  # name, the call itself, its arguments


@contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Within the block, have every call that changes a file go through `hook`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _through(hook, name, getattr(os, name)))
        patch.setattr(files, "_renameat2", _through(hook, "renameat2", files._renameat2))
        yield


def _through(hook: Hook, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if name == "open" and not args[1] & WRITING:
            return real(*args, **kwargs)
        return hook(name, lambda: real(*args, **kwargs), args)

    return call


class AtCall:
    """Acts at the n-th call, counted from 0, or the n-th of those named so, and lets all others pass."""

    def __init__(self, number: int, *, act: Hook, named: str = "") -> None:
        self.number, self.act, self.named, self.seen = number, act, named, 0

    def __call__(self, name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if self.named not in ("", name):
            return call()
        self.seen += 1
        return self.act(name, call, args) if self.seen == self.number + 1 else call()


def calls_of(operation: Callable[[], Any]) -> list[str]:
    """Return the names of the file-changing calls of an operation, in order; carries it out."""
    names: list[str] = []

    def note(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        names.append(name)
        return call()

    with hooked(note):
        operation()
    return names


def die_before(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Kill the process instead of making the call."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Kill the process when the call is made, whatever it came to."""
    try:
        call()
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def die_within(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Kill the process when half of a write is made."""
    if name == "write":
        real_half(args)
    os.kill(os.getpid(), signal.SIGKILL)


DEATHS = (die_before, die_after, die_within)
_real_write = os.write


def real_half(args: tuple[Any, ...]) -> int:
    """Write the first half of what was to be written."""
    file, data = args
    return _real_write(file, bytes(data)[: max(1, len(data) // 2)])


def failing(number: int) -> Hook:
    """Return a hook that lets a call fail with an errno; a write fails when half of it is made."""

    def fail(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if name == "write":
            real_half(args)
        raise OSError(number, os.strerror(number))

    return fail


def run_until_killed(operation: Callable[[], Any], *, number: int, death: Hook) -> bool:
    """Run an operation in a process that dies at its n-th call; return False if it has no such call."""
    child = os.fork()
    if child == 0:
        try:
            with hooked(AtCall(number, act=death)):
                operation()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


class Held:
    """A process that runs an operation and stops at its n-th call (`AtCall`) until it is let go, or then dies."""

    def __init__(
        self, operation: Callable[[], Any], *, number: int, before: bool, named: str = "", dies: bool = False
    ) -> None:
        self._stopped, stopped = os.pipe()
        go, self._go = os.pipe()
        self._answer, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            at = functools.partial(AtCall, number, named=named)
            self._child(operation, at=at, before=before, dies=dies, stopped=stopped, go=go, answer=answer)
        for file in (stopped, go, answer):
            os.close(file)
        self.has_stopped = os.read(self._stopped, 1) == b"s"

    def _child(
        self,
        operation: Callable[[], Any],
        *,
        at: Callable[..., AtCall],
        before: bool,
        dies: bool,
        stopped: int,
        go: int,
        answer: int,
    ) -> None:
        def hold(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
            result = None if before else call()
            _real_write(stopped, b"s")
            os.close(self._go)
            os.read(go, 1)
            result = call() if before else result
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        try:
            with hooked(at(act=hold)):
                value = outcome(operation)
            _real_write(answer, json.dumps(value).encode())
        finally:
            os._exit(0)

    def finish(self) -> Any:
        """Let it go and return what its operation returned, or the name of what it raised; None where it died."""
        os.close(self._go)
        data = b""
        while chunk := os.read(self._answer, 65536):
            data += chunk
        os.waitpid(self.pid, 0)
        for file in (self._answer, self._stopped):
            os.close(file)
        return json.loads(data) if data else None


def outcome(operation: Callable[[], Any]) -> Any:
    """Return what an operation returns, or the name of what it raises."""
    try:
        return operation()
    except Exception as error:
        return type(error).__name__


def race(operations: Sequence[Callable[[], Any]], *, seed: int) -> list[Any]:
    """Run operations at once, each in a process that dawdles at random calls; return their outcomes."""
    start, started = os.pipe()
    children = []
    for place, operation in enumerate(operations):
        answer, reply = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(started)
            rng = random.Random(f"{seed} {place}")
            _race_child(operation, start=start, reply=reply, rng=rng)
        os.close(reply)
        children.append((pid, answer))
    os.close(start)
    os.close(started)
    return [_reap(pid, answer) for pid, answer in children]


def _race_child(operation: Callable[[], Any], *, start: int, reply: int, rng: random.Random) -> None:
    def dawdle(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        time.sleep(rng.choice((0.0, 0.0, 0.001, 0.003)))
        result = call()
        time.sleep(rng.choice((0.0, 0.0, 0.001)))
        return result

    try:
        os.read(start, 1)
        with hooked(dawdle):
            value = outcome(operation)
        _real_write(reply, json.dumps(value).encode())
    finally:
        os._exit(0)


def _reap(pid: int, answer: int) -> Any:
    data = b""
    while chunk := os.read(answer, 65536):
        data += chunk
    os.close(answer)
    os.waitpid(pid, 0)
    return json.loads(data)
