"""The other pages of `band-sweep watch`: a run's log, its curves, why it is where it is; all failures, nodes, keys."""

from __future__ import annotations

import textwrap
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from band.cli.common import printable
from band.cli.plot import plot
from band.cli.progress import plural
from band.cli.status import standout_words
from band.cli.terminal import Line
from band.cli.watch_list import COLOURS, Seen
from band.errors import BandError
from band.sweep.curves import CurveReader, Curves
from band.sweep.fold import by_task
from band.sweep.printed import Tail, failure_lines, log_of
from band.sweep.status import RunStatus

MOST_LINES = 20_000  # of a log that are kept
MOST_BYTES = 1 << 20  # of a log that was there before, from its end
SIDEWAYS = 20  # columns
LEAST_PLOT = 7  # lines
HELP = """\
On the first page
  up, down, j, k      choose a run; PageUp, PageDown, Home and End too
  /                   filter: part of a name, a pattern with * and ?, a node, an error, or a setting as lr=0.01;
                      several words must all hold; enter keeps it, escape clears it
  s, S                only the runs in one state: the next state, the one before
  o                   order: by state, or as in the sweep file
  enter, l            the log of the chosen run, which goes on as more is printed
  c                   its curves
  e                   why it failed, or why it waits, with its traceback and what to type next
  f                   all failures by cause, and what they have in common
  n                   nodes, and what runs on them
  q                   leave; what runs goes on

On the other pages
  up, down, PageUp, PageDown, Home, End
                      scroll; at its end a log is followed
  left, right         a log: sideways; curves: another one first
  q, escape           back

Ctrl-L draws the screen anew, Ctrl-Z and fg do what they do everywhere. Slurm is asked once in five seconds at
the most, and more rarely the longer it takes to answer."""


class Page(Protocol):
    """What is shown in place of the table."""

    def press(self, key: str) -> bool:
        """Do what a key asks for, and return whether it was one of the page's."""
        ...

    def lines(self, seen: Seen, *, width: int, height: int) -> list[Line]:
        """Return the page."""
        ...


class Pager:
    """Text that is scrolled; at its end it stays there while more comes."""

    def __init__(self, title: str, *, is_followed: bool = False) -> None:
        """There is no text yet."""
        self.title = title
        self.body: Sequence[str] = ()
        self.note = ""
        self._top = 0
        self._left = 0
        self._rows = 1
        self._is_at_end = is_followed

    def press(self, key: str) -> bool:
        """Scroll."""
        page = max(self._rows - 1, 1)
        all_lines = len(self.body)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "enter": 1, "pageup": -page, "pagedown": page, " ": page}
        steps |= {"home": -all_lines, "g": -all_lines, "end": all_lines, "G": all_lines}
        if key in ("left", "right"):
            self._left = max(self._left + (SIDEWAYS if key == "right" else -SIDEWAYS), 0)
            return True
        if key not in steps:
            return False
        last = max(all_lines - self._rows, 0)
        self._top = min(max(self._top + steps[key], 0), last)
        self._is_at_end = self._top == last
        return True

    def fill(self, seen: Seen, *, width: int) -> None:
        """Bring the text up to date."""

    def lines(self, seen: Seen, *, width: int, height: int) -> list[Line]:
        """Return the window on the text, under its title."""
        self.fill(seen, width=width)
        self._rows = max(height - 2, 1)
        last = max(len(self.body) - self._rows, 0)
        self._top = last if self._is_at_end else min(self._top, last)
        shown = islice(self.body, self._top, self._top + self._rows)
        made: list[Line] = [[(self.title, "bold")], *([(line[self._left :], "")] for line in shown)]
        made += [[] for _ in range(height - 1 - len(made))]
        end = self._top + min(self._rows, len(self.body))
        place = f"{self._top + 1 if self.body else 0}-{end} of {len(self.body)}"
        return [*made[: height - 1], [(f"{place}   {self.note}   ↑↓ scroll  q back".replace("      ", "   "), "dim")]]


