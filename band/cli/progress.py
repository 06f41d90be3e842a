"""A sweep as it goes: bars in a terminal, plain lines in a pipe; and words for durations, sizes and states."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from band.cli.common import say
from band.run_dir import SweepDir
from band.sweep.manifest import Manifest, read_manifest
from band.sweep.status import RunStatus, Scheduler, Survey, take_survey

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOOK_S = 0.5  # between looks at the sweep
LOOK_SHARE = 0.05  # of one core that looking may cost
LINE_S = 30.0  # between progress lines in a pipe
MOST_TASKS = 8  # that have a progress line each
COLOURS = {"published": 32, "running": 36, "failed": 31, "lost": 31, "unsynced": 33, "interrupted": 33, "cancelled": 2}


def duration(seconds: float) -> str:
    """Return a duration in the words of a timetable: 40 s, 12 min, 3.4 h, 2.1 days."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit == "h" and value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def size(num_bytes: float) -> str:
    """Return bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit != "GiB" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def plural(count: int, word: str) -> str:
    """Return a count with its word: 1 run, 2 runs."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def coloured(text: str, *, state: str) -> str:
    """Return `text` in the colour of a state where stdout is a terminal that wants colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or state not in COLOURS:
        return text
    return f"\x1b[{COLOURS[state]}m{text}\x1b[0m"


class Watch:
    """A sweep that is looked at again and again; each look reads only what is new."""

    def __init__(self, sweep: SweepDir, *, scheduler: Scheduler) -> None:
        self._sweep, self._scheduler = sweep, scheduler
        self._stamp = 0
        self._manifest: Manifest | None = None
        self._survey: Survey | None = None
        self.cost_s = 0.0  # of the last look, but for waiting: Slurm is asked at a pace of its own

    def look(self) -> Survey:
        """Return the present state."""
        begun = time.process_time()
        stamp = self._sweep.manifest.stat().st_mtime_ns
        if self._manifest is None or stamp != self._stamp:
            self._manifest, self._stamp = read_manifest(self._sweep.path), stamp
        folds = self._survey.folds if self._survey else None
        self._survey = take_survey(self._sweep, self._manifest, scheduler=self._scheduler, folds=folds)
        self.cost_s = time.process_time() - begun
        return self._survey

    def looks(self, *, until: Callable[[], bool]) -> Iterator[Survey]:
        """Yield the state now and again until `until` holds, and once more then."""
        while not until():
            yield self.look()
            time.sleep(max(LOOK_S, self.cost_s / LOOK_SHARE))
        yield self.look()


def show(watch: Watch, *, until: Callable[[], bool]) -> Survey:
    """Show a sweep until `until` holds: bars on a terminal, lines in a pipe. Returns its last state."""
    survey = None
    from band.cli.common import has_screen

    with _bars() if has_screen() else _lines() as update:
        for survey in watch.looks(until=until):
            update(survey)
    assert survey is not None
    return survey


@contextmanager
def transfer(total: int, *, is_quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield what is told how many bytes of `total` are here: a bar with rate and time left, lines in a pipe."""
    if is_quiet or not total:
        yield lambda done: None
    elif sys.stdout.isatty():
        with _transfer_bar(total) as update:
            yield update
    else:
        begun = last = time.monotonic()
        first: list[int] = []

        def show_rate(done: int) -> None:
            nonlocal last
            first.append(done) if not first else None
            now = time.monotonic()
            if now - last > LINE_S:
                last = now
                rate = (done - first[0]) / (now - begun)
                left = f", {duration((total - done) / rate)} left" if rate else ""
                say(time.strftime("%H:%M:%S"), f"{size(done)} of {size(total)}, {size(rate)}/s{left}", flush=True)

        yield show_rate


