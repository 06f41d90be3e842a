"""What a sweep file varies, as axes of points: each point sets some fields, and runs are combinations of points."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from band.errors import ConfigError
from band.sweep.document import Document, absolute, field_value
from band.sweep.draws import random_points
from band.sweep.fields import flatten, mapping, resolve_key
from band.yaml_file import Node, Source, kind_of, plain

WEIGHT = "hyper.behavior_weight"
MAX_SEEDS = 100_000
Point = dict[str, Node]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One way in which runs differ; `origin` is what the sweep file calls it."""

    origin: str
    points: list[Point]

    @property
    def keys(self) -> list[str]:
        """The fields that its points set, in the order in which they first appear."""
        return list(dict.fromkeys(key for point in self.points for key in point))

    @property
    def source(self) -> Source:
        """Where the first of its values stands."""
        return next(node.source for point in self.points for node in point.values())


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Leaves out the runs in which every key has one of its values."""

    source: Source
    values: dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """All axes of a sweep: (product + explicit) x outer x pair, without what `exclude` leaves out."""

    product: list[Axis]  # grid, zip, random
    explicit: list[Point]  # list
    outer: list[Axis]  # folds, seeds, datasets: slowest first
    pair: Axis | None
    exclude: list[Rule]

    def every(self) -> list[Axis]:
        """Return all axes, explicit runs as one."""
        listed = [Axis(origin="list", points=self.explicit)] if self.explicit else []
        return [*self.outer, *self.product, *listed, *([self.pair] if self.pair else [])]


def read_axes(document: Document) -> Axes:
    """Return the axes of a sweep file.

    Raises:
        ConfigError: a section of the wrong form, an unknown field, a value of the wrong type.
    """
    product = [*_grid(document), *_zips(document)]
    if document.get("random").value is not None:
        product.append(Axis(origin="random", points=random_points(document.get("random"))))
    outer = [axis for axis in (_folds(document), _seeds(document), _datasets(document)) if axis]
    pair, exclude = _pair(document), _exclude(document)
    return Axes(product=product, explicit=_explicit(document), outer=outer, pair=pair, exclude=exclude)


def _values(key: str, node: Node, *, where: str) -> list[Node]:
    if not isinstance(node.value, list) or not node.value:
        raise ConfigError(f"{node.source}: {where}.{key} must be a list of values, found {kind_of(node)}")
    return [field_value(key, child) for child in node.value]


def _grid(document: Document) -> list[Axis]:
    axes = []
    for key, node in mapping(document.get("grid"), where="grid").items():
        points = [{key: value} for value in _values(key, node, where="grid")]
        axes.append(Axis(origin="grid", points=points))
    return axes


def _zips(document: Document) -> list[Axis]:
    node = document.get("zip")
    groups = node.value if isinstance(node.value, list) else [node]
    return [axis for group in groups for axis in _zip(group)]


def _zip(node: Node) -> list[Axis]:
    columns = {key: _values(key, child, where="zip") for key, child in flatten(node, where="zip").items()}
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise ConfigError(f"{node.source}: zip must have lists of equal length, found: {found}")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [Axis(origin="zip", points=rows)] if rows else []


def _explicit(document: Document) -> list[Point]:
    node = document.get("list")
    if node.value is None:
        return []
    if not isinstance(node.value, list) or not node.value:
        raise ConfigError(f"{node.source}: list must be a list of runs, found {kind_of(node)}")
    points = []
    for entry in node.value:
        flat = flatten(entry, where="list")
        if not flat:
            raise ConfigError(f"{entry.source}: list has an entry that sets nothing; name at least one field")
        points.append({key: field_value(key, child) for key, child in flat.items()})
    return points


def _whole(key: str, node: Node, *, where: str) -> int:
    value = field_value(key, node).value
    if not isinstance(value, int) or not 1 <= value <= MAX_SEEDS:
        raise ConfigError(f"{node.source}: {where} must be in [1, {MAX_SEEDS}], found {kind_of(node)}")
    return value


def _seeds(document: Document) -> Axis | None:
    node = document.get("seeds")
    if node.value is None:
        return None
    if isinstance(node.value, list):
        values = _values("seed", node, where="seeds")
    elif isinstance(node.value, dict):
        raise ConfigError(f"{node.source}: seeds must be how many, or a list of seeds, found a mapping")
    else:
        values = [Node(seed, node.source) for seed in range(_whole("seed", node, where="seeds"))]
    return Axis(origin="seeds", points=[{"seed": value} for value in values])


def _folds(document: Document) -> Axis | None:
    node = document.get("folds")
    if node.value is None:
        return None
    if isinstance(node.value, (list, dict)):
        raise ConfigError(f"{node.source}: folds must be how many, found {kind_of(node)}; exclude leaves some out")
    count = _whole("data.num_folds", node, where="folds")
    folds = [{"data.num_folds": Node(count, node.source), "data.fold": Node(k, node.source)} for k in range(count)]
    return Axis(origin="folds", points=folds)


def _pair(document: Document) -> Axis | None:
    """Return LFADS and its BAND twins as an axis over the behaviour weight."""
    node = document.get("pair")
    if node.value is None:
        return None
    if isinstance(node.value, dict):
        for text, child in node.value.items():
            key = resolve_key(text, source=child.source)
            if key != WEIGHT:
                hint = "put it under grid, which is crossed with the pair"
                raise ConfigError(f"{child.source}: pair must be over behavior_weight alone, found {key}; {hint}")
        if len(node.value) != 1:
            raise ConfigError(f"{node.source}: pair must be behavior_weight and its values, as in [0.1, 1]")
        node = next(iter(node.value.values()))
    weights = [field_value(WEIGHT, child) for child in (node.value if isinstance(node.value, list) else [node])]
    for weight in weights:
        if not isinstance(weight.value, float) or weight.value <= 0:
            hint = "the LFADS run of weight 0 is added to every pair"
            raise ConfigError(f"{weight.source}: pair.behavior_weight must be above 0, found {weight.value}; {hint}")
    if not weights:
        raise ConfigError(f"{node.source}: pair.behavior_weight must have a value, found an empty list")
    return Axis(origin="pair", points=[{WEIGHT: Node(0.0, node.source)}, *({WEIGHT: weight} for weight in weights)])


def _datasets(document: Document) -> Axis | None:
    node = document.get("datasets")
    if node.value is None:
        return None
    entries = node.value if isinstance(node.value, list) else [node]
    points = [point for entry in entries for point in _dataset_points(entry)]
    if not points:
        raise ConfigError(f"{node.source}: datasets must name a file, found an empty list")
    return Axis(origin="datasets", points=points)


def _dataset_points(entry: Node) -> list[Point]:
    """Return a point for each file of one entry: a path, a pattern, or a mapping of `path` and fields."""
    flat = flatten(entry, where="datasets") if isinstance(entry.value, dict) else {"data.path": entry}
    if "data.path" not in flat:
        raise ConfigError(f"{entry.source}: datasets has an entry without path")
    path = flat.pop("data.path")
    if not isinstance(path.value, str) or not path.value:
        raise ConfigError(f"{path.source}: datasets must be paths of HDF5 files, found {kind_of(path)}")
    rest = {key: field_value(key, child) for key, child in flat.items()}
    return [{"data.path": Node(absolute(file), file.source), **rest} for file in _files(path)]


def _files(path: Node) -> list[Node]:
    if not glob.has_magic(path.value):
        return [path]
    folder = path.source.folder
    files = sorted(glob.glob(os.path.expanduser(path.value), root_dir=folder))
    if not files:
        raise ConfigError(f"{path.source}: datasets: no file in {folder} matches {path.value}")
    return [Node(file, path.source) for file in files]


def _exclude(document: Document) -> list[Rule]:
    node = document.get("exclude")
    if node.value is None:
        return []
    rules = []
    for entry in node.value if isinstance(node.value, list) else [node]:
        flat = flatten(entry, where="exclude")
        if not flat:
            raise ConfigError(f"{entry.source}: exclude has a rule without fields, which would leave out every run")
        values = {}
        for key, child in flat.items():
            allowed = child.value if isinstance(child.value, list) else [child]
            values[key] = [field_value(key, item).value for item in allowed]
        rules.append(Rule(source=entry.source, values=values))
    return rules


def check_conflicts(axes: Axes, document: Document) -> None:
    """Raise ConfigError where a value would reach no run, because an axis sets the same field otherwise."""
    everywhere = [axis for axis in axes.every() if axis.origin != "list"]
    by_key: dict[str, Axis] = {}
    for axis in everywhere:
        for key in axis.keys:
            if key in by_key:
                first = by_key[key]
                raise ConfigError(
                    f"{axis.source}: {key} is swept twice, by {first.origin} ({first.source}) and by {axis.origin}; "
                    "one would not reach the runs: keep one"
                )
            by_key[key] = axis
    _check_listed(axes, by_key)
    if axes.explicit and not axes.product:
        shared = set.intersection(*(set(point) for point in axes.explicit))
        by_key |= {key: Axis(origin="list", points=axes.explicit) for key in shared}
    _check_base(by_key, document)


def _check_listed(axes: Axes, by_key: dict[str, Axis]) -> None:
    """A run of `list` may choose its own dataset, seed, fold or weight; what else a dataset sets it may not set."""
    for point in axes.explicit:
        for key, node in point.items():
            if by_key.get(key) and by_key[key].origin == "datasets" and key != "data.path":
                origin = by_key[key].source
                raise ConfigError(f"{node.source}: {key} is set by list and by datasets ({origin}); keep one")


def _check_base(by_key: dict[str, Axis], document: Document) -> None:
    for key, node in document.base().items():
        if key in by_key and not node.source.line:
            axis = by_key[key]
            hint = f"replace the axis instead, as in --set {_replacement(axis, key)}"
            raise ConfigError(
                f"{node.source}: would not reach any run, {key} is swept by {axis.origin} ({axis.source}); {hint}"
            )
    for reference in document.references:
        if reference.key in by_key:
            axis = by_key[reference.key]
            raise ConfigError(
                f"{reference.source}: ${{base.{reference.key}}} would not follow the runs, {reference.key} is swept by "
                f"{axis.origin} ({axis.source}); write ${{{reference.key}}} for the value it has in each run"
            )


def _replacement(axis: Axis, key: str) -> str:
    if axis.origin == "pair":
        return f"'pair={[plain(point[key]) for point in axis.points[1:]]}'"
    if axis.origin == "grid":
        return f"'grid.{key}={[plain(point[key]) for point in axis.points if key in point]}'"
    return f"{axis.origin}=…"


def count_combinations(axes: Iterable[Axis]) -> int:
    """Return how many combinations of points there are, one of each axis."""
    total = 1
    for axis in axes:
        total *= len(axis.points)
    return total
