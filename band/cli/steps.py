"""What a long command is at, on stderr: one line that is written over in a terminal, a line now and then in a pipe."""

from __future__ import annotations

import sys
import time

from band.cli.common import printable

LINE_S = 5.0  # between lines in a pipe
WIDTH = 78  # of the line in a terminal


class Steps:
    """Call it with each step before it is done; leave it as a context to have the line cleared."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._last = time.monotonic()
        self._is_shown = False

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that step `done` (from 0) of `total` is `what`."""
        text = printable(f"{self._verb} {done + 1} of {total}: {what}")
        if sys.stderr.isatty():
            print(f"\r{text[:WIDTH]:<{WIDTH}}", end="", file=sys.stderr, flush=True)
            self._is_shown = True
        elif time.monotonic() - self._last > LINE_S:
            print(text, file=sys.stderr, flush=True)
            self._last = time.monotonic()

    def __enter__(self) -> Steps:
        """Return itself."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Clear the line."""
        if self._is_shown:
            print(f"\r{'':<{WIDTH}}\r", end="", file=sys.stderr, flush=True)
