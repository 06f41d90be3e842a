"""The search space: first draws, changes and limits, and what is said of a space that breaks a rule."""

from __future__ import annotations

import json
import math

import pytest

from band.config import SEARCHABLE, PbtConfig, RunConfig, TrainConfig
from band.errors import ConfigError
from band.search import SearchParam, draw_start, explore, read_space, space_text

NAMES = [str(i) for i in range(4000)]


def test_first_draws_fill_their_range_evenly_in_their_own_space() -> None:
    flat = SearchParam(low=0.0, high=0.6, draw="uniform")
    log = SearchParam(low=1e-4, high=1e-2)
    values = [draw_start(flat, name) for name in NAMES]
    assert 0 <= min(values) < 0.005 and 0.595 < max(values) <= 0.6
    assert abs(sum(values) / len(values) - 0.3) < 0.01
    logs = [math.log10(draw_start(log, name)) for name in NAMES]
    assert min(logs) >= -4 and max(logs) <= -2 and abs(sum(logs) / len(logs) + 3) < 0.03
    assert draw_start(SearchParam(low=1e-4, high=1e-2, start=4e-3), "any") == 4e-3


@pytest.mark.parametrize(("kind", "change"), [("linear", 0.3), ("log", 0.8), ("linear", 0.05)])
def test_a_change_is_at_most_as_large_as_it_may_be_and_never_nothing(kind: str, change: float) -> None:
    param = SearchParam(low=1e-9, high=1e9, change=change, explore=kind)
    factors = [explore(param, 1.0, name) for name in NAMES]
    least = 1 / (1 + change) if kind == "log" else 1 - change
    assert least - 1e-6 <= min(factors) < least + 0.01 and 1 + change - 0.01 < max(factors) <= 1 + change + 1e-6
    assert all(abs(factor - 1) > 1e-5 for factor in factors)
    ups = sum(factor > 1 for factor in factors) / len(factors)
    assert abs(ups - 0.5) < 0.03
    drift = sum(math.log(factor) for factor in factors) / len(factors)
    assert abs(drift) < 0.02 if kind == "log" else drift < 0.005  # linear changes shrink values in the long run


def test_changes_stay_within_the_limits_without_piling_up_there() -> None:
    param = SearchParam(low=1e-3, high=2e-3, change=0.5, min=9e-4, max=3e-3)
    values = [explore(param, 2.9e-3, name) for name in NAMES]
    assert min(values) >= 1.45e-3 and max(values) <= 3e-3
    assert sum(value == 3e-3 for value in values) < 5, "a change beyond the limit is drawn again"
    assert explore(SearchParam(low=0.0, high=1.0, draw="uniform"), 0.0, "any") == 0.0


def test_a_value_outside_of_the_limits_comes_back_to_them() -> None:
    assert explore(SearchParam(low=1.0, high=2.0, change=0.1), 10.0, "any") == 2.0


def test_a_space_reads_back_as_it_was_written() -> None:
    space = read_space({"hyper.lr": {"low": 1e-4, "high": 1e-2, "change": 0.3, "min": 1e-5}}, where="pbt.space")
    assert read_space(space_text(space), where="pbt.space") == space
    assert json.loads(space_text(space)) == {"hyper.lr": {"low": 1e-4, "high": 1e-2, "change": 0.3, "min": 1e-5}}
    assert space_text({}) == ""


LR = {"low": 1e-4, "high": 1e-2}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"low": 1e-4}, "pbt.space.hyper.lr.high is missing"),
        (LR | {"hihg": 1}, "hihg is not a field of a search; did you mean high?"),
        (LR | {"low": 1.0}, "low must be below high = 0.01, got 1.0"),
        (LR | {"low": 0}, "low must be above 0 where draw is loguniform, got 0"),
        (LR | {"draw": "normal"}, "draw must be one of loguniform, uniform, got 'normal'"),
        (LR | {"explore": "cubic"}, "explore must be one of linear, log, got 'cubic'"),
        (LR | {"change": 1.5}, "change must be in (0, 1), got 1.5"),
        (LR | {"change": "much"}, "change must be a number, got 'much'"),
        (LR | {"min": 1e-3}, "min and max must be outside of low and high"),
        (LR | {"start": 1.0}, "start must be in [0.0001, 0.01], got 1.0"),
        (3, "hyper.lr must be a mapping such as"),
    ],
)
def test_a_space_that_breaks_a_rule_is_told_by_its_key(entry: object, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_space({"hyper.lr": entry}, where="pbt.space")
    assert message in str(raised.value) and str(raised.value).startswith("pbt.space.hyper.lr")


@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("hyper.kl_increase_epoch", LR, "cannot be searched"),
        ("hyper.lr_decay", LR, "cannot be searched"),
        ("hyper.cd_rate", {"low": 0.1, "high": 1.0}, "hyper.cd_rate must be in [0, 1), got 1.0"),
        ("hyper.lr", {"low": 0.0, "high": 1.0, "draw": "uniform"}, "hyper.lr must be above 0"),
        ("hyper.behavior_weight", {"low": 0.0, "high": 1.0, "draw": "uniform"}, "min must be above 0"),
    ],
)
def test_what_a_run_could_not_have_is_no_limit(key: str, entry: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        PbtConfig(members=4, space=json.dumps({key: entry}))
    assert message in str(raised.value) and str(raised.value).startswith(f"pbt.space.{key}")


def test_a_search_has_members_and_something_to_search() -> None:
    for values, message in (
        ({"members": 4}, "pbt.space must be given"),
        ({"members": 1}, "pbt.members must be 0 or at least 2"),
        ({"members": 4, "shards": 5}, "pbt.shards must be in [1, pbt.members = 4]"),
        ({"selection": "roulette"}, "pbt.selection must be one of tournament, truncation"),
        ({"stop_generations": 1}, "pbt.stop_generations must be 0 or at least 2"),
        ({"truncation_share": 0.6}, "pbt.truncation_share must be in (0, 0.5]"),
    ):
        with pytest.raises(ConfigError) as raised:
            PbtConfig(**values)
        assert message in str(raised.value)
    space = json.dumps({"hyper.shift_std": {"low": 0.5, "high": 2}})
    with pytest.raises(ConfigError, match=r"hyper.shift_std must be 0 where train.augmentations lacks shift"):
        RunConfig(train=TrainConfig(augmentations=""), pbt=PbtConfig(members=2, space=space))


def test_whatever_makes_scores_incomparable_is_not_searchable() -> None:
    assert not [key for key in SEARCHABLE if "epoch" in key or "sv_rate" in key or "lr_" in key]
    assert {"hyper.lr", "hyper.behavior_weight", "hyper.kl_co_scale", "hyper.weight_decay"} <= set(SEARCHABLE)
