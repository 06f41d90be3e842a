"""One combination of a sweep after another becomes a run: ties followed, checked, without a double, named.

Ten thousand runs differ in few values, so each distinct section, and each distinct fit to a recording, is checked once.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from band.config import SECTIONS, RunConfig, section_from_dict
from band.data.digest import check_content, dataset_digest, dataset_shapes, file_digest
from band.errors import ConfigError, DataError
from band.sweep.axes import Axes, Axis, Point
from band.sweep.checks import SUPPORT_OF, check_fit, check_recording, not_reached
from band.sweep.document import field_value
from band.sweep.fields import FIELDS
from band.sweep.identity import UNHASHED, run_id, without_effect
from band.sweep.interpolate import Tie
from band.sweep.manifest import Run
from band.yaml_file import Node

_KEY = re.compile(r"[a-z]\w*(\.\w+)?")


def located(error: ConfigError, point: Point) -> ConfigError:
    """Return `error`, whose message begins with a full key, with where that key was given in front."""
    key = _KEY.match(str(error))
    node = point.get(key[0]) if key else None
    return ConfigError(f"{node.source}: {error}") if node else error


def follow_ties(point: Point) -> Point:
    """Return `point` with every tie replaced by the value of the field it names.

    Raises:
        ConfigError: ties in a circle, or a value of another type.
    """
    followed = dict(point)
    for key, node in point.items():
        seen = [key]
        value = node.value
        while isinstance(value, Tie):
            seen.append(value.key)
            if value.key not in FIELDS or seen.count(value.key) > 1:
                problem = "there is no such field" if value.key not in FIELDS else " -> ".join(seen)
                raise ConfigError(f"{node.source}: {key}: ${{{value.key}}} cannot be followed: {problem}")
            value = point[value.key].value if value.key in point else FIELDS[value.key].default
        followed[key] = field_value(key, Node(value, node.source)) if len(seen) > 1 else node
    return followed


class Datasets:
    """The recordings of a sweep, each read once; `entries` are as the manifest has them."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._index: dict[str, int] = {}

    def index(self, node: Node | None) -> int:
        """Return the place in `entries` of the recording at the path that `node` holds.

        Raises:
            ConfigError: there is no path.
            DataError: the recording cannot be read, or has nothing to train on.
        """
        if node is None or not node.value:
            raise ConfigError(
                "data.path is missing; name the recording under base.data.path, or several under datasets"
            )
        if node.value not in self._index:
            try:
                self.entries.append(_read(node.value))
            except DataError as error:
                raise DataError(f"{node.source}: data.path: {error}") from None
            self._index[node.value] = len(self.entries) - 1
        return self._index[node.value]


def _read(path: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "path": path,
        "digest": dataset_digest(path),
        "file_digest": file_digest(path),
        "size_bytes": os.stat(path).st_size,
        "shapes": dataset_shapes(path),
    }
    check_recording(entry["shapes"], path=path)
    return entry


