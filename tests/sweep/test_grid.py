"""Sweeps expand to the runs that a plain enumeration gives: each once, in a stable order, pairs side by side."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sweep_files import expand_file, expand_text, write_shapes, write_sweep

from band.config import run_config_from_dict, to_dict
from band.errors import ConfigError
from band.sweep.grid import Expansion, single_run
from band.sweep.manifest import Manifest

BASE = "base: {data.path: r.h5, batch_size: 16}\n"


def configs(expansion: Expansion) -> list[dict[str, Any]]:
    """Return the full configurations of all runs, without where the recording lies."""
    manifest = Manifest(name="s", base=expansion.base, datasets=expansion.datasets, runs=expansion.runs)
    found = [manifest.run_config(run) for run in expansion.runs]
    for config in found:
        del config["data"]["path"]
    return found


def column(expansion: Expansion, key: str) -> list[Any]:
    """Return the values that one field has in the runs."""
    section, _, name = key.rpartition(".")
    return [(config[section] if section else config)[name] for config in configs(expansion)]


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return a full configuration from full keys, by the dataclasses alone."""
    values: dict[str, Any] = {"train": {"batch_size": 16}}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        if section:
            values.setdefault(section, {})[name] = value
        else:
            values[name] = value
    config = to_dict(run_config_from_dict(values))
    del config["data"]["path"]
    return config


