"""Figures of many runs: paired differences, effects of parameters, parallel coordinates, controls, cost, lineage."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from band.sweep.collect import WEIGHT, PublishedRun
from band.sweep.compare import Comparison, varying
from band.sweep.cost import GIB, Cost
from band.sweep.effects import Effect, order
from band.sweep.figure_style import LFADS, QUIET, TRUTH, Line, as_text, colours_of, ink, label_ends, new_figure, panel
from band.sweep.lineage import Lineage, Member
from band.sweep.report import label_of, show
from band.sweep.shown import CONTROLS, best_pairs, is_logarithmic, is_numeric, labels_of_settings, name_of, short_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
MOST_AXES = 9  # of parallel coordinates on paper
VALUE: Any = {
    "xytext": (2, 0),
    "textcoords": "offset points",
    "fontsize": 5.5,
    "zorder": 4,
    "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.4},
}


# LFADS beside BAND ----------------------------------------------------------------------------------------------------


def paired_differences(comparisons: Sequence[Comparison], scores: Sequence[str]) -> Figure | None:
    """Return BAND less LFADS by setting and weight: a dot a pair, a bar the interval, or the spread where none is."""
    pairs = best_pairs(comparisons)
    drawn = [name for name in scores if any(c.score(name).difference for c in pairs)][:3]
    if not drawn:
        return None
    colours = colours_of([c.weight for c in pairs if c.weight is not None])
    figure = new_figure(width_mm=183, height_mm=24 + 5.5 * len(pairs))
    all_axes = figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    for axes, name, letter in zip(all_axes, drawn, "abc", strict=False):
        axes.axvline(0, color=QUIET, linewidth=0.7, dashes=(4, 2), zorder=0)
        for row, comparison in enumerate(pairs):
            _difference(axes, comparison, name, y=row, colour=colours[comparison.weight or 0.0])
        axes.set(xlabel="BAND - LFADS, test", title=label_of(name))
        axes.locator_params(axis="x", nbins=5)
        panel(axes, letter)
    labels = short_labels(labels_of_settings(pairs))
    all_axes[0].set_yticks(range(len(pairs)), [as_text(label) for label in labels])
    all_axes[0].set_ylim(len(pairs) - 0.4, -0.6)
    return figure


def _difference(axes: Axes, comparison: Comparison, name: str, *, y: float, colour: str) -> None:
    found = comparison.score(name).difference
    if found is None:
        return
    values = [
        b - a
        for cell, run in comparison.lfads.items()
        if (a := run.score(name)) is not None and (b := comparison.band[cell].score(name)) is not None
    ]
    axes.scatter(values, [y + 0.22] * len(values), s=4, color=colour, alpha=0.5, linewidths=0)
    if found.interval is not None:
        axes.plot(found.interval, [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
    elif found.spread is not None:
        axes.plot(found.spread, [y, y], color=colour, linewidth=0.9)
    axes.scatter([found.mean], [y], s=18, color=colour, zorder=3)


# What parameters do ---------------------------------------------------------------------------------------------------


def parameter_effects(runs: Sequence[PublishedRun], effects: Sequence[Effect]) -> Figure | None:
    """Return scores against each swept parameter: a dot a run, a line through the means of LFADS and of BAND."""
    keys = list(dict.fromkeys(effect.key for effect in effects))[:4]
    scores = list(dict.fromkeys(effect.score for effect in effects))[:2]
    if not keys:
        return None
    good = [run for run in runs if run.outcome == "ok"]
    colours = colours_of([run.weight for run in good])
    is_single = len(keys) == 1  # then scores stand side by side
    num_rows, num_columns = (1, len(scores)) if is_single else (len(scores), len(keys))
    figure = new_figure(width_mm=min(183, 30 + 55 * num_columns), height_mm=12 + 46 * num_rows)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for row, score in enumerate(scores):
        for column, key in enumerate(keys):
            axes = grid[0, row] if is_single else grid[row, column]
            _against(axes, good, key, score=score, colours=colours)
            axes.set_ylabel(f"{label_of(score)}, test" if is_single or column == 0 else "")
            axes.set_xlabel(as_text(key.rpartition(".")[2]))
    label_ends(figure, [grid[0, -1]], [_ends(good, scores[-1 if is_single else 0], keys[-1], colours)])
    return figure


def _ends(runs: Sequence[PublishedRun], score: str, key: str, colours: Mapping[float, str]) -> list[Line]:
    last = order(run.parameters[key] for run in runs)[-1]
    ends = []
    for weight in sorted({run.weight for run in runs}):
        own = [run for run in runs if run.weight == weight and run.score(score) is not None]
        values = [run.score(score) or 0.0 for run in own if run.parameters[key] == last] or [
            run.score(score) or 0.0 for run in own
        ]
        if values:
            ends.append(Line(fmean(values), name_of(weight), colours[weight]))
    return ends


def _against(axes: Axes, runs: Sequence[PublishedRun], key: str, *, score: str, colours: Mapping[float, str]) -> None:
    values = order(run.parameters[key] for run in runs)
    place = {value: float(n) for n, value in enumerate(values)}
    if is_numeric(values):
        place = {value: float(value) for value in values}
        if is_logarithmic([float(value) for value in values]):
            axes.set_xscale("log")
    else:
        axes.set_xticks(range(len(values)), [as_text(show(value)) for value in values])
    for weight, colour in colours.items():
        own = [run for run in runs if run.weight == weight and run.score(score) is not None]
        if not own:
            continue
        x = [place[run.parameters[key]] for run in own]
        axes.scatter(x, [run.score(score) or 0.0 for run in own], s=5, color=colour, alpha=0.45, linewidths=0)
        if len(values) <= 8:
            means = [
                (place[v], fmean(run.score(score) or 0.0 for run in own if run.parameters[key] == v))
                for v in values
                if any(run.parameters[key] == v for run in own)
            ]
            axes.plot(*zip(*means, strict=True), "o-", color=colour, linewidth=1.1, markersize=3)
    if is_numeric(values) and len(values) <= 5:
        axes.set_xticks([place[v] for v in values], [show(v) for v in values], minor=False)
        axes.minorticks_off()


def parallel_coordinates(runs: Sequence[PublishedRun], scores: Sequence[str]) -> Figure | None:
    """Return a line a run through its swept parameters and its scores, coloured by the weight of behaviour."""
    good = [run for run in runs if run.outcome == "ok"]
    keys = [*varying(good), WEIGHT][: MOST_AXES - 3]
    drawn = [name for name in scores if any(run.score(name) is not None for run in good)][:3]
    if len(good) < 2 or not drawn:
        return None
    columns = [(key.rpartition(".")[2], [run.parameters[key] for run in good]) for key in keys]
    columns += [(label_of(name), [run.score(name) for run in good]) for name in drawn]
    figure = new_figure(width_mm=183, height_mm=72)
    axes = figure.subplots()
    colours = colours_of([run.weight for run in good])
    heights = np.array([_scaled(values)[0] for _, values in columns]).T
    _parallel_lines(axes, heights, [colours[run.weight] for run in good])
    for x, (_, values) in enumerate(columns):
        axes.axvline(x, color=TRUTH, linewidth=0.6, zorder=3)
        for height, text in _scaled(values)[1]:
            axes.annotate(as_text(text), (x, height), va="center", **VALUE)
    axes.set_xticks(range(len(columns)), [as_text(name.replace(", ", ",\n")) for name, _ in columns])
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", length=0)
    axes.set(yticks=[], xlim=(-0.25, len(columns) - 0.7), ylim=(-0.05, 1.05))
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, (weight, colour) in enumerate(colours.items()):
        if any(run.weight == weight for run in good):
            axes.annotate(name_of(weight), (0, -0.06), xycoords="axes fraction", xytext=(60 * place, 0),
                          textcoords="offset points", color=ink(colour), fontsize=7)  # fmt: skip
    return figure


def _parallel_lines(axes: Axes, heights: Array, colours: Sequence[str]) -> None:
    """Draw a smooth line through the heights (runs, axes) of each run."""
    from matplotlib.collections import LineCollection

    between = np.linspace(0, 1, 20)
    ease = between**2 * (3 - 2 * between)
    x = np.concatenate([k + between for k in range(heights.shape[1] - 1)])
    lines = []
    for row in heights:
        y = np.concatenate([a + (b - a) * ease for a, b in itertools.pairwise(row)])
        lines.append(np.column_stack([x, y]))
    opacity = float(np.clip(8 / len(lines), 0.12, 0.7))
    axes.add_collection(LineCollection(lines, colors=list(colours), linewidths=0.6, alpha=opacity))


def _scaled(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return heights from 0 to 1, NaN for what is missing, and where which words stand."""
    known = order(value for value in values if value is not None)
    if not known:
        return [float("nan")] * len(values), []
    if not is_numeric(known):
        place = {value: n / max(len(known) - 1, 1) for n, value in enumerate(known)}
        return [place.get(value, float("nan")) for value in values], [(place[v], show(v)) for v in known[:12]]
    turn = np.log10 if is_logarithmic([float(v) for v in known]) else np.asarray
    low, high = float(turn(known[0])), float(turn(known[-1]))
    span = high - low or 1.0
    heights = [float("nan") if v is None else (float(turn(v)) - low) / span for v in values]
    shown = known if len(known) <= 6 else [known[0], known[-1]]
    return heights, [((float(turn(v)) - low) / span, f"{v:.3g}") for v in shown]


