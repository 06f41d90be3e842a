"""The first page of `band-sweep watch`: how a sweep is as a whole, and a window on the table of its runs."""

from __future__ import annotations

import fnmatch
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from band.cli.common import printable
from band.cli.progress import duration, plural, running_tasks, share_done
from band.cli.status import slurm_words
from band.cli.terminal import Line
from band.run_dir import SweepDir
from band.sweep.failures import Group, Standout, groups, standouts
from band.sweep.fold import AttemptFold, by_task
from band.sweep.status import RunStatus, Survey

COLOURS = {
    "published": "green", "running": "cyan", "failed": "red", "lost": "red", "unsynced": "yellow",
    "interrupted": "yellow", "submit_unknown": "yellow", "cancelled": "dim", "retired": "dim",
}  # fmt: skip
# In the order of interest: what runs and what went wrong comes before what waits and what is over.
ORDER = (
    "running", "unsynced", "lost", "submit_unknown", "failed", "interrupted", "queued", "held", "planned",
    "cancelled", "new", "published", "retired",
)  # fmt: skip
MOST_FAILURES = 3  # groups on the first page; the others have a page of their own
LEAST_ROWS = 4  # of the table, whatever else there is to say
LEAST_HEIGHT = 9  # of a terminal in which there is room for more than the table
BAR = 24
KEYS = "? help  q quit  ↑↓ choose  / filter  s state  l log  c curves  e why  f failures  n nodes"
NO_NODES = "nothing runs"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A sweep as it was at one moment, and what is said of it on every page."""

    sweep: SweepDir
    survey: Survey
    t: float  # unix seconds
    trouble: str = ""  # why Slurm, or the sweep's folder, does not answer
    machine: str = ""  # GPUs and one's share of them

    @cached_property
    def attempts(self) -> Mapping[str, list[AttemptFold]]:
        """{task: its attempts, oldest first}, without what others say of them."""
        return by_task(fold for fold in self.survey.folds.values() if not fold.is_hearsay)

    @cached_property
    def failures(self) -> Sequence[Group]:
        """Failed runs by cause."""
        return groups(self.survey)

    @cached_property
    def standouts(self) -> Sequence[Standout]:
        """What clearly more runs failed with than without."""
        return standouts(self.survey)

    @cached_property
    def head(self) -> list[Line]:
        """Pace and place: what stands above the table at any width, between states and failures."""
        machine = "   ".join(filter(None, (self._nodes(), self.machine)))
        return [[("  " + self._pace(), "")], [("  " + machine, "")]]

    def count_lines(self, width: int) -> list[Line]:
        """Return how many runs are in which state, in as many lines as that takes."""
        lines: list[Line] = [[]]
        used = 0
        for state, count in self.survey.counts().items():
            length = len(f"  {state} {count}")
            if used and used + length > width:
                lines.append([])
                used = 0
            used += length
            lines[-1] += [("  ", ""), (state, COLOURS.get(state, "")), (f" {count}", "bold")]
        return lines

    def _pace(self) -> str:
        share, eta = share_done(self.survey), self.survey.eta_s()
        full = int(share * BAR)
        running = [status for status in self.survey.runs.values() if status.state == "running"]
        pace = sum(status.epochs_per_s for status in running)
        words = ["█" * full + "░" * (BAR - full), f"{share:.0%} of all epochs"]
        words += [f"{pace:.3g} epochs/s"] if pace else []
        words += [f"{duration(eta)} left at most"] if eta is not None else []
        return "   ".join(words)

    def _nodes(self) -> str:
        tasks = Counter(own[0].node or "?" for own in running_tasks(self.survey).values())
        shown = ", ".join(f"{node} {plural(count, 'task')}" for node, count in tasks.most_common(4))
        more = f" and {len(tasks) - 4} more" if len(tasks) > 4 else ""
        return printable(f"{shown}{more}") or NO_NODES

    def failure_lines(self, most: int) -> list[Line]:
        """Return a line for each of the most frequent causes of failure."""
        lines: list[Line] = []
        for group in self.failures[:most]:
            where = ", ".join(f"{count} on {node}" for node, count in list(group.nodes.items())[:2])
            first = group.message.strip().split("\n")[0]
            text = f"{group.error}: {first}" + (f"  ({where})" if where else "")
            lines.append([("  ", ""), (f"{len(group.runs)} failed", "red"), (f"  {printable(text)}", "")])
        return lines


class RunList:
    """The table, what of it is shown, and which run is chosen; the choice stays with its run while rows move."""

    def __init__(self) -> None:
        """Everything is shown, in the order of interest."""
        self.chosen = ""
        self.pattern = ""
        self.state = ""
        self.is_typing = False
        self._is_by_state = True
        self._has_moved = False  # until then the first row is chosen, whichever run that is
        self._top = 0
        self._rows = 1  # of the window, when it was last drawn
        self._cached: tuple[Seen, tuple[str, str, bool], list[str]] | None = None

    def visible(self, seen: Seen) -> list[str]:
        """Return the runs that the filters let through, in order."""
        asked = (self.pattern, self.state, self._is_by_state)
        if self._cached is None or self._cached[0] is not seen or self._cached[1] != asked:
            self._cached = (seen, asked, self._visible(seen.survey))
        return self._cached[2]

    def _visible(self, survey: Survey) -> list[str]:
        words = self.pattern.lower().split()
        overrides = (
            {run.id: run.overrides for run in survey.manifest.runs} if any("=" in word for word in words) else {}
        )
        found = [
            run
            for run, status in survey.runs.items()
            if (not self.state or status.state == self.state)
            and all(matches(word, run=run, status=status, overrides=overrides.get(run, {})) for word in words)
        ]
        if self._is_by_state:
            found.sort(key=lambda run: ORDER.index(survey.runs[run].state))
        return found

    def settle(self, seen: Seen) -> str:
        """Return the chosen run, "" where none is shown; one that is shown no more gives way to one in its place."""
        runs = self.visible(seen)
        if not runs:
            self.chosen = ""
        elif not self._has_moved:
            self.chosen = runs[0]
        elif self.chosen not in runs:
            self.chosen = runs[min(self._top, len(runs) - 1)]
        return self.chosen

    # --- keys ------------------------------------------------------------------------------------------------------

    def press(self, key: str, seen: Seen) -> bool:
        """Do what a key asks for, and return whether it was one of the table's."""
        if self.is_typing:
            self._type(key)
            return True
        if key == "/":
            self.is_typing = True
        elif key in ("s", "S"):
            self._next_state(seen, step=1 if key == "s" else -1)
        elif key == "o":
            self._is_by_state = not self._is_by_state
        elif key == "escape":
            self.pattern = self.state = ""
        else:
            return self._move(key, seen)
        return True

    def _type(self, key: str) -> None:
        if key == "enter":
            self.is_typing = False
        elif key == "escape":
            self.is_typing, self.pattern = False, ""
        elif key == "backspace":
            self.pattern = self.pattern[:-1]
        elif key == "clear":
            self.pattern = ""
        elif len(key) == 1:
            self.pattern += key

    def _next_state(self, seen: Seen, *, step: int) -> None:
        choices = ["", *seen.survey.counts()]
        place = choices.index(self.state) if self.state in choices else 0
        self.state = choices[(place + step) % len(choices)]

    def _move(self, key: str, seen: Seen) -> bool:
        runs = self.visible(seen)
        page = max(self._rows - 1, 1)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -page, "pagedown": page, " ": page}
        steps |= {"home": -len(runs), "g": -len(runs), "end": len(runs), "G": len(runs)}
        if key not in steps:
            return False
        if runs:
            place = runs.index(self.settle(seen))
            self._has_moved = True
            self.chosen = runs[min(max(place + steps[key], 0), len(runs) - 1)]
        return True

    # --- drawing ---------------------------------------------------------------------------------------------------

    def lines(self, seen: Seen, *, width: int, height: int) -> list[Line]:
        """Return the page: head, failures, table, and a line about keys."""
        title = f"{seen.survey.manifest.name}: {plural(len(seen.survey.runs), 'run')}"
        clock = time.strftime("%H:%M:%S", time.localtime(seen.t))
        head: list[Line] = [[(title, "bold"), (" " * max(width - len(title) - len(clock), 2), ""), (clock, "dim")]]
        head += [[("  " + printable(seen.trouble.split("\n")[0]), "yellow")]] if seen.trouble else []
        if height >= LEAST_HEIGHT:
            head += [*seen.count_lines(width), *seen.head]
        room = height - len(head) - 2 - LEAST_ROWS
        failures = seen.failure_lines(min(MOST_FAILURES, max(room - 1, 0)))
        head += [*failures, []] if room > len(failures) else failures
        return [*head, *self._table(seen, width=width, height=height - len(head) - 1), self._footer(seen)][:height]

    def _table(self, seen: Seen, *, width: int, height: int) -> list[Line]:
        runs = self.visible(seen)
        self._rows = rows = max(height - 1, 1)
        self.settle(seen)
        place = runs.index(self.chosen) if runs else 0
        self._top = min(max(self._top, place - rows + 1), place, max(len(runs) - rows, 0))
        shown = runs[self._top : self._top + rows]
        columns = Columns(seen.survey, width=width)
        lines: list[Line] = [[(columns.title, "dim")]]
        lines += [columns.row(run, seen.survey.runs[run], is_chosen=run == self.chosen) for run in shown]
        if not shown:
            lines.append([("  no run is like that; escape shows all", "dim")])
        return [*lines, *[[] for _ in range(height - len(lines))]]

    def _footer(self, seen: Seen) -> Line:
        if self.is_typing:
            return [
                (f"/{self.pattern}", "bold"),
                ("█", ""),
                ("   name, pattern, node or lr=0.01; enter keeps, escape clears", "dim"),
            ]
        number = len(self.visible(seen))
        asked = " ".join([*([self.state] if self.state else []), *([f"/{self.pattern}"] if self.pattern else [])])
        filtered: Line = [(f" {asked}: {number} of {len(seen.survey.runs)} ", "reverse"), ("  ", "")] if asked else []
        return [*filtered, (KEYS, "dim")]


