"""Packing against its promises, searched by hypothesis, and what a machine has room for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from band.config import RunConfig, to_dict
from band.errors import SweepError
from band.sweep.estimate import PROCESS_BYTES
from band.sweep.manifest import Manifest, Run
from band.sweep.pack import Packed, Room, pack, population_key, room_for, short_of_memory, split_evenly
from band.sweep.resources import Resources, free_memory_bytes, num_cores, visible_gpus

GIB = 2**30
SHAPES = {"train": {"encod_data": [129, 50, 30], "behavior": [129, 50, 2]}, "valid": {"encod_data": [36, 50, 30]}}
OVERRIDES = st.fixed_dictionaries(
    {
        "arch.gen_dim": st.sampled_from([50, 100]),
        "train.batch_size": st.sampled_from([32, 64]),
        "output.level": st.sampled_from(["scores", "full"]),
        "hyper.lr": st.sampled_from([1e-3, 2e-3, 4e-3]),
        "data.fold": st.integers(0, 2),
        "dataset": st.integers(0, 1),
    }
)


def manifest_of(points: list[dict[str, object]]) -> Manifest:
    base = to_dict(RunConfig())
    base["data"]["num_folds"] = 3
    datasets = [{"path": f"/data/{name}.h5", "shapes": SHAPES} for name in "ab"]
    runs = [
        Run(f"run-{n}", point.get("dataset", 0), {k: v for k, v in point.items() if k != "dataset"})
        for n, point in enumerate(points)
    ]
    return Manifest(name="demo", base=base, datasets=datasets, runs=runs)


def room(slots: int = 2, *, memory_bytes: int = 64 * GIB) -> Room:
    return Room(slots=slots, threads=1, device="cpu", memory_bytes=memory_bytes)


def sizes(tasks: list[Packed]) -> list[int]:
    return sorted(len(task.runs) for task in tasks)


@settings(max_examples=60, deadline=None)
@given(st.lists(OVERRIDES, max_size=40), st.integers(1, 8), st.integers(0, 5))
def test_every_run_is_in_one_task_of_its_own_kind_and_no_task_is_too_large(
    points: list[dict[str, object]], slots: int, members: int
) -> None:
    manifest = manifest_of(points)
    tasks = pack(manifest, manifest.runs, room=room(slots), members=members)
    assert sorted(run.id for task in tasks for run in task.runs) == sorted(run.id for run in manifest.runs)
    for task in tasks:
        kinds = {population_key(run, config=manifest.run_config(run)) for run in task.runs}
        assert len(kinds) == 1
        assert 1 <= len(task.runs) <= (members or 16)
    assert [task.seconds for task in tasks] == sorted((task.seconds for task in tasks), reverse=True)


@pytest.mark.parametrize(
    ("count", "slots", "members", "expected"),
    [
        (9, 2, 0, [4, 5]),
        (9, 2, 4, [2, 2, 2, 3]),
        (3, 8, 0, [1, 1, 1]),
        (40, 2, 0, [10, 10, 10, 10]),
        (1, 2, 0, [1]),
        (0, 2, 0, []),
    ],
)
def test_one_population_is_shared_out_evenly_over_the_cores(
    count: int, slots: int, members: int, expected: list[int]
) -> None:
    manifest = manifest_of([{"seed": n} for n in range(count)])
    assert sizes(pack(manifest, manifest.runs, room=room(slots), members=members)) == expected


def test_folds_and_hyperparameters_share_a_population_but_shapes_do_not() -> None:
    manifest = manifest_of([{"data.fold": 0}, {"data.fold": 1, "hyper.lr": 1e-3}, {"arch.gen_dim": 50}])
    assert sizes(pack(manifest, manifest.runs, room=room(1))) == [1, 2]


def test_memory_bounds_the_members() -> None:
    manifest = manifest_of([{"seed": n} for n in range(16)])
    alone = pack(manifest, manifest.runs[:1], room=room(1))[0].memory_bytes
    tight = room(1, memory_bytes=2 * alone)
    tasks = pack(manifest, manifest.runs, room=tight)
    assert len(tasks) > 1 and max(task.memory_bytes for task in tasks) <= tight.memory_bytes


@pytest.mark.parametrize("members", [0, 6], ids=["a run", "a search"])
def test_what_cannot_be_divided_takes_fewer_trials_at_once_and_is_refused_where_that_is_not_enough(
    members: int,
) -> None:
    manifest = manifest_of([{"pbt.members": members} if members else {}])
    (whole,) = pack(manifest, manifest.runs, room=room(1))
    assert not whole.trials_at_once and not short_of_memory([whole])
    found = set()
    for free in range(PROCESS_BYTES, whole.memory_bytes, (whole.memory_bytes - PROCESS_BYTES) // 100):
        try:
            (task,) = pack(manifest, manifest.runs, room=room(1, memory_bytes=free))
        except SweepError as error:
            assert "one run needs about" in str(error)
            found.add(None)
            continue
        assert task.memory_bytes <= free and task.seconds > whole.seconds
        trials = task.trials_at_once["run-0"]
        assert f"run-0 will take at most {trials} trials of a batch at once" in short_of_memory([task])
        found.add(trials)
    assert found == {None, 4, 7, 14, 28}, "of the 55 trials of a fold that trains"


def test_pieces_are_consecutive_and_differ_by_one_at_most() -> None:
    for count in range(1, 30):
        for parts in range(1, count + 1):
            pieces = split_evenly(range(count), parts=parts)
            assert [item for piece in pieces for item in piece] == list(range(count))
            lengths = [len(piece) for piece in pieces]
            assert len(pieces) == parts and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("resources", "asked", "expected"),
    [
        ((8, ()), {}, (8, 1, "cpu")),
        ((8, ()), {"threads": 2}, (4, 2, "cpu")),
        ((8, ()), {"jobs": 2}, (2, 4, "cpu")),
        ((2, ()), {"threads": 8}, (1, 8, "cpu")),
        ((8, (0, 1)), {}, (2, 4, "cuda")),
        ((8, (0, 1)), {"device": "cpu"}, (8, 1, "cpu")),
    ],
)
def test_tasks_at_once_follow_cores_gpus_and_what_was_asked(
    resources: tuple[int, tuple[int, ...]], asked: dict[str, object], expected: tuple[int, int, str]
) -> None:
    cores, gpus = resources
    found = room_for(Resources(cores=cores, memory_bytes=GIB, gpus=gpus), **asked)
    assert (found.slots, found.threads, found.device) == expected


def test_asking_for_gpus_where_there_are_none_is_an_error() -> None:
    with pytest.raises(SweepError, match="no GPU is visible"):
        room_for(Resources(cores=1, memory_bytes=GIB), device="cuda")


def test_a_container_limits_cores_and_memory(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {GIB}\n")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable:    {16 * 2**20} kB\n")
    assert num_cores(tmp_path) == 1
    assert free_memory_bytes(tmp_path, meminfo) == 2 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory_bytes(tmp_path, meminfo) == 16 * GIB


def test_gpus_are_counted_without_importing_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("band.sweep.resources.torch_has_cuda", lambda: True)
    assert visible_gpus({}, tmp_path) == (0, 1)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == (1,)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ()
    assert visible_gpus({}, tmp_path / "absent") == ()
    with pytest.raises(SweepError, match="GPU indices"):
        visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, tmp_path)
    monkeypatch.setattr("band.sweep.resources.torch_has_cuda", lambda: False)
    assert visible_gpus({}, tmp_path) == ()


SHORT = {"train.max_epochs": 1, "train.posterior_samples": 1, "output.level": "scores"}


def slurm_room(slots: int, **values: float) -> Room:
    return Room(slots=slots, threads=1, device="cpu", memory_bytes=2**40, worth_s=900, **values)  # type: ignore[arg-type]


def test_two_hundred_short_runs_on_eight_slots_are_eight_tasks_of_25_whether_of_one_shape_or_of_many() -> None:
    same = manifest_of([{**SHORT, "seed": n} for n in range(200)])
    tasks = pack(same, same.runs, room=slurm_room(8))
    assert sizes(tasks) == [25] * 8 and all(len(task.populations) == 1 for task in tasks)
    other = manifest_of([{**SHORT, "train.patience": n + 1} for n in range(200)])
    tasks = pack(other, other.runs, room=slurm_room(8))
    assert sizes(tasks) == [25] * 8 and all(len(task.populations) == 25 for task in tasks)


def test_populations_are_joined_no_further_than_makes_a_task_worth_starting_and_fits_its_time() -> None:
    manifest = manifest_of([{"train.patience": n + 1, "dataset": n % 2} for n in range(60)])
    alone = pack(manifest, manifest.runs, room=slurm_room(8, task_s=0.001))
    assert sizes(alone) == [1] * 60
    one_s = alone[0].seconds
    joined = pack(manifest, manifest.runs, room=slurm_room(4))
    assert all(task.seconds <= max(900, one_s) for task in joined)
    assert all(len({run.dataset for run in task.runs}) == 1 for task in joined)
    assert sorted(run.id for task in joined for run in task.runs) == sorted(run.id for run in manifest.runs)
    timed = pack(manifest, manifest.runs, room=slurm_room(4, task_s=2.5 * one_s))
    assert max(len(task.runs) for task in timed) <= 2
    assert max(task.memory_bytes for task in joined) == alone[0].memory_bytes


def test_pairs_stay_in_one_task_where_they_can() -> None:
    points = [{"seed": n, "hyper.behavior_weight": weight} for weight in (0.0, 1.0) for n in range(9)]
    manifest = manifest_of(points)
    tasks = pack(manifest, manifest.runs, room=room(2))
    assert sizes(tasks) == [8, 10]
    for task in tasks:
        seeds = [run.overrides["seed"] for run in task.runs]
        assert all(seeds.count(seed) == 2 for seed in seeds)
    assert sizes(pack(manifest, manifest.runs, room=room(18))) == [1] * 18


def test_the_memory_of_one_task_bounds_its_members_and_what_cannot_hold_one_run_is_an_error() -> None:
    manifest = manifest_of([{"seed": n} for n in range(16)])
    alone = pack(manifest, manifest.runs[:1], room=room(1))[0].memory_bytes
    tasks = pack(manifest, manifest.runs, room=slurm_room(1, task_bytes=int(1.5 * alone)))
    assert len(tasks) > 1 and max(task.memory_bytes for task in tasks) <= 1.5 * alone
    with pytest.raises(SweepError, match="give more by --mem"):
        pack(manifest, manifest.runs, room=slurm_room(1, task_bytes=alone // 2))
