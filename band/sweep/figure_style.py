"""How figures look: sizes in mm, colours that colour-blind readers tell apart, labels at the lines, vector text."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from band.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MM = 1 / 25.4
TRUTH, LFADS, QUIET = "#000000", "#0072B2", "#8A8A8A"  # with BAND's, of Okabe and Ito 2008
BAND = ("#D55E00", "#E69F00", "#CC79A7", "#009E73")  # heaviest weight of behaviour first
# Text in a line's colour is darker than the line, or it could not be read on white.
INK = {"#D55E00": "#B04E00", "#E69F00": "#8F6300", "#CC79A7": "#A34E7E", "#009E73": "#007556", QUIET: "#636363"}
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.0,
    "lines.solid_capstyle": "round",
    "pdf.fonttype": 42,  # text stays text
    "ps.fonttype": 42,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
}


class Line(NamedTuple):
    """The end of a line that is to be labelled."""

    y: float
    text: str
    colour: str


@contextmanager
def style() -> Iterator[None]:
    """Draw in this style within the context; the settings of the process come back after it."""
    import logging

    import matplotlib

    # A missing font is no news: the next one of the list is taken.
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context(STYLE):
            yield
    finally:
        fonts.setLevel(level)


def new_figure(*, width_mm: float, height_mm: float) -> Figure:
    """Return an empty figure; it belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_mm * MM, height_mm * MM))


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write the figure as STEM.pdf and STEM.png and return both paths."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not again for each format
    paths = []
    for suffix in ("pdf", "png"):
        buffer = io.BytesIO()
        # A date in the file would make equal figures differ.
        figure.savefig(buffer, format=suffix, metadata={"CreationDate": None} if suffix == "pdf" else None)
        paths.append(stem.with_suffix(f".{suffix}"))
        write_atomic(paths[-1], buffer.getvalue())
    return paths


def colours_of(weights: Sequence[float]) -> dict[float, str]:
    """Return a colour for each weight of behaviour; 0 is LFADS; beyond four the lighter ones share the last."""
    colours = {0.0: LFADS}
    for place, weight in enumerate(sorted({w for w in weights if w > 0}, reverse=True)):
        colours[weight] = BAND[min(place, len(BAND) - 1)]
    return colours


def ink(colour: str) -> str:
    """Return the colour of text that belongs to what is drawn in `colour`."""
    return INK.get(colour, colour)


def label_ends(figure: Figure, axes: Sequence[Axes], lines: Sequence[Sequence[Line]], *, size: float = 7) -> None:
    """Write right of each axes what its lines are, where they end, moved apart where the words would touch."""
    figure.draw_without_rendering()  # only then is the height of the axes known
    for one, ends in zip(axes, lines, strict=True):
        low, high = one.get_ylim()
        height_points = one.get_window_extent().height * 72 / figure.dpi
        gap = (high - low) * size * 1.25 / max(height_points, 1.0)
        for end, y in zip(ends, spread([end.y for end in ends], gap=gap, low=low, high=high), strict=True):
            one.annotate(
                end.text,
                (1.02, y),
                xycoords=("axes fraction", "data"),
                color=ink(end.colour),
                va="center",
                fontsize=size,
                annotation_clip=False,
            )


def spread(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Return the values moved as little as keeps them `gap` apart in their order, within [low, high] where they fit."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = [min(max(values[i], low), high) for i in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    if placed and placed[-1] > high:
        placed[-1] = high
        for i in range(len(placed) - 2, -1, -1):
            placed[i] = min(placed[i], placed[i + 1] - gap)
    moved = dict(zip(order, placed, strict=True))
    return [moved[i] for i in range(len(values))]


def bare(axes: Axes) -> None:
    """Take frame and ticks away."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def panel(axes: Axes, letter: str) -> None:
    """Write a panel's letter above its upper left corner."""
    axes.annotate(
        letter, (0, 1), xytext=(-22, 5), xycoords="axes fraction", textcoords="offset points", weight="bold", fontsize=9
    )


def as_text(value: Any) -> str:
    """Return text that matplotlib does not take for mathematics."""
    return str(value).replace("$", r"\$")