def canonical(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def test_a_file_without_axes_is_one_run_with_the_values_of_its_base(tmp_path: Path) -> None:
    expansion = expand_text(tmp_path, BASE + "output: {level: full}\n")
    assert configs(expansion) == [nested({"output.level": "full"})]
    assert expansion.runs[0].overrides == {}


def test_a_grid_is_the_product_of_its_values_last_key_fastest(tmp_path: Path) -> None:
    text = BASE + "grid: {hyper: {lr: [1e-3, 2e-3]}, arch.gen_dim: [10, 20, 30], cd_rate: [0.1, 0.2]}\n"
    product = itertools.product([1e-3, 2e-3], [10, 20, 30], [0.1, 0.2])
    expected = [nested({"hyper.lr": a, "arch.gen_dim": b, "hyper.cd_rate": c}) for a, b, c in product]
    assert configs(expand_text(tmp_path, text)) == expected


def test_zip_goes_row_by_row_and_several_zips_are_crossed(tmp_path: Path) -> None:
    text = BASE + "zip:\n- {gen_dim: [10, 20], fac_dim: [1, 2]}\n- {lr: [1e-3, 2e-3], cd_rate: [0, 0.5]}\n"
    rows = itertools.product([(10, 1), (20, 2)], [(1e-3, 0.0), (2e-3, 0.5)])
    expected = [
        nested({"arch.gen_dim": g, "arch.fac_dim": f, "hyper.lr": lr, "hyper.cd_rate": cd}) for (g, f), (lr, cd) in rows
    ]
    assert configs(expand_text(tmp_path, text)) == expected


def test_explicit_runs_stand_beside_the_grid_and_are_crossed_with_seeds(tmp_path: Path) -> None:
    text = BASE + "grid: {lr: [1e-3, 2e-3]}\nlist: [{lr: 0.5, cd_rate: 0.5}]\nseeds: 2\n"
    settings = [{"hyper.lr": 1e-3}, {"hyper.lr": 2e-3}, {"hyper.lr": 0.5, "hyper.cd_rate": 0.5}]
    expected = [nested({**setting, "seed": seed}) for seed in (0, 1) for setting in settings]
    assert configs(expand_text(tmp_path, text)) == expected


def test_a_list_alone_does_not_add_the_base(tmp_path: Path) -> None:
    assert column(expand_text(tmp_path, BASE + "list: [{lr: 0.5}, {lr: 0.25}]\n"), "hyper.lr") == [0.5, 0.25]


def test_an_explicit_run_that_names_its_seed_or_weight_is_not_crossed_with_that_axis(tmp_path: Path) -> None:
    text = (
        BASE + "seeds: [4, 5]\npair: [0.1]\nlist: [{lr: 0.5, seed: 9}, {lr: 0.25, behavior_weight: 0.7}, {lr: 0.1}]\n"
    )
    found = [(c["hyper"]["lr"], c["seed"], c["hyper"]["behavior_weight"]) for c in configs(expand_text(tmp_path, text))]
    expected = [(0.5, 9, 0.0), (0.5, 9, 0.1), (0.25, 4, 0.7), (0.25, 5, 0.7)]
    expected += [(0.1, seed, weight) for seed in (4, 5) for weight in (0.0, 0.1)]
    assert sorted(found) == sorted(expected)


def test_an_explicit_run_with_its_own_recording_takes_nothing_from_the_others(tmp_path: Path) -> None:
    write_shapes(tmp_path / "a.h5", bins=11)
    write_shapes(tmp_path / "b.h5", bins=12)
    text = "base: {batch_size: 16}\ndatasets: [{path: a.h5, bin_ms: 5}]\ngrid: {lr: [1e-3]}\nlist: [{path: b.h5}]\n"
    expansion = expand_text(tmp_path, text)
    assert column(expansion, "data.bin_ms") == [5.0, None]
    assert [Path(expansion.datasets[run.dataset]["path"]).name for run in expansion.runs] == ["a.h5", "b.h5"]


@pytest.mark.parametrize(
    "text", ["pair: {behavior_weight: [0.1, 1.0]}", "pair: [0.1, 1]", "pair: {hyper.behavior_weight: [0.1, 1]}"]
)
def test_a_pair_is_lfads_and_each_weight_differing_in_nothing_else(tmp_path: Path, text: str) -> None:
    expansion = expand_text(tmp_path, f"{BASE}{text}\nseeds: 2\ngrid: {{lr: [1e-3, 2e-3]}}\n")
    found = configs(expansion)
    assert [c["hyper"].pop("behavior_weight") for c in found] == [0.0, 0.1, 1.0] * 4
    assert all(found[i] == found[i + 1] == found[i + 2] for i in range(0, 12, 3))
    assert len({canonical(config) for config in found}) == 4


def test_what_acts_in_band_alone_does_not_double_the_lfads_twin(tmp_path: Path) -> None:
    text = BASE + "pair: [0.1, 1]\ngrid: {behavior_dropout_rate: [0.2, 0.3, 0.4]}\n"
    expansion = expand_text(tmp_path, text)
    assert [run.id.split("-")[0] for run in expansion.runs].count("lfads") == 1 and len(expansion.runs) == 7
    assert expansion.duplicates == {"hyper.behavior_dropout_rate has no effect where hyper.behavior_weight is 0": 2}
    assert expansion.runs[0].overrides == {}


def test_the_lfads_twin_keeps_the_base_value_of_what_acts_in_band_alone(tmp_path: Path) -> None:
    text = "base: {data.path: r.h5, batch_size: 16, behavior_dropout_rate: 0.7}\npair: [0.1]\n"
    assert column(expand_text(tmp_path, text), "hyper.behavior_dropout_rate") == [0.7, 0.7]


def test_folds_set_number_and_fold_and_change_slowest(tmp_path: Path) -> None:
    found = configs(expand_text(tmp_path, BASE + "folds: 3\nseeds: 2\n"))
    assert [(c["data"]["num_folds"], c["data"]["fold"], c["seed"]) for c in found] == [
        (3, fold, seed) for fold in range(3) for seed in range(2)
    ]


def test_exclude_leaves_out_what_matches_every_key_of_a_rule(tmp_path: Path) -> None:
    text = BASE + "grid: {lr: [1e-3, 2e-3], cd_rate: [0.1, 0.2, 0.3]}\nseeds: 3\nexclude:\n"
    text += "- {lr: 1e-3, seed: [1, 2]}\n- {hyper.cd_rate: 0.3}\n- {lr: 7}\n"
    expansion = expand_text(tmp_path, text)
    kept = [
        (lr, cd, seed)
        for seed, lr, cd in itertools.product(range(3), [1e-3, 2e-3], [0.1, 0.2, 0.3])
        if not (lr == 1e-3 and seed in (1, 2)) and cd != 0.3
    ]
    assert [(c["hyper"]["lr"], c["hyper"]["cd_rate"], c["seed"]) for c in configs(expansion)] == kept
    assert expansion.excluded == 18 - len(kept)
    assert len(expansion.notes) == 1 and "exclude: no run matches hyper.lr 7.0" in expansion.notes[0]


def test_a_combination_that_is_excluded_need_not_be_possible(tmp_path: Path) -> None:
    text = BASE + "grid: {ci_lag: [1, 50], gen_dim: [8, 9]}\nexclude: {ci_lag: 50}\n"
    assert column(expand_text(tmp_path, text), "arch.ci_lag") == [1, 1]


def test_the_same_value_twice_is_one_run_and_said(tmp_path: Path) -> None:
    expansion = expand_text(tmp_path, BASE + "grid: {lr: [1e-3, 0.001, 2e-3]}\nseeds: [0, 0]\n")
    assert len(expansion.runs) == 2
    assert expansion.duplicates == {"the same values are given twice": 4}


def test_datasets_come_from_paths_patterns_and_mappings(tmp_path: Path) -> None:
    for index, name in enumerate(("one", "s2", "s1", "own")):
        write_shapes(tmp_path / f"{name}.h5", bins=10 + index)
    text = (
        "base: {batch_size: 16}\ndatasets:\n- one.h5\n- s?.h5\n- {path: own.h5, kl_co_scale: 28, data: {bin_ms: 50}}\n"
    )
    expansion = expand_text(tmp_path, text + "pair: [0.1]\n")
    names = [Path(expansion.datasets[run.dataset]["path"]).name for run in expansion.runs]
    assert names == [name for name in ("one.h5", "s1.h5", "s2.h5", "own.h5") for _ in range(2)]
    assert column(expansion, "hyper.kl_co_scale") == [1.0] * 6 + [28.0] * 2
    assert column(expansion, "data.bin_ms") == [None] * 6 + [50.0] * 2


def test_equal_recordings_under_two_names_are_one_and_said(tmp_path: Path) -> None:
    write_shapes(tmp_path / "a.h5")
    write_shapes(tmp_path / "b.h5")
    write_shapes(tmp_path / "c.h5", bins=11)
    expansion = expand_text(tmp_path, "base: {batch_size: 16}\ndatasets: [a.h5, b.h5, c.h5]\n")
    assert len(expansion.runs) == 2
    assert expansion.duplicates == {"the recordings hold the same data": 1}


def test_a_path_is_relative_to_where_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {name: tmp_path / name for name in ("yaml", "include", "here")}
    for index, folder in enumerate(places.values()):
        folder.mkdir()
        write_shapes(folder / "r.h5", bins=10 + index)
    write_sweep(places["include"] / "below.yaml", {"base": {"data": {"path": "r.h5"}, "train": {"batch_size": 16}}})
    path = write_sweep(places["yaml"] / "s.yaml", {"include": "../include/below.yaml"})
    monkeypatch.chdir(places["here"])

    def folder_of(expansion: Expansion) -> str:
        return Path(expansion.datasets[0]["path"]).parent.name

    assert folder_of(expand_file(path)) == "include"
    assert folder_of(expand_file(path, "data.path=r.h5")) == "here"
    write_sweep(path, {"include": "../include/below.yaml", "base": {"data.path": "r.h5"}})
    assert folder_of(expand_file(path)) == "yaml"
    write_sweep(path, {"base": {"batch_size": 16, "data.path": "${oc.env:PLACE_OF_DATA,../include}/r.h5"}})
    assert folder_of(expand_file(path)) == "include"
    monkeypatch.setenv("PLACE_OF_DATA", ".")
    assert folder_of(expand_file(path)) == "here"


def test_includes_lie_below_field_by_field(tmp_path: Path) -> None:
    write_sweep(
        tmp_path / "low.yaml", {"base": {"hyper": {"lr": 0.1, "cd_rate": 0.1}}, "grid": {"gen_dim": [8]}, "seeds": 3}
    )
    write_sweep(tmp_path / "mid.yaml", {"base": {"hyper.lr": 0.2, "hyper.dropout_rate": 0.2}, "seeds": 2})
    text = "include: [low.yaml, mid.yaml]\nbase: {data.path: r.h5, batch_size: 16, cd_rate: 0.3}\n"
    text += "grid: {fac_dim: [4, 5]}\n"
    flat = {"hyper.lr": 0.2, "hyper.cd_rate": 0.3, "hyper.dropout_rate": 0.2, "arch.gen_dim": 8}
    expected = [nested({**flat, "arch.fac_dim": fac, "seed": seed}) for seed in range(2) for fac in (4, 5)]
    assert configs(expand_text(tmp_path, text)) == expected


def test_set_goes_over_the_file_into_base_or_any_section(tmp_path: Path) -> None:
    text = BASE + "grid: {lr: [1e-3, 2e-3]}\nseeds: 4\n"
    sets = [
        "seeds=[7]",
        "grid.lr=[5e-3]",
        "grid.gen_dim=[8, 9]",
        "cd_rate=0.5",
        "output.level=full",
        "pair.behavior_weight=0.1",
    ]
    flat = {"seed": 7, "hyper.lr": 5e-3, "hyper.cd_rate": 0.5, "output.level": "full"}
    expected = [
        nested({**flat, "arch.gen_dim": gen, "hyper.behavior_weight": weight})
        for gen in (8, 9)
        for weight in (0.0, 0.1)
    ]
    assert configs(expand_text(tmp_path, text, *sets)) == expected


def test_switches_take_the_words_of_yaml_and_text_fields_keep_them(tmp_path: Path) -> None:
    expansion = expand_text(
        tmp_path, BASE + "grid: {causal_con: [yes, off]}\nlist: [{causal_con: 'On', drop_last: no}]\n"
    )
    assert column(expansion, "arch.causal_con") == [True, False, True]
    assert column(expansion, "train.drop_last") == [True, True, False]


def test_interpolation_replaces_values_of_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_RATE", "2e-3")
    text = "base: {data.path: r.h5, batch_size: 16, hyper: {lr: '${oc.env:A_RATE}', cd_rate: 0.2,\n"
    text += "  dropout_rate: '${base.hyper.cd_rate}'}}\n"
    text += "grid: {gen_dim: '${seeds}'}\nseeds: [8, 9]\n"
    found = configs(expand_text(tmp_path, text))
    assert [(c["hyper"]["lr"], c["hyper"]["dropout_rate"], c["arch"]["gen_dim"], c["seed"]) for c in found] == [
        (2e-3, 0.2, gen, seed) for seed in (8, 9) for gen in (8, 9)
    ]


def test_a_field_tied_to_another_follows_it_through_the_sweep(tmp_path: Path) -> None:
    text = BASE.replace(
        "batch_size: 16", "batch_size: 16, split_seed: '${seed}', l2_con_scale: '${hyper.l2_gen_scale}'"
    )
    found = configs(expand_text(tmp_path, text + "seeds: 3\ngrid: {l2_gen_scale: [1, 2]}\n"))
    assert [(c["seed"], c["data"]["split_seed"]) for c in found] == [(s, s) for s in range(3) for _ in range(2)]
    assert [(c["hyper"]["l2_gen_scale"], c["hyper"]["l2_con_scale"]) for c in found] == [
        (v, v) for _ in range(3) for v in (1.0, 2.0)
    ]


RANDOM = "random:\n  n: {n}\n  seed: {seed}\n  lr: {{loguniform: [1e-4, 1e-2]}}\n  cd_rate: {{uniform: [0.1, 0.9]}}\n"
RANDOM += "  gen_dim: {{uniform_int: [5, 9]}}\n  fac_dim: {{loguniform_int: [4, 64]}}\n"
RANDOM += "  monitor: {{choice: [valid_recon, valid_loss]}}\n"


def test_random_settings_lie_within_their_limits_and_fill_them(tmp_path: Path) -> None:
    expansion = expand_text(tmp_path, BASE + RANDOM.format(n=400, seed=0))
    lr, cd, gen = (column(expansion, key) for key in ("hyper.lr", "hyper.cd_rate", "arch.gen_dim"))
    fac, monitor = column(expansion, "arch.fac_dim"), column(expansion, "train.monitor")
    assert len(expansion.runs) == 400
    assert 1e-4 <= min(lr) < 1.3e-4 and 0.8e-2 < max(lr) <= 1e-2
    assert 0.4 < sum(value < 1e-3 for value in lr) / 400 < 0.6  # the median of a log-uniform is the geometric mean
    assert 0.1 <= min(cd) < 0.12 and 0.88 < max(cd) <= 0.9 and 0.46 < sum(cd) / 400 < 0.54
    assert set(gen) == {5, 6, 7, 8, 9} and all(55 < gen.count(value) < 110 for value in range(5, 10))
    assert min(fac) >= 4 and max(fac) <= 64 and 0.4 < sum(value < 16 for value in fac) / 400 < 0.6
    assert set(monitor) == {"valid_recon", "valid_loss"}


def test_draws_are_those_of_one_generator_a_field_so_that_more_draws_keep_the_first(tmp_path: Path) -> None:
    few = expand_text(tmp_path, BASE + RANDOM.format(n=5, seed=3))
    many = expand_text(tmp_path, BASE + RANDOM.format(n=9, seed=3))
    other = expand_text(tmp_path, BASE + RANDOM.format(n=5, seed=4))
    assert [run.id for run in many.runs[:5]] == [run.id for run in few.runs]
    assert not {run.id for run in few.runs} & {run.id for run in other.runs}
    source = random.Random("3/hyper.cd_rate")
    expected = [float(f"{0.1 + 0.8 * source.random():.6g}") for _ in range(5)]
    assert column(few, "hyper.cd_rate") == expected
    assert column(few, "hyper.lr") == [0.000375418, 0.000566289, 0.000157032, 0.000450624, 0.000347005]  # for ever


def test_random_settings_are_crossed_with_grid_pair_and_seeds(tmp_path: Path) -> None:
    text = BASE + "random: {n: 3, lr: {uniform: [0.1, 0.2]}}\ngrid: {gen_dim: [8, 9]}\npair: [0.1]\nseeds: 2\n"
    expansion = expand_text(tmp_path, text)
    assert len(expansion.runs) == 3 * 2 * 2 * 2
    assert len(set(column(expansion, "hyper.lr"))) == 3


VALUES: dict[str, list[Any]] = {
    "hyper.lr": [1e-3, 2e-3, 4e-3],
    "hyper.cd_rate": [0.0, 0.3],
    "hyper.cd_pass_rate": [0.0, 0.5],
    "hyper.behavior_weight": [0.0, 0.1],
    "hyper.behavior_dropout_rate": [0.1, 0.5, 0.6],
    "arch.gen_dim": [10, 100],
    "arch.co_dim": [0, 4],
    "arch.con_dim": [32, 64],
    "train.max_epochs": [5, 6],
    "data.split_seed": [0, 1],
    "seed": [0, 1, 2],
}


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    """Return the grid of a sweep over a few fields, with pair and folds now and then."""
    keys = draw(st.lists(st.sampled_from(list(VALUES)), unique=True, max_size=5))
    sweep: dict[str, Any] = {
        "grid": {k: draw(st.lists(st.sampled_from(VALUES[k]), min_size=1, max_size=3)) for k in keys}
    }
    if "hyper.behavior_weight" not in keys and draw(st.booleans()):
        sweep["pair"] = [0.1, 1.0]
    if draw(st.booleans()):
        sweep["folds"] = 3
    return sweep


def enumerate_plainly(sweep: dict[str, Any]) -> Iterator[dict[str, Any]]:
    axes = [[(key, value) for value in values] for key, values in sweep["grid"].items()]
    axes += [[("hyper.behavior_weight", weight) for weight in [0.0, *sweep["pair"]]]] if "pair" in sweep else []
    for row in itertools.product(*axes):
        for fold in range(sweep.get("folds", 1)):
            yield {**dict(row), "data.fold": fold, "data.num_folds": sweep.get("folds", 1)}


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    """Return full keys and values of a full configuration."""
    parts = [(section, part) for section, part in config.items() if isinstance(part, dict)]
    return {f"{section}.{key}": value for section, part in parts for key, value in part.items()} | {
        "seed": config["seed"]
    }


def without_idle_fields(flat: dict[str, Any]) -> str:
    """Return what is left of a setting that matters: written out here once more, by hand."""
    config = nested(flat)
    if config["hyper"]["behavior_weight"] == 0:
        del config["hyper"]["behavior_dropout_rate"]
    if config["hyper"]["cd_rate"] == 0:
        del config["hyper"]["cd_pass_rate"]
    if config["arch"]["co_dim"] == 0:
        del config["arch"]["con_dim"]
    return canonical(config)


@given(sweeps())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_are_as_many_runs_as_settings_that_differ_in_what_matters(tmp_path: Path, sweep: dict[str, Any]) -> None:
    expected = {without_idle_fields(flat) for flat in enumerate_plainly(sweep)}
    try:
        expansion = expand_text(tmp_path, json.dumps({"base": {"data.path": "r.h5", "batch_size": 16}, **sweep}))
    except ConfigError as error:
        assert "would not reach the runs" in str(error)
        key = next(key for key in sweep["grid"] if key in str(error))
        smaller = {**sweep, "grid": {**sweep["grid"], key: sweep["grid"][key][:1]}}
        assert {without_idle_fields(flat) for flat in enumerate_plainly(smaller)} == expected
        return
    found = configs(expansion)
    assert len(found) == len(expected) == len({run.id for run in expansion.runs})
    assert {without_idle_fields(flatten(config)) for config in found} == expected
    assert len(found) + sum(expansion.duplicates.values()) == len(list(enumerate_plainly(sweep)))


def test_one_run_of_a_file_is_its_base_with_what_is_set(tmp_path: Path) -> None:
    write_shapes(tmp_path / "r.h5")
    path = write_sweep(
        tmp_path / "s.yaml", {"base": {"batch_size": 16}, "datasets": ["r.h5"], "grid": {"lr": [1, 2]}, "seeds": 3}
    )
    config = single_run(path, sets=["behavior_weight=0.1", "hyper.lr=0.5"])
    assert config["data"]["path"] == str((tmp_path / "r.h5").resolve())
    assert (config["hyper"]["behavior_weight"], config["hyper"]["lr"], config["seed"]) == (0.1, 0.5, 0)
    with pytest.raises(ConfigError, match=r"^--set ci_lag=50: arch\.ci_lag must be below the 10 time bins"):
        single_run(path, sets=["ci_lag=50"])
