"""A curve in characters goes where its numbers go."""

from __future__ import annotations

import math

import pytest

from band.cli.plot import BLANK, DOTS, MARGIN, number, plot, value_range


def heights(lines: list[str]) -> list[float]:
    """Return the mean height of the dots of each column, from the bottom, in dots."""
    rows = [line[MARGIN + 1 :] for line in lines[:-2]]
    assert all(line[MARGIN] == "│" for line in lines[:-2])
    found: dict[int, list[int]] = {}
    for row, text in enumerate(rows):
        for column, character in enumerate(text):
            for y in range(4):
                for x in range(2):
                    if character != " " and (ord(character) - BLANK) & DOTS[y][x]:
                        found.setdefault(2 * column + x, []).append(4 * (len(rows) - row) - y - 1)
    return [sum(found[column]) / len(found[column]) for column in sorted(found)]


def test_a_straight_line_is_straight_and_its_ends_are_named() -> None:
    lines = plot([(float(x), 2.0 * x) for x in range(1, 101)], width=70, height=12)
    assert len(lines) == 12 and all(len(line) <= 70 for line in lines)
    drawn = heights(lines)
    slope = (drawn[-1] - drawn[0]) / (len(drawn) - 1)
    assert drawn[0] < 0.5 and drawn[-1] > 38.5
    assert all(abs(height - drawn[0] - slope * column) < 1.01 for column, height in enumerate(drawn))
    assert "200 │" in lines[0] and " 2 │" in lines[9] and lines[-1].split() == ["1", "100"]


def test_a_few_values_far_out_do_not_flatten_the_rest() -> None:
    values = [1e6, *[math.exp(-n / 30) for n in range(100)]]
    low, high = value_range(values)
    assert low >= 0 and 1 < high < 3
    steep_at_first = [8000.0 - 800 * n for n in range(9)] + [1600.0 - n for n in range(91)]
    assert value_range(steep_at_first)[1] < 1800
    assert value_range([1.0, 3.0]) == (1.0, 3.0)
    low, high = value_range([5.0, 5.0])
    assert low < 5 < high


@pytest.mark.parametrize(("width", "height"), [(20, 3), (14, 4), (200, 60)])
@pytest.mark.parametrize("is_unicode", [True, False])
def test_a_curve_fits_any_size(width: int, height: int, is_unicode: bool) -> None:
    for points in (
        [(1.0, 1.0)],
        [(1.0, math.nan), (2.0, 3.0), (3.0, math.inf)],
        [(float(n), -n * 1e9) for n in range(9)],
    ):
        lines = plot(points, width=width, height=height, is_unicode=is_unicode)
        assert len(lines) == height and all(len(line) <= width for line in lines)
        assert is_unicode or all(ord(c) < 128 or c in "│└─" for line in lines for c in line)
    assert plot([], width=width, height=height) == ["nothing to draw yet"]


@pytest.mark.parametrize("value", [0.0, -1.5, 12345.678, -1.23456e-12, 4.4e300])
def test_a_number_takes_at_most_ten_columns(value: float) -> None:
    assert len(number(value)) <= 10 and float(number(value)) == pytest.approx(value, rel=1e-2)
