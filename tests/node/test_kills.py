"""Supervisor and trainer are killed with -9 at moments drawn by chance, again and again: results as undisturbed."""

from __future__ import annotations

import itertools
import os
import random
import time
from pathlib import Path

import pytest
from fake_task import FakeTask, make_task
from fake_trainer import expected_state
from proc import children_of, kill, wait_for

RUNS = {f"run{n}": {"epochs": 12 + 4 * n, "epoch_s": 0.02, "checkpoint_every": 3} for n in range(4)}


def step_of(line: str) -> tuple[str, int]:
    _, run, epoch = line.split()
    return run, int(epoch)


def kill_at_random_moments(task: FakeTask, *, kills: int, seed: int) -> tuple[int, int]:
    """Start attempts and kill supervisor or trainer until `kills` have hit; return (hits on supervisor, on trainer)."""
    rng = random.Random(seed)
    hits = [0, 0]
    while sum(hits) < kills and len(task.published()) < len(RUNS):
        process = task.start(log=task.home / "attempts.log")
        while sum(hits) < kills and process.poll() is None:
            time.sleep(rng.uniform(0.02, 0.35))
            trainers = children_of(process.pid)
            if trainers and rng.random() < 0.5:
                kill(trainers[0])
                hits[1] += 1
            elif process.poll() is None:
                kill(process.pid)
                hits[0] += 1
                break
        if sum(hits) >= kills and process.poll() is None:
            kill(process.pid)
        process.wait()
    return hits[0], hits[1]


@pytest.mark.parametrize("seed", [1, 2])
def test_however_often_supervisor_and_trainer_are_killed_every_result_is_as_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    task = make_task(tmp_path, RUNS, monkeypatch=monkeypatch)
    on_supervisor, on_trainer = kill_at_random_moments(task, kills=12, seed=seed)
    assert on_supervisor + on_trainer >= 6, "too few kills have hit"
    assert task.attempt() == 0
    assert task.events("failed") == []
    states = {run: expected_state(run, epochs=config["epochs"]) for run, config in RUNS.items()}
    assert task.published() == states
    assert not task.sweep.superseded.exists() or list(task.sweep.superseded.iterdir()) == []
    assert sorted(name for name in task.files() if name[0] != ".") == [task.files()[-2], "task.json"]
    assert not task.work.exists()


def test_no_epoch_is_trained_again_that_lies_before_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tmp_path, {"a": {"epochs": 60, "epoch_s": 0.01, "checkpoint_every": 4}}, monkeypatch=monkeypatch)
    saved = []
    for epoch in (9, 22, 35, 47):
        process = task.start()
        wait_for(lambda epoch=epoch: task.ledger()[f"epoch a {epoch}"] > 0)
        kill(process.pid)
        process.wait()
        saved.append(max(event["step"] for event in task.events("checkpoint")))
    assert task.attempt() == 0
    assert task.published() == {"a": expected_state("a", epochs=60)}
    assert saved == sorted(saved) and saved[0] >= 8
    trained = [step_of(line)[1] for line in Path(os.environ["FAKE_LEDGER"]).read_text().splitlines()]
    restarts = [(before, after) for before, after in itertools.pairwise(trained) if after != before + 1]
    # Each start goes on from the last checkpoint, and there is one every four epochs.
    assert all(after % 4 == 0 and before + 1 - after <= 4 for before, after in restarts)
    assert all(after >= max((s for s in saved if s <= before + 1), default=0) for before, after in restarts)
    assert max(task.ledger().values()) <= 2