def matches(word: str, *, run: str, status: RunStatus, overrides: Mapping[str, Any]) -> bool:
    """Return whether a run is one that a word of a filter means: by id, pattern, node, error, or as key=value."""
    key, is_setting, value = word.partition("=")
    if is_setting:
        named = (name for name in overrides if name.lower() == key or name.lower().rpartition(".")[2] == key)
        return any(str(overrides[name]).lower() == value or _equal(overrides[name], value) for name in named)
    if any(character in word for character in "*?["):
        return fnmatch.fnmatchcase(run.lower(), word)
    return word in run.lower() or word == status.node.lower() or word in status.error.lower()


def _equal(value: Any, text: str) -> bool:
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return False


class Columns:
    """Which columns of the table fit, and how wide they are; those at the right give way first."""

    def __init__(self, survey: Survey, *, width: int) -> None:
        """Fit the columns into `width`."""
        longest = max((len(run) for run in survey.runs), default=3)
        fixed = [("state", 14), ("epoch", 13), ("epochs/s", 8), ("left", 7), ("task", 4), ("node, Slurm", 20)]
        self._run = max(min(longest, width - 2 - 16), 8)
        self._kept: list[tuple[str, int]] = []
        left = width - 2 - self._run
        for name, size in fixed:
            if left < size + 2:
                break
            self._kept.append((name, size))
            left -= size + 2
        cells = "".join(f"  {name:>{size}}" if _is_number(name) else f"  {name:<{size}}" for name, size in self._kept)
        self.title = f"  {'run':<{self._run}}{cells}".rstrip()

    def row(self, run: str, status: RunStatus, *, is_chosen: bool) -> Line:
        """Return a run's line."""
        state = status.outcome if status.state == "published" and status.outcome not in ("", "ok") else status.state
        epoch = f"{status.epoch}/{status.max_epochs}" if status.max_epochs and status.state != "published" else ""
        texts = {
            "state": state,
            "epoch": epoch,
            "epochs/s": f"{status.epochs_per_s:.3g}" if status.epochs_per_s and status.state == "running" else "",
            "left": duration(status.eta_s) if status.eta_s is not None else "",
            "task": status.task,
            "node, Slurm": where(status),
        }
        name = run if len(run) <= self._run else run[: self._run - 1] + "…"
        line: Line = [("> " if is_chosen else "  ", "bold"), (f"{name:<{self._run}}", "reverse" if is_chosen else "")]
        for column, size in self._kept:
            text = texts[column]
            padded = f"{text:>{size}}" if _is_number(column) else f"{text:<{size}}"
            line += [("  ", ""), (padded, COLOURS.get(status.state, "") if column == "state" else "")]
        return line


def _is_number(name: str) -> bool:
    return name in ("epoch", "epochs/s", "left")


def where(status: RunStatus) -> str:
    """Return where a run is, in the words of its scheduler; of one that failed, why."""
    if status.state == "failed":
        first = status.message.strip().split("\n")[0]
        return printable(f"{status.error}: {first}" + (f" on {status.node}" if status.node else ""))
    words = slurm_words(status)
    return words or (printable(status.node) if status.state == "running" else "")
