"""The effect of each swept parameter: runs that differ in it alone, paired, or a rank correlation where none do."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from band.sweep.collect import PublishedRun
from band.sweep.compare import varying
from band.sweep.statistics import Cell, Summary, summarise

MOST_VALUES = 8  # of a parameter that is shown step by step; above it, as one that was drawn


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a value of a parameter does to a score, against the first value, all else equal."""

    value: Any
    mean: float  # of all runs that have the value
    num_runs: int
    difference: Summary | None  # paired; None for the first value, or where no two runs differ in it alone


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a parameter does to a score of one model."""

    key: str
    model: str  # LFADS or BAND
    score: str
    steps: Sequence[Step]  # by value; empty where the values are too many
    rank_correlation: float | None  # of value and score over runs, None for words and too few runs
    num_runs: int


def effects(runs: Iterable[PublishedRun], scores: Sequence[str]) -> list[Effect]:
    """Return the effect of every parameter that was swept, on each score on test, for LFADS and BAND each."""
    good = [run for run in runs if run.outcome == "ok"]
    found = []
    for key in varying(good):
        for name in scores:
            for model in ("LFADS", "BAND"):
                own = [r for r in good if (r.weight > 0) == (model == "BAND") and r.score(name) is not None]
                if own:
                    found.append(_effect(own, key, model=model, score=name))
    return found


def order(values: Iterable[Any]) -> list[Any]:
    """Return distinct values from small to large: what is missing, then numbers, then words."""
    return sorted(set(values), key=lambda v: (v is not None, isinstance(v, str), v if v is not None else 0))


def _effect(runs: Sequence[PublishedRun], key: str, *, model: str, score: str) -> Effect:
    values = order(run.parameters[key] for run in runs)
    is_stepwise = len(values) <= MOST_VALUES
    steps = [_step(runs, key, value, first=values[0], score=score) for value in values] if is_stepwise else []
    numbers = [(float(v), float(run.score(score) or 0)) for run in runs if _is_number(v := run.parameters[key])]
    return Effect(
        key=key,
        model=model,
        score=score,
        steps=steps,
        rank_correlation=rank_correlation(numbers) if len(numbers) == len(runs) else None,
        num_runs=len(runs),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _step(runs: Sequence[PublishedRun], key: str, value: Any, *, first: Any, score: str) -> Step:
    own = _by_rest(runs, key, value=value, score=score)
    differences: dict[Cell, list[float]] = defaultdict(list)
    if value != first:
        base = _by_rest(runs, key, value=first, score=score)
        for (rest, cell), found in own.items():
            if (rest, cell) in base:
                differences[cell].append(found - base[rest, cell])
    share = fmean(run.split["test"] / run.split["train"] for run in runs)
    paired = {cell: fmean(found) for cell, found in differences.items()}
    return Step(
        value=value, mean=fmean(own.values()), num_runs=len(own), difference=summarise(paired, test_by_train=share)
    )


def _by_rest(runs: Iterable[PublishedRun], key: str, *, value: Any, score: str) -> Mapping[tuple[Any, Cell], float]:
    """Return the score of runs with a value, by all else that they are: setting, weight and cell."""
    found = {}
    for run in runs:
        if run.parameters[key] == value:
            rest = (run.weight, tuple(pair for pair in run.setting if pair[0] != key))
            found[rest, run.cell] = float(run.score(score) or 0.0)
    return found


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's rank correlation, ties sharing their mean rank; None below four pairs or without spread."""
    if len(pairs) < 4:
        return None
    first, second = (_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    means = fmean(first), fmean(second)
    cross = sum((a - means[0]) * (b - means[1]) for a, b in zip(first, second, strict=True))
    size = math.sqrt(sum((a - means[0]) ** 2 for a in first) * sum((b - means[1]) ** 2 for b in second))
    return cross / size if size else None


def _ranks(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = defaultdict(list)
    for place, value in enumerate(sorted(values)):
        places[value].append(place)
    return [fmean(places[value]) for value in values]
