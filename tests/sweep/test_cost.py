"""Cost: hours and memory of attempts from what a sweep left on disk, and the request that would have been enough."""

from __future__ import annotations

import json

import pytest
from published_sweep import publish_sweep, runs_of

from band.run_dir import read_result, seal
from band.sweep.collect import collect
from band.sweep.cost import cost_of

GIB = 2**30


def scores_of(run):
    return {"train": {}, "valid": {}, "test": {"bits_per_spike": 0.1}}


def publish(folder, *, peaks=(), **provenance):
    """Publish four runs, with the memory that each recorded."""
    publish_sweep(folder, runs_of(seeds=2), scores=scores_of)
    for n, run in enumerate(sorted((folder / "runs").iterdir())):
        result = read_result(run)
        result["training"]["seconds"] = 100.0 * (n + 1)
        result["provenance"] = {**provenance, **({"peak_memory_bytes": peaks[n]} if peaks else {})}
        seal(run, result=result)
    return folder


def attempt(folder, task, name, *, begin, end, runs):
    (folder / "events").mkdir(exist_ok=True)
    events = [{"t": begin, "event": "claimed", "host": "c1"}]
    events += [{"t": (begin + end) / 2, "event": "published", "run": run, "outcome": "ok"} for run in runs]
    events += [{"t": end, "event": "ended", "code": 0}]
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "events" / f"{task}.{name}.jsonl").write_text(text)


def intent(folder, *, tasks, **options):
    values = {"schema": 1, "action": "submit", "t": 1.0, "scheduler": "slurm", "runs": [], "failures": {}}
    (folder / "submissions/0001").mkdir(parents=True)
    text = json.dumps({**values, "tasks": tasks, "options": options})
    (folder / "submissions/0001/intent.json").write_text(text)


def test_every_attempt_counts_from_its_first_word_to_its_last_with_what_its_task_was_given(tmp_path):
    folder = publish(tmp_path / "s", peaks=[GIB, 2 * GIB, 3 * GIB, GIB])
    ids = sorted(path.name for path in (folder / "runs").iterdir())
    intent(folder, tasks={"0001": ids[:2], "0002": ids[2:]}, cpus=4, gpus=2, mem_bytes=8 * GIB, time_s=7200)
    attempt(folder, "0001", "j1_0-r0", begin=0.5, end=3600.5, runs=[])
    attempt(folder, "0001", "j1_0-r1", begin=5000.0, end=6800.0, runs=ids[:2])
    attempt(folder, "0002", "j1_1-r0", begin=10.0, end=1810.0, runs=ids[2:])
    attempt(folder, "0002", "closing-0001-1", begin=1.0, end=90000.0, runs=[])  # hearsay: nobody's time
    cost = cost_of([folder], collect(folder).runs)
    assert len(cost.attempts) == 3
    assert cost.gpu_hours == pytest.approx(2 * 2.0) and cost.cpu_hours == pytest.approx(4 * 2.0)
    assert (cost.asked_bytes, cost.peak_bytes, cost.longest_s) == (8 * GIB, 3 * GIB, 3600.0)
    assert 3 * GIB < cost.enough_bytes < 4.5 * GIB and 3600 < cost.enough_s <= 3 * 3600


def test_without_streams_each_population_counts_as_long_as_its_longest_run(tmp_path):
    packing = [f"r{n:03d}-maze" for n in range(4)]
    folder = publish(tmp_path / "s", packing=packing, device="cuda", threads=8)
    cost = cost_of([folder], collect(folder).runs)
    assert len(cost.attempts) == 1 and cost.gpu_hours == pytest.approx(400 / 3600)
    assert cost.cpu_hours == pytest.approx(8 * 400 / 3600)
    assert cost.peak_bytes is None and cost.enough_bytes is None  # runs of before recorded none