class LogPage(Pager):
    """What the newest attempt at a run prints, and the attempts after it."""

    def __init__(self, run: str) -> None:
        """Nothing is read yet."""
        super().__init__(f"log of {run}", is_followed=True)
        self._run = run
        self._kept: deque[str] = deque(maxlen=MOST_LINES)
        self._tail: Tail | None = None
        self.body = self._kept

    def fill(self, seen: Seen, *, width: int) -> None:
        """Read what was printed since."""
        status = seen.survey.runs.get(self._run)
        path = None if status is None else log_of(seen.sweep, status, attempts=seen.attempts.get(status.task, []))
        if status is None or path is None:
            self.note = "it has not been submitted, so there is no log of it"
            return
        is_new = self._tail is None or self._tail.path != path
        if self._tail is None or is_new:
            if self._tail is not None:
                self._kept.extend(printable(line) for line in self._tail.lines(is_last=True))
                self._tail.close()
            self._tail = Tail(path, most_bytes=MOST_BYTES)
            self._kept.append(f"== {printable(str(path))}")
        is_over = status.state not in ("running", "interrupted", "queued")
        self._kept.extend(printable(line) for line in self._tail.lines(is_last=is_over))
        self.note = status.state if path.exists() else f"{status.state}; nothing has been printed yet"


class Later:
    """An answer that takes a while, worked out beside the screen."""

    def __init__(self, ask: Callable[[], list[str]], *, wake: Callable[[], None]) -> None:
        """Begin to ask."""
        self.lines: list[str] | None = None
        self._ask, self._wake = ask, wake
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self.lines = self._ask()
        except (BandError, OSError, RuntimeError, KeyError) as error:
            self.lines = [f"this could not be found out: {error}"]
        self._wake()


class WhyPage(Pager):
    """Why a run is where it is, and where it failed its traceback."""

    def __init__(self, run: str, *, seen: Seen, wake: Callable[[], None]) -> None:
        """Begin to ask: Slurm may take a while to say what a job waits for."""
        super().__init__(f"why {run} is {seen.survey.runs[run].state}")
        self._answer = Later(lambda: _why(seen, run), wake=wake)

    def fill(self, seen: Seen, *, width: int) -> None:
        """Fold the lines into the width."""
        self.body = wrapped(self._answer.lines if self._answer.lines is not None else ["looking …"], width=width)


def _why(seen: Seen, run: str) -> list[str]:
    from band.sweep.why import explain

    status = seen.survey.runs[run]
    said = explain(seen.survey, run, sweep=seen.sweep)
    lines = [said.text, *([f"next: {said.command}"] if said.command else []), ""]
    if status.state == "failed":
        attempts = by_task(seen.survey.folds.values()).get(status.task, [])
        lines += failure_lines(seen.sweep, run, status=status, attempts=attempts)
    return [printable(line) for line in lines]


