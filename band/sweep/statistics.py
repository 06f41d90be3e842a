"""Means and intervals that can be defended: seeds within folds within sessions, and what the unit is said with them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import NamedTuple

MIN_UNITS = 5  # fewer give points and no interval
CONFIDENCE = 0.95


class Cell(NamedTuple):
    """Where a score was measured: what is repeated of one setting."""

    session: str  # dataset
    fold: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The mean of a score over independent units, with an interval only where there are enough of them."""

    mean: float
    interval: tuple[float, float] | None  # of the mean; None below MIN_UNITS units
    spread: tuple[float, float] | None  # lowest and highest unit, or seed where there is one unit; no interval
    unit: str  # "session", "fold" or "split"
    num_units: int
    num_runs: int
    num_seeds: int  # of a unit; the fewest, where they differ

    @property
    def count(self) -> str:
        """What n is, in words: "n = 5 folds x 3 seeds"."""
        units = f"{self.num_units} {self.unit}{'s' if self.num_units > 1 else ''}"
        return f"n = {units} x {self.num_seeds} seed{'s' if self.num_seeds > 1 else ''}"


def summarise(values: Mapping[Cell, float], *, test_by_train: float) -> Summary | None:
    """Return the mean of `values` over units, or None where there are none.

    Seeds are averaged within a fold first: they repeat the training, not the measurement. Where there are several
    sessions those are the units, their folds averaged, with a t interval; else folds are, with the interval of Nadeau
    and Bengio 2003, which allows for the trials that their training sets share; a single split has no interval however
    many its seeds.

    Args:
        values: a finite score for each cell.
        test_by_train: trials of the test split over those of train, in a fold.
    """
    if not values:
        return None
    folds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for cell, value in values.items():
        folds[cell.session, cell.fold].append(value)
    num_seeds = min(len(seeds) for seeds in folds.values())
    sessions: dict[str, list[float]] = defaultdict(list)
    for (session, _), seeds in folds.items():
        sessions[session].append(fmean(seeds))
    if len(sessions) > 1:
        unit, units, overlap = "session", [fmean(means) for means in sessions.values()], 0.0
    else:
        (units,) = sessions.values()
        unit, overlap = ("fold" if len(units) > 1 else "split"), test_by_train
    spread_over = units if len(units) > 1 else list(values.values())
    return Summary(
        mean=fmean(units),
        interval=t_interval(units, overlap=overlap) if len(units) >= MIN_UNITS else None,
        spread=(min(spread_over), max(spread_over)) if len(spread_over) > 1 else None,
        unit=unit,
        num_units=len(units),
        num_runs=len(values),
        num_seeds=num_seeds,
    )


def t_interval(units: Sequence[float], *, overlap: float = 0.0, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of a mean over n >= 2 units by Student's t, its variance s² (1/n + overlap).

    `overlap` 0 is for independent units; the ratio of test to train trials is the correction for folds.
    """
    mean = fmean(units)
    error = math.sqrt(variance(units) * (1 / len(units) + overlap))
    half = t_quantile((1 + confidence) / 2, degrees=len(units) - 1) * error
    return mean - half, mean + half


def t_quantile(probability: float, *, degrees: int) -> float:
    """Return the quantile of Student's t, `probability` in [0.5, 1), by bisection of its distribution function."""
    low, high = 0.0, 1.0
    while t_distribution(high, degrees=degrees) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_distribution(middle, degrees=degrees) < probability else (low, middle)
    return (low + high) / 2


def t_distribution(t: float, *, degrees: int) -> float:
    """Return the probability that Student's t with whole degrees of freedom is below `t` (Abramowitz, Stegun 26.7)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2
    term, total = cosine if is_odd else 1.0, 0.0
    for power in range(1 + is_odd, degrees, 2):
        total += term
        term *= cosine**2 * power / (power + 1)
    inside = (angle + sine * total) * 2 / math.pi if is_odd else sine * total
    return 0.5 + inside / 2
