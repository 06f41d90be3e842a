"""Curves drawn in characters: dots of Braille, eight a character, or stars where a terminal has no more than ASCII."""

from __future__ import annotations

import math
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]
MARGIN = 11  # columns left of the axis, for numbers
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille character, by row and column
BLANK = 0x2800
FEW = 0.1  # of the values may lie far out at either end, as those of the first epochs do
OUTLYING = 3.0  # a range so many times that of most values is cut to theirs


def plot(points: Points, *, width: int, height: int, is_unicode: bool = True) -> list[str]:
    """Return a curve as `height` lines of at most `width` columns, with its range on the left and below it.

    Args:
        points: pairs (x, y) with x rising; those that are not finite are left out.
        width: columns, those of the numbers included.
        height: lines, that of the numbers below included; at least 3.
        is_unicode: whether Braille can be shown.
    """
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    rows, columns = max(height - 2, 1), max(width - MARGIN - 1, 1)
    if not finite:
        return ["nothing to draw yet"]
    low, high = value_range([y for _, y in finite])
    first, last = finite[0][0], finite[-1][0]
    down, across = (4, 2) if is_unicode else (1, 1)
    grid = _dots(finite, columns=columns * across, rows=rows * down, x_range=(first, last), y_range=(low, high))
    drawn = _braille(grid, columns=columns, rows=rows) if is_unicode else _stars(grid, columns=columns, rows=rows)
    numbers = {0: number(high), rows - 1: number(low)}
    lines = [f"{numbers.get(row, ''):>{MARGIN - 1}} │{text}".rstrip() for row, text in enumerate(drawn)]
    ends = f"{first:g}".ljust(max(columns - len(f"{last:g}"), 0)) + f"{last:g}"
    return [*lines, " " * MARGIN + "└" + "─" * columns, " " * (MARGIN + 1) + ends[: max(columns, 1)]]


def value_range(values: Sequence[float]) -> tuple[float, float]:
    """Return what of an axis is shown: all values, or, where a few lie far out, the range of the others."""
    ordered = sorted(values)

    def quantile(share: float) -> float:
        return ordered[round(share * (len(ordered) - 1))]

    low, high = ordered[0], ordered[-1]
    inner = quantile(1 - FEW) - quantile(FEW)
    if inner > 0 and high - low > OUTLYING * inner:
        low, high = max(low, quantile(FEW) - inner / 2), min(high, quantile(1 - FEW) + inner / 2)
    return (low, high) if high > low else (low - abs(low) / 10 - 1e-9, high + abs(high) / 10 + 1e-9)


def number(value: float) -> str:
    """Return a value in at most ten columns."""
    text = f"{value:.4g}"
    return text if len(text) <= MARGIN - 1 else f"{value:.2e}"


def _dots(
    points: Points, *, columns: int, rows: int, x_range: tuple[float, float], y_range: tuple[float, float]
) -> set[tuple[int, int]]:
    """Return the (column, row) of the dots of a line through all points, row 0 on top."""
    (first, last), (low, high) = x_range, y_range
    dots: set[tuple[int, int]] = set()
    before: tuple[int, int] | None = None
    for x, y in points:
        column = round((x - first) / (last - first) * (columns - 1)) if last > first else 0
        share = min(max((y - low) / (high - low), 0.0), 1.0)
        here = (column, round((1 - share) * (rows - 1)))
        dots.update(_line(before or here, here))
        before = here
    return dots


def _line(begin: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    steps = max(abs(end[0] - begin[0]), abs(end[1] - begin[1]), 1)
    return [
        (round(begin[0] + (end[0] - begin[0]) * n / steps), round(begin[1] + (end[1] - begin[1]) * n / steps))
        for n in range(steps + 1)
    ]


def _braille(dots: set[tuple[int, int]], *, columns: int, rows: int) -> list[str]:
    grid = [[BLANK] * columns for _ in range(rows)]
    for column, row in dots:
        grid[row // 4][column // 2] |= DOTS[row % 4][column % 2]
    return ["".join(chr(code) if code != BLANK else " " for code in line) for line in grid]


def _stars(dots: set[tuple[int, int]], *, columns: int, rows: int) -> list[str]:
    return ["".join("*" if (column, row) in dots else " " for column in range(columns)) for row in range(rows)]
