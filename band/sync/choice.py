"""What of a sweep is wanted: parts of a run, its outcome, values of parameters, names."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from band.errors import ConfigError, did_you_mean
from band.run_dir import RESULT
from band.sweep.collect import flatten
from band.sweep.control import match_runs
from band.sweep.manifest import Manifest, Run

PARTS = ("results", "metrics", "outputs", "checkpoints", "logs")
DEFAULT_PARTS = PARTS[:-1]
STATES = ("done", "ok", "diverged")  # "done": either
_PART_OF = {RESULT: "results", "metrics.csv": "metrics", "model.pt": "checkpoints"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which runs are wanted, and what of them."""

    parts: tuple[str, ...] = DEFAULT_PARTS
    states: tuple[str, ...] = ("done",)
    where: Mapping[str, tuple[Any, ...]] | None = None  # full key: values of which it must have one
    patterns: tuple[str, ...] = ()

    @property
    def is_of_some(self) -> bool:
        """Whether it names runs, and does not take all that are done."""
        return bool(self.patterns or self.where) or "done" not in self.states

    def has_outcome(self, outcome: str) -> bool:
        """Return whether runs that ended so are wanted."""
        return "done" in self.states or outcome in self.states

    def takes(self, name: str) -> bool:
        """Return whether a file of a run is wanted; its result.json always is, for it proves the rest."""
        return name == RESULT or _PART_OF.get(name, "outputs") in self.parts

    def runs(self, manifest: Manifest) -> list[Run]:
        """Return the runs that names and parameters leave.

        Raises:
            SweepError: a name fits no run.
            ConfigError: there is no such parameter.
        """
        named = set(match_runs(manifest, self.patterns)) if self.patterns else None
        runs = [run for run in manifest.runs if named is None or run.id in named]
        if not self.where:
            return runs
        known = flatten(manifest.base)
        for key in self.where:
            if key not in known:
                raise ConfigError(f"--where: {key} is no parameter of {manifest.name}; {did_you_mean(key, known)}")
        return [run for run in runs if _fits(flatten(manifest.run_config(run)), self.where)]


def _fits(values: Mapping[str, Any], where: Mapping[str, Iterable[Any]]) -> bool:
    return all(any(_equal(values[key], wanted) for wanted in choices) for key, choices in where.items())


def _equal(value: Any, wanted: Any) -> bool:
    """Return whether a value is the one wanted: numbers as numbers, text also by * and ?."""
    if isinstance(value, str):
        return fnmatch.fnmatchcase(value, str(wanted))
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def parse_where(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Return {key: values} of KEY=VALUE[,VALUE…].

    Raises:
        ConfigError: one is not of that form.
    """
    where: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise ConfigError(f"--where must be given KEY=VALUE, such as hyper.behavior_weight=0.1, got {text!r}")
        where[key.strip()] = tuple(_value(value.strip()) for value in values.split(","))
    return where


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def parse_list(text: str, *, choices: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the words of a list with commas; "all" is every one.

    Raises:
        ConfigError: a word is none of `choices`.
    """
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in words:
        if word not in (*choices, "all"):
            raise ConfigError(f"{what}: {word!r} is none of {', '.join(choices)}, all; {did_you_mean(word, choices)}")
    return tuple(choices) if "all" in words or not words else words
