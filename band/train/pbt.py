"""Population-based training of one run: generation after generation of one population, and the winner's folder.

A generation is a population that is trained to its end by the loop that trains any; then rows are copied to replace
those of members that lost, or diverged on the way and were dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from band.config import run_config_from_dict
from band.train.checkpoint import check_unchanged, newest_checkpoint, restore_population
from band.train.export import Searched
from band.train.generations import Search, number_of
from band.train.loop import Loop, train_population
from band.train.population import Member, Population
from band.train.session import Session
from band.train.start import start_population


class SearchSession(Session):
    """Trains the members of one run's search to the finished folder of that run."""

    def train(self, pending: Sequence[str]) -> bool:
        """Train the search of one run; return False where a command stopped it."""
        (run,) = self._packing = list(pending)
        self._search, population = self._begin(run)
        self._lost: Population | None = None  # of the members that diverged, the last
        self._events.send("started", runs=[run], step=population.step)
        self._last_step = population.step
        while not self._search.is_over:
            self._ended = population.keep([])
            loop = Loop(population, self._trials, places=self._places)
            if not train_population(
                loop, on_epoch=self._on_epoch, on_ended=self._on_ended, after_step=self._after_step
            ):
                return False
            population = self._next_generation(self._ended)
        self._finish_search(population)
        return True

    def _begin(self, run: str) -> tuple[Search, Population]:
        """Return the search and its population, as in the newest checkpoint or from the start."""
        newest = newest_checkpoint(self._work)
        state = newest[1]["meta"].get("search") if newest else None
        if newest and state and state["run"] == run:
            slot, content = newest
            search = Search.restore(state)
            check_unchanged(run, before=search.config, now=self._configs[run])
            self._slot = 1 - slot
            members = {m["run_id"]: run_config_from_dict(m["config"]) for m in content["meta"]["members"]}
            population = restore_population(content, members, self._trials.widths, device=self._device)
        else:
            search = Search(run, self._configs[run])
            first = search.first_members()
            self._place_members(search)
            population = start_population(first, self._trials, self._places, device=self._device)
            search.begin_generation({number_of(name): config for name, config in first})
        self._place_members(search)
        return search, population

    def _place_members(self, search: Search) -> None:
        place = list(self._configs).index(search.run)
        self._places |= dict.fromkeys((name for name, _ in search.first_members()), place)

    def _next_generation(self, ended: Population) -> Population:
        """Return the population of the next generation; where the search is over, that which ended."""
        search = self._search
        members = {number_of(member.run_id): member for member in ended.members}
        parents = search.end_generation(members)
        self._tell(members, parents)
        if parents is None:
            if members:
                self._checkpoint(ended)  # before the outputs, which may take long
            return ended
        return next_population(search, ended, parents)

    def _finish_search(self, population: Population) -> None:
        """Write the run's folder from its winner; where every member diverged, from one of them."""
        search = self._search
        members = {number_of(member.run_id): member for member in population.members}
        if members:
            position = list(members).index(search.winner(members))
            winner = population.members[position]
            has_settled = search.end_epoch < search.config.train.max_epochs
            winner.schedule.stopped_by = "stop_ratio" if has_settled else "max_epochs"
        else:
            assert self._lost is not None
            population, position, winner = self._lost, 0, None
        searched = Searched(
            run_id=search.run, config=search.config, summary=search.summary(winner), lineage=search.lineage()
        )
        self._publish(population, position, run=search.run, searched=searched)

    def _checkpoint(self, population: Population, **rest: object) -> None:
        super()._checkpoint(population, search=self._search.state())

    def _on_epoch(self, population: Population) -> None:
        best = min(population.members, key=lambda member: (member.has_ended, member.schedule.smoothed))
        shown = dataclasses.replace(best, run_id=self._search.run, config=self._search.config)
        self._send_epoch([shown], step=population.step, generation=self._search.generation)

    def _on_ended(self, population: Population, ended: list[int]) -> None:
        lost = [p for p in ended if population.members[p].schedule.stopped_by == "diverged"]
        for p in lost:
            member = population.members[p]
            print(f"{member.run_id} diverged in epoch {member.epoch}: {member.first_non_finite} not finite", flush=True)
            self._lost = population.keep([p])
        if len(ended) > len(lost):
            self._ended = population.keep([p for p in ended if p not in lost])

    def _tell(self, members: dict[int, Member], parents: list[int] | None) -> None:
        scores = sorted(member.schedule.smoothed for member in members.values())
        replaced = sum(n != parent for n, parent in enumerate(parents or []))
        print(
            f"{self._search.run}: after {self._search.rows[-1]['epochs']} epochs {len(scores)} members, best score "
            f"{scores[0] if scores else 'none'}, {replaced} replaced",
            flush=True,
        )


def next_population(search: Search, ended: Population, parents: Sequence[int]) -> Population:
    """Return the population that goes on from a generation that ended: rows of parents, settings of children."""
    positions = {number_of(member.run_id): p for p, member in enumerate(ended.members)}
    population = ended.keep([positions[parent] for parent in parents])
    population.members = [search.next_member(number, member) for number, member in enumerate(population.members)]
    search.begin_generation({number: member.config for number, member in enumerate(population.members)}, parents)
    return population
