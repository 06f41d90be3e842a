"""Population-based training as part of a sweep: its section, its identity, its cost, its task, its figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sweep_files import expand_text, write_shapes

from band.config import PbtConfig, RunConfig, to_dict
from band.errors import ConfigError
from band.sweep.estimate import estimate
from band.sweep.grid import Expansion
from band.sweep.manifest import Manifest
from band.sweep.pack import Room, pack

PBT = """
pbt:
  members: 6
  space:
    lr: {low: 1e-3, high: 1e-2, change: 0.3}
    hyper.cd_rate: {draw: uniform, low: 0.1, high: 0.5}
"""
BASE = f"base: {{data: {{path: r.h5}}, train: {{batch_size: 8}}}}{PBT}"
SHAPES = {"train": {"encod_data": [129, 50, 30]}, "valid": {"encod_data": [36, 50, 30]}}


def manifest_of(expansion: Expansion) -> Manifest:
    return Manifest(name="s", base=expansion.base, datasets=expansion.datasets, runs=expansion.runs)


def test_the_section_stands_beside_the_base_and_names_are_as_everywhere(tmp_path: Path) -> None:
    expansion = expand_text(tmp_path, BASE)
    pbt = PbtConfig(**expansion.base["pbt"])
    assert pbt.members == 6 and list(pbt.searched()) == ["hyper.cd_rate", "hyper.lr"]
    base = {"data": {"path": "r.h5"}, "train": {"batch_size": 8}, "pbt": {"members": 6}}
    base["pbt"]["space"] = {
        "hyper": {"lr": {"low": 1e-3, "high": 1e-2, "change": 0.3}},
        "cd_rate": {"draw": "uniform", "low": 0.1, "high": 0.5},
    }
    assert expand_text(tmp_path, json.dumps({"base": base})).base == expansion.base


def test_lfads_and_band_are_two_searches_side_by_side_in_tasks_of_their_own(tmp_path: Path) -> None:
    manifest = manifest_of(expand_text(tmp_path, BASE + "pair: {behavior_weight: [1]}\nseeds: 2\n"))
    assert sorted(run.id.partition("-")[0] for run in manifest.runs) == ["band1", "band1", "lfads", "lfads"]
    room = Room(slots=8, threads=1, device="cpu", memory_bytes=2**40, worth_s=1e9)
    for members in (0, 16):
        tasks = pack(manifest, manifest.runs, room=room, members=members)
        assert [len(task.runs) for task in tasks] == [1, 1, 1, 1]


def test_plain_runs_pack_together_beside_a_search(tmp_path: Path) -> None:
    text = BASE + "seeds: 4\nlist: [{pbt.members: 0, lr: 1e-3}, {pbt.members: 6}]\n"
    manifest = manifest_of(expand_text(tmp_path, text))
    room = Room(slots=1, threads=1, device="cpu", memory_bytes=2**40)
    assert sorted(len(task.runs) for task in pack(manifest, manifest.runs, room=room)) == [1, 1, 1, 1, 4]


def test_a_search_costs_what_its_members_cost_together_and_leaves_one_folder() -> None:
    config = to_dict(RunConfig())
    one = estimate(config, SHAPES)
    config["pbt"]["members"] = 20
    many = estimate(config, SHAPES)
    assert 15 * one.seconds < many.seconds <= 20 * one.seconds
    assert 10 * one.memory_bytes < many.memory_bytes <= 20 * one.memory_bytes
    assert many.home_bytes == one.home_bytes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("low: 1e-3", "low: 1", "s.yaml:5: pbt.space.hyper.lr.low must be below high = 0.01, got 1"),
        ("lr: {low", "lrr: {low", "s.yaml:5: lrr is not a field of a run; did you mean lr?"),
        ("lr: {low", "lr_decay: {low", "s.yaml:4: pbt.space.hyper.lr_decay cannot be searched"),
        ("high: 0.5", "high: 1.5", "pbt.space.hyper.cd_rate: hyper.cd_rate must be in [0, 1), got 1.5"),
        ("change: 0.3", "chnage: 0.3", "s.yaml:5: pbt.space.hyper.lr.chnage is not a field of a search"),
        ("members: 6", "members: 1", "s.yaml:3: pbt.members must be 0 or at least 2, got 1"),
        ("members: 6", "members: 6\n  selection: best", "pbt.selection must be one of tournament, truncation"),
        ("members: 6", "members: 6\n  shards: 7", "s.yaml:4: pbt.shards must be in [1, pbt.members = 6], got 7"),
        ("members: 6", "membres: 6", "pbt.membres is not a field of a run; did you mean pbt.members?"),
        ("lr: {low: 1e-3, high: 1e-2, change: 0.3}", "lr: 1e-3", "pbt.space.hyper.lr must be a mapping such as"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_key_and_rule(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        expand_text(tmp_path, BASE.replace(old, new))
    assert message in str(raised.value).replace(f"{tmp_path}/", "")


def test_sweeping_what_a_search_draws_would_reach_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"grid\.hyper\.lr would not reach the runs: pbt\.space says where members"):
        expand_text(tmp_path, BASE + "grid: {lr: [1e-3, 2e-3]}\n")


def test_an_included_search_is_switched_off_or_changed_by_field(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text(BASE)
    write_shapes(tmp_path / "r.h5")
    assert expand_text(tmp_path, "include: below.yaml\npbt: {members: 0}\n").base["pbt"]["members"] == 0
    pbt = expand_text(tmp_path, "include: below.yaml\npbt: {every_epochs: 7}\n", "pbt.burn_in_epochs=9").base["pbt"]
    assert (pbt["members"], pbt["every_epochs"], pbt["burn_in_epochs"]) == (6, 7, 9)
