"""A report for people in a terminal and, as JSON, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from band.sweep.across import Across
from band.sweep.compare import Beside, is_band_alone
from band.sweep.report import Report, Row, Section, label_of, show
from band.sweep.shown import name_of
from band.sweep.statistics import Summary

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NONE = "-"
MOST_ACROSS = 3  # scores by which sweeps are compared in a terminal; the page has all
WIDTH = 100  # of tables and notes, at most: what a terminal beside another window, a mail or a notebook still has


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as plain values: by section and row, every score with its mean, interval, spread and n."""
    return {
        "sweep": report.collection.name,
        "folder": str(report.collection.folder),
        "num_runs": len(report.collection.runs),
        "sections": [
            {"title": s.title, "notes": list(s.notes), "rows": [_row_as_json(row, s) for row in s.rows]}
            for s in report.sections
        ],
        "effects": [asdict(effect) for effect in report.effects],
        "across": [asdict(one) for one in report.across],
        "left_out": list(report.left_out),
    }


def _row_as_json(row: Row, section: Section) -> dict[str, Any]:
    comparison = row.comparison
    return {
        "labels": dict(zip(section.labels, row.labels, strict=True)),
        "setting": dict(comparison.setting),
        "behavior_weight": comparison.weight,
        "runs": {side: [run.id for run in getattr(comparison, side).values()] for side in ("lfads", "band")},
        "scores": {name: asdict(comparison.score(name)) for name in section.scores},
    }


def print_report(report: Report, *, console: Console) -> None:
    """Print the tables of a report; one that is wider than `WIDTH`, or than the console, is split by scores."""
    from rich.padding import Padding
    from rich.text import Text

    width = min(console.width, WIDTH)
    for section in report.sections:
        console.print(Text(section.title, style="bold"))
        for scores in _fitting(section, console=console, width=width):
            console.print(_table(section, scores), width=width)
        for note in section.notes:
            console.print(Padding(Text(note, style="dim"), (0, 0, 0, 2)), width=width)
        console.print()
    if report.across:
        console.print(Text("Sweeps beside each other, over runs that are equal in what is swept", style="bold"))
        for line in _across_lines(report.across):
            console.print(Padding(Text(line), (0, 0, 0, 2)), width=width)
        console.print()
    for message in report.left_out:
        console.print(Text(f"Left out: {show(message)}"), width=width)


def _across_lines(found: Sequence[Across]) -> list[str]:
    """Return a line for each later sweep, model and score: both means, their difference, and what n is."""
    lines = []
    for one in found:
        for name, (first, second, less) in list(one.by_score.items())[:MOST_ACROSS]:
            digits = _digits(name)
            sides = f"{one.first} {first.mean:.{digits}f}, {one.second} {second.mean:.{digits}f}"
            difference = f"{less.mean:+.{digits}f} {_error(less, digits)}".rstrip()
            what = f"{name_of(one.weight)}, {label_of(name)}"
            lines.append(f"{what}: {show(sides)}, difference {difference}; {less.count}")
    return lines


def _digits(name: str) -> int:
    return 4 if "b" in name.rpartition("/")[2] and "r2" not in name else 3


def _fitting(section: Section, *, console: Console, width: int) -> list[list[str]]:
    """Return the scores of a section in as few tables as fit `width`, a table having one at least."""
    unbounded = console.options.update(width=10_000)  # or the measure is what the console has
    tables: list[list[str]] = [[]]
    for name in section.scores:
        table = _table(section, [*tables[-1], name])
        if tables[-1] and console.measure(table, options=unbounded).maximum > width:
            tables.append([])
        tables[-1].append(name)
    return tables


def _table(section: Section, scores: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="")
    for label in section.labels:
        table.add_column(Text(f"\n\n{show(label)}"), overflow="fold")
    for name in scores:
        kind, _, read_out = label_of(name.removeprefix(section.prefix)).rpartition(", ")
        words = f"{kind}\n{read_out}" if kind else f"{read_out}\n"
        table.add_column(Text.assemble((words, "bold"), "\n", _head(name)), no_wrap=True)
    for row in section.rows:
        cells = [_cell(name, row.comparison.score(name)) for name in scores]
        table.add_row(*(Text(label) for label in row.labels), *cells)
    return table


def _head(name: str) -> str:
    return f"{'BAND':>7}" if is_band_alone(name) else f"{'LFADS':>7}{'BAND':>8}{'BAND-LFADS':>12}"


def _cell(name: str, beside: Beside) -> Any:
    """Return the sides and their difference in the columns of `_head`, with what is known of its error below."""
    from rich.text import Text

    digits = _digits(name)
    lfads, band = _mean(beside.lfads, digits), _mean(beside.band, digits)
    if is_band_alone(name):
        return Text(f"{band:>7}")
    difference = _mean(beside.difference, digits, sign="+")
    return Text.assemble(
        f"{lfads:>7}{band:>8}", (f"{difference:>12}", "bold"), (f"\n{_error(beside.difference, digits):>27}", "dim")
    )


def _mean(summary: Summary | None, digits: int, *, sign: str = "") -> str:
    return NONE if summary is None else f"{summary.mean:{sign}.{digits}f}"


def _error(summary: Summary | None, digits: int) -> str:
    if summary is None or (summary.interval is None and summary.spread is None):
        return ""
    if summary.interval is not None:
        low, high = summary.interval
        return f"[{low:+.{digits}f}, {high:+.{digits}f}]"
    assert summary.spread is not None
    low, high = summary.spread
    return f"({low:+.{digits}f} … {high:+.{digits}f})"
