"""Population-based training of one run: generation after generation of one population, and the winner's folder.

A generation is a population that is trained to its end by the loop that trains any; then rows are copied to replace
those of members that lost, or diverged on the way and were dropped.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from band.config import run_config_from_dict
from band.train.checkpoint import check_unchanged, newest_checkpoint, restore_population
from band.train.export import Searched
from band.train.generations import Search, number_of
from band.train.loop import Loop, train_population
from band.train.memory import trials_at_once
from band.train.population import Member, Population
from band.train.session import Session
from band.train.shards import Ranks
from band.train.start import start_population


class SearchSession(Session):
    """Trains the members of one run's search to the finished folder of that run."""

    def train(self, pending: Sequence[str]) -> bool:
        """Train the search of one run; return False where a command stopped it."""
        (run,) = self._packing = list(pending)
        self._ranks = self._launch.join(run, self._configs[run].pbt, device=self._device)
        self._search, population = self._begin(run)
        self._at_once = trials_at_once(self._configs[run], self._trials, members=len(population))
        self._lost: Population | None = None  # of the members that diverged, the last
        self._events.send("started", runs=[run], step=population.step)
        ranks, host = self._ranks, os.uname().nodename
        print(f"{run}: rank {ranks.rank} of {ranks.size} on {host} trains {len(population)} members", flush=True)
        self._last_step = population.step
        has_ended = True
        while has_ended and not self._search.is_over:
            has_ended = self._train_generation(population)
            if has_ended:
                population = self._next_generation(self._ended)
        if has_ended and not self._ranks.rank:
            self._finish_search(population)
        self._ranks.close()
        self.finished.add(run)
        return has_ended

    def _train_generation(self, population: Population) -> bool:
        """Train this rank's members to the end of the generation; return False where a command stopped it."""
        self._ended = population.keep([])
        if population.members:
            loop = Loop(population, self._trials, places=self._places, trials_at_once=self._at_once)
            if not train_population(
                loop, on_epoch=self._on_epoch, on_ended=self._on_ended, after_step=self._after_step
            ):
                return False
            population = loop.population
        return self._ranks.size == 1 or self._keep_pace(population)

    def _keep_pace(self, population: Population) -> bool:
        """Follow the other ranks' steps without a member of one's own; return False where a command stopped them."""
        search = self._search
        name, config = search.first_members()[0]
        batches = len(self._trials.epoch(self._places[name], config, epoch=0)[0][0])
        while population.step < search.end_epoch * batches:
            if self._after_step(population):
                return False
            population.step += 1
        self._ended.step = population.step
        return True

    def _begin(self, run: str) -> tuple[Search, Population]:
        """Return the search and its population, as in the newest checkpoint or from the start."""
        newest = self._ranks.share(newest_checkpoint(self._work) if not self._ranks.rank else None)
        state = newest[1]["meta"].get("search") if newest else None
        if newest and state and state["run"] == run:
            slot, content = newest
            search = Search.restore(state)
            check_unchanged(run, before=search.config, now=self._configs[run])
            self._slot = 1 - slot
            self._compare_kernels(content["meta"].get("kernels", "plain"))
            members = {m["run_id"]: run_config_from_dict(m["config"]) for m in content["meta"]["members"]}
            population = restore_population(content, members, self._trials.widths, device=self._device)
        else:
            search = Search(run, self._configs[run])
            first = search.first_members()
            self._place_members(search)
            population = start_population(first, self._trials, self._places, device=self._device)
            search.begin_generation({number_of(name): config for name, config in first})
        self._place_members(search)
        mine = [p for p, member in enumerate(population.members) if self._is_mine(member)]
        return search, population if search.is_over else population.keep(mine)

    def _is_mine(self, member: Member) -> bool:
        return self._ranks.owner(number_of(member.run_id)) == self._ranks.rank

    def _place_members(self, search: Search) -> None:
        place = list(self._configs).index(search.run)
        self._places |= dict.fromkeys((name for name, _ in search.first_members()), place)

    def _next_generation(self, ended: Population) -> Population:
        """Return the population of the next generation; where the search is over, that which ended."""
        search = self._search
        members = {number_of(member.run_id): member for member in self._ranks.everyone(ended.members)}
        parents = search.end_generation(members)
        self._tell(members, parents)
        if parents is None:
            self._checkpoint(ended)  # before the outputs, which may take long
            return self._ranks.collect(ended)
        return next_population(search, ended, members, parents, self._ranks)

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
            population, position, winner = self._any_lost(), 0, None
        searched = Searched(
            run_id=search.run, config=search.config, summary=search.summary(winner), lineage=search.lineage()
        )
        self._publish(population, position, run=search.run, searched=searched)

    def _any_lost(self) -> Population:
        """Return a member that diverged; one that has only begun where all those of this rank had before it began."""
        if self._lost is None:
            ((name, config), *_) = self._search.first_members()
            self._lost = start_population([(name, config)], self._trials, self._places, device=self._device)
            self._lost.members[0].schedule.stopped_by = "diverged"
            self._lost.members[0].first_non_finite = "not known: it diverged before this process began"
        return self._lost

    def _due(self, population: Population) -> str:
        return self._ranks.agree("" if self._ranks.rank else super()._due(population))

    def _rehearse(self, population: Population) -> None:
        if not self._ranks.rank:
            super()._rehearse(population)

    def _run_of(self, member: Member) -> str:
        return self._search.run

    def _checkpoint(self, population: Population, **rest: object) -> None:
        whole = self._ranks.collect(population)
        if whole.members and not self._ranks.rank:
            super()._checkpoint(whole, search=self._search.state())

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
        if self._ranks.rank:
            return
        scores = sorted(member.schedule.smoothed for member in members.values())
        replaced = sum(n != parent for n, parent in enumerate(parents or []))
        print(
            f"{self._search.run}: after {self._search.rows[-1]['epochs']} epochs {len(scores)} members, best score "
            f"{scores[0] if scores else 'none'}, {replaced} replaced",
            flush=True,
        )


def next_population(
    search: Search, ended: Population, members: dict[int, Member], parents: Sequence[int], ranks: Ranks
) -> Population:
    """Return this rank's population that goes on from a generation: rows of parents, settings of children.

    Args:
        search: when its generation has ended.
        ended: this rank's members.
        members: of all ranks, by number.
        parents: of every member of the next generation.
        ranks: who has which member.
    """
    following = [search.next_member(number, members[parent]) for number, parent in enumerate(parents)]
    search.begin_generation({number: member.config for number, member in enumerate(following)}, parents)
    population = ranks.exchange(ended, parents)
    population.members = [member for number, member in enumerate(following) if ranks.owner(number) == ranks.rank]
    return population
