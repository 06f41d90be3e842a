"""A terminal taken over for a while: its other screen, its keys, and cells of which only those that change are sent.

A line is a list of (text, style), a style one of STYLES. Leaving by whatever way gives the terminal back as it was; a
stop by Ctrl-Z gives it back until the process goes on.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from band.cli.common import has_screen

Line = list[tuple[str, str]]
Cell = tuple[str, str]  # a character and its style; "" stands behind a character that is two columns wide

# Styles that NO_COLOR leaves, and colours that it does not.
STYLES = {"": "0", "bold": "0;1", "dim": "0;2", "reverse": "0;7"}
COLOURS = {"green": "0;32", "cyan": "0;36", "red": "0;31", "yellow": "0;33", "blue": "0;34"}
# The other screen, no cursor, no wrapping at the right edge; and all of it back.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
CLEAR = "\x1b[0m\x1b[2J"
NEAR = 8  # cells that did not change are sent again where going around them would take as many bytes
ESCAPE_S = 0.15  # after which a lone escape is the key, and not the beginning of another key's
PLAIN = str.maketrans({"…": "~", "·": "-", "─": "-", "│": "|", "└": "+", "█": "#", "░": ".", "²": "2", "–": "-"})
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~])")
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?")
_NAMES = {
    "up": (b"\x1b[A", b"\x1bOA"),
    "down": (b"\x1b[B", b"\x1bOB"),
    "right": (b"\x1b[C", b"\x1bOC"),
    "left": (b"\x1b[D", b"\x1bOD"),
    "pageup": (b"\x1b[5~",),
    "pagedown": (b"\x1b[6~",),
    "home": (b"\x1b[H", b"\x1bOH", b"\x1b[1~", b"\x1b[7~"),
    "end": (b"\x1b[F", b"\x1bOF", b"\x1b[4~", b"\x1b[8~"),
    "enter": (b"\r", b"\n"),
    "backspace": (b"\x7f", b"\x08"),
    "tab": (b"\t",),
    "redraw": (b"\x0c",),
    "clear": (b"\x15",),
}
_KEYS = {code: name for name, codes in _NAMES.items() for code in codes}


class Keys:
    """Bytes of a keyboard made into keys: names as "up" for those that have one, else the character."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_waiting(self) -> bool:
        """Whether what came last may be the beginning of a key."""
        return bool(self._rest)

    def feed(self, data: bytes, *, is_final: bool = False) -> list[str]:
        """Return the keys that are complete; with `is_final` an escape that nothing followed is one."""
        data, keys = self._rest + data, []
        while data:
            length, key = self._first(data, is_final=is_final)
            if not length:
                break
            data = data[length:]
            keys += [key] if key else []
        self._rest = data
        return keys

    def _first(self, data: bytes, *, is_final: bool) -> tuple[int, str]:
        """Return how many bytes the first key takes, 0 for one that is not complete, and its name, "" for none."""
        if match := _SEQUENCE.match(data):
            return match.end(), _KEYS.get(match[0], "")
        if data.startswith(b"\x1b"):
            is_whole = is_final or not _UNFINISHED.fullmatch(data)
            return (1, "escape") if is_whole else (0, "")
        if data[:1] in _KEYS:
            return 1, _KEYS[data[:1]]
        length = 1 + sum(data[0] >= least for least in (0xC0, 0xE0, 0xF0))
        if len(data) < length and not is_final:
            return 0, ""
        text = data[:length].decode(errors="ignore")
        return length, text if text.isprintable() else ""


def cells(line: Line, *, width: int, is_unicode: bool = True) -> list[Cell]:
    """Return the first `width` columns of a line; characters without a width or a picture do not stand in it."""
    made: list[Cell] = []
    for text, style in line:
        for character in text if is_unicode else text.translate(PLAIN):
            if not is_unicode and not character.isascii():
                character = "?"
            if unicodedata.combining(character) or not character.isprintable():
                continue
            is_wide = unicodedata.east_asian_width(character) in "WF"
            made += [(character, style), ("", style)] if is_wide else [(character, style)]
        if len(made) >= width:
            break
    if len(made) > width:
        del made[width:]
        if made and unicodedata.east_asian_width(made[-1][0] or " ") in "WF":
            made[-1] = (" ", made[-1][1])
    while made and made[-1] == (" ", ""):
        made.pop()
    return made


def changes(old: Sequence[Cell], new: Sequence[Cell], *, row: int, codes: Mapping[str, str]) -> str:
    """Return what brings a row of the screen from `old` to `new`."""
    length = max(len(old), len(new))
    before = [*old, *[(" ", "")] * (length - len(old))]
    after = [*new, *[(" ", "")] * (length - len(new))]
    differ = [column for column in range(length) if before[column] != after[column]]
    sent = ""
    while differ:
        begin = end = differ[0]
        while differ and differ[0] - end <= NEAR:
            end = differ.pop(0)
        while begin and not after[begin][0]:
            begin -= 1  # a wide character is sent whole
        is_rest_empty = end + 1 >= len(new) and not differ
        stop = max(len(new), begin) if is_rest_empty and end >= len(new) else end + 1
        sent += f"\x1b[{row + 1};{begin + 1}H" + _styled(after[begin:stop], codes=codes)
        sent += "\x1b[K" if stop < end + 1 else ""
    return sent


