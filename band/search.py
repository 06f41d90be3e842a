"""The search space of population-based training: how each hyperparameter starts and changes; no torch, no numpy.

A space is kept in a configuration as canonical JSON text, {full key: {field: value}}: it has one form and a hash.
Draws depend on the names given to them alone: a hyperparameter added leaves the others as they are.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from band.errors import ConfigError, did_you_mean

DRAWS = ("loguniform", "uniform")
EXPLORES = ("linear", "log")
DIGITS = 6  # of a value that was drawn or changed: beyond them, libraries of elementary functions differ
LEAST_CHANGE = 0.002  # of `change`: a child is never as good as its parent's copy
MAX_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class SearchParam:
    """How one hyperparameter starts and changes in a search."""

    low: float  # range of the first draw
    high: float
    draw: str = "loguniform"  # the first draw; or uniform
    start: float | None = None  # where every member starts, in place of a draw
    change: float = 0.2  # a child's value differs from its parent's by this share at most
    explore: str = "linear"  # factors are drawn evenly in [1 - change, 1 + change]; log: their logarithms
    min: float | None = None  # limits of what it may become; None: low and high
    max: float | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest value it may become."""
        return (self.low if self.min is None else self.min), (self.high if self.max is None else self.max)

    def __post_init__(self) -> None:
        for name in ("draw", "explore"):
            known, value = (DRAWS if name == "draw" else EXPLORES), getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if (
                field.name not in ("draw", "explore")
                and not is_number
                and not (value is None and field.default is None)
            ):
                raise ConfigError(f"{field.name} must be a number, got {value!r}")
        self._check_ranges()

    def _check_ranges(self) -> None:
        least, most = self.limits
        rules = (
            (self.low < self.high, "low", f"below high = {self.high}", self.low),
            (self.draw != "loguniform" or self.low > 0, "low", "above 0 where draw is loguniform", self.low),
            (0 < self.change < 1, "change", "in (0, 1)", self.change),
            (least >= 0, "min", "at least 0", least),
            (least <= self.low and self.high <= most, "min and max", "outside of low and high", [least, most]),
            (self.start is None or least <= self.start <= most, "start", f"in [{least}, {most}]", self.start),
        )
        for holds, name, rule, value in rules:
            if not holds:
                raise ConfigError(f"{name} must be {rule}, got {value}")


Space = dict[str, SearchParam]


def read_space(values: Mapping[str, Any] | str, *, where: str) -> Space:
    """Return a search space from {full key: {field: value}}, or from the text that `space_text` makes of it.

    Raises:
        ConfigError: unknown fields, values of another type or out of their range.
    """
    if isinstance(values, str):
        try:
            values = json.loads(values or "{}")
        except ValueError as error:
            raise ConfigError(f"{where} must be JSON, got {error}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a mapping of hyperparameters, got {values!r}")
    return {key: _param(entry, where=f"{where}.{key}") for key, entry in sorted(values.items())}


def _param(entry: Any, *, where: str) -> SearchParam:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} must be a mapping such as {{low: 1e-4, high: 1e-2}}, got {entry!r}")
    known = [field.name for field in dataclasses.fields(SearchParam)]
    for name in entry:
        if name not in known:
            raise ConfigError(f"{where}.{name} is not a field of a search; {did_you_mean(str(name), known)}")
    if missing := [name for name in ("low", "high") if name not in entry]:
        raise ConfigError(f"{where}.{missing[0]} is missing; give low and high, the range that members start in")
    try:
        return SearchParam(**entry)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None


def space_text(space: Space) -> str:
    """Return a search space as canonical JSON, fields at their default left out."""
    defaults = {field.name: field.default for field in dataclasses.fields(SearchParam)}
    plain = {
        key: {name: value for name, value in vars(param).items() if value != defaults[name]}
        for key, param in sorted(space.items())
    }
    return json.dumps(plain, sort_keys=True, separators=(",", ":")) if plain else ""


def draw_start(param: SearchParam, name: str) -> float:
    """Return the value that a member starts with; `name` is what the draw depends on."""
    if param.start is not None:
        return float(param.start)
    share = random.Random(name).random()
    if param.draw == "uniform":
        return _rounded(param.low + (param.high - param.low) * share, param)
    return _rounded(param.low * (param.high / param.low) ** share, param)


def explore(param: SearchParam, value: float, name: str) -> float:
    """Return a changed value within the limits; `name` is what the change depends on. 0 stays 0.

    A change that would leave the limits is drawn again, so that values do not pile up there.
    """
    least, most = param.limits
    changed = value
    for factor in _factors(param, random.Random(name)):
        changed = value * factor
        if least <= changed <= most:
            break
    return _rounded(changed, param)


def _factors(param: SearchParam, source: random.Random) -> Iterator[float]:
    for _ in range(MAX_TRIES):
        size = LEAST_CHANGE + (1 - LEAST_CHANGE) * source.random()
        sign = 1 if source.random() < 0.5 else -1
        yield (1 + param.change) ** (sign * size) if param.explore == "log" else 1 + sign * size * param.change


def _rounded(value: float, param: SearchParam) -> float:
    least, most = param.limits
    return min(max(float(f"{value:.{DIGITS}g}"), float(least)), float(most))
