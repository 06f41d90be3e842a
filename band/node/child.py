"""The trainer as a child process: deaf to signals meant for us, commanded through a pipe, dead when we are."""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from band.files import canonical_json

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
MAX_LINE_BYTES = 16 << 20
READ_BYTES = 1 << 16
MAX_READS = 64
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Trainer:
    """A running trainer: its events, what it prints, and its standard input."""

    def __init__(self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        """Start `command` with `--events-fd N` appended.

        Raises:
            OSError: it cannot be started.
        """
        reader, writer = os.pipe()
        self._events = reader
        self._pending = b""
        self._oom_kills = oom_kills()
        try:
            self.process = subprocess.Popen(
                [*command, "--events-fd", str(writer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(environment),
                pass_fds=(writer,),
                start_new_session=True,
                preexec_fn=_deaf_and_mortal(os.getpid()),
                bufsize=0,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        assert self.process.stdin is not None and self.process.stdout is not None
        self._stdin, self._output = self.process.stdin, self.process.stdout.fileno()
        self._selector = selectors.DefaultSelector()
        for file in (self._events, self._output):
            os.set_blocking(file, False)
            self._selector.register(file, selectors.EVENT_READ)
        os.set_blocking(self._stdin.fileno(), False)

    def read(self, *, timeout_s: float) -> tuple[list[dict[str, Any]], bytes]:
        """Wait up to `timeout_s` and return the events that came and the bytes that were printed."""
        printed = b""
        if self._selector.get_map():
            for key, _ in self._selector.select(timeout_s):
                data = self._read(key.fd)
                if key.fd == self._events:
                    self._pending += data
                else:
                    printed += data
        else:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        return self._take_events(), printed

    def _read(self, file: int) -> bytes:
        chunks = []
        with suppress(BlockingIOError):
            for _ in range(MAX_READS):
                chunk = os.read(file, READ_BYTES)
                if not chunk:
                    self._selector.unregister(file)
                    break
                chunks.append(chunk)
        return b"".join(chunks)

    def _take_events(self) -> list[dict[str, Any]]:
        *lines, self._pending = self._pending.split(b"\n")
        if len(self._pending) > MAX_LINE_BYTES:
            self._pending = b""
        events = []
        for line in lines:
            with suppress(ValueError, RecursionError):
                value = json.loads(line, parse_constant=lambda name: None)  # NaN is null, here as in every file
                canonical_json(value)
                if isinstance(value, dict) and isinstance(value.get("event"), str):
                    events.append(value)
        return events

    def command(self, line: str) -> None:
        """Send a command; a trainer that is gone or does not listen is passed over."""
        with suppress(OSError):
            self._stdin.write(line.encode() + b"\n")

    def kill(self) -> None:
        """Kill the trainer and whatever it started in its session."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Return whether the process has ended; there may still be something to read."""
        return self.process.poll() is not None

    def lacked_memory(self) -> bool:
        """Return whether the kernel has killed a process for want of memory since the trainer was started."""
        return oom_kills() > self._oom_kills

    def close(self) -> int:
        """Kill what is left, free the pipes and return the exit status, negative for a signal."""
        self.kill()
        status = self.process.wait()
        self._selector.close()
        os.close(self._events)
        self._stdin.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since boot; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _deaf_and_mortal(parent: int) -> Any:
    """Return what a child does before exec: ignore what Slurm sends the whole step, and die when `parent` dies."""

    def prepare() -> None:
        for number in IGNORED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(3)

    return prepare
