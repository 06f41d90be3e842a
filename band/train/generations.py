"""The state of a search between two generations, without tensors: members, descent, scores, the winner."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from band.config import Hyper, PbtConfig, RunConfig, run_config_from_dict, to_dict
from band.search import Space, draw_start, explore
from band.train.population import Member
from band.train.schedule import ramps_have_ended
from band.train.selection import choose_parents, has_settled

SEPARATOR = "/"  # between the id of a run and the number of a member
BEHAVIOR_KEYS = ("hyper.behavior_weight", "hyper.behavior_dropout_rate")


def member_id(run: str, number: int) -> str:
    """Return the name of a member of a run's search."""
    return f"{run}{SEPARATOR}{number:03d}"


def number_of(name: str) -> int:
    """Return the number of a member."""
    return int(name.rpartition(SEPARATOR)[2])


def space_of(config: RunConfig) -> Space:
    """Return what a run searches: of LFADS, which stays LFADS, nothing of behaviour."""
    space = config.pbt.searched()
    return {key: p for key, p in space.items() if config.hyper.behavior_weight or key not in BEHAVIOR_KEYS}


def as_score(value: float) -> float:
    """Return a score that compares: one that is no number, as an R² of constant behaviour, is worse than all others."""
    return math.inf if math.isnan(value) else value


@dataclass
class Search:
    """A run's search: what a checkpoint needs beside the population."""

    run: str
    config: RunConfig
    generation: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)  # of lineage.csv
    best_scores: list[float] = field(default_factory=list)  # of generations trained with full KL and L2 weights
    is_over: bool = False

    @property
    def pbt(self) -> PbtConfig:
        """How it searches."""
        return self.config.pbt

    @property
    def end_epoch(self) -> int:
        """Epochs that are completed when the running generation ends."""
        first = self.pbt.burn_in_epochs or self.pbt.every_epochs
        return min(first + self.generation * self.pbt.every_epochs, self.config.train.max_epochs)

    def first_members(self) -> list[tuple[str, RunConfig]]:
        """Return (name, configuration) of every member of the first generation."""
        space = space_of(self.config)
        found = []
        for number in range(self.pbt.members):
            drawn = {key: draw_start(p, f"{self.config.seed}/start/{number}/{key}") for key, p in space.items()}
            found.append((member_id(self.run, number), self._member_config(number, drawn)))
        return found

    def next_member(self, number: int, parent: Member) -> Member:
        """Return the member of the next generation that has this number, from the one whose state it takes.

        A member that stays goes on as it was. A child takes over everything but its number, and with it minibatches and
        noise, and its hyperparameters, the step size among them.
        """
        values = {key: getattr(parent.config.hyper, key.partition(".")[2]) for key in space_of(self.config)}
        if number != number_of(parent.run_id):
            for key, param in space_of(self.config).items():
                name = f"{self.config.seed}/{self.generation}/{number}/{key}"
                values[key] = explore(param, values[key], name)
        config = self._member_config(number, values)
        schedule = dataclasses.replace(parent.schedule, lr=config.hyper.lr, stopped_by="")
        return Member(
            member_id(self.run, number), config, schedule, parent.epoch, parent.batch, [*map(list, parent.history)]
        )

    def _member_config(self, number: int, values: Mapping[str, float]) -> RunConfig:
        """Return the configuration of a member: it trains to the end of the generation, at a step size that stays."""
        hyper = dataclasses.asdict(self.config.hyper) | {key.partition(".")[2]: v for key, v in values.items()}
        digest = hashlib.sha256(f"{self.config.seed}/member/{number}".encode()).digest()
        return dataclasses.replace(
            self.config,
            hyper=Hyper(**{**hyper, "lr_decay": 1.0, "lr_stop": 0.0}),
            train=dataclasses.replace(self.config.train, max_epochs=self.end_epoch, stop_patience=0),
            pbt=PbtConfig(),
            seed=int.from_bytes(digest[:4], "big") >> 1,
        )

    def begin_generation(self, members: Mapping[int, RunConfig], parents: Sequence[int] | None = None) -> None:
        """Note who begins the running generation, and what from; scores are to come."""
        for number in range(self.pbt.members):
            hyper = members[number].hyper
            row: dict[str, Any] = {"generation": self.generation, "member": number}
            row |= {"parent": parents[number] if parents else None, "epochs": self.end_epoch, "score": None}
            row |= {key: getattr(hyper, key.partition(".")[2]) for key in space_of(self.config)}
            self.rows.append(row)

    def end_generation(self, members: Mapping[int, Member]) -> list[int] | None:
        """Note the scores of a generation and return the parents of the next one; None where the search is over.

        Args:
            members: those that end it, by number; others that began it have diverged. Scores are the monitored ones as
                the members' schedules have smoothed them.
        """
        scores = {number: as_score(member.schedule.smoothed) for number, member in members.items()}
        for row in self.rows[-self.pbt.members :]:
            row["score"] = scores.get(row["member"])
        self.is_over = not scores or self.end_epoch >= self.config.train.max_epochs
        if scores and all(ramps_have_ended(m.epoch - 1, m.config.hyper) for m in members.values()):
            self.best_scores.append(min(scores.values()))
            self.is_over = self.is_over or has_settled(self.best_scores, self.pbt)
        if self.is_over:
            return None
        name = f"{self.config.seed}/{self.generation}/selection"
        self.generation += 1
        return choose_parents(scores, self.pbt, name=name)

    def winner(self, members: Mapping[int, Member]) -> int:
        """Return the member whose parameters are the run's: of the best epoch among all, else the best last."""

        def rank(number: int) -> tuple[float, float, int]:
            schedule = members[number].schedule
            return schedule.best, as_score(schedule.smoothed), number

        return min(members, key=rank)

    def summary(self, winner: Member | None) -> dict[str, Any]:
        """Return what `result.json` tells of the search."""
        hyper = dataclasses.asdict(winner.config.hyper) if winner else {}
        return {
            "members": self.pbt.members,
            "generations": self.generation + 1,
            "winner": number_of(winner.run_id) if winner else None,
            "hyper": {key: hyper[key.partition(".")[2]] for key in space_of(self.config)} if winner else {},
            "seed": winner.config.seed if winner else self.config.seed,
            "diverged": sum(row["score"] is None for row in self.rows),
        }

    def lineage(self) -> str:
        """Return the content of lineage.csv: a row a generation and member, empty where there is no parent or score."""
        columns = ("generation", "member", "parent", "epochs", "score", *space_of(self.config))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "config": to_dict(self.config)}

    @staticmethod
    def restore(state: Mapping[str, Any]) -> Search:
        """Return the search that `state` was made of."""
        return Search(**{**state, "config": run_config_from_dict(state["config"])})
