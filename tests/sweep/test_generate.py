"""`band-sweep generate` writes two whole files, adds and retires, never touches results, and starts at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from signed import signed
from sweep_files import band_sweep, write_shapes, write_sweep

from band.errors import ConfigError, SweepError
from band.sweep.manifest import read_manifest
from band.sweep.plan import make_plan, write_plan

BASE = {"data.path": "r.h5", "batch_size": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shapes(tmp_path / "r.h5")
    return tmp_path


def generate(folder: Path, *sets: str, limit: int | None = None, **sections: Any) -> Any:
    """Generate a sweep s in `folder`, and return its plan."""
    path = write_sweep(folder / "s.yaml", {"base": BASE, **sections})
    plan = make_plan(path, sets=sets, limit=limit)
    write_plan(plan)
    return plan


def states(folder: Path) -> dict[str, bool]:
    """Return {run id: retired} of the sweep s."""
    return {run.id: run.retired for run in read_manifest(folder / "sweeps/s").runs}


def test_a_sweep_is_its_file_as_given_and_a_manifest(folder: Path) -> None:
    text = "# my sweep\nbase: {data.path: r.h5, batch_size: 16}\nseeds: 3\npack: 4\ncluster: informatics\n"
    (folder / "s.yaml").write_text(text)
    done = band_sweep("generate", "s.yaml", "--set", "lr=1e-3", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("band-sweep submit s\n")  # the file says where
    sweep = folder / "sweeps/s"
    assert sorted(path.name for path in sweep.iterdir()) == ["manifest.jsonl", "sweep.yaml"]
    assert (sweep / "sweep.yaml").read_text() == text
    manifest = read_manifest(sweep)
    assert (manifest.name, manifest.source, manifest.sets) == ("s", "s.yaml", ("lr=1e-3",))
    assert manifest.options == {"pack": 4, "cluster": "informatics"}
    assert [manifest.run_config(run)["seed"] for run in manifest.runs] == [0, 1, 2]
    assert {manifest.run_config(run)["hyper"]["lr"] for run in manifest.runs} == {1e-3}


def test_what_is_printed_names_axes_counts_cost_and_changes(folder: Path) -> None:
    write_sweep(
        folder / "s.yaml", {"base": BASE, "pair": [0.1], "seeds": 3, "grid": {"behavior_dropout_rate": [0, 0.5]}}
    )
    done = band_sweep("generate", "s.yaml", cwd=folder)
    assert "s: 9 runs, 3 LFADS and 6 BAND" in done.stdout
    assert (
        "seeds      3 x seed: 0, 1, 2" in done.stdout and "pair       2 x hyper.behavior_weight: 0, 0.1" in done.stdout
    )
    assert "10 bins, 4 neurons, 2 behaviour channels; about 72 trials train, 30 choose, 18 test" in done.stdout
    assert "3 combinations of one that is there already: hyper.behavior_dropout_rate has no effect" in done.stdout
    assert "on one core" in done.stdout and "of memory a run" in done.stdout and "at home" in done.stdout
    assert "9 new" in done.stdout and "band-sweep submit s --cluster local" in done.stdout


def test_a_dry_run_writes_nothing_and_says_so(folder: Path) -> None:
    write_sweep(folder / "s.yaml", {"base": BASE})
    done = band_sweep("generate", "s.yaml", "--dry-run", cwd=folder)
    assert done.returncode == 0 and "nothing, as --dry-run asks" in done.stdout
    assert not (folder / "sweeps").exists()


def test_json_says_the_same_to_a_program(folder: Path) -> None:
    write_sweep(
        folder / "s.yaml", {"base": BASE, "pair": [0.1, 1], "seeds": 2, "exclude": {"seed": 1, "behavior_weight": 1}}
    )
    said = json.loads(band_sweep("generate", "s.yaml", "--json", cwd=folder).stdout)
    assert (said["num_runs"], said["num_lfads"], said["num_excluded"]) == (5, 2, 1)
    assert said["new"] == list(states(folder)) and said["is_dry_run"] is False
    assert said["cost"]["num_runs"] == 5 and said["cost"]["seconds"] > 0 and said["cost"]["home_bytes"] > 0
    assert said["axes"][0] == {"origin": "seeds", "keys": ["seed"], "num_points": 2}
    assert said["datasets"][0]["shapes"]["train"]["encod_data"] == [90, 10, 4]


def test_a_mistake_is_one_line_and_exit_code_1_and_nothing_is_written(folder: Path) -> None:
    (folder / "s.yaml").write_text("base: {data.path: r.h5}\ngrid:\n  hyper.lrr: [1]\n")
    done = band_sweep("generate", "s.yaml", cwd=folder)
    assert done.returncode == 1 and not done.stdout and not (folder / "sweeps").exists()
    assert done.stderr == "error: s.yaml:3: hyper.lrr is not a field of a run; did you mean hyper.lr?\n"


@pytest.mark.parametrize(
    "arguments", [("generate",), ("generate", "s.yaml", "--limit", "0"), ("genrate", "s.yaml"), ()]
)
def test_wrong_usage_is_exit_code_2(folder: Path, arguments: tuple[str, ...]) -> None:
    assert band_sweep(*arguments, cwd=folder).returncode == 2


def test_a_file_that_is_not_there_is_named_with_the_one_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/maze.yaml").touch()
    done = band_sweep("generate", "maze", cwd=tmp_path)
    assert done.stderr == ("error: maze: must be a sweep file (YAML), not found; did you mean experiments/maze.yaml?\n")


def test_generating_again_keeps_adds_retires_and_brings_back(folder: Path) -> None:
    first = generate(folder, seeds=[0, 1])
    zero, one = first.new
    second = generate(folder, seeds=[1, 2])
    (two,) = second.new
    assert (second.kept, second.retired, second.restored) == ([one], [zero], [])
    assert states(folder) == {one: False, two: False, zero: True}
    third = generate(folder, seeds=[0, 2])
    assert (third.new, third.kept, third.retired, third.restored) == ([], [two], [one], [zero])
    assert states(folder) == {zero: False, two: False, one: True}


def test_a_retired_run_keeps_its_configuration_when_the_base_changes(folder: Path) -> None:
    first = generate(folder, seeds=[0, 1], grid={"lr": [1e-3]})
    before = read_manifest(folder / "sweeps/s")
    old = {run.id: before.run_config(run) for run in before.runs}
    write_shapes(folder / "other.h5", bins=20)
    generate(folder, "base.gen_dim=33", "data.path=" + str(folder / "other.h5"), seeds=[5])
    after = read_manifest(folder / "sweeps/s")
    assert [run.id for run in after.runs if run.retired] == first.new
    for run in after.runs:
        if run.retired:
            assert after.run_config(run) == old[run.id]
            assert after.datasets[run.dataset] == before.datasets[0]


def test_generating_again_leaves_every_other_file_as_it_is(folder: Path) -> None:
    first = generate(folder, seeds=2)
    sweep = folder / "sweeps/s"
    others = {f"runs/{first.new[0]}/result.json": "{}", "tasks/0001/task.json": "{}", "events/0001.a.jsonl": ""}
    for name, text in others.items():
        (sweep / name).parent.mkdir(parents=True, exist_ok=True)
        (sweep / name).write_text(text)
        os.utime(sweep / name, (1, 1))
    second = generate(folder, seeds=[7])
    found = {str(path.relative_to(sweep)) for path in sweep.rglob("*") if path.is_file()}
    assert found == {*others, "manifest.jsonl", "sweep.yaml"}
    assert all(
        (sweep / name).stat().st_mtime == 1 and (sweep / name).read_text() == text for name, text in others.items()
    )
    assert second.finished == {first.new[0]} and second.cost.num_runs == 1


def test_what_is_finished_is_not_in_the_cost(folder: Path) -> None:
    first = generate(folder, seeds=4)
    for identity in first.new[:3]:
        (folder / "sweeps/s/runs" / identity).mkdir(parents=True)
    second = generate(folder, seeds=4)
    assert second.cost.num_runs == 1
    assert second.cost.seconds == pytest.approx(first.cost.seconds / 4)


def test_a_limit_takes_the_first_runs_and_retires_none(folder: Path) -> None:
    few = generate(folder, seeds=3, pair=[0.1], limit=2)
    assert [identity.split("-")[0] for identity in few.new] == ["lfads", "band0.1"]
    every = generate(folder, seeds=3, pair=[0.1])
    assert len(every.new) == 4 and every.kept == few.new
    assert generate(folder, seeds=3, pair=[0.1], limit=1).retired == []
    assert list(states(folder).values()) == [False] * 6


def test_the_same_science_has_the_same_id_wherever_it_is_generated(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_shapes(elsewhere / "moved.h5")
    here = generate(folder, seeds=[3], grid={"lr": [1e-3, 2e-3]})
    there = write_sweep(
        elsewhere / "t.yaml",
        {
            "base": {
                "data.path": "moved.h5",
                "train": {"batch_size": 16, "checkpoint_s": 5},
                "seed": 3,
                "output.level": "full",
            },
            "list": [{"hyper": {"lr": 0.002}}],
        },
    )
    assert make_plan(there).new == here.new[1:]


def test_another_file_does_not_take_over_a_sweep(folder: Path) -> None:
    generate(folder)
    other = write_sweep(folder / "other.yaml", {"name": "s", "base": BASE})
    with pytest.raises(SweepError, match=r"was generated from s\.yaml, not other\.yaml; give another name by --name"):
        make_plan(other)
    assert make_plan(other, name="t").folder == folder / "sweeps/t"


def test_a_damaged_manifest_is_not_overwritten(folder: Path) -> None:
    generate(folder)
    (folder / "sweeps/s/manifest.jsonl").write_text("{")
    with pytest.raises(SweepError, match=r"manifest\.jsonl:1: .*move that file aside first"):
        make_plan(folder / "s.yaml")


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "-rf", "a b", "x" * 65, ""])
def test_a_name_that_is_no_folder_name_is_refused(folder: Path, name: str) -> None:
    path = write_sweep(folder / "s.yaml", {"base": BASE})
    with pytest.raises(ConfigError, match=r"--name must be"):
        make_plan(path, name=name)


def test_a_full_disk_leaves_the_old_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(folder, seeds=2)
    sweep = folder / "sweeps/s"
    before = (sweep / "manifest.jsonl").read_bytes()
    plan = make_plan(write_sweep(folder / "s.yaml", {"base": BASE, "seeds": 5}))

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_plan(plan)
    assert (sweep / "manifest.jsonl").read_bytes() == before
    assert sorted(path.name for path in sweep.iterdir()) == ["manifest.jsonl", "sweep.yaml"]


def test_a_manifest_from_before_a_field_existed_is_still_understood(folder: Path) -> None:
    first = generate(folder, seeds=2)
    path = folder / "sweeps/s/manifest.jsonl"
    head, *rows = path.read_text().splitlines()
    values = json.loads(head)
    del values["base"]["hyper"]["weight_decay"], values["base"]["train"]["dtype"]
    path.write_text(signed("\n".join([json.dumps(values), *rows])))
    second = generate(folder, seeds=[1])
    assert second.kept == first.new[1:] and second.retired == first.new[:1]
    after = read_manifest(folder / "sweeps/s")
    assert [(run.overrides, run.retired) for run in after.runs] == [({"seed": 1}, False), ({}, True)]


def test_ten_thousand_runs_are_two_files(folder: Path) -> None:
    plan = generate(folder, seeds=1250, grid={"lr": [1e-3, 2e-3], "cd_rate": [0.1, 0.2]}, pair=[0.1])
    assert len(plan.runs) == len(set(plan.new)) == 10_000
    assert len(list((folder / "sweeps").rglob("*"))) == 3


def test_what_is_known_of_a_recording_is_not_read_again(folder: Path) -> None:
    path = write_sweep(folder / "s.yaml", {"base": BASE})
    os.utime(folder / "r.h5", (1, 1))
    program = (
        "import sys; import band.data.digest as digest; digest.SETTLED_NS = -1\n"
        "from band.cli.sweep import main\n"
        "code = main(sys.argv[1:]); print(sorted({'numpy', 'h5py', 'torch', 'omegaconf', 'rich'} & set(sys.modules)))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program, "generate", str(path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.splitlines()[-1]
        for _ in range(2)
    ]
    assert found == ["['h5py', 'numpy']", "[]"]


@pytest.mark.parametrize("arguments", [("--help",), ("generate", "--help"), ("--version",)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    program = (
        "import sys; from band.cli.sweep import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'h5py', 'omegaconf', 'rich', 'submitit', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_control_character_in_a_value_does_not_reach_the_terminal(folder: Path) -> None:
    (folder / "s.yaml").write_text('base: {data.path: r.h5}\ngrid: {"\\e[31mlr": [1]}\n')
    done = band_sweep("generate", "s.yaml", cwd=folder)
    assert done.returncode == 1 and "\x1b" not in done.stderr and "\\x1b[31mlr" in done.stderr