# Without inferred inputs ----------------------------------------------------------------------------------------------


def control_ablation(by_weight: Mapping[float, Sequence[PublishedRun]]) -> Figure | None:
    """Return scores with and without inferred inputs, a line a run; read-outs are fitted anew without them."""
    runs = [run for own in by_weight.values() for run in own]
    drawn = [pair for pair in CONTROLS if any(r.score(pair[0]) is not None is not r.score(pair[1]) for r in runs)]
    drawn = [pair for pair in drawn if any(r.score(pair[1]) is not None for r in runs)]
    if not drawn:
        return None
    colours = colours_of(list(by_weight))
    figure = new_figure(width_mm=20 + 52 * len(drawn), height_mm=58)
    all_axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    ends = []
    for axes, (intact, off), letter in zip(all_axes, drawn, "abc", strict=False):
        found = []
        for weight, own in by_weight.items():
            pairs = [(a, b) for r in own if (a := r.score(intact)) is not None and (b := r.score(off)) is not None]
            for pair in pairs:
                axes.plot([0, 1], pair, color=colours[weight], linewidth=0.5, alpha=0.5)
            if pairs:
                means = [fmean(side) for side in zip(*pairs, strict=True)]
                axes.plot([0, 1], means, "o-", color=colours[weight], linewidth=1.4, markersize=3.5)
                found.append(Line(means[1], name_of(weight), colours[weight]))
        axes.set_xticks([0, 1], ["intact", "inputs off"])
        axes.set(ylabel=f"{label_of(intact)}, test", xlim=(-0.2, 1.2))
        panel(axes, letter)
        ends.append(found)
    label_ends(figure, all_axes, ends)
    return figure


