"""Who is replaced by whom, against formulas of their own, and when a search is over."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from statistics import mean

import pytest

from band.config import PbtConfig
from band.train.selection import choose_parents, has_settled

SPACE = '{"hyper.lr":{"high":0.01,"low":0.001}}'
TWENTY = PbtConfig(members=20, space=SPACE)
SCORES = {member: float((member * 7) % 20) for member in range(20)}  # a permutation: no ties


def test_in_a_tournament_half_are_replaced_each_by_one_that_scores_better() -> None:
    seen = Counter()
    for name in map(str, range(500)):
        parents = choose_parents(SCORES, TWENTY, name=name)
        losers = [member for member, parent in enumerate(parents) if member != parent]
        assert len(losers) == 10 and len({parents[member] for member in losers}) == 10, "each winner has one child"
        assert all(SCORES[parents[member]] < SCORES[member] for member in losers)
        assert not {parents[member] for member in losers} & set(losers)
        seen.update(losers)
    # Against a brute-force formula: a member of rank r loses where its opponent is one of the r that are better.
    for member, score in SCORES.items():
        assert abs(seen[member] / 500 - score / 19) < 0.08


def test_the_same_name_draws_the_same_pairs_and_another_name_others() -> None:
    assert choose_parents(SCORES, TWENTY, name="a") == choose_parents(SCORES, TWENTY, name="a")
    assert choose_parents(SCORES, TWENTY, name="a") != choose_parents(SCORES, TWENTY, name="b")


def test_truncation_replaces_the_worst_share_by_members_of_the_best_share() -> None:
    pbt = replace(TWENTY, selection="truncation", truncation_share=0.25)
    used = set()
    for name in map(str, range(200)):
        parents = choose_parents(SCORES, pbt, name=name)
        for member, parent in enumerate(parents):
            if SCORES[member] >= 15:
                assert SCORES[parent] < 5
                used.add(parent)
            else:
                assert parent == member
    assert used == {member for member, score in SCORES.items() if score < 5}, "each of the best is copied some time"


@pytest.mark.parametrize("selection", ["tournament", "truncation"])
@pytest.mark.parametrize("lost", [[3], [0, 5, 11], list(range(1, 20)), list(range(0, 20, 2))])
def test_members_that_diverged_are_all_replaced_by_living_ones_that_stay(selection: str, lost: list[int]) -> None:
    pbt = replace(TWENTY, selection=selection)
    living = {member: score for member, score in SCORES.items() if member not in lost}
    for name in map(str, range(50)):
        parents = choose_parents(living, pbt, name=name)
        assert len(parents) == 20
        for member, parent in enumerate(parents):
            assert parent in living and parents[parent] == parent
            assert member not in lost or parent != member


def test_an_odd_one_and_a_tie_stay_as_they_are() -> None:
    three = PbtConfig(members=3, space=SPACE)
    parents = choose_parents({0: 1.0, 1: 2.0, 2: 3.0}, three, name="x")
    assert sum(member != parent for member, parent in enumerate(parents)) == 1
    assert choose_parents(dict.fromkeys(range(20), 1.0), TWENTY, name="x") == list(range(20))
    worst = choose_parents({0: math.inf, 1: 1.0}, PbtConfig(members=2, space=SPACE), name="x")
    assert worst == [1, 1], "a score that is no number loses to any"


def brute(scores: list[float], last: int, ratio: float) -> bool:
    """Return by the definition, computed in another way, whether a search is over."""
    if last == 0 or len(scores) < last:
        return False
    window = scores[len(scores) - last :]
    gain = max(window[0] - score for score in window)
    return gain / mean(abs(score) for score in window) < ratio


def test_it_stops_when_the_best_of_the_last_generations_gain_too_little() -> None:
    source = random.Random(0)
    stops = 0
    for _ in range(2000):
        scores = [100 + source.gauss(0, 0.05) for _ in range(source.randint(1, 8))]
        pbt = PbtConfig(members=2, space=SPACE, stop_generations=source.choice([0, 2, 4]), stop_ratio=5e-4)
        assert has_settled(scores, pbt) == brute(scores, pbt.stop_generations, pbt.stop_ratio)
        stops += has_settled(scores, pbt)
    assert 100 < stops < 1900
    assert not has_settled([4.0, 3.0, 2.0, 1.0], PbtConfig(members=2, space=SPACE))
    assert has_settled([-1.0, -1.0, -1.0, -1.0], PbtConfig(members=2, space=SPACE)), "scores may be negative"
