"""The figure of population-based training: who descends from whom, by score and by hyperparameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from band.search import read_space
from band.sweep.collect import PublishedRun
from band.sweep.figure_style import QUIET, colours_of, new_figure, panel
from band.sweep.lineage import Lineage, Member, read_lineages
from band.sweep.shown import Shown, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SETTINGS = 7  # hyperparameters drawn beside the score
COLUMNS = 4


def lineage_figure(shown: Shown) -> Figure | None:
    """Return score and hyperparameters of a search by epochs, a block of panels a model; the winner's line stands out.

    Of several seeds the first is drawn.
    """
    runs = [run for found in shown.by_weight.values() for run in found[:1]]
    searches = {run.folder: run for run in runs if "pbt" in run.training}
    lineages = read_lineages((folder, run.training) for folder, run in searches.items())
    found = [(searches[lineage.folder], lineage) for lineage in lineages]
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
    score = [member.value("score") for member in lineage.members]
    low, high = np.nanmin(score), np.nanpercentile(score, 97)
    margin = 0.06 * (high - low) or 1.0
    all_axes[0].set_ylim(low - margin, high + margin)


def _descent(axes: Axes, lineage: Lineage, *, name: str, colour: str, is_log: bool) -> None:
    """Draw a line from every parent to every child, and a point for each member."""
    from matplotlib.collections import LineCollection

    def points(members: Iterable[Member]) -> list[tuple[float, float]]:
        return [(member.value("epochs"), member.value(name)) for member in members]

    line = lineage.line()
    on_line = set(map(id, line))
    for wanted, style in ((False, (QUIET, 0.4, 0.6, 1)), (True, (colour, 1.3, 1.0, 3))):
        drawn = [pair for pair in lineage.descents() if on_line.issuperset(map(id, pair)) == wanted]
        shade, width, alpha, order = style
        axes.add_collection(
            LineCollection([points(pair) for pair in drawn], colors=shade, linewidths=width, alpha=alpha, zorder=order)
        )
    for members, size, shade, order in ((lineage.members, 3, QUIET, 2), (line, 9, colour, 4)):
        x, y = np.reshape(points(members), (-1, 2)).T
        axes.scatter(x, y, s=size, color=shade, linewidths=0, zorder=order)
    if is_log:
        axes.set_yscale("log")
    axes.margins(0.06)


def _label(run: PublishedRun, name: str) -> str:
    if name != "score":
        return name.partition(".")[2].replace("_", " ")
    monitor = str(run.parameters["train.monitor"]).removeprefix("valid_").replace("_", " ")
    words = {"recon": "reconstruction", "band": "recon. + 1 - R²" if run.weight else "recon. + 1"}
    return f"{words.get(monitor, monitor)}, valid"