# Cost and lineage -----------------------------------------------------------------------------------------------------


def cost_figure(cost: Cost) -> Figure | None:
    """Return the memory asked and used, and the hours, of every attempt."""
    attempts = cost.attempts
    if not attempts:
        return None
    both = [(s.asked_bytes / GIB, s.peak_bytes / GIB) for s in attempts if s.asked_bytes and s.peak_bytes]
    count = 2 if both else 1
    figure = new_figure(width_mm=10 + 65 * count, height_mm=52)
    time, *memory = figure.subplots(1, count, squeeze=False)[0]
    unit, width = ("hours", 3600) if cost.longest_s > 7200 else ("minutes", 60)
    spent_time = np.sort([spent.seconds / width for spent in attempts])[::-1]
    time.plot(range(1, len(attempts) + 1), spent_time, "o-", color=LFADS, markersize=3, linewidth=0.8)
    time.set(xlabel="attempts, longest first", ylabel=unit, ylim=(0, None), xlim=(0.4, len(attempts) + 0.6))
    time.xaxis.get_major_locator().set_params(integer=True)
    for axes in memory:
        most = max(max(pair) for pair in both) * 1.1
        axes.plot([0, most], [0, most], color=QUIET, linewidth=0.7, dashes=(4, 2))
        axes.scatter(*zip(*both, strict=True), s=12, color=LFADS, linewidths=0)
        axes.set(xlim=(0, most), ylim=(0, most), xlabel="memory asked (GiB)", ylabel="memory used at most (GiB)")
    for axes, letter in zip((time, *memory), "ab", strict=False):
        panel(axes, letter)
    return figure


def pbt_lineage(lineages: Sequence[Lineage]) -> Figure | None:
    """Return scores against generations; a grey line from parent to child, in colour those that lead to the best."""
    drawn = [lineage for lineage in lineages if any(m.score is not None for m in lineage.members)][:4]
    if not drawn:
        return None
    figure = new_figure(width_mm=20 + 75 * min(len(drawn), 2), height_mm=12 + 50 * ((len(drawn) + 1) // 2))
    grid = figure.subplots((len(drawn) + 1) // 2, min(len(drawn), 2), squeeze=False).ravel()
    for axes, lineage in zip(grid, drawn, strict=False):
        for parent, child in lineage.descents():
            _descent(axes, parent, child, colour=QUIET, width=0.5)
        for parent, child in itertools.pairwise(lineage.line()):
            _descent(axes, parent, child, colour=LFADS, width=1.6)
        scored = [m for m in lineage.members if m.score is not None]
        axes.scatter([m.generation for m in scored], [m.score or 0.0 for m in scored], s=5, color=TRUTH, linewidths=0)
        axes.set(xlabel="generation", ylabel="score", title=as_text(show(lineage.run)))
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in grid[len(drawn) :]:
        axes.set_axis_off()
    return figure


def _descent(axes: Axes, parent: Member, child: Member, *, colour: str, width: float) -> None:
    if parent.score is not None and child.score is not None:
        axes.plot(
            [parent.generation, child.generation],
            [parent.score, child.score],
            color=colour,
            linewidth=width,
            zorder=width,
        )
