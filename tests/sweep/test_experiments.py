"""The sweep files that are shipped expand to what their comments say."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from sweep_files import expand_file, write_shapes

from band.config import Hyper, PbtConfig, RunConfig, to_dict
from band.sweep.checks import split_sizes
from band.sweep.grid import Expansion
from band.sweep.manifest import Manifest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
SEARCHES = ("pbt_lorenz", "pbt_lorenz_random", "pbt_mc_maze", "pbt_mc_maze_random")
NAMES = ("mc_maze", "m1_stevenson", "reach", "reach_control", "demo", "heldout", *SEARCHES)
REAL = Path(os.environ.get("BAND_DATA", ROOT.parent / "shared" / "data"))
MAZE, STEVENSON = "mc_maze_large_9cond-10ms.h5", "m1_stevenson-50ms-T28.h5"


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the shipped files to the real recordings, or to stand-ins of the same shapes."""
    stand_ins = {MAZE: ((129, 36, 0), 50, 162), STEVENSON: ((444, 110, 0), 28, 171)}
    for name, (trials, bins, neurons) in stand_ins.items():
        if (REAL / name).exists():
            (tmp_path / name).symlink_to((REAL / name).resolve())
        else:
            write_shapes(tmp_path / name, trials=trials, bins=bins, neurons=neurons)
    write_shapes(tmp_path / "reach.h5", trials=(384, 104, 112), bins=50, neurons=60)
    write_shapes(tmp_path / "reach_control.h5", trials=(384, 104, 112), bins=50, neurons=60, fill=1.0)
    write_shapes(tmp_path / "lorenz.h5", trials=(240, 90, 90), bins=50, neurons=30, keys=("cond",))
    write_shapes(tmp_path / "demo_reach.h5", trials=(128, 32, 40), bins=35, neurons=50)
    monkeypatch.setenv("BAND_DATASETS", str(tmp_path))
    return tmp_path


def settings(expansion: Expansion) -> list[tuple[str, float, int]]:
    """Return recording, weight and seed of every run."""
    manifest = Manifest(name="s", base=expansion.base, datasets=expansion.datasets, runs=expansion.runs)
    found = [manifest.run_config(run) for run in expansion.runs]
    return [(Path(c["data"]["path"]).name, c["hyper"]["behavior_weight"], c["seed"]) for c in found]


def test_every_shipped_file_is_tested_here() -> None:
    assert {path.stem for path in EXPERIMENTS.glob("*.yaml")} == set(NAMES)


@pytest.mark.parametrize(("name", "recording"), [("mc_maze", MAZE), ("m1_stevenson", STEVENSON)])
def test_real_recordings_are_fitted_by_lfads_and_two_weights_of_band(
    recordings: Path, name: str, recording: str
) -> None:
    expansion = expand_file(EXPERIMENTS / f"{name}.yaml")
    expected = [(recording, weight, seed) for seed in range(3) for weight in (0.0, 0.1, 1.0)]
    assert settings(expansion) == expected
    assert expansion.excluded == 0 and not expansion.duplicates and not expansion.notes


def test_a_quarter_of_the_neurons_of_both_recordings_is_held_out(recordings: Path) -> None:
    expansion = expand_file(EXPERIMENTS / "heldout.yaml")
    assert settings(expansion) == [(name, weight, 0) for name in (MAZE, STEVENSON) for weight in (0.0, 0.1)]
    assert expansion.base["data"]["heldout_share"] == 0.25


def test_the_maze_has_the_settings_of_the_published_model(recordings: Path) -> None:
    base = expand_file(EXPERIMENTS / "mc_maze.yaml").base
    expected = to_dict(RunConfig())
    assert base["arch"] == expected["arch"] and base["hyper"] == expected["hyper"]
    assert (base["train"]["max_epochs"], base["train"]["kl_co_reduce"], base["hyper"]["kl_co_scale"]) == (700, "sum", 1)