def _styled(part: Sequence[Cell], *, codes: Mapping[str, str]) -> str:
    made, last = "", ""
    for character, style in part:
        code = codes.get(style, "0")
        if code != (last or "0"):
            made += f"\x1b[{code}m"
            last = code
        made += character
    return made + ("\x1b[0m" if last not in ("", "0") else "")


def has_unicode(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the terminal's locale says that it shows more than ASCII."""
    name = next((value for key in ("LC_ALL", "LC_CTYPE", "LANG") if (value := environment.get(key, ""))), "")
    return "utf-8" in name.lower() or "utf8" in name.lower()


class Terminal:
    """The terminal of this process, taken over while it is used as a context."""

    def __init__(self, *, keyboard: int, screen: int) -> None:
        """Take the terminal that is open under these file numbers."""
        self._keyboard, self._screen = keyboard, screen
        self._keys = Keys()
        self._shown: list[list[Cell]] = []
        self._size = (0, 0)
        self._attributes: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._codes = STYLES if os.environ.get("NO_COLOR") else {**STYLES, **COLOURS}
        self.is_unicode = has_unicode()
        self.sent_bytes = 0
        self.send_s = 0.0  # that the last picture took to be sent: long on a slow line

    @classmethod
    def here(cls) -> Terminal | None:
        """Return the terminal that stdout shows on and that keys come from, None where there is no such thing."""
        if not has_screen():
            return None
        if sys.stdin is not None and sys.stdin.isatty():
            return cls(keyboard=sys.stdin.fileno(), screen=sys.stdout.fileno())
        try:
            return cls(keyboard=os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC), screen=sys.stdout.fileno())
        except OSError:
            return None

    # --- taking over and giving back -------------------------------------------------------------------------------

    def __enter__(self) -> Terminal:
        """Take the terminal over; signals that end or stop the process give it back first."""
        sys.stdout.flush()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            self._handlers[number] = signal.signal(number, _end)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda number, frame: self.wake())
        try:
            self._take()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back as it was; one that has gone is let go."""
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _take(self) -> None:
        self._attributes = termios.tcgetattr(self._keyboard)
        changed = [*self._attributes[:6], list(self._attributes[6])]
        changed[3] &= ~(termios.ICANON | termios.ECHO)  # keys come one by one; Ctrl-C and Ctrl-Z stay signals
        changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._keyboard, termios.TCSADRAIN, changed)
        self._send(ENTER)
        self.forget()

    def _give_back(self) -> None:
        if self._attributes is None:
            return
        with suppress(OSError):
            self._send(LEAVE)
        with suppress(OSError, termios.error):
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._attributes)
        self._attributes = None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Give the terminal back, stop as Ctrl-Z asks, and take it again once the process goes on."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._stop)
        self._take()
        self.wake()

    # --- showing ---------------------------------------------------------------------------------------------------

    def size(self) -> tuple[int, int]:
        """Return columns and rows, now."""
        with suppress(OSError):
            columns, rows = os.get_terminal_size(self._screen)
            if columns and rows:
                return columns, rows
        return 80, 24

    def forget(self) -> None:
        """Send everything anew at the next painting."""
        self._size = (0, 0)

    def paint(self, lines: Sequence[Line]) -> None:
        """Show lines from the top; what does not fit is left out, what is the same is not sent again."""
        begun, size = time.monotonic(), self.size()
        sent = ""
        if size != self._size:
            self._size, self._shown, sent = size, [], CLEAR
        columns, rows = size
        shown = [cells(line, width=columns, is_unicode=self.is_unicode) for line in lines[:rows]]
        for row in range(max(len(shown), len(self._shown))):
            old = self._shown[row] if row < len(self._shown) else []
            sent += changes(old, shown[row] if row < len(shown) else [], row=row, codes=self._codes)
        self._shown = shown
        if sent:
            self._send(sent)
        self.send_s = time.monotonic() - begun

    def _send(self, text: str) -> None:
        data = text.encode(errors="replace")
        self.sent_bytes += len(data)
        while data:
            try:
                data = data[os.write(self._screen, data) :]
            except BlockingIOError:
                select.select([], [self._screen], [])

    # --- keys ------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """End the present or the next `wait`; any thread and any signal may call it."""
        with suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    def wait(self, timeout_s: float) -> list[str]:
        """Return the keys that were pressed, as soon as there are any, or none after a while or when woken.

        Raises:
            EOFError: the terminal has gone.
        """
        limit = min(timeout_s, ESCAPE_S) if self._keys.is_waiting else timeout_s
        ready, _, _ = select.select([self._keyboard, self._wake_read], [], [], max(limit, 0.0))
        if self._wake_read in ready:
            with suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if self._keyboard not in ready:
            return self._keys.feed(b"", is_final=True) if not ready else []
        try:
            data = os.read(self._keyboard, 4096)
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return self._keys.feed(data)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
