"""A command on a pseudo-terminal, and what it shows there: a terminal emulator reads what is sent."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyte

ENTER, LEAVE, HIDE, SHOW = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25l", b"\x1b[?25h"


class PseudoTerminal:
    """A command that takes the terminal over."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], width: int = 100, height: int = 30):
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self.sent = b""
        self._master, self.slave = pty.openpty()
        self._set_size(width, height)
        self.before = self.attributes()
        self.process = subprocess.Popen(
            list(command), stdin=self.slave, stdout=self.slave, stderr=self.slave, env=dict(environment),
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def _set_size(self, width: int, height: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def resize(self, width: int, height: int) -> None:
        """Change the size as a window manager does: the kernel tells the process."""
        self.read()
        self.screen.resize(height, width)
        self._set_size(width, height)
        os.killpg(self.process.pid, signal.SIGWINCH)

    def read(self, timeout_s: float = 0.0) -> None:
        """Show what has been sent by now."""
        while select.select([self._master], [], [], timeout_s)[0]:
            data = os.read(self._master, 65536)
            self.sent += data
            self._stream.feed(data)
            timeout_s = 0.0

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def wait_for(self, condition: Callable[[list[str]], bool], *, timeout_s: float = 20.0) -> list[str]:
        """Return the screen as soon as it is so."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.lines()):
            assert time.monotonic() < deadline, "\n".join(self.lines())
            self.read(0.05)
        return self.lines()

    def wait(self, *, timeout_s: float = 20.0) -> int:
        """Return the exit code once the command has ended."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "\n".join(self.lines())
            self.read(0.05)
        self.read(0.05)
        return self.process.returncode

    def is_as_before(self) -> bool:
        """Whether the terminal has its settings, its first screen and its cursor again."""
        ends = [self.sent.rfind(code) for code in (ENTER, LEAVE, HIDE, SHOW)]
        return self.attributes() == self.before and ends[1] > ends[0] and ends[3] > ends[2]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self.slave)
