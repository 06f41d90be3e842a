"""Who copies whom when a generation of a search ends, and when the search is over. Pure: scores in, decisions out.

Scores are those of living members by number, lower is better. Chance comes from generators that are seeded by names, of
which only `random()` is used: of the methods of Random, it alone is promised to stay as it is.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean

from band.config import PbtConfig


def choose_parents(scores: Mapping[int, float], pbt: PbtConfig, *, name: str) -> list[int]:
    """Return for each of `pbt.members` the member whose state it goes on from: its own number where it stays as it is.

    Args:
        scores: of the members that live, at least one; a member that diverged is replaced by one of them.
        pbt: how to select.
        name: what chance depends on.
    """
    source = random.Random(name)
    if pbt.selection == "tournament":
        parents = _tournament(scores, pbt.members, source)
    else:
        parents = _truncation(scores, pbt, source)
    replaced = {member for member, parent in parents.items() if member != parent}
    elite = sorted(set(scores) - replaced)
    for member in range(pbt.members):
        if member not in scores:
            parents[member] = elite[int(source.random() * len(elite))]
    return [parents[member] for member in range(pbt.members)]


def _tournament(scores: Mapping[int, float], members: int, source: random.Random) -> dict[int, int]:
    """Return {member: parent} of those that live: in pairs drawn anew, the worse goes on from the better."""
    order = [member for _, member in sorted((source.random(), member) for member in range(members))]
    living = [member for member in order if member in scores]
    parents = {member: member for member in living}
    for one, other in zip(living[::2], living[1::2], strict=False):
        if scores[one] != scores[other]:
            better, worse = sorted((one, other), key=lambda member: scores[member])
            parents[worse] = better
    return parents


def _truncation(scores: Mapping[int, float], pbt: PbtConfig, source: random.Random) -> dict[int, int]:
    """Return {member: parent} of those that live: the worst share goes on from one of the best share each, drawn."""
    ranked = sorted(scores, key=lambda member: (scores[member], member))
    share = max(int(pbt.truncation_share * pbt.members), 1)
    best = ranked[:share]
    worst = ranked[max(pbt.members - share, share) :]  # members that diverged take the last places
    parents = {member: member for member in ranked}
    for member in worst:
        parents[member] = best[int(source.random() * len(best))]
    return parents


def has_settled(best_scores: Sequence[float], pbt: PbtConfig) -> bool:
    """Return whether the best score has improved by less than `pbt.stop_ratio` over the last `pbt.stop_generations`.

    The improvement is that from the first of them to the best of them, as a share of their mean size.
    """
    last = best_scores[-pbt.stop_generations :]
    if not pbt.stop_generations or len(last) < pbt.stop_generations:
        return False
    return last[0] - min(last) < pbt.stop_ratio * fmean(map(abs, last))
