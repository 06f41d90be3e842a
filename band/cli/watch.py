"""`band-sweep watch`: a sweep on the whole terminal as it goes, with the log, curves and failure of any run; or lines.

The sweep and Slurm are looked at beside the screen, in a thread, so that keys work however long either takes to answer.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from band.cli.common import INTERRUPTED, has_screen, printable, say
from band.cli.progress import Watch, show
from band.errors import BandError
from band.run_dir import SweepDir
from band.sweep.manifest import find_sweep
from band.sweep.schedulers import Schedulers, scheduler_for
from band.sweep.status import Survey

if TYPE_CHECKING:
    from band.cli.terminal import Terminal
    from band.cli.watch_list import Seen
    from band.cli.watch_pages import Page

HELP = "watch a sweep on the whole terminal; in a pipe, plain lines"
EXAMPLES = """\
examples:
  band-sweep watch mc_maze              states, pace, time left, failures, nodes, GPUs; ? lists the keys
  band-sweep watch mc_maze | tee log    a line for each run that is over, until nothing runs any more
  ssh -t cluster band-sweep watch NAME  sends what changes and nothing else, so a slow line will do

exit codes: 0 left by q, or all published; 4 (in a pipe) it ended with runs not published; 130 Ctrl-C.
Leaving never ends a job."""
LOOK_S = 2.0  # between looks at the sweep
LOOK_COSTS = 20  # … and at least so many times what the last one took of a core
PAINT_S = 1.0  # between pictures while no key is pressed
SLOW_LINE = 10  # … and at least so many times what the last one took to be sent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")


def run(args: argparse.Namespace) -> int:
    """Watch a sweep: 0 when left, in a pipe 0 when every run is published and 4 when not."""
    sweep = SweepDir(find_sweep(args.sweep))
    scheduler = scheduler_for(sweep)
    watch = Watch(sweep, scheduler=scheduler)
    survey = watch.look()
    if not has_screen():
        survey = follow(watch, survey, sweep=sweep, scheduler=scheduler)
        return 0 if survey.is_complete else 4
    try:
        follow(watch, survey, sweep=sweep, scheduler=scheduler, ends_with_work=False)
    except KeyboardInterrupt:
        return said_interrupted(sweep)
    return 0


def said_interrupted(sweep: SweepDir) -> int:
    """Say that nothing but the watching has ended; return the exit code."""
    say(f"no longer watched; what runs goes on: band-sweep status {sweep.name}", file=sys.stderr)
    return INTERRUPTED


def follow(
    watch: Watch, survey: Survey, *, sweep: SweepDir, scheduler: Schedulers, ends_with_work: bool = True
) -> Survey:
    """Show a sweep until it is left, or nothing runs or waits any more; return its last state.

    Raises:
        KeyboardInterrupt: Ctrl-C; the terminal is as it was.
    """
    from band.cli.terminal import Terminal

    terminal = Terminal.here()
    if terminal is None:
        return show(watch, until=lambda: is_quiet(watch.look(), sweep=sweep))
    looker = Looker(watch, survey, sweep=sweep, scheduler=scheduler, wake=terminal.wake)
    with terminal:
        looker.start()
        Screen(terminal, looker, ends_with_work=ends_with_work).run()
    return looker.seen.survey


def is_quiet(survey: Survey, *, sweep: SweepDir) -> bool:
    """Return whether nothing runs or waits any more, so that watching on would show nothing new."""
    from band.sweep.local import queue_claim
    from band.sweep.status import ACTIVE

    return queue_claim(sweep) is None and not any(
        status.state in ACTIVE or (status.state == "interrupted" and status.scheduled)
        for status in survey.runs.values()
    )


class Looker(threading.Thread):
    """Looks at a sweep again and again, at a pace that what looking costs sets."""

    def __init__(
        self, watch: Watch, survey: Survey, *, sweep: SweepDir, scheduler: Schedulers, wake: Callable[[], None]
    ) -> None:
        """Begin with a survey that was made already."""
        from band.cli.gpu_share import Machine

        super().__init__(daemon=True)
        self._watch, self._sweep, self._scheduler, self._wake = watch, sweep, scheduler, wake
        self._machine = Machine()
        self.seen = self._seen(survey)
        self.fault: Exception | None = None  # of ours, that ended the looking

    def _seen(self, survey: Survey, *, trouble: str = "") -> Seen:
        from band.cli.watch_list import Seen

        # The folds are carried on in place by the next look, while the screen still shows this one.
        kept = replace(survey, folds=dict(survey.folds))
        said = trouble or self._scheduler.trouble
        return Seen(sweep=self._sweep, survey=kept, t=time.time(), trouble=said, machine=self._machine.words)

    def run(self) -> None:
        """Look until the process ends."""
        try:
            while True:
                if self._machine.look(self.seen.survey):
                    self.seen = replace(self.seen, machine=self._machine.words)
                    self._wake()
                time.sleep(max(LOOK_S, LOOK_COSTS * self._watch.cost_s))
                try:
                    self.seen = self._seen(self._watch.look())
                except (BandError, OSError) as error:  # a folder that comes and goes, a manifest being written
                    self.seen = self._seen(self.seen.survey, trouble=str(error))
        except Exception as error:
            self.fault = error
        finally:
            self._wake()


class Screen:
    """What is on the terminal: the table of runs or a page over it."""

    def __init__(self, terminal: Terminal, looker: Looker, *, ends_with_work: bool) -> None:
        """Nothing is drawn yet."""
        from band.cli.watch_list import RunList

        self._terminal, self._looker, self._ends_with_work = terminal, looker, ends_with_work
        self._list = RunList()
        self._page: Page | None = None

    def run(self) -> None:
        """Draw and answer keys until the screen is left, the terminal goes, or the work has ended."""
        while True:
            seen = self._looker.seen
            if self._looker.fault is not None:
                raise self._looker.fault
            if self._ends_with_work and self._page is None and is_quiet(seen.survey, sweep=seen.sweep):
                return
            self._draw(seen)
            try:
                keys = self._terminal.wait(max(PAINT_S, SLOW_LINE * self._terminal.send_s))
            except EOFError:
                return
            for key in keys:
                if not self._press(key, self._looker.seen):
                    return

    def _draw(self, seen: Seen) -> None:
        width, height = self._terminal.size()
        shown = self._page or self._list
        try:
            lines = shown.lines(seen, width=width, height=height)
        except OSError as error:  # a log that is not ours to read, a disk that is away
            lines = [[(printable(str(error)), "red")], [], [("q back", "dim")]]
        self._terminal.paint(lines)

    def _press(self, key: str, seen: Seen) -> bool:
        """Do what a key asks for; return False to leave."""
        if key == "redraw":
            self._terminal.forget()
        elif self._page is not None:
            if not self._page.press(key) and key in ("q", "escape", "backspace", "?"):
                self._page = None
        elif self._list.is_typing or key not in ("q", "?", *OPEN):
            self._list.press(key, seen)
        elif key == "q":
            return False
        else:
            self._page = self._open(key, seen)
        return True

    def _open(self, key: str, seen: Seen) -> Page | None:
        from band.cli import watch_pages as pages

        chosen = self._list.settle(seen)
        if key == "?":
            return pages.help_page()
        if key == "f":
            return pages.FailuresPage("failures")
        if key == "n":
            return pages.NodesPage("nodes")
        if not chosen:
            return None
        if key == "c":
            return pages.CurvesPage(chosen, is_unicode=self._terminal.is_unicode)
        if key == "e":
            return pages.WhyPage(chosen, seen=seen, wake=self._terminal.wake)
        return pages.LogPage(chosen)


OPEN = ("f", "n", "c", "e", "l", "enter")  # keys that put a page over the table
