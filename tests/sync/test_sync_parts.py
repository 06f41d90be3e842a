"""What needs no second machine: manifests merged, parts and parameters chosen, runs held in part."""

from __future__ import annotations

from pathlib import Path

import pytest
from sealed_runs import publish, run_id

from band.config import RunConfig, to_dict
from band.errors import ConfigError, PublishError
from band.files import sync_file_system
from band.run_dir import ABSENT, absent_files, mark_absent, verify
from band.sweep.manifest import Manifest, Run
from band.sync.choice import PARTS, Choice, parse_list, parse_where
from band.sync.connection import Place
from band.sync.holding import finish_placing
from band.sync.merge import are_related, merge
from band.sync.remote import look_at_run
from band.sync.sources import Source


def manifest(runs: dict[str, dict[str, object]], *, digest: str = "d", lr: float = 4e-3) -> Manifest:
    base = to_dict(RunConfig())
    base["hyper"]["lr"] = lr
    dataset = {"path": f"/{digest}.h5", "digest": digest}
    made = [Run(run, 0, overrides) for run, overrides in runs.items()]
    return Manifest(name="maze", base=base, datasets=[dataset], runs=made)


def test_runs_of_another_base_and_recording_mean_the_same_after_merging() -> None:
    home = manifest({"a": {"seed": 1}})
    other = manifest({"a": {"seed": 1}, "b": {"seed": 2}, "c": {"seed": 3, "hyper.lr": 4e-3}}, digest="e", lr=1e-3)
    both = merge(home, other)
    assert [run.id for run in both.runs] == ["a", "b", "c"] and both.runs[0] == home.runs[0]
    for run in both.runs[1:]:
        (theirs,) = [each for each in other.runs if each.id == run.id]
        assert both.run_config(run) == other.run_config(theirs)
    assert [dataset["digest"] for dataset in both.datasets] == ["d", "e"]
    assert merge(both, other) is both


def test_sweeps_with_nothing_in_common_are_not_taken_for_one() -> None:
    home = manifest({"a": {}})
    assert are_related(home, manifest({"b": {}})) and are_related(home, manifest({"a": {}}, digest="e"))
    assert not are_related(home, manifest({"b": {}}, digest="e"))


def test_values_of_parameters_are_compared_as_values() -> None:
    runs = manifest({"a": {"hyper.behavior_weight": 0.1}, "b": {"hyper.behavior_weight": 1}, "c": {"seed": 1}})
    chosen = {
        text: [run.id for run in Choice(where=parse_where([text])).runs(runs)]
        for text in ("hyper.behavior_weight=1.0", "hyper.behavior_weight=1e-1,1", "seed=1", "arch.reconstruction=poi*")
    }
    assert list(chosen.values()) == [["b"], ["a", "b"], ["c"], ["a", "b", "c"]]


@pytest.mark.parametrize("text", ["seed", "=1", "seed=", ""])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_where([text])


def test_result_json_belongs_to_every_choice_of_parts() -> None:
    for part in PARTS:
        assert Choice(parts=parse_list(part, choices=PARTS, what="--what")).takes("result.json")
    files = ("metrics.csv", "outputs.h5", "model.pt", "something.new")
    taken = {part: [file for file in files if Choice(parts=(part,)).takes(file)] for part in PARTS}
    assert [*taken.values()] == [[], ["metrics.csv"], ["outputs.h5", "something.new"], ["model.pt"], []]


def test_a_run_in_part_is_whole_again_when_nothing_is_marked_absent(tmp_path: Path) -> None:
    run = publish(tmp_path / "maze", [0]).run(run_id(0))
    data = (run / "model.pt").read_bytes()
    (run / "model.pt").unlink()
    with pytest.raises(PublishError, match="is missing"):
        verify(run)
    mark_absent(run, ["model.pt"])
    with pytest.raises(PublishError, match="band-sync pull brings it"):
        verify(run)
    verify(run, may_lack=absent_files(run))
    (run / "model.pt").write_bytes(data)
    for _ in range(2):  # also where nothing says that anything is absent
        mark_absent(run, [])
    assert not absent_files(run) and verify(run)["run_id"] == run.name


def test_what_a_killed_pull_had_linked_into_a_run_is_neither_called_absent_nor_left_on_its_way(tmp_path: Path) -> None:
    sweep = publish(tmp_path / "maze", [0, 1])
    source = Source(sweep=sweep, place=Place("far", "/far/maze"))
    run, half_way = sweep.run(run_id(0)), sweep.run(run_id(1))
    for folder in (run, half_way):
        (source.incoming / folder.name).mkdir(parents=True)
        mark_absent(folder, ["model.pt"])
    (source.incoming / run.name / "model.pt").hardlink_to(run / "model.pt")
    (source.incoming / half_way.name / "model.pt").write_bytes(b"half of it")
    (half_way / "model.pt").unlink()
    assert not absent_files(run) and not look_at_run(str(run), known="")["absent"]
    finish_placing(source)
    assert not (run / ABSENT).exists()
    assert [path.name for path in source.incoming.iterdir()] == [half_way.name]
    assert absent_files(half_way) == {"model.pt"} == set(look_at_run(str(half_way), known="")["absent"])


def test_flushing_a_file_system_reports_what_it_cannot(tmp_path: Path) -> None:
    sync_file_system(tmp_path)
    with pytest.raises(OSError):
        sync_file_system(tmp_path / "missing")
