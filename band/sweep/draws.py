"""Random settings of a sweep, the same on every machine and in every version of Python and of any library.

Each field draws from a generator of its own, seeded by (seed, field): more draws keep the first ones, and a field added
leaves the others as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from band.errors import ConfigError, did_you_mean
from band.sweep.document import field_value
from band.sweep.fields import FIELDS, flatten, mapping
from band.yaml_file import Node, kind_of, read_scalar

DIGITS = 6  # of a drawn number: beyond them, libraries of elementary functions differ
MAX_DRAWS = 100_000
NUMERIC = ("uniform", "loguniform", "uniform_int", "loguniform_int")
DISTRIBUTIONS = (*NUMERIC, "choice")


def random_points(node: Node) -> list[dict[str, Node]]:
    """Return the settings drawn by a `random` section: {full key: value} each.

    Args:
        node: a mapping of `n`, `seed` (default 0) and, for each field, one distribution, as
            `hyper.lr: {loguniform: [1e-4, 1e-2]}`.

    Raises:
        ConfigError: n missing, no field, an unknown distribution, or limits it cannot have.
    """
    entries = dict(mapping(node, where="random"))
    if "n" not in entries:
        raise ConfigError(f"{node.source}: random.n is missing; say how many settings to draw, as in n: 20")
    count = _whole(entries.pop("n"), name="random.n", low=1, high=MAX_DRAWS)
    seed = _whole(entries.pop("seed"), name="random.seed", low=0, high=2**63) if "seed" in entries else 0
    draws = flatten(Node(entries, node.source), where="random")
    if not draws:
        raise ConfigError(
            f"{node.source}: random draws no field; add one, as in hyper.lr: {{loguniform: [1e-4, 1e-2]}}"
        )
    columns = {key: _column(key, child, seed=seed, count=count) for key, child in draws.items()}
    return [{key: column[index] for key, column in columns.items()} for index in range(count)]


def _column(key: str, node: Node, *, seed: int, count: int) -> list[Node]:
    """Return `count` values of one field, in its type."""
    name, limits = _distribution(key, node)
    draw = _choice(key, limits) if name == "choice" else _number(key, name, limits)
    # Only random() is used: of the methods of Random, it alone is promised to stay as it is.
    source = random.Random(f"{seed}/{key}")
    return [field_value(key, draw(source.random())) for _ in range(count)]


def _distribution(key: str, node: Node) -> tuple[str, Node]:
    if not isinstance(node.value, dict) or len(node.value) != 1:
        names = ", ".join(DISTRIBUTIONS)
        raise ConfigError(f"{node.source}: random.{key} must be one distribution of {names}, found {kind_of(node)}")
    ((name, limits),) = node.value.items()
    if name not in DISTRIBUTIONS:
        hint = did_you_mean(name, DISTRIBUTIONS)
        raise ConfigError(f"{limits.source}: random.{key}.{name} is not a distribution; {hint}")
    if not isinstance(limits.value, list) or not limits.value:
        raise ConfigError(f"{limits.source}: random.{key}.{name} must be given a list, found {kind_of(limits)}")
    if FIELDS[key].kind == "int" and name in ("uniform", "loguniform"):
        raise ConfigError(f"{limits.source}: random.{key} must be whole numbers; write {name}_int, found {name}")
    if FIELDS[key].kind not in ("int", "float") and name != "choice":
        raise ConfigError(f"{limits.source}: random.{key} is not a number; write choice, found {name}")
    return name, limits


def _choice(key: str, limits: Node) -> Callable[[float], Node]:
    values = [field_value(key, child) for child in limits.value]
    return lambda share: values[int(share * len(values))]


def _number(key: str, name: str, limits: Node) -> Callable[[float], Node]:
    """Return the inverse of a distribution's cumulative function: [0, 1) to values."""
    where, values = f"random.{key}.{name}", [_as_number(child) for child in limits.value]
    is_whole, is_log = name.endswith("_int"), name.startswith("log")
    fits = len(values) == 2 and None not in values
    if not fits or not (low := values[0] or 0) < (high := values[1] or 0):
        raise ConfigError(f"{limits.source}: {where} must be [low, high] with low < high, found {values}")
    if is_log and low <= 0:
        raise ConfigError(f"{limits.source}: {where} must begin above 0, found {values}")
    if is_whole and not (low == int(low) and high == int(high)):
        raise ConfigError(f"{limits.source}: {where} must have whole limits, found {values}")
    top = high + 1 if is_whole else high

    def draw(share: float) -> Node:
        value = low * (top / low) ** share if is_log else low + (top - low) * share
        value = int(float(f"{value:.9g}")) if is_whole else float(f"{value:.{DIGITS}g}")
        return Node(min(max(value, low), high), limits.source)

    return draw


def _as_number(node: Node) -> float | None:
    value = read_scalar(node.value) if isinstance(node.value, str) else node.value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e300 else None


def _whole(node: Node, *, name: str, low: int, high: int) -> int:
    value = _as_number(node)
    if value is None or value != int(value) or not low <= value <= high:
        raise ConfigError(f"{node.source}: {name} must be a whole number in [{low}, {high}], found {kind_of(node)}")
    return int(value)
