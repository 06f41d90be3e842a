"""Sweeps beside each other: runs of two sweeps that have the same model, repeat and swept values, paired."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from band.sweep.collect import REPEATS, WEIGHT, PublishedRun
from band.sweep.statistics import Cell, Summary, summarise

Key = tuple[float, tuple[tuple[str, Any], ...]]  # weight of behaviour, and the values that are swept within a sweep


@dataclass(frozen=True, kw_only=True)
class Across:
    """One sweep against the first, for one weight of behaviour."""

    first: str
    second: str
    differs: Mapping[str, tuple[Any, Any]]  # what all runs of one sweep have and none of the other
    weight: float
    by_score: Mapping[str, tuple[Summary, Summary, Summary]]  # first, second, second less first, over the same pairs


def across(runs: Sequence[PublishedRun], scores: Sequence[str]) -> list[Across]:
    """Return each later sweep against the first, pair by pair, by weight of behaviour; empty for a single sweep."""
    by_sweep: dict[str, list[PublishedRun]] = defaultdict(list)
    for run in runs:
        if run.outcome == "ok":
            by_sweep[run.sweep].append(run)
    names = list(by_sweep)
    found = []
    for second in names[1:]:
        swept = sorted({key for name in (names[0], second) for key in _varied(by_sweep[name])})
        sides = [_by_key(by_sweep[name], swept) for name in (names[0], second)]
        differs = _constants(by_sweep[names[0]], by_sweep[second], swept=swept)
        for weight in sorted({key[0] for key in sides[0]} & {key[0] for key in sides[1]}):
            own = [{key: cells for key, cells in side.items() if key[0] == weight} for side in sides]
            by_score = {name: pair for name in scores if (pair := _summaries(own[0], own[1], name))}
            if by_score:
                found.append(Across(first=names[0], second=second, differs=differs, weight=weight, by_score=by_score))
    return found


def _varied(runs: Sequence[PublishedRun]) -> set[str]:
    values: dict[str, set[Any]] = defaultdict(set)
    for run in runs:
        for key, value in run.setting:
            values[key].add(value)
    return {key for key, found in values.items() if len(found) > 1}


def _by_key(runs: Sequence[PublishedRun], swept: Sequence[str]) -> dict[Key, dict[Cell, PublishedRun]]:
    found: dict[Key, dict[Cell, PublishedRun]] = defaultdict(dict)
    for run in runs:
        found[run.weight, tuple((key, run.parameters[key]) for key in swept)][run.cell] = run
    return found


def _constants(
    first: Sequence[PublishedRun], second: Sequence[PublishedRun], *, swept: Sequence[str]
) -> dict[str, tuple[Any, Any]]:
    """Return what is the same within each sweep and differs between them."""
    a, b = first[0].parameters, second[0].parameters
    keys = [key for key in a if key not in (*swept, *REPEATS, WEIGHT) and key in b]
    return {key: (a[key], b[key]) for key in keys if a[key] != b[key]}


def _summaries(
    first: Mapping[Key, Mapping[Cell, PublishedRun]], second: Mapping[Key, Mapping[Cell, PublishedRun]], name: str
) -> tuple[Summary, Summary, Summary] | None:
    """Return both sides and their difference over the pairs in which both have the score; None where there is none."""
    sides: tuple[dict[Cell, list[float]], dict[Cell, list[float]]] = (defaultdict(list), defaultdict(list))
    pairs = [
        (cell, run, second[key][cell])
        for key, cells in first.items()
        for cell, run in cells.items()
        if key in second and cell in second[key]
    ]
    for cell, a, b in pairs:
        values = a.score(name), b.score(name)
        if values[0] is not None and values[1] is not None:
            sides[0][cell].append(values[0])
            sides[1][cell].append(values[1])
    if not sides[0]:
        return None
    share = fmean(a.split["test"] / a.split["train"] for _, a, _ in pairs)
    means = [{cell: fmean(values) for cell, values in side.items()} for side in sides]
    less = {cell: means[1][cell] - means[0][cell] for cell in means[0]}
    summaries = [summarise(values, test_by_train=share) for values in (*means, less)]
    assert summaries[0] and summaries[1] and summaries[2]
    return summaries[0], summaries[1], summaries[2]
