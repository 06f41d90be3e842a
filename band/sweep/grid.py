"""From a sweep file to its runs: every combination, checked, each thing once, with the id it has everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.config import run_config_from_dict, to_dict
from band.errors import ConfigError
from band.sweep.axes import Axes, Point, check_conflicts, count_combinations, read_axes
from band.sweep.checks import check_fit
from band.sweep.document import Document, read_document
from band.sweep.manifest import Run
from band.sweep.resolve import Datasets, Resolver, follow_ties, located

MAX_COMBINATIONS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """The runs of a sweep file, and how they came about.

    `base` is a full configuration, `datasets` are as the manifest has them, `excluded` counts combinations left out,
    `duplicates` counts those that resolve to a run that is there already by why they do, `notes` are for the reader.
    """

    base: dict[str, Any]
    datasets: list[dict[str, Any]]
    runs: list[Run]
    axes: Axes
    excluded: int
    duplicates: dict[str, int]
    notes: list[str]


def expand(document: Document) -> Expansion:
    """Return the runs of a sweep file: (grid x zip x random + list) x folds x seeds x datasets x pair - exclude.

    Raises:
        ConfigError: a value out of its range or not fitting its recording, an axis that reaches no run, no run at all.
        DataError: a recording cannot be read.
    """
    axes = read_axes(document)
    check_conflicts(axes, document)
    _check_size(axes, document)
    resolver = Resolver(document.base(), axes)
    for point in combinations(axes):
        resolver.add(point)
    notes = resolver.check_reach()
    return Expansion(
        base=resolver.base_config,
        datasets=resolver.datasets.entries,
        runs=list(resolver.runs.values()),
        axes=axes,
        excluded=resolver.excluded,
        duplicates=dict(resolver.duplicates),
        notes=notes,
    )


def combinations(axes: Axes) -> Iterator[Point]:
    """Yield what each run sets beyond the base; folds change slowest, the behaviour weight of a pair fastest.

    A run of `list` that sets a field of folds, seeds, datasets or pair itself is not crossed with that axis.
    """
    rows = itertools.product(*(axis.points for axis in axes.product)) if axes.product or not axes.explicit else ()
    settings = [(_merged(row), _NOTHING) for row in rows]
    crossed = [*axes.outer, *([axes.pair] if axes.pair else [])]
    settings += [(point, frozenset(a.origin for a in crossed if point.keys() & set(a.keys))) for point in axes.explicit]
    pairs = axes.pair.points if axes.pair else [{}]
    for places in itertools.product(*(range(len(axis.points)) for axis in axes.outer)):
        outer = [(axis.origin, place, axis.points[place]) for axis, place in zip(axes.outer, places, strict=True)]
        every = _merged(point for _, _, point in outer)
        for setting, own in settings:
            if any(place and origin in own for origin, place, _ in outer):
                continue
            above = _merged(point for origin, _, point in outer if origin not in own) if own else every
            for pair in pairs if "pair" not in own else pairs[:1]:
                yield {**above, **pair, **setting}


def single_run(path: str | Path, *, sets: Sequence[str] = ()) -> dict[str, Any]:
    """Return the full configuration of one run: a sweep file's base with `sets` over it, its axes left aside.

    Args:
        path: a sweep file; where its base names no recording, the first of `datasets` is taken.
        sets: `key=value` with full or bare names, as in behavior_weight=0.1.

    Raises:
        ConfigError: as `expand`.
        DataError: the recording cannot be read.
    """
    document = read_document(Path(path), sets=sets)
    point, datasets = document.base(), Datasets()
    if "data.path" not in point:
        point |= next((axis.points[0] for axis in read_axes(document).outer if axis.origin == "datasets"), {})
    point = follow_ties(point)
    try:
        entry = datasets.entries[datasets.index(point.get("data.path"))]
        config = to_dict(run_config_from_dict(_nested(point)))
        check_fit(config, entry["shapes"], path=entry["path"])
    except ConfigError as error:
        raise located(error, point) from None
    return config


_NOTHING: frozenset[str] = frozenset()


def _merged(points: Iterator[Point] | Sequence[Point]) -> Point:
    merged: Point = {}
    for point in points:
        merged |= point
    return merged


def _nested(point: Point) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, node in point.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = node.value
    return nested


def _check_size(axes: Axes, document: Document) -> None:
    settings = count_combinations(axes.product) if axes.product or not axes.explicit else 0
    crossed = count_combinations([*axes.outer, *([axes.pair] if axes.pair else [])])
    total = (settings + len(axes.explicit)) * crossed
    if total > MAX_COMBINATIONS:
        raise ConfigError(
            f"{document.path}: must be at most {MAX_COMBINATIONS} combinations, found {total}; draw some by random"
        )
