"""The lineage of a population-based training, read from `lineage.csv` alone, whoever wrote it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LINEAGE = "lineage.csv"
COLUMNS = ("generation", "member", "parent", "epochs", "hyperparameters", "score")  # that are no hyperparameter


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member in one generation."""

    generation: int
    member: str
    parent: str  # member of the generation before, "" in the first
    score: float | None
    epochs: float | None = None  # trained by the end of the generation
    hyperparameters: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """Return its score, epochs or a hyperparameter; NaN where that is not told, or no number."""
        found = {"score": self.score, "epochs": self.epochs}
        value = found[name] if name in found else _number(self.hyperparameters.get(name))
        return math.nan if value is None else value


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Every member of every generation of one training."""

    run: str  # id, name of the folder it was found in
    folder: Path
    members: Sequence[Member]
    winner: str = ""  # of the last generation, the member whose best epoch is the run's; "" where that is not told

    @property
    def settings(self) -> list[str]:
        """The hyperparameters that were searched."""
        return list(dict.fromkeys(name for member in self.members for name in member.hyperparameters))

    def descents(self) -> list[tuple[Member, Member]]:
        """Return (parent, child) of every member whose parent is known."""
        known = {(m.generation, m.member): m for m in self.members}
        pairs = [(known.get((m.generation - 1, m.parent)), m) for m in self.members]
        return [(parent, child) for parent, child in pairs if parent is not None]

    def line(self) -> list[Member]:
        """Return the best member and whom it descends from, oldest first."""
        best = self.best()
        return [] if best is None else self.ancestors(best)

    def ancestors(self, last: Member) -> list[Member]:
        """Return a member and whom it descends from, oldest first."""
        known = {(m.generation, m.member): m for m in self.members}
        line = [last]
        while (before := known.get((line[-1].generation - 1, line[-1].parent))) is not None:
            line.append(before)
        return line[::-1]

    def best(self) -> Member | None:
        """Return the winner, or the member of the lowest score in the last generation that has scores."""
        newest = max((m.generation for m in self.members), default=0)
        won = [m for m in self.members if m.generation == newest and self.winner and m.member == self.winner]
        if won:
            return won[0]
        scored = [m for m in self.members if m.score is not None]
        last = [m for m in scored if m.generation == max(s.generation for s in scored)]
        return min(last, key=lambda m: m.score or 0.0, default=None)


def read_lineages(runs: Iterable[tuple[Path, Mapping[str, Any]]]) -> list[Lineage]:
    """Return the lineage of every run that has one; lines that are none are passed over.

    Args:
        runs: its folder, and `training` of its result, for each.
    """
    found = []
    for folder, training in runs:
        with suppress(OSError, csv.Error):
            with (folder / LINEAGE).open(newline="", encoding="utf-8", errors="replace") as file:
                members = [member for row in csv.DictReader(file) if (member := _member(row)) is not None]
            if members:
                winner = (training.get("pbt") or {}).get("winner")
                words = "" if winner is None else str(winner)
                found.append(Lineage(run=folder.name, folder=folder, members=members, winner=words))
    return found


def _member(row: Mapping[str | None, str | None]) -> Member | None:
    """Return the member that a line tells of; None where it tells of none."""
    try:
        generation = int(float(row.get("generation") or ""))
    except (ValueError, OverflowError):
        return None
    if not row.get("member"):
        return None
    return Member(
        generation=generation,
        member=str(row["member"]),
        parent=str(row.get("parent") or ""),
        score=_number(row.get("score")),
        epochs=_number(row.get("epochs")),
        hyperparameters=_hyperparameters(row),
    )


def _number(text: str | None) -> float | None:
    with suppress(TypeError, ValueError):
        value = float(text or "")
        return value if math.isfinite(value) else None
    return None


def _hyperparameters(row: Mapping[str | None, str | None]) -> dict[str, str]:
    """Return them as a JSON object in one column has them, or as columns of their own."""
    found: dict[str, object] = {str(k): v for k, v in row.items() if k and k not in COLUMNS and v}
    with suppress(ValueError, RecursionError):
        values = json.loads(row.get("hyperparameters") or "{}")
        if isinstance(values, dict):
            found |= values
    return {str(key): _short(str(value)) for key, value in found.items()}


def _short(words: str) -> str:
    """Return a number in five digits, other words as they are."""
    number = _number(words)
    return words if number is None else f"{number:.5g}"
