"""Ids of runs: pinned for ever, equal for equal science, different for every field that matters."""

from __future__ import annotations

import copy
import hashlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from band.config import Arch, DataConfig, Hyper, OutputConfig, PbtConfig, RunConfig, TrainConfig, to_dict
from band.sweep.fields import FIELDS
from band.sweep.identity import LEGACY, UNHASHED, WITHOUT_EFFECT, pair_id, run_id, science, without_effect

DIGEST = "0" * 64

PINNED = {
    "lfads-s0": RunConfig(),
    "band0.1-s2-f1": RunConfig(
        data=DataConfig(num_folds=5, fold=1), hyper=Hyper(behavior_weight=0.1, lr=1e-3, cd_rate=0.5), seed=2
    ),
    "band1e-05-s0": RunConfig(hyper=Hyper(behavior_weight=1e-5), arch=Arch(gen_dim=64, causal_con=False)),
    "lfads-s7": RunConfig(train=TrainConfig(max_epochs=10, kl_co_reduce="mean"), seed=7),
}
HASHES = {
    "lfads-s0": "44317e1c89",
    "band0.1-s2-f1": "a13664b853",
    "band1e-05-s0": "afdf71e5d2",
    "lfads-s7": "c1cf51f581",
}


@pytest.mark.parametrize("prefix", PINNED)
def test_an_id_stays_what_it_was_in_the_first_release(prefix: str) -> None:
    assert run_id(to_dict(PINNED[prefix]), dataset_digest=DIGEST) == f"{prefix}-{HASHES[prefix]}"


def test_an_id_is_the_hash_of_canonical_json_without_what_is_at_its_legacy_value() -> None:
    config = to_dict(RunConfig(hyper=Hyper(lr=1e-3), train=TrainConfig(max_epochs=10), seed=3))
    text = '{"config":{"hyper.lr":0.001,"seed":3,"train.max_epochs":10},"dataset":"' + DIGEST + '"}'
    assert run_id(config, dataset_digest=DIGEST) == "lfads-s3-" + hashlib.sha256(text.encode()).hexdigest()[:10]


def test_the_frozen_table_has_every_field_at_the_value_that_config_defaults_to() -> None:
    defaults = {key: field.default for key, field in FIELDS.items() if key not in UNHASHED}
    drifted = {
        key: (LEGACY.get(key, "absent"), value) for key, value in defaults.items() if LEGACY.get(key, "absent") != value
    }
    assert not drifted, (
        f"{drifted} (frozen, default): a new field enters LEGACY with the value that does what was done before; "
        "a default that changes leaves LEGACY as it is, and this test names it"
    )
    assert set(LEGACY) == set(defaults)


def test_the_base_of_a_config_hashes_nothing() -> None:
    assert science(to_dict(RunConfig())) == {}


def other(key: str, value: Any) -> Any:
    """Return another value of the same type; its range does not matter to an id."""
    if isinstance(value, bool):
        return not value
    if value is None or isinstance(value, (int, float)):
        return (value or 0) + 1
    return f"{value}x"


def changed(config: dict[str, Any], key: str) -> dict[str, Any]:
    config = copy.deepcopy(config)
    section, _, name = key.rpartition(".")
    part = config[section] if section else config
    part[name] = SPACE.replace("0.001", "0.002") if key == "pbt.space" else other(key, part[name])
    return config


ZIG = "zero_inflated_gamma"
SPACE = '{"hyper.lr":{"high":0.01,"low":0.001}}'
SEARCHES = next(c.where for c in WITHOUT_EFFECT if "hyper.lr_stop" in c.keys)
SEARCH = [key for key in FIELDS if key.startswith("pbt.")]
EFFECTIVE = {  # what has to hold for fields that only some options read
    "arch.behavior_lags": Arch(behavior_decoder="causal_lag"),
    "arch.behavior_classes": Arch(behavior_likelihood="categorical"),
    "arch.co_prior_tau": Arch(co_prior="autoregressive"),
    "arch.co_prior_nvar": Arch(co_prior="autoregressive"),
    "arch.prior_df": Arch(co_prior="student_t"),
    "arch.readin": Arch(readin_dim=5),
    **{f"arch.gamma_{name}": Arch(reconstruction=ZIG, gamma_scale_penalty=1.0) for name in ("loc", "scale_init")},
    **{f"arch.gamma_scale_{name}": Arch(reconstruction=ZIG, gamma_scale_penalty=1.0) for name in ("prior", "penalty")},
}


@pytest.mark.parametrize("key", FIELDS)
def test_every_field_that_is_not_idle_or_left_out_changes_the_id(key: str) -> None:
    # A BAND run by blocks with L2 penalties and shifts: nearly every field has its effect in it.
    config = to_dict(
        RunConfig(
            data=DataConfig(
                split="grouped" if key in ("data.group_key", "data.split_seed") else "blocked",
                group_key="g",
                heldout_share=0.2,
            ),
            arch=EFFECTIVE.get(key, Arch()),
            hyper=Hyper(behavior_weight=1.0, l2_gen_scale=1.0, shift_std=1.0, kl_co_target=0.1),
            output=OutputConfig(),
            pbt=PbtConfig(members=4, selection="truncation", space=SPACE) if key in SEARCH else PbtConfig(),
        )
    )
    same = run_id(config, dataset_digest=DIGEST) == run_id(changed(config, key), dataset_digest=DIGEST)
    assert same == (key in UNHASHED), without_effect(config)


