"""What every command shares: how errors end it, how it prints JSON, and where its colours come from."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from band.errors import BandError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130  # 128 + SIGINT, as shells count
BROKEN_PIPE = 141  # 128 + SIGPIPE
OWN_FAULT = 70  # EX_SOFTWARE of sysexits.h
# By the name that is imported: what a package installed with --no-deps may lack.
DEPENDENCIES = {name: name for name in ("torch", "numpy", "h5py", "submitit", "omegaconf", "rich", "matplotlib")}
DEPENDENCIES["yaml"] = "pyyaml"
_HARMLESS = re.compile(r"(\t|\x1b\[[0-9;]{0,20}m)")  # tabs, colours
SCHEMA = 1  # of what is printed as JSON
_command = [""]  # the one that this process runs


def main_guard(command: Callable[[], int]) -> int:
    """Run a command and return its exit code, with what a user can mend said in one line on stderr.

    BandError ends with its `exit_code`, a failed system call with 1, Ctrl-C with 130, a closed pipe quietly with 141
    and a fault of our own with 70; BAND_DEBUG=1 shows where that one was raised.
    """
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BandError as error:
        return fail(str(error), code=error.exit_code)
    except KeyboardInterrupt:
        return fail("interrupted", code=INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        return fail(str(error), code=1)
    except Exception as error:
        if os.environ.get("BAND_DEBUG"):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name in DEPENDENCIES:
            mend = f"{sys.executable} -m pip install {DEPENDENCIES[error.name]}"
            return fail(f"{error.name} is needed for this, and not installed in the Python that runs band: {mend}")
        return fail(
            f"{type(error).__name__}: {error}\nThis is a fault of band, not yours. "
            "Please report it with what BAND_DEBUG=1 before the same command prints.",
            code=OWN_FAULT,
        )


def fail(message: str, *, code: int = 1) -> int:
    """Print `message` as an error on stderr and return `code`."""
    print(f"error: {printable(message)}", file=sys.stderr)
    return code


def printable(text: str) -> str:
    """Return `text` with control characters escaped, so that no file name or value can command the terminal."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)


def say(*parts: object, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print as `print` does, but for what could command the terminal: tabs and colours alone pass.

    It is what every command prints with, so that no value, wherever it came from, need be escaped to be harmless.
    """
    text = " ".join(map(str, parts))
    pieces = enumerate(_HARMLESS.split(text))
    text = "".join(piece if place % 2 else printable(piece) for place, piece in pieces)
    print(text, file=file, end=end, flush=flush)


def say_line(line: str, is_error: bool) -> None:
    """Print a line that another machine printed, where it printed it."""
    say(line, file=sys.stderr if is_error else None, end="", flush=True)


def whole_number(text: str, *, least: int = 1) -> int:
    """Return the number that an argument gives; other words are wrong usage."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
    return int(text)


def set_command(name: str) -> None:
    """Remember which command this is, such as "band-sweep status"."""
    _command[0] = name


def print_json(values: Mapping[str, Any]) -> None:
    """Print a document as JSON on stdout: indented for people, one line in a pipe; NaN is an error of ours.

    Every document of every command has "schema", which rises when a key changes its meaning or goes, and "command".
    """
    document = {"schema": SCHEMA, "command": _command[0], **values}
    print(json.dumps(document, indent=2 if sys.stdout.isatty() else None, allow_nan=False))


def print_lines(rows: list[tuple[str, str]]) -> None:
    """Print labelled lines: bold labels and wrapped text in a terminal, plain lines in a pipe."""
    width = max(len(label) for label, _ in rows)
    if not sys.stdout.isatty():
        for label, text in rows:
            print(printable(f"{label:<{width}}  {text}"))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for label, text in rows:
        style = "bold red" if label == "problem" else "bold cyan"
        table.add_row(Text(label, style=style), Text(printable(text)))
    console().print(table)


def has_screen() -> bool:
    """Return whether stdout is a terminal on which text can be moved about and written over."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def console(*, stderr: bool = False) -> Console:
    """Return a rich console for stdout or stderr: colours in a terminal alone, and never with NO_COLOR set."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
