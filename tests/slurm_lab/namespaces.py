"""Hosts that are namespaces: starting commands in them, finding and signalling what runs there."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

UNSHARE = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child")
POLL_S = 0.1
# Says its own process id, then becomes the command.
DAEMON = 'log=$1; shift; echo $$; exec "$@" >>"$log" 2>&1 </dev/null'


class LabError(Exception):
    """The lab does not do what it should; the message says what and shows where to look."""


def wait_for(
    condition: Callable[[], object],
    *,
    timeout_s: float = 30,
    what: str = "",
    situation: Callable[[], str] = lambda: "",
) -> None:
    """Poll until `condition()` is true.

    Raises:
        LabError: it is still false after `timeout_s`; the message ends with `situation()`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"still waiting for {what or 'a condition'} after {timeout_s:g} s\n{situation()}")
        time.sleep(POLL_S)


def numbers(pid: int) -> list[int]:
    """Return the ids of one process in all namespaces that it is in, the machine's first; none if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []
    return [int(word) for line in status.splitlines() if line.startswith("NSpid:") for word in line.split()[1:]]


def processes_named(host_name: str) -> Iterator[int]:
    """Yield the processes in a host name namespace, such as "uts:[4026532212]"."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if os.readlink(entry / "ns/uts") == host_name:
                yield int(entry.name)


class Process:
    """A process of ours that is nobody's child: its number cannot be mistaken for a later process's."""

    def __init__(self, pid: int) -> None:
        """Take hold of a running process."""
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def __del__(self) -> None:
        """Let go of it."""
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def is_up(self, *, wait_s: float = 0) -> bool:
        """Return whether it still runs after at most `wait_s`."""
        end = select.poll()
        end.register(self._handle, select.POLLIN)
        return not end.poll(wait_s * 1000)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it by a signal; return when it has ended.

        Raises:
            LabError: it has not after half a minute.
        """
        self.send(number)
        if self.is_up(wait_s=30):
            raise LabError(f"process {self.pid} does not end on {number.name}")


@dataclass(frozen=True, kw_only=True)
class Host:
    """Mount, host name and process id namespaces, alive as long as their first process."""

    name: str  # of the host name namespace, such as "uts:[4026532212]"
    first: Process
    log: Path  # where daemons write what they say before they have a log of their own
    environment: Mapping[str, str]

    @classmethod
    def of(cls, starter: subprocess.Popen[str], *, log: Path, environment: Mapping[str, str]) -> Host:
        """Return the host that a command has started, as soon as its first process has printed its `name`.

        Raises:
            LabError: it ended first.
        """
        assert starter.stdout is not None
        name = starter.stdout.readline().strip()
        starter.stdout.close()
        first = [pid for pid in processes_named(name) if numbers(pid)[-1:] == [1]]
        if not first:
            raise LabError(f"a host of the lab does not boot; {log} ends with\n{log.read_text()[-2000:]}")
        return cls(name=name, first=Process(first[0]), log=log, environment=environment)

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """Return the command line that runs a command on this host; it ends with the host."""
        namespaces = ["nsenter", f"--target={self.first.pid}", "--mount", "--uts", "--pid"]
        return [*namespaces, "--", *map(str, command)]

    def detach(self, command: Sequence[str | Path]) -> subprocess.Popen[str]:
        """Start a command that is no child of ours but of the host's first process, and ends with that.

        A child of ours would be handed to the machine's first process if we were killed. Where that one does not look
        after strangers' children, it would stay as a zombie and keep the namespaces alive.
        """
        with self.log.open("a") as words:
            return subprocess.Popen(
                self.command(["setsid", "--fork", *command]),
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )

    def daemon(self, command: Sequence[str | Path]) -> Process:
        """Start a daemon that stays in the foreground.

        Raises:
            LabError: it ended at once.
        """
        with self.detach(["sh", "-c", DAEMON, "sh", self.log, *command]) as starter:
            assert starter.stdout is not None
            own_number = int(starter.stdout.readline())
        for pid in self.pids():
            ids = numbers(pid)
            if ids[-1:] == [own_number] and len(ids) == len(numbers(self.first.pid)):
                with contextlib.suppress(ProcessLookupError):
                    return Process(pid)
        raise LabError(f"{command[0]} ended at once; {self.log} ends with\n{self.log.read_text()[-2000:]}")

    def pids(self) -> list[int]:
        """Return what runs on the host, as the machine counts it, oldest first; its first process excepted."""
        depth = len(numbers(self.first.pid))
        inside = (pid for pid in processes_named(self.name) if len(numbers(pid)) >= depth)  # others started the host
        return sorted(pid for pid in inside if pid != self.first.pid)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all that runs on the host, but for what was sent in from outside by `command`."""
        signalled: set[int] = set()
        while new := {pid for pid in self.pids() if self._is_own(pid)} - signalled:  # one may have forked meanwhile
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            signalled |= new

    def _is_own(self, pid: int) -> bool:
        # nsenter stops itself when its child is stopped, and then would not notice that the host is gone.
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            return parent == self.first.pid or os.readlink(f"/proc/{parent}/ns/uts") == self.name
        except OSError:
            return False