class Resolver:
    """Collects the runs of one sweep file; `add` each combination, then `check_reach`."""

    def __init__(self, base: Point, axes: Axes) -> None:
        swept = list(dict.fromkeys(key for axis in axes.every() for key in axis.keys))
        tied = [key for key, node in base.items() if isinstance(node.value, Tie)]
        self._base, self._axes, self._swept = base, axes, swept
        self._reachable = [key for key in swept if key not in UNHASHED]
        self._has_ties = any(isinstance(n.value, Tie) for p in _points(axes) for n in p.values()) or bool(tied)
        self._varied = list(dict.fromkeys([*swept, *tied]))
        self._fields = {name: [key for key in FIELDS if key.startswith(f"{name}.")] for name in SECTIONS}
        self._varied_in = {name: [key for key in self._varied if key in keys] for name, keys in self._fields.items()}
        self._sections: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = {}
        self._fits: set[tuple[Any, ...]] = set()
        self._idle: dict[str, str] = {}
        self._reached: set[str] = set()
        self._matched = [0] * len(axes.exclude)
        self.datasets = Datasets()
        self.runs: dict[str, Run] = {}
        self.duplicates: Counter[str] = Counter()
        self._reasons: dict[str, list[str]] = {}
        self.base_config = self._plain(follow_ties(base))

    @property
    def excluded(self) -> int:
        """Number of combinations that a rule left out."""
        return sum(self._matched)

    def add(self, point: Point) -> None:
        """Add the run of one combination unless it is excluded or there already.

        Raises:
            ConfigError: a value is out of its range, or does not fit the recording.
            DataError: the recording cannot be read.
        """
        point = {**self._base, **point}
        if self._has_ties:
            point = follow_ties(point)
        if self._is_excluded(point):
            return
        try:
            index, config, idle = self._checked(point)
            dropped = [key for key in self._swept if key in idle and _value(point, key) != self._base_value(key)]
            if dropped:
                # A field without effect keeps its base value, so that one run has one configuration.
                kept = {key: node for key, node in point.items() if key not in dropped}
                index, config, _ = self._checked({**kept, **{k: self._base[k] for k in dropped if k in self._base}})
        except ConfigError as error:
            raise located(error, point) from None
        self._note_reach(point, idle, index)
        self._keep(config, index=index, reasons=[f"{key} has no effect where {idle[key]}" for key in dropped])

    def check_reach(self) -> list[str]:
        """Return what a reader should know, once every combination was added.

        Raises:
            ConfigError: a field is swept without reaching a run, or no run is left.
        """
        if not self.runs:
            raise ConfigError(f"{self._axes.exclude[0].source}: exclude leaves out every run")
        for axis in self._axes.every():
            for key in axis.keys:
                self._check_reach_of(key, axis)
        rules = zip(self._axes.exclude, self._matched, strict=True)
        return [f"{rule.source}: exclude: no run matches {_rule(rule.values)}" for rule, count in rules if not count]

    def _check_reach_of(self, key: str, axis: Axis) -> None:
        nodes = [point[key] for point in axis.points if key in point]
        if key in self._reached or len({node.value for node in nodes}) < 2:
            return
        entries, reason = self.datasets.entries, ""
        if key in self._idle:
            reason = f"{self._idle[key]} in all of them"
        elif key == "data.path" and len(entries) > 1 and len({entry["digest"] for entry in entries}) == 1:
            reason = " and ".join(entry["path"] for entry in entries[:2]) + " hold the same data"
        elif key in UNHASHED and key != "data.path" and len(axis.keys) == 1:
            reason = f"{UNHASHED[key]}; set it under base"
        if reason:
            raise ConfigError(f"{nodes[0].source}: {axis.origin}.{key} would not reach the runs: {reason}")

    def _note_reach(self, point: Point, idle: Mapping[str, str], index: int) -> None:
        if len(self._reached) == len(self._reachable):
            return
        shapes = self.datasets.entries[index]["shapes"]
        idle = {**idle, **not_reached(self._nested(point), shapes)}
        self._idle |= idle
        self._reached |= {key for key in self._reachable if key in point and key not in idle}

    def _nested(self, point: Point) -> dict[str, Any]:
        return {name: self._section(name, point)[1] for name in SECTIONS}

    def _is_excluded(self, point: Point) -> bool:
        for place, rule in enumerate(self._axes.exclude):
            if all(_value(point, key) in values for key, values in rule.values.items()):
                self._matched[place] += 1
                return True
        return False

    def _checked(self, point: Point) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Return recording, full configuration, and the fields without effect, of a combination that can be run."""
        built = {name: self._section(name, point) for name in SECTIONS}
        seed = _value(point, "seed")
        RunConfig(**{name: part for name, (part, _) in built.items()}, seed=seed)
        config: dict[str, Any] = {**{name: values for name, (_, values) in built.items()}, "seed": seed}
        index = self.datasets.index(point.get("data.path"))
        fit = (
            index,
            bool(config["hyper"]["behavior_weight"]),
            *(id(built[name][0]) for name in ("data", "arch", "train")),
        )
        if fit not in self._fits:
            entry = self.datasets.entries[index]
            check_fit(config, entry["shapes"], path=entry["path"])
            self._check_content(config, entry, point)
            self._fits.add(fit)
        return index, config, without_effect(config)

    @staticmethod
    def _check_content(config: Mapping[str, Any], entry: Mapping[str, Any], point: Point) -> None:
        """Look through the recording's values as this run will; one of a likelihood of its own looks when it starts."""
        likelihood = SUPPORT_OF.get(config["arch"]["reconstruction"])
        if likelihood is None:
            return
        try:
            check_content(entry["path"], likelihood=likelihood, missing=config["data"]["missing"])
        except DataError as error:
            where = point["data.path"].source if "data.path" in point else entry["path"]
            raise DataError(f"{where}: data.path: {error}") from None

    def _section(self, name: str, point: Point) -> tuple[Any, dict[str, Any]]:
        """Return one section as a checked dataclass and as plain values, built once for each set of values."""
        key = (name, *[_value(point, field) for field in self._varied_in[name]])
        if key not in self._sections:
            given = {field.partition(".")[2]: point[field].value for field in self._fields[name] if field in point}
            part = section_from_dict(name, given)
            self._sections[key] = (part, dict(vars(part)))
        return self._sections[key]

    def _keep(self, config: dict[str, Any], *, index: int, reasons: list[str]) -> None:
        identity = run_id(config, dataset_digest=self.datasets.entries[index]["digest"])
        if identity not in self.runs:
            self.runs[identity] = Run(identity, index, self._overrides(config))
            self._reasons[identity] = reasons
            return
        is_copy = index != self.runs[identity].dataset
        default = "the recordings hold the same data" if is_copy else "the same values are given twice"
        self.duplicates["; ".join(reasons or self._reasons[identity]) or default] += 1

    def _overrides(self, config: dict[str, Any]) -> dict[str, Any]:
        overrides = {}
        for key in self._varied:
            section, _, name = key.rpartition(".")
            value = (config[section] if section else config)[name]
            if value != (self.base_config[section] if section else self.base_config)[name] and key != "data.path":
                overrides[key] = value
        return overrides

    def _base_value(self, key: str) -> Any:
        section, _, name = key.rpartition(".")
        return (self.base_config[section] if section else self.base_config)[name]

    def _plain(self, point: Point) -> dict[str, Any]:
        """Return a full configuration without the rules that hold between its fields."""
        nested: dict[str, Any] = {name: {} for name in SECTIONS}
        for key in FIELDS:
            section, _, name = key.rpartition(".")
            (nested[section] if section else nested)[name] = _value(point, key)
        return nested


def _value(point: Point, key: str) -> Any:
    return point[key].value if key in point else FIELDS[key].default


def _points(axes: Axes) -> list[Point]:
    return [point for axis in axes.every() for point in axis.points]


def _rule(values: Mapping[str, list[Any]]) -> str:
    return ", ".join(f"{key} {' or '.join(map(str, allowed))}" for key, allowed in values.items())
