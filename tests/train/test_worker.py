"""The trainer process: killed at any moment and started again it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time

import h5py
import numpy as np
import pytest
import torch
from finished_run import finish
from tiny import Worker, config, write_recording, write_task

from band.run_dir import verify
from band.train.checkpoint import checkpoint_path, newest_checkpoint
from band.train.worker import error_name

TIMING = ("seconds",)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("tiny") / "tiny.h5")


def runs(**train):
    common = {"max_epochs": 40, "checkpoint_s": 0.05, **train}
    return {
        "lfads": config(seed=1, train=common),
        "band": config(seed=1, behavior_weight=0.5, train=common),
        "early": config(seed=2, lr=2e-2, lr_patience=0, lr_decay=0.5, lr_stop=2e-3, train=common),
    }  # fmt: skip


def finished(folder) -> dict:
    """Return what a finished run says, without what may differ between two trainings of it."""
    result = verify(folder)
    with h5py.File(folder / "outputs.h5") as file:
        outputs = {key: np.asarray(file[key]) for key in file}
    model = torch.load(folder / "model.pt", weights_only=True)["params"]
    training = {key: value for key, value in result["training"].items() if key not in TIMING}
    return {
        "metrics": (folder / "metrics.csv").read_bytes(),
        "scores": result["scores"],
        "training": training,
        "outputs": outputs,
        "model": model,
    }


def assert_same(a: dict, b: dict) -> None:
    assert a["metrics"] == b["metrics"] and a["scores"] == b["scores"] and a["training"] == b["training"]
    assert a["outputs"].keys() == b["outputs"].keys() and a["model"].keys() == b["model"].keys()
    for key in a["outputs"]:
        assert np.array_equal(a["outputs"][key], b["outputs"][key]), key
    for key in a["model"]:
        assert torch.equal(a["model"][key], b["model"][key]), key


@pytest.fixture(scope="module")
def course(recording, tmp_path_factory):
    """What an undisturbed training comes to, and how many events it sends."""
    folder = tmp_path_factory.mktemp("undisturbed")
    worker = Worker(write_task(folder, recording, runs()), folder / "work", recording, list(runs()))
    events = list(worker.events())
    assert worker.wait() == 0
    assert events[0]["event"] == "started"
    assert {e["run"] for e in events if e["event"] == "run_finished"} == set(runs())
    for run in runs():
        names = {path.name for path in (folder / "work" / "runs" / run).iterdir()}
        assert names == {"result.json", "metrics.csv", "model.pt", "outputs.h5"}
    return {run: finished(folder / "work" / "runs" / run) for run in runs()}, len(events)


@pytest.fixture(scope="module")
def undisturbed(course):
    return course[0]


def test_a_finished_run_is_four_files_and_says_what_was_done(undisturbed):
    assert undisturbed["early"]["training"]["stopped_by"] == "lr_stop"
    assert undisturbed["lfads"]["training"]["epochs"] == 40
    assert "behavior_r2/own/mean" in undisturbed["band"]["scores"]["test"]
    assert undisturbed["lfads"]["scores"]["test"].get("behavior_r2/own/mean") is None


def train_with_kills(folder, recording, configs, *, moments, within, kills) -> None:
    """Train to the end, killed as often at random moments and started again; nothing is done twice.

    A moment is some milliseconds after an event, one of as many as `within` says: however fast a machine is, it comes.
    """
    task, work = write_task(folder, recording, configs), folder / "work"
    last_checkpoint, killed = 0, 0
    while True:
        worker = Worker(task, work, recording, list(configs))
        patience = moments.randrange(within)
        for event in worker.events():
            if event["event"] == "started":
                assert event["step"] >= last_checkpoint, "no step before the last checkpoint is done again"
            if event["event"] == "checkpoint":
                last_checkpoint = event["step"]
            if killed < kills and patience == 0:
                time.sleep(moments.uniform(0.0, 0.02))
                worker.process.send_signal(signal.SIGKILL)
                killed += 1
                break
            patience -= 1
        if worker.wait() == 0:
            break
    assert killed == kills


@pytest.mark.parametrize("seed", range(3))
def test_a_trainer_killed_at_random_moments_ends_bit_identical(course, recording, tmp_path, seed):
    undisturbed, num_events = course
    train_with_kills(tmp_path, recording, runs(), moments=random.Random(seed), within=num_events // 5, kills=4)
    for run in runs():
        assert_same(finished(tmp_path / "work" / "runs" / run), undisturbed[run])


def test_a_trainer_that_changes_its_trials_ends_bit_identical_too(recording, tmp_path):
    base = {"train": {"max_epochs": 20, "checkpoint_s": 0.05, "inference_augmentations": "shift"}}
    configs = {
        "moved": config(seed=1, jitter_width=2, shift_std=1.0, **base),
        "sample": config(seed=2, sv_rate=0.2, jitter_width=1, behavior_weight=0.5, **base),
    }
    task = write_task(tmp_path / "once", recording, configs)
    assert Worker(task, tmp_path / "once" / "work", recording, list(configs)).wait() == 0
    train_with_kills(tmp_path / "killed", recording, configs, moments=random.Random(5), within=8, kills=2)
    for run in configs:
        once, killed = (finished(tmp_path / how / "work" / "runs" / run) for how in ("once", "killed"))
        assert_same(once, killed)
        assert b"valid_recon_sv" in once["metrics"]


@pytest.mark.parametrize("source", ["scratch", "home"])
def test_the_recording_at_home_is_read_only_where_the_attempt_has_said_so(recording, tmp_path, monkeypatch, source):
    monkeypatch.setenv("BAND_DATA_SOURCE", source)
    task = write_task(tmp_path, recording, {"lfads": config(seed=1, train={"max_epochs": 1})})
    worker = Worker(task, tmp_path / "work", recording, ["lfads"])
    failures = [event for event in worker.events() if event["event"] == "failed"]
    assert (worker.wait() == 0) == (source == "home")
    assert [event["error"] for event in failures] == ([] if source == "home" else ["StageError"])


def test_stop_saves_a_checkpoint_and_the_next_start_goes_on_from_it(undisturbed, recording, tmp_path):
    task = write_task(tmp_path, recording, runs(checkpoint_s=1e6))
    worker = Worker(task, tmp_path / "work", recording, list(runs()))
    stopped_at = None
    for event in worker.events():
        if event["event"] == "started":
            worker.command("stop")
        if event["event"] == "checkpoint":
            stopped_at = event["step"]
    assert worker.wait() == 4 and stopped_at is not None
    worker = Worker(task, tmp_path / "work", recording, list(runs()))
    events = list(worker.events())
    assert worker.wait() == 0 and events[0]["step"] == stopped_at
    for run in runs():
        assert_same(finished(tmp_path / "work" / "runs" / run), undisturbed[run])


def test_a_trainer_whose_supervisor_is_gone_ends_at_once(recording, tmp_path):
    worker = Worker(
        write_task(tmp_path, recording, runs(max_epochs=100_000)), tmp_path / "work", recording, list(runs())
    )
    for event in worker.events():
        if event["event"] == "started":
            worker.process.stdin.close()
            break
    assert worker.process.wait(timeout=20) == 3


def test_a_damaged_newest_checkpoint_falls_back_to_the_older_one(recording, tmp_path):
    task = write_task(tmp_path, recording, runs())
    worker = Worker(task, tmp_path / "work", recording, list(runs()))
    saved = 0
    for event in worker.events():
        saved += event["event"] == "checkpoint"
        if saved == 3:
            worker.process.kill()
            break
    worker.wait()
    slot, content = newest_checkpoint(tmp_path / "work")
    path = checkpoint_path(tmp_path / "work", slot)
    path.write_bytes(path.read_bytes()[:-1000])
    older_slot, older = newest_checkpoint(tmp_path / "work")
    assert older_slot == 1 - slot and older["meta"]["step"] < content["meta"]["step"]


def test_a_subset_continues_from_the_checkpoint_of_the_whole(recording, tmp_path):
    task = write_task(tmp_path, recording, runs())
    worker = Worker(task, tmp_path / "work", recording, list(runs()))
    for event in worker.events():
        if event["event"] == "checkpoint":
            worker.process.kill()
            break
    worker.wait()
    step = newest_checkpoint(tmp_path / "work")[1]["meta"]["step"]
    worker = Worker(task, tmp_path / "work", recording, ["band"])
    events = list(worker.events())
    assert worker.wait() == 0
    assert events[0] | {"runs": ["band"], "step": step} == events[0]
    assert {p.name for p in (tmp_path / "work" / "runs").iterdir() if (p / "result.json").exists()} == {"band"}


def test_an_error_is_told_to_the_supervisor_with_its_reason(recording, tmp_path):
    task = write_task(tmp_path, recording, runs())
    empty = tmp_path / "empty.h5"
    empty.write_bytes(b"nothing")
    worker = Worker(task, tmp_path / "work", empty, list(runs()))
    events = list(worker.events())
    assert worker.wait() == 1
    assert events[-1]["event"] == "failed" and "empty.h5" in events[-1]["message"]
    assert "Traceback" not in events[-1]["traceback"], "a user's mistake has no traceback"


@pytest.mark.parametrize(
    ("fail", "name"),
    [
        (lambda: torch.empty(2**60), "OutOfMemory"),
        (lambda: np.empty(2**55), "OutOfMemory"),
        (lambda: torch.ones(2) @ torch.ones(3), "RuntimeError"),
    ],
)
def test_lack_of_memory_has_one_name(fail, name):
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        fail()
    assert error_name(raised.value) == name


def test_lack_of_a_gpus_memory_has_a_name_of_its_own():
    assert error_name(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.53 GiB.")) == "OutOfMemoryError"
    assert error_name(RuntimeError("CUDA error: out of memory")) == "OutOfMemoryError"


def test_a_gpu_that_is_not_there_is_told_in_words_of_ours(recording, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    task = write_task(tmp_path, recording, runs())
    task.write_text(json.dumps({**json.loads(task.read_text()), "device": "cuda"}))
    worker = Worker(task, tmp_path / "work", recording, list(runs()))
    events = list(worker.events())
    assert worker.wait() == 1
    assert events[-1]["event"] == "failed" and events[-1]["error"] == "DeviceError"
    assert "--gres=none" in events[-1]["message"] and "Traceback" not in events[-1]["traceback"]


def test_a_checkpoint_of_another_configuration_is_refused(recording, tmp_path):
    task = write_task(tmp_path, recording, runs())
    worker = Worker(task, tmp_path / "work", recording, list(runs()))
    for event in worker.events():
        if event["event"] == "checkpoint":
            worker.process.kill()
            break
    worker.wait()
    values = json.loads(task.read_text())
    values["runs"][0]["config"]["hyper"]["lr"] = 0.5
    task.write_text(json.dumps(values))
    worker = Worker(task, tmp_path / "work", recording, list(runs()))
    events = list(worker.events())
    assert worker.wait() == 1 and "hyper.lr" in events[-1]["message"]


def test_a_finished_folder_that_the_supervisor_takes_away_is_not_made_again(recording, tmp_path):
    task = write_task(tmp_path, recording, runs(max_epochs=4))
    worker = Worker(task, tmp_path / "work", recording, list(runs()))
    finished_runs = []
    for event in worker.events():
        if event["event"] == "run_finished":
            finished_runs.append(event["run"])
            shutil.rmtree(tmp_path / "work" / "runs" / event["run"])
    assert worker.wait() == 0 and sorted(finished_runs) == sorted(runs())


def test_a_canary_makes_its_outputs_for_nothing_stops_and_goes_on_as_if_it_had_not(recording, undisturbed, tmp_path):
    task, work = write_task(tmp_path, recording, runs()), tmp_path / "work"
    first = Worker(task, work, recording, list(runs()), BAND_CANARY_S="0.3")
    events = list(first.events())
    assert first.wait() == 4
    (told,) = [event for event in events if event["event"] == "rehearsed"]
    last = [event for event in events if event["event"] == "checkpoint"][-1]
    assert told["train_s"] >= 0.3 and told["outputs_s"] > 0 and 0 < told["share"] < 1
    assert newest_checkpoint(work)[1]["meta"]["step"] == last["step"] > 0
    left = {path.name for path in (work / "runs" / "band").iterdir()} | {path.name for path in work.iterdir()}
    assert left == {"metrics.csv", "runs", "population.0.pt", "population.1.pt", "checkpoints.jsonl"}, "no outputs"
    second = Worker(task, work, recording, list(runs()))
    assert second.wait() == 0
    for run in runs():
        assert_same(finished(work / "runs" / run), undisturbed[run])


def test_a_result_tells_how_much_memory_its_training_took(recording, tmp_path):
    folder = finish(tmp_path / "run", recording, config(seed=1, train={"max_epochs": 40}), steps=4)
    peak = verify(folder)["provenance"]["peak_memory_bytes"]
    assert 10 * 2**20 < peak < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
