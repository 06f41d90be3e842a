"""What a user asks of a cluster, from four places; what band makes of it; and what a dry run shows and leaves alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm
from local_sweep import LocalSweep, make_sweep
from test_slurm_submit import install

from band.cli.common import main_guard
from band.cli.sweep import dispatch
from band.slurm.cluster import Limits, Node
from band.sweep.arrays import Queue, is_too_large, room_on, warnings_of, with_defaults
from band.sweep.journal import read_journals
from band.sweep.ledger import read_intents
from band.sweep.manifest import Manifest, manifest_text, read_manifest
from band.sweep.pack import pack
from band.sweep.request import Request, cluster_of, make_request

GIB = 2**30
TEMPLATE = """#!/bin/bash
#SBATCH --time=1:00:00
#SBATCH --mem=4G
#SBATCH --partition=slow
#SBATCH --gres=gpu:1
module load python
"""
CONFIG = """cluster: mine
sbatch: {mem: 5G, account: lab}
clusters:
  mine: {sbatch: {partition: fast}, max_parallel: 7, setup: ["export A=1"]}
"""
NODES = tuple(Node(name=f"c{n}", cpus=8, memory_bytes=32 * GIB, gpus=2) for n in range(3))


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalSweep:
    made = make_sweep(tmp_path, {f"run-{number}": {"seed": number} for number in range(4)})
    (tmp_path / "sbatch_templates").mkdir()
    (tmp_path / "sbatch_templates/mine.sh").write_text(TEMPLATE)
    (tmp_path / "config/band").mkdir(parents=True)
    (tmp_path / "config/band/config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return made


def with_options(local: LocalSweep, **options: Any) -> Manifest:
    manifest = replace(read_manifest(local.sweep.path), options=options, source="demo.yaml")
    local.sweep.manifest.write_text(manifest_text(manifest))
    return manifest


def plain_request(local: LocalSweep, **sbatch: object) -> Request:
    (Path("sbatch_templates") / "bare.sh").write_text("#!/bin/bash\n")
    Path("config/band/config.yaml").unlink(missing_ok=True)
    return make_request(read_manifest(local.sweep.path), cluster="bare", sbatch=sbatch)


def test_of_each_option_the_last_place_counts_and_its_origin_is_known(local: LocalSweep) -> None:
    manifest = with_options(local, submit={"partition": "long", "cpus_per_task": 3, "max_parallel": 9})
    request = make_request(manifest, cluster="mine", sbatch={"time": "2:00:00", "gpus": "a100:2"})
    found = {name: (option.value, option.origin) for name, option in request.sbatch.items()}
    assert found["time"] == ("2:00:00", "command line")
    assert found["partition"] == ("long", "demo.yaml: submit") and found["cpus-per-task"][0] == "3"
    assert found["mem"][0] == "5G" and "config.yaml" in found["mem"][1] and found["account"][0] == "lab"
    assert "gres" not in found, "two ways to ask for GPUs would be refused"
    assert (request.gpus, request.cpus, request.max_parallel, request.time_s) == (2, 3, 9, 7200)
    assert request.setup[-2:] == ("module load python", "export A=1")


def test_the_cluster_comes_from_the_command_line_the_file_the_configuration_or_is_this_machine(
    local: LocalSweep,
) -> None:
    assert cluster_of(with_options(local, cluster="theirs"), given="local") == "local"
    assert cluster_of(with_options(local, cluster={"name": "theirs", "mem": "1G"})) == "theirs"
    assert cluster_of(with_options(local)) == "mine"
    Path("config/band/config.yaml").unlink()
    assert cluster_of(with_options(local)) == "local"


@pytest.mark.parametrize(
    ("options", "arguments", "words"),
    [
        ({"submit": {"tmie": "1:00"}}, [], "demo.yaml: submit: sbatch has no option tmie; did you mean time?"),
        ({"submit": {"array": "0-3"}}, [], "array cannot be set: band plans the arrays"),
        ({"submit": {"max_parallel": 0}}, [], "max_parallel must be a whole number of at least 1"),
        ({}, ["--sbatch", "mem=lots"], "command line: mem must be an amount of memory"),
        ({}, ["--cluster", "moon"], "no template moon.sh"),
        ({}, ["--mem", "100M"], "one run needs about"),
    ],
)
def test_a_mistake_is_said_in_one_line_before_anything_is_sent(
    local: LocalSweep,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    arguments: list[str],
    words: str,
) -> None:
    Path("sbatch_templates/mine.sh").write_text("#!/bin/bash\n")
    slurm = FakeSlurm(Path("slurm.json"))
    install(slurm, monkeypatch)
    with_options(local, **options)
    assert main_guard(lambda: dispatch(["submit", str(local.sweep.path), *arguments])) == 1
    assert words in capsys.readouterr().err and not slurm.jobs() and not read_intents(local.sweep)


def test_a_dry_run_shows_the_very_script_and_every_origin_and_writes_nothing(
    local: LocalSweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm = FakeSlurm(Path("slurm.json"))
    install(slurm, monkeypatch)
    before = sorted(path for path in local.sweep.path.rglob("*"))
    arguments = ["submit", str(local.sweep.path), "--cluster", "mine", "--time", "30", "--sbatch", "nice=10"]
    assert dispatch([*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert sorted(path for path in local.sweep.path.rglob("*")) == before and not slurm.jobs()
    for words in (
        "#SBATCH --time=30",
        "#SBATCH --nice=10",
        "module load python",
        "command line",
        "of results",
        "free in",
    ):
        assert words in shown
    assert dispatch(arguments) == 0
    (array,) = read_journals(local.sweep)
    sent = (local.sweep.submission(array.submission) / array.script).read_text()
    lines = {line for line in sent.splitlines() if line not in shown}
    assert all(array.token in line or "0001" in line or "BAND_SUBMIT_T" in line for line in lines), lines


def test_room_is_what_the_nodes_hold_of_what_a_task_asks_for(local: LocalSweep) -> None:
    limits = Limits(nodes=NODES, max_wall_s=7200)
    alone = plain_request(local)
    assert (room_on(alone, limits).slots, room_on(alone, Limits()).slots) == (24, 16)
    gpu = plain_request(local, gpus=1, cpus_per_task=4)
    assert (room_on(gpu, limits).slots, room_on(gpu, limits).threads, room_on(gpu, limits).device) == (6, 4, "cuda")
    assert room_on(replace(gpu, max_parallel=2), limits).slots == 2
    assert room_on(plain_request(local, mem="2G"), limits).task_bytes == int(0.9 * 2 * GIB)
    assert room_on(plain_request(local, mem_per_cpu="1G", cpus_per_task=2), limits).task_bytes == int(0.9 * 2 * GIB)
    assert room_on(alone, limits).task_bytes == int(0.9 * 4 * GIB), "an even share of a node"
    assert room_on(plain_request(local, mem="10G"), limits).slots == 9
    silent = Limits(nodes=tuple(replace(node, memory_bytes=0) for node in NODES))
    assert room_on(plain_request(local, mem="10G"), silent).slots == 24, "a node that does not tell of its memory"


@pytest.mark.parametrize(
    ("asked", "is_large"),
    [({"mem": "32G"}, False), ({"mem": "33G"}, True), ({"cpus_per_task": 9}, True), ({"gpus": 3}, True), ({}, False)],
)
def test_a_task_that_fits_no_node_is_seen_unless_nodes_are_hidden(
    local: LocalSweep, asked: dict[str, Any], is_large: bool
) -> None:
    request = plain_request(local, **asked)
    assert is_too_large(request, Limits(nodes=NODES)) is is_large
    warnings = warnings_of(request, tasks=[], limits=Limits(nodes=NODES, partition="long"))
    assert any("no node of partition long" in line for line in warnings) is is_large
    assert not is_too_large(request, Limits())


def test_time_and_memory_are_estimated_where_nobody_gives_them_and_within_the_partition(local: LocalSweep) -> None:
    manifest = read_manifest(local.sweep.path)
    request = plain_request(local)
    tasks = pack(manifest, manifest.active(), room=room_on(request, Limits()))
    complete = with_defaults(request, tasks=tasks, limits=Limits())
    assert complete.time_s and complete.time_s >= max(task.seconds for task in tasks) + 600
    assert complete.memory_bytes and complete.memory_bytes >= max(task.memory_bytes for task in tasks)
    assert {complete.sbatch[name].origin for name in ("time", "mem")} == {"estimate"}
    assert with_defaults(request, tasks=tasks, limits=Limits(max_wall_s=300)).time_s == 300
    given = plain_request(local, time="UNLIMITED", mem="0")
    assert with_defaults(given, tasks=tasks, limits=Limits()).sbatch == given.sbatch


def test_an_array_is_as_long_as_every_limit_allows_with_its_closing_job() -> None:
    assert Queue(Limits(max_array_size=21)).free() == 21
    assert Queue(Limits(max_array_size=21, max_submit_jobs=10), own=3).free() == 6
    assert Queue(Limits(max_job_count=5), own=5).free() < 1
    assert json.dumps(Queue(Limits()).free()) == "Infinity"
