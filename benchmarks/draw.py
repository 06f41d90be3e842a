"""The figures of `make bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import ticker

COLOURS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7")
SIZE = (4.4, 3.2)
Curves = Mapping[str, Sequence[tuple[float, float]]]


def members(scaling: Curves, path: Path) -> None:
    """Draw member-steps a second by members, of each way to train them."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    for (way, points), colour in zip(scaling.items(), COLOURS, strict=False):
        is_reference = way.startswith("reference")
        line, marker = ("--", None) if is_reference else ("-", "o")
        axes.plot(*zip(*points, strict=True), line, color=colour, marker=marker, label=way)
    most = max(count for points in scaling.values() for count, _ in points)
    axes.set(xscale="log", yscale="log", xlabel="members", ylabel="member-steps a second")
    axes.set_xticks([2**k for k in range(int(most).bit_length())])
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def to_loss(curves: Curves, path: Path) -> None:
    """Draw the validation loss by seconds of training."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    names = {"reference": "reference", "one": "one model", "population": "worst of 16 together"}
    for (name, points), colour in zip(curves.items(), ("#D55E00", "#0072B2", "#009E73"), strict=True):
        axes.plot(*zip(*points, strict=True), color=colour, label=names[name])
    axes.set(xscale="log", xlabel="seconds of training", ylabel="validation loss, nats a trial")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def bars(rows: Sequence[Sequence[str]], header: Sequence[str], group: str, bar: str, drawn: str, path: Path) -> None:
    """Draw one column of a table as bars: a row of them for each value of `group`, each named by its value of `bar`."""
    where = {name: header.index(name) for name in (group, bar, drawn) if name}
    names, lengths, places, shades = [], [], [], []
    place = 0.0
    # Of populations of several sizes that are not what the bars differ in, the size belongs to the group's name.
    size = header.index("members") if bar and bar != "members" and "members" in header else None
    rows = [list(row) for row in rows]
    for row in rows if size is not None else ():
        row[where[group]] += f" x {row[size]}"
    groups = list(dict.fromkeys(row[where[group]] for row in rows))
    for number, row in enumerate(rows):
        is_new = number > 0 and row[where[group]] != rows[number - 1][where[group]]
        place += 1.6 if is_new and bar else 1.0
        names.append(f"{row[where[group]]}, {row[where[bar]]}" if bar else row[where[group]].strip("`"))
        lengths.append(float(row[where[drawn]]))
        places.append(place)
        shades.append(COLOURS[groups.index(row[where[group]]) % len(COLOURS)] if bar else COLOURS[0])
    figure, axes = plt.subplots(figsize=(SIZE[0], 0.6 + 0.22 * place), layout="constrained")
    found = axes.barh(places, lengths, color=shades, height=0.8)
    axes.bar_label(found, [row[where[drawn]] for row in rows], padding=2, fontsize=7)
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel=drawn)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
