"""Whatever is wrong in a sweep file is said with file, line, full key, rule and what was found, before a run exists."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sweep_files import expand_file, expand_text, write_shapes, write_sweep

from band.errors import ConfigError, DataError
from band.sweep.document import KEYS, read_document
from band.sweep.fields import FIELDS
from band.sweep.plan import make_plan

BASE = "base: {data.path: r.h5, batch_size: 16}\n"  # line 1; what follows begins in line 2

CASES = [
    # names
    ("gird: {lr: [1]}", "s.yaml:2: gird is not a key of a sweep file; did you mean grid?"),
    ("xyzzy: 1", "s.yaml:2: xyzzy is not a key of a sweep file; choose from name, include, base"),
    ("seed: 3", "s.yaml:2: seed is not a key of a sweep file; write it as base.seed, or seeds for several"),
    ("hyper: {lr: 1}", "s.yaml:2: hyper is not a key of a sweep file; write it under base"),
    ("lr: 1", "s.yaml:2: lr is not a key of a sweep file; write it under base, or under grid with a list of values"),
    ("grid:\n  hyper.lrr: [1]", "s.yaml:3: hyper.lrr is not a field of a run; did you mean hyper.lr?"),
    ("grid:\n  hyper:\n    lrr: [1]", "s.yaml:4: hyper.lrr is not a field of a run; did you mean hyper.lr?"),
    (
        "grid: {behaviour_weight: [1]}",
        "s.yaml:2: behaviour_weight is not a field of a run; did you mean behavior_weight?",
    ),
    ("grid: {arch.encod_data_dim: [30]}", "s.yaml:2: arch.encod_data_dim is read from the recording; leave it out"),
    (
        "grid: {xyzzy.lr: [1]}",
        "xyzzy.lr is not a field of a run; choose from the fields of data, arch, hyper, train, output, pbt and seed",
    ),
    ("grid: {hyper: [1]}", "s.yaml:2: hyper is a section; name one of its fields, as in hyper.behavior_weight"),
    ("grid:\n  hyper.lr: [1]\n  lr: [2]", "s.yaml:4: grid.hyper.lr is given twice, first in"),
    ("grid: {lr: [1], lr: [2]}", "s.yaml:2: lr is given twice, first in line 2"),
    ("output: {level: full}\nname: 3", "name must be 1 to 160 of the characters"),
    # forms
    ("grid: {lr: 1e-3}", "s.yaml:2: grid.hyper.lr must be a list of values, found 0.001"),
    ("grid: {lr: []}", "s.yaml:2: grid.hyper.lr must be a list of values, found a list"),
    ("grid: [1]", "s.yaml:2: grid must be a mapping of keys to values, found a list"),
    (
        "zip:\n  lr: [1, 2]\n  gen_dim: [1]",
        "zip must have lists of equal length, found: hyper.lr has 2, arch.gen_dim has 1",
    ),
    ("zip: 3", "s.yaml:2: zip must be a mapping of keys to values, found 3"),
    ("list: 3", "s.yaml:2: list must be a list of runs, found 3"),
    ("list: [{}]", "s.yaml:2: list has an entry that sets nothing"),
    ("seeds: 0", "s.yaml:2: seeds must be in [1, 100000], found 0"),
    ("seeds: {n: 3}", "s.yaml:2: seeds must be how many, or a list of seeds, found a mapping"),
    ("seeds: [a]", "s.yaml:2: seed must be a whole number, found 'a'"),
    ("seeds: 2.5", "s.yaml:2: seed must be a whole number, found 2.5"),
    ("folds: [0, 1]", "s.yaml:2: folds must be how many, found a list"),
    ("pair: {lr: [1]}", "s.yaml:2: pair must be over behavior_weight alone, found hyper.lr; put it under grid"),
    ("pair: [0, 1]", "s.yaml:2: pair.behavior_weight must be above 0, found 0.0; the LFADS run of weight 0 is added"),
    ("pair: [-1]", "s.yaml:2: pair.behavior_weight must be above 0, found -1.0"),
    ("pair: []", "s.yaml:2: pair.behavior_weight must have a value"),
    ("pair: {}", "s.yaml:2: pair must be behavior_weight and its values"),
    ("datasets: []", "s.yaml:2: datasets must name a file"),
    ("datasets: [3]", "s.yaml:2: datasets must be paths of HDF5 files, found 3"),
    ("datasets: [{bin_ms: 3}]", "s.yaml:2: datasets has an entry without path"),
    ("datasets: ['no*.h5']", "matches no*.h5"),
    ("exclude: [{}]", "s.yaml:2: exclude has a rule without fields, which would leave out every run"),
    ("exclude: {seed: 0}", "s.yaml:2: exclude leaves out every run"),
    ("include: nowhere.yaml", "nowhere.yaml does not exist"),
    ("include: [3]", "s.yaml:2: include must be a list of YAML files, found 3"),
    ("include: s.yaml", "includes itself"),
    ("random: {lr: {uniform: [1, 2]}}", "s.yaml:2: random.n is missing"),
    ("random: {n: 0, lr: {uniform: [1, 2]}}", "s.yaml:2: random.n must be a whole number in [1, 100000], found 0"),
    ("random: {n: 3}", "s.yaml:2: random draws no field"),
    ("random: {n: 3, lr: 4}", "s.yaml:2: random.hyper.lr must be one distribution of uniform, loguniform"),
    ("random: {n: 3, lr: {unifrom: [1, 2]}}", "random.hyper.lr.unifrom is not a distribution; did you mean uniform?"),
    (
        "random: {n: 3, lr: {uniform: [2, 1]}}",
        "random.hyper.lr.uniform must be [low, high] with low < high, found [2, 1]",
    ),
    ("random: {n: 3, lr: {uniform: [1, 2, 3]}}", "random.hyper.lr.uniform must be [low, high]"),
    ("random: {n: 3, lr: {uniform: [a, b]}}", "random.hyper.lr.uniform must be [low, high]"),
    ("random: {n: 3, lr: {loguniform: [0, 1]}}", "random.hyper.lr.loguniform must begin above 0"),
    ("random: {n: 3, lr: {uniform: 3}}", "random.hyper.lr.uniform must be given a list, found 3"),
    ("random: {n: 3, gen_dim: {uniform: [1, 9]}}", "random.arch.gen_dim must be whole numbers; write uniform_int"),
    ("random: {n: 3, gen_dim: {uniform_int: [1, 9.5]}}", "random.arch.gen_dim.uniform_int must have whole limits"),
    ("random: {n: 3, monitor: {uniform: [1, 9]}}", "random.train.monitor is not a number; write choice"),
    ("pack: 0", "s.yaml:2: pack must be auto, or how many runs share a device, found 0"),
    ("cluster: 3", "s.yaml:2: cluster must be a name or a mapping, found 3"),
    ("submit: 3", "s.yaml:2: submit must be a mapping, found 3"),
    ("policy: {exeption: 1}", "s.yaml:2: policy.exeption is no failure that is tried again; did you mean exception"),
    ("policy: {time_limit: often}", "s.yaml:2: policy.time_limit must be how often to try again"),
    # values
    ("grid: {lr: [1e-3, fast]}", "s.yaml:2: hyper.lr must be a number, found 'fast'"),
    ("grid: {lr: [.inf]}", "s.yaml:2: hyper.lr must be a number, found inf"),
    ("grid: {gen_dim: [1.5]}", "s.yaml:2: arch.gen_dim must be a whole number, found 1.5"),
    ("grid: {gen_dim: [true]}", "s.yaml:2: arch.gen_dim must be a whole number, found True"),
    ("grid: {causal_con: [maybe]}", "s.yaml:2: arch.causal_con must be true or false, found 'maybe'"),
    ("grid: {monitor: [3]}", "s.yaml:2: train.monitor must be text, found 3"),
    ("grid:\n  lr:\n    - 1e-3\n    - -1", "s.yaml:5: hyper.lr must be above 0, got -1.0"),
    ("grid:\n  cd_rate: [0.1, 1.2]", "s.yaml:3: hyper.cd_rate must be in [0, 1), got 1.2"),
    ("grid: {monitor: [valid_nothing]}", "s.yaml:2: train.monitor must be one of valid_recon"),
    (
        "list:\n- {monitor: valid_behavior}",
        "s.yaml:3: train.monitor must be another score where hyper.behavior_weight is 0",
    ),
    ("folds: 2", "s.yaml:2: data.num_folds must be 1, or at least 3, got 2"),
    ("grid: {fold: [0, 1]}", "s.yaml:2: data.fold must be in [0, data.num_folds = 1), got 1"),
    ("seeds: [-1]", "s.yaml:2: seed must be in [0, 2**31), got -1"),
    ("grid: {valid_share: [0.9]}", "data.valid_share + data.test_share must be below 1"),
    # references
    ("grid: {lr: ['${nothing}']}", "s.yaml:2: '${nothing}' cannot be followed: Interpolation key 'nothing' not found"),
    (
        "grid: {lr: ['${oc.env:NOT_SET_ANYWHERE}']}",
        "the environment has no NOT_SET_ANYWHERE; set it, or give a default",
    ),
    ("grid: {lr: ['${base.hyper']}", "s.yaml:2: '${base.hyper' cannot be followed"),
    (
        "grid: {lr: ['${hyper.nothing}']}",
        "s.yaml:2: hyper.lr: ${hyper.nothing} cannot be followed: there is no such field",
    ),
    (
        "list: [{lr: '${hyper.cd_rate}', cd_rate: '${hyper.lr}'}]",
        "cannot be followed: hyper.lr -> hyper.cd_rate -> hyper.lr",
    ),
    ("list: [{gen_dim: '${hyper.lr}'}]", "s.yaml:2: arch.gen_dim must be a whole number, found 0.004"),
    # what would not reach a run
    ("grid: {lr: [1]}\nzip: {lr: [2]}", "s.yaml:3: hyper.lr is swept twice, by grid (s.yaml:2) and by zip"),
    ("grid: {seed: [1, 2]}\nseeds: 2", "seed is swept twice, by seeds"),
    ("pair: [1]\ngrid: {behavior_weight: [1, 2]}", "hyper.behavior_weight is swept twice, by grid"),
    ("folds: 3\ngrid: {fold: [1, 2]}", "data.fold is swept twice"),
    (
        "datasets: [{path: r.h5, lr: 1}]\nlist: [{lr: 2}]",
        "s.yaml:3: hyper.lr is set by list and by datasets (s.yaml:2)",
    ),
    ("grid: {level: [full, scores]}", "s.yaml:2: grid.output.level would not reach the runs: it decides what is kept"),
    ("grid: {checkpoint_s: [1, 2]}", "s.yaml:2: grid.train.checkpoint_s would not reach the runs"),
    ("grid: {trials_at_once: [4, 8]}", "s.yaml:2: grid.train.trials_at_once would not reach the runs"),
    (
        "grid: {cd_pass_rate: [0, 0.5], cd_rate: [0]}",
        "grid.hyper.cd_pass_rate would not reach the runs: hyper.cd_rate is 0",
    ),
    ("grid: {behavior_dropout_rate: [0, 0.5]}", "would not reach the runs: hyper.behavior_weight is 0 in all of them"),
    ("grid: {ci_lag: [1, 2]}\nlist: [{co_dim: 0}]\nexclude: {co_dim: 4}", "would not reach the runs: arch.co_dim is 0"),
    ("grid: {l2_increase_epoch: [1, 2]}", "would not reach the runs: every L2 scale and weight_decay are 0"),
    (
        "grid: {group_key: [cond, g], split: [stratified]}",
        "s.yaml:2: data.group_key must find one label a trial in train_g, got 'g'",
    ),
    ("grid: {guard_trials: [1, 2], split: [stratified]}", "would not reach the runs: data.split is not blocked"),
    ("grid: {valid_share: [0.1, 0.3]}", "would not reach the runs: the recording ships its valid split in all of them"),
    ("datasets: [r.h5, twin.h5]", "datasets.data.path would not reach the runs"),
    # what does not fit the recording
    ("list: [{data.path: none.h5}]", "s.yaml:2: data.path: "),
    ("grid: {ci_lag: [1, 10]}", "s.yaml:2: arch.ci_lag must be below the 10 time bins of"),
    (
        "grid: {train.batch_size: [16, 100]}",
        "s.yaml:2: train.batch_size must be at most the trials that train, about 72 of",
    ),
    ("grid: {group_key: [block]}", "s.yaml:2: data.group_key must find one label a trial in train_block, got 'block'"),
    ("grid: {split: [shipped]}", "s.yaml:2: data.split must not be shipped where a split is missing"),
    ("folds: 121", "s.yaml:2: data.num_folds must be at most the 120 trials of"),
]


@pytest.mark.parametrize(("text", "message"), CASES, ids=[text.replace("\n", " ") for text, _ in CASES])
def test_it_is_said_what_is_wrong_and_where(tmp_path: Path, text: str, message: str) -> None:
    write_shapes(tmp_path / "twin.h5")
    write_shapes(tmp_path / "r.h5")
    (tmp_path / "s.yaml").write_text(BASE + text + "\n")
    with pytest.raises((ConfigError, DataError)) as raised:
        make_plan(tmp_path / "s.yaml")
    said = str(raised.value).replace(f"{tmp_path}/s.yaml", "s.yaml")
    assert message in said


def test_a_recording_without_behaviour_cannot_train_band(tmp_path: Path) -> None:
    write_shapes(tmp_path / "r.h5", keys=("cond",))
    message = (
        r"s\.yaml:2: hyper\.behavior_weight must be 0 where the recording has no behaviour, got 0\.1: .*r\.h5 has no"
    )
    with pytest.raises(ConfigError, match=message):
        expand_text(tmp_path, BASE + "pair: [0.1]\n")
    assert len(expand_text(tmp_path, BASE + "seeds: 2\n").runs) == 2


def test_a_recording_without_conditions_cannot_be_stratified(tmp_path: Path) -> None:
    write_shapes(tmp_path / "r.h5", keys=())
    message = r"s\.yaml:2: data\.split must find one label a trial in train_cond, got 'stratified'"
    with pytest.raises(ConfigError, match=message):
        expand_text(tmp_path, BASE + "grid: {split: [stratified]}\n")


def test_shipped_splits_have_no_folds(tmp_path: Path) -> None:
    write_shapes(tmp_path / "r.h5", trials=(60, 30, 30))
    with pytest.raises(ConfigError, match=r"data\.num_folds must be 1 where data\.split is shipped, got 3"):
        expand_text(tmp_path, "base: {data: {path: r.h5, split: shipped}, batch_size: 16}\nfolds: 3\n")
    with pytest.raises(ConfigError, match="the recording ships its splits"):
        expand_text(tmp_path, BASE + "grid: {split_seed: [0, 1]}\n")


def test_a_recording_without_trials_to_train_on_is_refused(tmp_path: Path) -> None:
    write_shapes(tmp_path / "r.h5", trials=(0, 30, 0))
    with pytest.raises(DataError, match=r"s\.yaml:1: data\.path: .*train_encod_data .* is missing, found valid_"):
        expand_text(tmp_path, BASE)


def test_a_missing_path_says_where_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path is missing; name the recording under base\.data\.path"):
        expand_text(tmp_path, "base: {batch_size: 16}\n")


def test_a_file_that_is_no_hdf5_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "r.h5").write_text("not HDF5")
    with pytest.raises(DataError, match=r"s\.yaml:1: data\.path: .*r\.h5"):
        expand_text(tmp_path, BASE)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lrr=1", "--set lrr=1: lrr is not a field of a run; did you mean lr?"),
        ("hyper.lr=-1", "--set hyper.lr=-1: hyper.lr must be above 0, got -1.0"),
        ("hyper.lr", "--set hyper.lr: must be key=value"),
        ("seeds=0", "--set seeds=0: seeds must be in [1, 100000], found 0"),
        ("grid.lrr=[1]", "--set grid.lrr=[1]: lrr is not a field"),
        (
            "gen_dim=8",
            "--set gen_dim=8: would not reach any run, arch.gen_dim is swept by grid (s.yaml:2); replace the axis",
        ),
        ("behavior_weight=1", "is swept by pair (s.yaml:3); replace the axis instead, as in --set 'pair=[0.1]'"),
        ("seed=1", "is swept by seeds (s.yaml:4)"),
    ],
)
def test_a_setting_that_is_wrong_or_reaches_no_run_is_refused(tmp_path: Path, setting: str, message: str) -> None:
    text = BASE + "grid: {gen_dim: [8, 9]}\npair: [0.1]\nseeds: 2\n"
    with pytest.raises(ConfigError) as raised:
        expand_text(tmp_path, text, setting)
    assert message in str(raised.value).replace(f"{tmp_path}/", "")


def test_a_reference_to_the_base_of_a_swept_field_is_refused(tmp_path: Path) -> None:
    text = "base: {data.path: r.h5, batch_size: 16, lr: 0.1, weight_decay: '${base.hyper.lr}'}\ngrid: {lr: [1, 2]}\n"
    with pytest.raises(
        ConfigError, match=r"would not follow the runs, hyper\.lr is swept by grid .*write \$\{hyper\.lr\}"
    ):
        expand_text(tmp_path, text)


def test_too_many_combinations_are_refused_before_they_are_made(tmp_path: Path) -> None:
    values = list(range(1, 1001))
    sweep = {"base": {"data.path": "r.h5"}, "grid": {"gen_dim": values, "fac_dim": values}, "seeds": 100}
    write_shapes(tmp_path / "r.h5")
    with pytest.raises(ConfigError, match="must be at most 1000000 combinations, found 100000000"):
        expand_file(write_sweep(tmp_path / "s.yaml", sweep))


def test_an_include_in_a_circle_is_refused(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a.yaml", {"include": "b.yaml"})
    write_sweep(tmp_path / "b.yaml", {"include": "a.yaml"})
    with pytest.raises(ConfigError, match=r"a\.yaml: includes itself"):
        read_document(tmp_path / "a.yaml")


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("base:\n  hyper:\n    cd_rate: 7\n")
    with pytest.raises(ConfigError, match=r"low\.yaml:3: hyper\.cd_rate must be in \[0, 1\), got 7\.0"):
        expand_text(tmp_path, "include: low.yaml\n" + BASE)


SCALARS = st.none() | st.booleans() | st.integers(-3, 12) | st.floats() | st.text(max_size=4)
SCALARS |= st.sampled_from(["r.h5", "valid_recon", "${seed}", "${hyper.lr}", "${base.hyper.lr}", "${", "*.h5", "1e-3"])
FIELD_NAMES = st.sampled_from(
    [*KEYS, *FIELDS, "lr", "seed", "path", "hyper", "n", "uniform", "choice", "loguniform_int", "x"]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5), st.lists(st.tuples(FIELD_NAMES, VALUES), max_size=2))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_a_file_holds_it_is_expanded_or_refused_as_the_users_to_mend(
    tmp_path: Path, values: dict[str, Any], above: list[tuple[str, Any]]
) -> None:
    if not (tmp_path / "r.h5").exists():
        write_shapes(tmp_path / "r.h5")
    path = write_sweep(tmp_path / "s.yaml", {"base": {"data.path": "r.h5", "batch_size": 16}, **values})
    with suppress(ConfigError, DataError):
        expand_file(path, *(f"{key}={json.dumps(value)}" for key, value in above))
