"""The figure of population-based training: who descends from whom, by score and by hyperparameter."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from band.search import read_space
from band.sweep.collect import PublishedRun
from band.sweep.figure_style import QUIET, colours_of, new_figure, panel
from band.sweep.shown import Shown, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINEAGE = "lineage.csv"
FIXED = ("generation", "member", "parent", "epochs", "score")
MAX_SETTINGS = 7  # hyperparameters drawn beside the score
COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A search as it went: columns over rows of lineage.csv, NaN where a cell is empty."""

    columns: Mapping[str, NDArray[Any]]
    winner: int | None  # member of the last generation

    @property
    def settings(self) -> list[str]:
        """The hyperparameters that were searched."""
        return [name for name in self.columns if name not in FIXED]

    def rows_of_winner(self) -> list[int]:
        """Return the rows of the winner and of those it descends from, first generation first."""
        number, rows = self.winner, []
        for generation in range(int(self.columns["generation"].max()), -1, -1):
            if number is None:
                break
            row = self.row(generation, number)
            rows.append(row)
            parent = self.columns["parent"][row]
            number = None if np.isnan(parent) else int(parent)
        return rows[::-1]

    def row(self, generation: int, member: int) -> int:
        """Return the row of a member in a generation."""
        is_it = (self.columns["generation"] == generation) & (self.columns["member"] == member)
        return int(np.flatnonzero(is_it)[0])

    def descents(self) -> list[tuple[int, int]]:
        """Return (row of the parent, row) of every member but those of the first generation."""
        columns = self.columns
        return [
            (self.row(int(columns["generation"][row]) - 1, int(columns["parent"][row])), int(row))
            for row in np.flatnonzero(~np.isnan(columns["parent"]))
        ]


def read_lineage(run: PublishedRun) -> Lineage | None:
    """Return the search that a run was, None where it was none."""
    path = run.folder / LINEAGE
    if "pbt" not in run.training or not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
    return Lineage(columns=columns, winner=run.training["pbt"]["winner"])


def lineage_figure(shown: Shown) -> Figure | None:
    """Return score and hyperparameters of a search by epochs, a block of panels a model; the winner's line stands out.

    Of several seeds the first is drawn.
    """
    runs = [run for found in shown.by_weight.values() for run in found[:1]]
    found = [(run, lineage) for run in runs if (lineage := read_lineage(run))]
    if not found:
        return None
    count = max(min(len(lineage.settings), MAX_SETTINGS) for _, lineage in found) + 1
    lines = -(-count // COLUMNS)
    figure = new_figure(width_mm=183, height_mm=6 + 42 * lines * len(found))
    all_axes = figure.subplots(lines * len(found), COLUMNS, squeeze=False)
    colours = colours_of(list(shown.by_weight))
    for block, (run, lineage) in enumerate(found):
        axes = list(all_axes[lines * block : lines * (block + 1)].flat)
        _draw(axes, run, lineage, colour=colours[run.weight])
        panel(axes[0], "ab"[min(block, 1)])
    return figure


def _draw(all_axes: Sequence[Axes], run: PublishedRun, lineage: Lineage, *, colour: str) -> None:
    space = read_space(str(run.parameters["pbt.space"]), where="pbt.space")
    names = ["score", *lineage.settings[:MAX_SETTINGS]]
    for axes in all_axes[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(all_axes, names, strict=False):
        is_log = name in space and "log" in space[name].draw + space[name].explore
        _descent(axes, lineage, name=name, colour=colour, is_log=is_log)
        axes.set(xlabel="epoch", ylabel=_label(run, name))
    all_axes[0].set_title(f"{name_of(run.weight)}, seed {run.cell.seed}: winner's line in colour")
    score = lineage.columns["score"]
    low, high = np.nanmin(score), np.nanpercentile(score, 97)
    margin = 0.06 * (high - low) or 1.0
    all_axes[0].set_ylim(low - margin, high + margin)


def _descent(axes: Axes, lineage: Lineage, *, name: str, colour: str, is_log: bool) -> None:
    """Draw a line from every parent to every child, and a point for each member."""
    from matplotlib.collections import LineCollection

    x, y = lineage.columns["epochs"], lineage.columns[name]
    best = lineage.rows_of_winner()
    on_line = set(itertools.pairwise(best))
    pairs = lineage.descents()
    for wanted, style in ((False, (QUIET, 0.4, 0.6, 1)), (True, (colour, 1.3, 1.0, 3))):
        drawn = [pair for pair in pairs if (pair in on_line) == wanted]
        shade, width, alpha, order = style
        points = [[(x[a], y[a]), (x[b], y[b])] for a, b in drawn]
        axes.add_collection(LineCollection(points, colors=shade, linewidths=width, alpha=alpha, zorder=order))
    axes.scatter(x, y, s=3, color=QUIET, linewidths=0, zorder=2)
    axes.scatter(x[best], y[best], s=9, color=colour, linewidths=0, zorder=4)
    if is_log:
        axes.set_yscale("log")
    axes.margins(0.06)


def _label(run: PublishedRun, name: str) -> str:
    if name != "score":
        return name.partition(".")[2].replace("_", " ")
    monitor = str(run.parameters["train.monitor"]).removeprefix("valid_").replace("_", " ")
    words = {"recon": "reconstruction", "band": "recon. + 1 - R²" if run.weight else "recon. + 1"}
    return f"{words.get(monitor, monitor)}, valid"