@contextmanager
def _transfer_bar(total: int) -> Iterator[Callable[[int], None]]:
    from rich import progress

    from band.cli.common import console

    columns = (
        progress.BarColumn(bar_width=None),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console(), expand=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def running_tasks(survey: Survey) -> dict[str, list[RunStatus]]:
    """Return {task: its running runs}."""
    tasks: dict[str, list[RunStatus]] = {}
    for status in survey.runs.values():
        if status.state == "running":
            tasks.setdefault(status.task, []).append(status)
    return dict(sorted(tasks.items()))


def share_done(survey: Survey) -> float:
    """Return the share of the sweep's epochs that is done, a published run counting as all of its own."""
    default = int(survey.manifest.base["train"]["max_epochs"])
    done = total = 0
    for run in survey.manifest.active():
        status = survey.runs[run.id]
        most = status.max_epochs or default
        total += most
        done += most if status.state == "published" else min(status.epoch, most)
    return done / total if total else 1.0


def _epochs(runs: list[RunStatus]) -> tuple[float, int]:
    """Return the mean epoch of a task's runs and the largest number of epochs."""
    return sum(run.epoch for run in runs) / len(runs), max(run.max_epochs for run in runs)


def _eta(runs: list[RunStatus]) -> str:
    etas = [run.eta_s for run in runs if run.eta_s is not None]
    return f"{duration(max(etas))} left at most" if etas else ""


@contextmanager
def _bars() -> Iterator[Callable[[Survey], None]]:
    from rich.progress import BarColumn, Progress, TextColumn

    from band.cli.common import console

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console(), expand=True, refresh_per_second=4) as progress:
        rows: dict[str, TaskID] = {}
        total = progress.add_task("all", total=1.0, note="")
        seen: set[str] = set()

        def update(survey: Survey) -> None:
            for line in _news(survey, seen=seen):
                progress.console.print(line, markup=False)
            _update_rows(progress, rows=rows, survey=survey)
            counts, eta = survey.counts(), survey.eta_s()
            note = ", ".join(f"{count} {state}" for state, count in counts.items())
            progress.update(
                total, completed=share_done(survey), note=note + (f", {duration(eta)} left at most" if eta else "")
            )

        yield update


def _update_rows(progress: Progress, *, rows: dict[str, TaskID], survey: Survey) -> None:
    tasks = running_tasks(survey)
    for task in set(rows) - set(tasks):
        progress.remove_task(rows.pop(task))
    for task, runs in tasks.items():
        if task not in rows:
            rows[task] = progress.add_task(f"{task}, {plural(len(runs), 'run')}", total=None, note="starting")
        epoch, most = _epochs(runs)
        if most:
            note = f"epoch {epoch:.0f}/{most}  {_eta(runs)}"
            progress.update(rows[task], completed=epoch, total=most, note=note)


@contextmanager
def _lines() -> Iterator[Callable[[Survey], None]]:
    seen: set[str] = set()
    last: list[float] = [-LINE_S]

    def update(survey: Survey) -> None:
        lines = _news(survey, seen=seen)
        if time.monotonic() - last[0] > LINE_S:
            last[0] = time.monotonic()
            lines += _standing(survey)
        for line in lines:
            say(time.strftime("%H:%M:%S"), line.rstrip(), flush=True)

    yield update


def _standing(survey: Survey) -> list[str]:
    """Return how a sweep stands: a line of its own, and one a task that runs where they are few."""
    eta, tasks = survey.eta_s(), running_tasks(survey)
    counts = [f"{count} {state}" for state, count in survey.counts().items()]
    lines = [", ".join([*counts, *([f"{duration(eta)} left at most"] if eta is not None else [])])]
    for task, runs in tasks.items() if len(tasks) <= MOST_TASKS else ():
        epoch, most = _epochs(runs)
        lines.append(f"task {task}: {plural(len(runs), 'run')}, epoch {epoch:.0f}/{most or '?'} {_eta(runs)}")
    return lines


def _news(survey: Survey, *, seen: set[str]) -> list[str]:
    """Return a line for each run that is over since the last call; those of the first call are passed over."""
    from band.cli.common import printable

    is_first = not seen
    over = {run: status for run, status in survey.runs.items() if status.state in ("published", "failed", "cancelled")}
    fresh = [run for run in over if f"{run} {over[run].state}" not in seen]
    seen.add("")
    seen.update(f"{run} {over[run].state}" for run in fresh)
    if is_first:
        return []
    return [printable(_sentence(run, over[run])) for run in fresh]


def _sentence(run: str, status: RunStatus) -> str:
    if status.state == "published":
        return f"published {run}" + (f" ({status.outcome})" if status.outcome not in ("", "ok") else "")
    if status.state == "failed":
        return f"failed {run}: {status.error}: {status.message}".split("\n")[0]
    return f"cancelled {run}"


def as_json(status: RunStatus) -> dict[str, Any]:
    """Return a run's status as JSON values."""
    # Not asdict, which copies plain values deeply: a hundred thousand runs take it seconds.
    return {**vars(status), "eta_s": status.eta_s}
