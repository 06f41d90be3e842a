"""Hosts that are namespaces: starting commands in them, finding and signalling what runs there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

UNSHARE = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child")
POLL_S = 0.1


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


def descendant(pid: int) -> int:
    """Return the process at the end of a chain of only children."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        (pid,) = map(int, children)
    return pid


@dataclass(frozen=True, kw_only=True)
class Host:
    """A set of mount, host name and process id namespaces, alive as long as its first process."""

    init_pid: int  # as the machine sees it
    holder: subprocess.Popen[str]  # parent of the first process, ends with it
    log: Path  # what daemons write before they have a log of their own
    environment: Mapping[str, str]

    @classmethod
    def boot(
        cls, command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str], kept: Sequence[int] = ()
    ) -> Host:
        """Start the first process of a host by a command that unshares; that process says "ready" when it is.

        Raises:
            LabError: it ended first.
        """
        with log.open("a") as words:
            holder = subprocess.Popen(
                list(map(str, command)),
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                pass_fds=kept,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests, not for the cluster
            )
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            holder.kill()
            raise LabError(f"a host of the lab does not boot:\n{log.read_text()[-2000:]}")
        return cls(init_pid=descendant(holder.pid), holder=holder, log=log, environment=environment)

    def is_up(self) -> bool:
        """Return whether the host runs."""
        return self.holder.poll() is None

    def kill(self) -> None:
        """Cut the power: all that runs on the host is gone when this returns."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init_pid, signal.SIGKILL)
        self.holder.communicate(timeout=30)

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """Return the command line that runs a command on this host; it ends with the host."""
        namespaces = ["nsenter", f"--target={self.init_pid}", "--mount", "--uts", "--pid"]
        return [*namespaces, "--", *map(str, command)]

    def daemon(self, command: Sequence[str | Path]) -> Daemon:
        """Start a daemon that stays in the foreground."""
        with self.log.open("a") as words:
            holder = subprocess.Popen(
                self.command(command),
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
            )
        return Daemon(name=str(command[0]), holder=holder)

    def pids(self) -> list[int]:
        """Return what runs on the host, as the machine counts it; its first process excepted."""
        name_space = os.readlink(f"/proc/{self.init_pid}/ns/uts")
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/uts") == name_space and int(entry.name) != self.init_pid:
                    found.append(int(entry.name))
        return found

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all that runs on the host."""
        signalled: set[int] = set()
        while new := set(self.pids()) - signalled:  # one may have forked while we went through them
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            signalled |= new


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """A daemon on a host."""

    name: str
    holder: subprocess.Popen[bytes]  # its parent outside of the host, ends with it

    def is_up(self) -> bool:
        """Return whether the daemon runs."""
        return self.holder.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        if children:
            os.kill(int(children[0]), number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon by a signal and wait for that."""
        if self.is_up():
            self.send(number)
        self.holder.wait(timeout=30)
