"""A search whose members are shared by processes: the same results as alone, and an end where one of them ends."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from pathlib import Path

import pytest
from proc import children_of, has_ended
from test_pbt import rows
from test_worker import assert_same, finished, train_with_kills
from tiny import SPACE, Worker, config, searching, write_recording, write_task

from band.config import RunConfig
from band.run_dir import verify
from band.train.generations import Search

TRAIN = {"max_epochs": 16, "checkpoint_s": 0.05}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("tiny") / "tiny.h5")


def a_search(*, shards: int, **changes) -> RunConfig:
    return searching(config(seed=5, behavior_weight=0.5, train={**TRAIN, **changes}), shards=shards)


def train(folder, recording, run) -> Path:
    worker = Worker(write_task(folder, recording, {"search": run}), folder / "work", recording, ["search"])
    assert worker.wait() == 0
    return folder / "work" / "runs" / "search"


@pytest.fixture(scope="module")
def alone(recording, tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), recording, a_search(shards=1))


def assert_equal(one: Path, other: Path) -> None:
    assert_same(finished(one), finished(other))
    assert (one / "lineage.csv").read_bytes() == (other / "lineage.csv").read_bytes()


@pytest.mark.parametrize("shards", [2, 3])
def test_shared_by_processes_it_comes_to_the_same_bits(alone, recording, tmp_path, shards):
    # Bits agree here, on one thread; promised is equality to rounding, as between any two packings.
    assert_equal(train(tmp_path, recording, a_search(shards=shards)), alone)


def test_killed_and_continued_by_other_numbers_of_processes_it_comes_to_the_same_bits(alone, recording, tmp_path):
    work = tmp_path / "work"
    for shards in (2, 1, 3):
        worker = Worker(
            write_task(tmp_path, recording, {"search": a_search(shards=shards)}), work, recording, ["search"]
        )
        saved = 0
        for event in worker.events():
            saved += event["event"] == "checkpoint"
            if saved == 3:
                worker.process.kill()
                break
        worker.wait()
    assert_equal(train(tmp_path, recording, a_search(shards=2)), alone)


def test_killed_at_random_moments_it_comes_to_the_same_bits(alone, recording, tmp_path):
    moments = random.Random(0)
    train_with_kills(tmp_path, recording, {"search": a_search(shards=2)}, moments=moments, within=6, kills=3)
    assert_equal(tmp_path / "work" / "runs" / "search", alone)


def begun(folder, recording, *, shards: int = 2) -> tuple[Worker, list[int]]:
    """Return a worker in the middle of a long search, and the processes of its other ranks."""
    run = a_search(shards=shards, max_epochs=100_000)
    worker = Worker(write_task(folder, recording, {"search": run}), folder / "work", recording, ["search"])
    for event in worker.events():
        if event["event"] == "checkpoint":
            break
    ranks = children_of(worker.process.pid)
    assert len(ranks) == shards - 1
    return worker, ranks


def wait_for_end(processes: list[int]) -> None:
    deadline = time.monotonic() + 20
    while not all(map(has_ended, processes)):
        assert time.monotonic() < deadline, "a rank outlives rank 0"
        time.sleep(0.1)


def test_a_rank_that_dies_ends_the_run_with_its_reason_and_nothing_hangs(recording, tmp_path):
    worker, ranks = begun(tmp_path, recording, shards=3)
    os.kill(ranks[0], signal.SIGKILL)
    start = time.monotonic()
    failures = [event for event in worker.events() if event["event"] == "failed"]
    assert worker.wait() == 1 and time.monotonic() - start < 30
    assert failures[0]["error"] == "RankLost" and "one ended with code -9" in failures[0]["message"]
    wait_for_end(ranks)


def test_no_rank_outlives_the_trainer(recording, tmp_path):
    worker, ranks = begun(tmp_path, recording, shards=3)
    worker.process.kill()
    worker.wait()
    wait_for_end(ranks)


def test_stop_ends_every_rank_with_a_checkpoint(recording, tmp_path):
    worker, ranks = begun(tmp_path, recording)
    worker.command("stop")
    assert list(worker.events())[-1]["event"] == "checkpoint" and worker.wait() == 4
    wait_for_end(ranks)


def test_a_rank_without_a_living_member_waits_and_is_given_new_ones(recording, tmp_path):
    space = {**SPACE, "hyper.lr": {"low": 1e-3, "high": 1e20, "change": 0.3}}
    train_on = {**TRAIN, "max_epochs": 12}
    bases = (searching(config(seed=seed, train=train_on), space=space, members=4) for seed in range(1000))
    base = next(b for b in bases if sum(m.hyper.lr < 0.05 for _, m in Search("run", b).first_members()) == 2)
    found = {}
    for shards in (1, 4):  # a member a rank: some rank has lost its only one
        run = dataclasses.replace(base, pbt=dataclasses.replace(base.pbt, shards=shards))
        found[shards] = train(tmp_path / str(shards), recording, run)
    first = [row["score"] for row in rows(found[4])[:4]]
    assert "" in first and any(first) and all(row["score"] for row in rows(found[4])[-4:])
    assert_equal(found[4], found[1])


def test_where_all_diverge_every_rank_ends(recording, tmp_path):
    run = searching(config(seed=1, train=TRAIN), space={"hyper.lr": {"low": 1e19, "high": 1e20}}, shards=2)
    assert verify(train(tmp_path, recording, run))["training"]["outcome"] == "diverged"


def test_the_number_of_processes_is_no_part_of_what_a_run_is(alone):
    from band.sweep.identity import run_id

    ids = {run_id(dataclasses.asdict(a_search(shards=shards)), dataset_digest="0" * 64) for shards in (1, 2)}
    assert len(ids) == 1


def test_a_canary_of_a_shared_search_stops_on_all_ranks_and_goes_on_to_the_same_bits(alone, recording, tmp_path):
    task = write_task(tmp_path, recording, {"search": a_search(shards=2)})
    worker = Worker(task, tmp_path / "work", recording, ["search"], BAND_CANARY_S="0.01")
    (told,) = [event for event in worker.events() if event["event"] == "rehearsed"]
    assert worker.wait() == 4 and told["runs"] == ["search"] and 0 < told["share"] < 1
    assert_equal(train(tmp_path, recording, a_search(shards=2)), alone)
