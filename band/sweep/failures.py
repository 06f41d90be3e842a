"""What failures of a sweep have in common: their cause, their node, a value of a parameter."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.sweep.status import RunStatus, Survey

CHANCE = 0.05  # how likely, at most, that as many of a value's runs would have failed by chance
MOST_CAUSES = 8  # that are looked at one by one, the most frequent ones
NODE, RECORDING = "node", "recording"
# Ids and numbers tell failures of one cause apart, and nothing else.
_VARYING = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|[0-9]+(?:[.][0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Failed runs of one cause."""

    error: str
    message: str  # of the first of them
    runs: tuple[str, ...]
    nodes: Mapping[str, int]  # {node: how many of them failed there}


@dataclass(frozen=True, kw_only=True)
class Standout:
    """A value of which clearly more runs failed than of all others together."""

    key: str  # of a parameter, or "node", or "recording"
    value: str
    failed: int
    runs: int  # that are over
    rest_failed: int
    rest_runs: int
    members: tuple[str, ...]  # its failed runs


def signature(status: RunStatus) -> str:
    """Return what failures of one cause have in common: the error and its message without numbers and ids."""
    first = status.message.strip().split("\n")[0]
    return f"{status.error}: {_VARYING.sub('#', first)}"


def groups(survey: Survey) -> list[Group]:
    """Return the failed runs by cause, the most frequent first."""
    found: dict[str, list[str]] = {}
    for run in survey.in_state("failed"):
        found.setdefault(signature(survey.runs[run]), []).append(run)
    return [_group(survey, runs) for runs in sorted(found.values(), key=len, reverse=True)]


def _group(survey: Survey, runs: list[str]) -> Group:
    first = survey.runs[runs[0]]
    nodes = Counter(node for node in (survey.runs[run].node for run in runs) if node)
    return Group(error=first.error, message=first.message, runs=tuple(runs), nodes=dict(nodes.most_common()))


def standouts(survey: Survey) -> list[Standout]:
    """Return the values of parameters, nodes and recordings of which clearly more runs failed, the clearest first.

    Counted are the runs that are over, failed or published. A value stands out where, had the same number of runs
    failed at random, as many of its own would have with a probability below `CHANCE`: of all failures, or of those of
    one cause, divided by how many values its parameter has and how many causes were tried (the exact test of Fisher,
    corrected as Bonferroni does).
    """
    over = {run: survey.runs[run] for run in survey.in_state("failed", "published")}
    failed = {run for run, status in over.items() if status.state == "failed"}
    if not failed:
        return []
    causes = [set(group.runs) for group in groups(survey)[:MOST_CAUSES]]
    marks = [failed, *causes] if len(causes) > 1 else [failed]
    found: list[tuple[float, Standout]] = []
    for key, value_of in _properties(survey, over).items():
        chances = [chance for mark in marks for chance in _chances(value_of, marked=mark)]
        for value in dict.fromkeys(value for value, _ in chances):
            chance = min(chance for other, chance in chances if other == value) * len(marks)
            if chance <= CHANCE:
                found.append((chance, _standout(key, value, value_of=value_of, failed=failed)))
    return [standout for _, standout in sorted(found, key=lambda pair: (pair[0], pair[1].key, pair[1].value))]


def _chances(value_of: Mapping[str, str], *, marked: set[str]) -> list[tuple[str, float]]:
    """Return how likely chance alone marks as many runs of a value, for those of which more than average are marked."""
    runs = Counter(value_of.values())
    hits = Counter(value_of[run] for run in marked if run in value_of)
    total, lost = sum(runs.values()), sum(hits.values())
    more = [value for value, count in hits.items() if count > 1 < len(runs) and count * total > lost * runs[value]]
    return [(v, at_least(hits[v], draws=runs[v], marked=lost, total=total) * len(runs)) for v in more]


def _standout(key: str, value: str, *, value_of: Mapping[str, str], failed: set[str]) -> Standout:
    runs = [run for run in value_of if value_of[run] == value]
    members = tuple(run for run in runs if run in failed)
    rest = [run for run in value_of if value_of[run] != value]
    return Standout(
        key=key,
        value=value,
        failed=len(members),
        runs=len(runs),
        rest_failed=sum(run in failed for run in rest),
        rest_runs=len(rest),
        members=members,
    )


def at_least(count: int, *, draws: int, marked: int, total: int) -> float:
    """Return the probability that of `draws` out of `total`, of which some are marked, at least `count` are marked."""
    hits = range(count, min(draws, marked) + 1)
    all_ways = _log_ways(total, draws)
    return sum(math.exp(_log_ways(marked, n) + _log_ways(total - marked, draws - n) - all_ways) for n in hits)


def _log_ways(total: int, chosen: int) -> float:
    """Return the logarithm of the number of ways to choose; the number itself may have thousands of digits."""
    if chosen > total:
        return -math.inf
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def _properties(survey: Survey, over: Mapping[str, RunStatus]) -> dict[str, dict[str, str]]:
    """Return {what runs may differ in: {run: its value in words}}."""
    manifest = survey.manifest
    properties: dict[str, dict[str, str]] = {}
    for run in manifest.runs:
        if run.id in over:
            if over[run.id].node:
                properties.setdefault(NODE, {})[run.id] = over[run.id].node
            properties.setdefault(RECORDING, {})[run.id] = Path(manifest.datasets[run.dataset]["path"]).name
            for key, value in run.overrides.items():
                properties.setdefault(key, {})[run.id] = str(value)
    return {key: _with_base(key, values, runs=over, base=manifest.base) for key, values in properties.items()}


def _with_base(key: str, values: dict[str, str], *, runs: Iterable[str], base: Mapping[str, Any]) -> dict[str, str]:
    """Give the runs that do not override a parameter the value of the base."""
    if key in (NODE, RECORDING):
        return values
    section, _, name = key.rpartition(".")
    default = str((base.get(section, {}) if section else base).get(name))
    return {run: values.get(run, default) for run in runs}