def wrapped(lines: Sequence[str], *, width: int) -> list[str]:
    """Return lines folded into the width, each with its own indent."""
    made: list[str] = []
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())][: width // 2]
        made += textwrap.wrap(line, max(width - 1, 20), subsequent_indent=indent, replace_whitespace=False) or [""]
    return made


class FailuresPage(Pager):
    """All failures by cause."""

    def fill(self, seen: Seen, *, width: int) -> None:
        """Say what went wrong, and what the runs have in common for which it did."""
        name, lines = seen.survey.manifest.name, []
        for group in seen.failures:
            where = ", ".join(f"{count} on {node}" for node, count in list(group.nodes.items())[:6])
            lines += [f"{plural(len(group.runs), 'run')}: {group.error}: {group.message.strip()}"]
            lines += [f"    {where}"] if where else []
            lines += [f"    {', '.join(group.runs[:6])}{' …' if len(group.runs) > 6 else ''}"]
            lines += [f"    band-sweep why {name} {group.runs[0]}", ""]
        if lines:
            lines += [standout_words(found) for found in seen.standouts]
            lines += [f"once mended: band-sweep retry {name} --failed && band-sweep submit {name}"]
        shown = [part for line in lines for part in line.split("\n")]
        self.body = wrapped([printable(line) for line in shown] or ["nothing has failed"], width=width)


class NodesPage(Pager):
    """Nodes: what runs there and what failed there."""

    def fill(self, seen: Seen, *, width: int) -> None:
        """Make a table, a line a node."""
        states: dict[str, Counter[str]] = {}
        tasks: dict[str, set[str]] = {}
        pace: Counter[str] = Counter()
        for status in seen.survey.runs.values():
            if status.node and status.state in ("running", "failed"):
                states.setdefault(status.node, Counter())[status.state] += 1
                if status.state == "running":
                    tasks.setdefault(status.node, set()).add(status.task)
                    pace[status.node] += status.epochs_per_s  # type: ignore[assignment]
        names = max((len(node) for node in states), default=4)
        rows = [f"{'node':<{names}}  {'tasks':>6}  {'runs':>6}  {'epochs/s':>9}  {'failed':>6}"]
        for node, counts in sorted(states.items(), key=lambda pair: (-pair[1]["running"], pair[0])):
            numbers = (
                f"{len(tasks.get(node, ())):>6}  {counts['running']:>6}  {pace[node]:>9.3g}  {counts['failed']:>6}"
            )
            rows.append(printable(f"{node:<{names}}  {numbers}"))
        self.body = [*rows, *([] if states else ["nothing runs, and nothing has failed"]), "", seen.machine]


class CurvesPage:
    """How the training of a run goes: as many curves as fit, one below the other."""

    def __init__(self, run: str, *, is_unicode: bool) -> None:
        """Nothing is read yet."""
        self._run, self._is_unicode = run, is_unicode
        self._reader: CurveReader | None = None
        self._first = 0

    def press(self, key: str) -> bool:
        """Begin with another curve."""
        step = {"right": 1, "down": 1, "tab": 1, "j": 1, "left": -1, "up": -1, "k": -1}.get(key)
        self._first += step or 0
        return step is not None

    def lines(self, seen: Seen, *, width: int, height: int) -> list[Line]:
        """Return the curves that fit, each with its name and its last value."""
        self._reader = self._reader or CurveReader(seen.sweep, self._run)
        status = seen.survey.runs.get(self._run, RunStatus(state="new"))
        curves = self._reader.read(seen.attempts.get(status.task, []))
        made: list[Line] = [[(f"curves of {self._run}, ", "bold"), (status.state, COLOURS.get(status.state, "bold"))]]
        made += self._plots(curves, width=width, height=height - 2)
        made += [[] for _ in range(height - 1 - len(made))]
        others = f"{len(curves)} curves, ←→ another first   " if len(curves) > 1 else ""
        return [*made[: height - 1], [(f"{others}q back   {printable(self._reader.source)}", "dim")]]

    def _plots(self, curves: Curves, *, width: int, height: int) -> list[Line]:
        if not curves:
            return [[("  no epoch has been told of yet", "dim")]]
        names = list(curves)
        number = min(max(height // LEAST_PLOT, 1), len(names), 4)
        made: list[Line] = []
        for place in range(number):
            name = names[(self._first + place) % len(names)]
            points = curves[name]
            made.append([(f"{name}", "bold"), (f"   {points[-1][1]:.5g} at epoch {points[-1][0]:g}", "")])
            drawn = plot(points, width=width, height=height // number - 1, is_unicode=self._is_unicode)
            made += [[(line, "cyan")] for line in drawn]
        return made


def help_page() -> Pager:
    """Return the page about keys."""
    page = Pager("keys")
    page.body = HELP.split("\n")
    return page