def test_the_continuous_recording_takes_the_model_from_the_maze(recordings: Path) -> None:
    maze, stevenson = (expand_file(EXPERIMENTS / f"{name}.yaml").base for name in ("mc_maze", "m1_stevenson"))
    assert stevenson["arch"] == maze["arch"] and stevenson["train"]["max_epochs"] == 400
    changed = {key for key in maze["hyper"] if maze["hyper"][key] != stevenson["hyper"][key]}
    assert changed == {"kl_increase_epoch", "kl_co_scale"}


@pytest.mark.parametrize(("name", "batches"), [("mc_maze", 2), ("m1_stevenson", 6)])
def test_an_epoch_has_as_many_batches_as_the_published_one(recordings: Path, name: str, batches: int) -> None:
    expansion = expand_file(EXPERIMENTS / f"{name}.yaml")
    trials = split_sizes(expansion.base["data"], expansion.datasets[0]["shapes"])["train"]
    assert math.ceil(trials / expansion.base["train"]["batch_size"]) == batches
    assert not expansion.base["train"]["drop_last"]


def test_reach_compares_corrections_with_their_control_over_five_seeds(recordings: Path) -> None:
    reach, control = (expand_file(EXPERIMENTS / f"{name}.yaml") for name in ("reach", "reach_control"))
    for name, expansion in (("reach.h5", reach), ("reach_control.h5", control)):
        assert sorted(settings(expansion)) == sorted((name, w, seed) for w in (0, 1) for seed in range(5))
    assert all(reach.base[key] == control.base[key] for key in ("arch", "hyper", "train"))


def test_the_demo_is_small_and_stands_beside_its_recording(recordings: Path) -> None:
    expansion = expand_file(EXPERIMENTS / "demo.yaml", f"data.path={recordings / 'demo_reach.h5'}")
    assert sorted(weight > 0 for _, weight, _ in settings(expansion)) == [False, False, True, True]


@pytest.mark.parametrize("name", ["pbt_lorenz", "pbt_mc_maze"])
def test_random_draws_come_from_where_members_start_and_train_as_long(recordings: Path, name: str) -> None:
    search, draws = (expand_file(EXPERIMENTS / f"{stem}.yaml") for stem in (name, f"{name}_random"))
    config = search.base
    assert config["pbt"]["members"] == 20 and draws.base["pbt"]["members"] == 0
    assert {run.overrides.get("seed", 0) for run in search.runs} == {0, 1, 2}
    assert all(draws.base[key] == config[key] for key in ("arch", "train", "data"))
    space = PbtConfig(**config["pbt"]).searched()
    values = [{key: run.overrides[key] for key in space} for run in draws.runs]
    assert len({tuple(found.items()) for found in values}) == 20
    for key, param in space.items():
        found = sorted(value[key] for value in values)
        assert param.low <= found[0] and found[-1] <= param.high
        middle = (param.low * param.high) ** 0.5 if param.draw == "loguniform" else (param.low + param.high) / 2
        assert found[3] < middle < found[-4], "drawn over the whole range, in the same space"


@pytest.mark.parametrize("name", NAMES)
def test_the_ramp_ends_early_enough_for_a_best_checkpoint(recordings: Path, name: str) -> None:
    sets = [f"data.path={recordings / 'demo_reach.h5'}"] if name == "demo" else []
    base = expand_file(EXPERIMENTS / f"{name}.yaml", *sets).base
    hyper = Hyper(**base["hyper"])
    assert hyper.kl_start_epoch + hyper.kl_increase_epoch <= math.floor(0.85 * base["train"]["max_epochs"])


@pytest.mark.parametrize(("name", "attribution"), [("mc_maze", "DANDI 000138"), ("m1_stevenson", "Stevenson et al.")])
def test_data_are_attributed_where_they_are_used(name: str, attribution: str) -> None:
    assert attribution in (EXPERIMENTS / f"{name}.yaml").read_text()
