"""What is measured of populations decides how many runs train together; by device and shape, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sweep_files import band_sweep, write_sweep
from test_pack import SHAPES, manifest_of, room, sizes
from tiny import write_recording

from band.cli import submit
from band.cli.progress import Watch
from band.config import RunConfig, to_dict
from band.errors import SweepError
from band.run_dir import SweepDir
from band.sweep import populations
from band.sweep.pack import pack
from band.sweep.populations import best_size, keep, measure, paying, shape_key
from band.sweep.schedulers import scheduler_for
from band.sweep.submit import plan


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def key_of(**changes: Any) -> str:
    config = to_dict(RunConfig())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        config[section][name] = value
    return shape_key(config, SHAPES, device="cpu", threads=1)


def test_the_smallest_population_that_is_nearly_the_fastest_is_taken():
    assert best_size({1: 80.0, 2: 109.0, 4: 112.8, 8: 116.5}) == 4
    assert best_size({1: 30.0, 2: 29.0, 4: 20.0}) == 1 and best_size({1: 1.0, 2: 2.0, 4: 4.0}) == 4


def test_a_shape_is_what_speed_depends_on():
    same = key_of()
    assert same == key_of(hyper__lr=1e-3) == key_of(train__max_epochs=3) == key_of(data__fold=0)
    others = {key_of(arch__gen_dim=7), key_of(train__batch_size=7), key_of(train__dtype="float64")}
    others |= {shape_key(to_dict(RunConfig()), SHAPES, device="cuda", threads=1)}
    assert len(others | {same}) == 5


def test_packing_follows_what_was_measured_and_what_is_given_goes_before():
    manifest = manifest_of([{"hyper.lr": 1e-3 * (k + 1)} for k in range(40)])
    assert max(sizes(pack(manifest, manifest.runs, room=room(1)))) > 3
    assert paying(key_of(data__num_folds=3)) is None
    keep(key_of(data__num_folds=3), {1: 10.0, 2: 18.0, 3: 25.0, 4: 25.5})
    assert paying(key_of(data__num_folds=3)) == 3
    assert sizes(pack(manifest, manifest.runs, room=room(1))) == [2, 2] + [3] * 12
    assert max(sizes(pack(manifest, manifest.runs, room=room(1), members=7))) == 7


def test_calibrate_measures_each_shape_of_a_sweep_with_the_real_trainer(tmp_path):
    write_recording(tmp_path / "tiny.h5")
    base = {"data": {"path": "tiny.h5"}, "train": {"batch_size": 8}}
    path = write_sweep(
        tmp_path / "many.yaml", {"base": base, "grid": {"arch.gen_dim": [8, 12], "hyper.lr": [1e-3, 2e-3]}}
    )
    assert band_sweep("generate", path, cwd=tmp_path).returncode == 0
    done = band_sweep("calibrate", "many", "--seconds", "0.05", "--most", "4", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shapes = json.loads(done.stdout)["shapes"]
    assert len(shapes) == 2
    for shape in shapes:
        rates = {int(members): rate for members, rate in shape["rates"].items()}
        assert set(rates) <= {1, 2, 4} and min(rates.values()) > 0 and shape["members"] == best_size(rates)


def test_submit_measures_what_is_not_known_where_much_is_to_be_done(tmp_path, monkeypatch, capsys):
    asked = []

    def measured(config: dict[str, Any], path: str, *, most: int, **_: Any) -> Iterator[tuple[int, float]]:
        asked.append((config["arch"]["gen_dim"], most))
        return iter([(1, 10.0), (2, 19.0), (4, 20.0)])

    monkeypatch.setattr(populations, "measure", measured)
    write_recording(tmp_path / "tiny.h5")
    base = {"data": {"path": str(tmp_path / "tiny.h5")}, "train": {"max_epochs": 10**6, "batch_size": 8}}
    grid = {"arch.gen_dim": [8, 12], "hyper.lr": [1e-3, 2e-3, 3e-3]}
    path = write_sweep(tmp_path / "many.yaml", {"base": base, "grid": grid})
    assert band_sweep("generate", path, cwd=tmp_path).returncode == 0
    sweep = SweepDir(tmp_path / "sweeps" / "many")
    survey = Watch(sweep, scheduler=scheduler_for(sweep)).look()
    long = plan(survey, sweep=sweep, room=room(1))
    assert submit.measured(long, survey=survey, quiet=False)
    assert sorted(asked) == [(8, 3), (12, 3)] and capsys.readouterr().err.count("measuring how many runs like") == 2
    assert sorted(len(task.runs) for task in plan(survey, sweep=sweep, room=room(1)).new) == [1, 1, 2, 2]
    assert not submit.measured(long, survey=survey, quiet=False) and len(asked) == 2, "it is known now"
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert not submit.measured(long, survey=survey, quiet=True) and len(asked) == 4, "it cannot be kept"
    asked.clear()
    monkeypatch.setattr(submit, "LONG_S", long.walltime_s * 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert not submit.measured(long, survey=survey, quiet=False) and not asked, "it does not pay"


def test_a_recording_that_cannot_be_trained_is_named(tmp_path):
    with pytest.raises(SweepError, match=r"no\.h5 cannot be trained with this configuration here: .+"):
        list(measure(to_dict(RunConfig()), str(tmp_path / "no.h5"), device="cpu", threads=1, most=1, seconds=0.1))