def test_an_option_of_ones_own_may_read_any_field() -> None:
    own = "lab:Own"
    names = ("reconstruction", "ic_prior", "co_prior", "behavior_decoder", "behavior_likelihood")
    config = to_dict(RunConfig(arch=Arch(**dict.fromkeys(names, own)), hyper=Hyper(behavior_weight=1.0)))
    for key in ("co_prior_var", *(key.partition(".")[2] for key in EFFECTIVE if key != "arch.readin")):
        different = changed(config, f"arch.{key}")
        assert run_id(config, dataset_digest=DIGEST) != run_id(different, dataset_digest=DIGEST), key


@pytest.mark.parametrize("condition", WITHOUT_EFFECT, ids=lambda condition: condition.where)
def test_a_field_without_effect_does_not_change_the_id(condition: Any) -> None:
    places = {
        "hyper.behavior_weight is 0": RunConfig(),
        "hyper.cd_rate is 0": RunConfig(hyper=Hyper(cd_rate=0)),
        "arch.co_dim is 0": RunConfig(arch=Arch(co_dim=0)),
        "every L2 scale and weight_decay are 0": RunConfig(),
        "hyper.lr_decay is 1": RunConfig(hyper=Hyper(lr_decay=1)),
        "pbt.members is 0": RunConfig(),
        SEARCHES: RunConfig(pbt=PbtConfig(members=4, space=SPACE)),
        "pbt.selection is tournament": RunConfig(pbt=PbtConfig(members=4, space=SPACE)),
        "pbt.stop_generations is 0": RunConfig(pbt=PbtConfig(members=4, stop_generations=0, space=SPACE)),
        "data.num_folds cuts the trials": RunConfig(data=DataConfig(num_folds=5)),
        "data.heldout_share is 0": RunConfig(),
        "arch.behavior_decoder is not causal_lag": RunConfig(hyper=Hyper(behavior_weight=1.0)),
        "arch.behavior_likelihood is not categorical": RunConfig(),
        "arch.co_prior is not autoregressive": RunConfig(arch=Arch(co_prior="student_t")),
        "arch.co_prior is autoregressive": RunConfig(arch=Arch(co_prior="autoregressive")),
        "no prior is student_t": RunConfig(arch=Arch(co_dim=0, co_prior="student_t")),
        "nothing is zero_inflated_gamma": RunConfig(arch=Arch(reconstruction="gamma")),
        "arch.gamma_scale_penalty is 0": RunConfig(arch=Arch(reconstruction=ZIG)),
        "arch.readin_dim is 0": RunConfig(),
        "hyper.shift_std is 0": RunConfig(),
        "hyper.kl_ic_target and hyper.kl_co_target are 0": RunConfig(),
        "data.split is shipped": RunConfig(data=DataConfig(split="shipped")),
        "data.split is blocked": RunConfig(data=DataConfig(split="blocked")),
        "data.split is not grouped": RunConfig(data=DataConfig(split="stratified")),
        "data.split is not blocked": RunConfig(data=DataConfig(split="stratified")),
    }
    config = to_dict(places[condition.where])
    for key in condition.keys:
        assert key in FIELDS
        assert run_id(config, dataset_digest=DIGEST) == run_id(changed(config, key), dataset_digest=DIGEST)


def test_what_a_search_draws_does_not_change_the_id_and_what_it_wakes_does() -> None:
    space = '{"hyper.l2_gen_scale":{"high":1.0,"low":0.001},"hyper.lr":{"high":0.01,"low":0.001}}'
    config = to_dict(RunConfig(pbt=PbtConfig(members=4, space=space)))
    before = run_id(config, dataset_digest=DIGEST)
    for key in ("hyper.lr", "hyper.l2_gen_scale"):
        assert run_id(changed(config, key), dataset_digest=DIGEST) == before
    # The penalty is 0 at the base, but members draw one: so its ramp matters.
    assert run_id(changed(config, "hyper.l2_increase_epoch"), dataset_digest=DIGEST) != before
    assert run_id(changed(config, "hyper.behavior_weight"), dataset_digest=DIGEST) != before


def test_another_recording_is_another_run_wherever_it_lies() -> None:
    config = to_dict(RunConfig())
    moved = changed(config, "data.path")
    assert run_id(config, dataset_digest=DIGEST) == run_id(moved, dataset_digest=DIGEST)
    assert run_id(config, dataset_digest=DIGEST) != run_id(config, dataset_digest="1" * 64)


def test_the_twin_of_a_band_run_is_the_lfads_run_that_differs_in_weight_alone() -> None:
    lfads = to_dict(RunConfig(hyper=Hyper(lr=1e-3), seed=4))
    band = to_dict(RunConfig(hyper=Hyper(lr=1e-3, behavior_weight=0.1, behavior_dropout_rate=0.3), seed=4))
    assert pair_id(band, dataset_digest=DIGEST) == run_id(lfads, dataset_digest=DIGEST)
    assert pair_id(lfads, dataset_digest=DIGEST) == run_id(lfads, dataset_digest=DIGEST)


@given(
    weight=st.floats(min_value=0, max_value=1e299, allow_subnormal=False),
    seed=st.integers(0, 2**31 - 1),
    folds=st.integers(3, 1000),
)
def test_an_id_is_short_and_safe_in_any_path_or_command(weight: float, seed: int, folds: int) -> None:
    config = RunConfig(data=DataConfig(num_folds=folds, fold=folds - 1), hyper=Hyper(behavior_weight=weight), seed=seed)
    identity = run_id(to_dict(config), dataset_digest=DIGEST)
    assert re.fullmatch(r"[a-z][a-z0-9.-]*-s\d+-f\d+-[0-9a-f]{10}", identity) and len(identity) <= 60
