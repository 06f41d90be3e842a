"""One attempt at a task, with a trainer that speaks the protocol and ends in every way there is."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fake_task import HELPERS, QUICK, TRAINER, FakeTask, make_task
from fake_trainer import expected_state
from proc import children_of, has_ended, kill, wait_for
from stepping import failing, hooked
from told_slurm import ENVIRONMENT, Controller, in_slurm

import band
from band.attempts import Attempt, Claim, take
from band.errors import BandError
from band.node import child
from band.node.course import make_work_folder
from band.node.job import read_task
from band.node.stop import StopRequest
from band.node.task import main, run_task, slurm_task
from band.run_dir import code_digest, seal, signed


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(**runs: dict[str, Any]) -> FakeTask:
        return make_task(tmp_path, runs, monkeypatch=monkeypatch)

    return made


def assert_all_published(task: FakeTask, **epochs: int) -> None:
    assert task.published() == {run: expected_state(run, epochs=count) for run, count in epochs.items()}


def assert_nothing_left(task: FakeTask) -> None:
    assert [name for name in task.files() if not name.startswith("claim.")] == ["task.json"]
    assert len(task.files()) == 2
    assert not task.work.exists()
    assert list(task.sweep.incoming.iterdir()) == []


def test_a_task_ends_with_every_run_published_once_and_nothing_left_but_the_claim(make: Any) -> None:
    task = make(a={"epochs": 3}, b={"epochs": 5})
    assert task.attempt() == 0
    assert_all_published(task, a=3, b=5)
    assert_nothing_left(task)
    assert set(task.ledger().values()) == {1}
    names = [event["event"] for event in task.events()]
    assert names[0] == "claimed" and names[-1] == "ended"
    assert [event["run"] for event in task.events("published")] == ["a", "b"]
    assert sorted(path.name for path in task.sweep.run("a").iterdir()) == ["metrics.csv", "outputs.h5", "result.json"]
    (log,) = task.sweep.logs.iterdir()
    assert "training a, b from step 0, reading from scratch\n" in log.read_text()


def test_what_was_cut_off_here_and_ended_elsewhere_is_swept_up_by_the_next_task_here(make: Any) -> None:
    task = make(a={"epochs": 1})
    for name, runs in {"0001": ["b", "c"], "0002": ["d"]}.items():
        folder = task.sweep.task(name).path
        folder.mkdir()
        made = [{"id": run, "config": {}} for run in runs]
        text = json.dumps({**json.loads(task.task_json.read_text()), "task": name, "runs": made})
        (folder / "task.json").write_text(text)
        (task.work / f"{name}.j7_{name}-r0" / "0").mkdir(parents=True)
        (task.work / f"{name}.j7_{name}-r0" / "0" / "population.0.pt").write_bytes(b"parameters")
    for run in ("b", "d"):
        task.sweep.run(run).mkdir(parents=True)
        seal(task.sweep.run(run), result={"schema": 1, "run_id": run, "training": {"outcome": "ok"}})
    assert task.attempt() == 0
    assert [path.name for path in task.work.iterdir()] == ["0001.j7_0001-r0"], "c may go on from there"


def test_what_another_task_sweeps_up_while_it_is_looked_at_does_not_end_an_attempt(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(a={"epochs": 2})
    leftover = task.work / "0000.j7_0-r0"
    (leftover / "0").mkdir(parents=True)
    real = os.listdir

    def swept_up(path: Any) -> list[str]:
        if Path(path) == leftover:
            shutil.rmtree(leftover)
        return real(path)

    monkeypatch.setattr(os, "listdir", swept_up)
    assert task.attempt() == 0
    assert_all_published(task, a=2)


def test_calling_a_finished_task_again_trains_nothing(make: Any) -> None:
    task = make(a={"epochs": 3})
    assert task.attempt() == 0
    before = task.ledger()
    assert task.attempt() == 0
    assert task.ledger() == before


def test_a_listener_hears_every_epoch(make: Any) -> None:
    task = make(a={"epochs": 4})
    heard: list[Any] = []
    assert run_task(task.task_json, on_event=heard.append, trainer=TRAINER, timing=QUICK) == 0
    assert [event["runs"]["a"]["epoch"] for event in heard if event["event"] == "epoch"] == [1, 2, 3, 4]


def test_the_file_has_few_epochs_and_the_last_one_before_a_failure(make: Any) -> None:
    task = make(a={"epochs": 60, "raise_at": 30})
    assert task.attempt(epoch_s=600.0) == 1
    names = [event["event"] for event in task.events() if event["event"] in ("epoch", "failed")]
    assert names == ["epoch", "epoch", "failed"]
    assert [event["runs"]["a"]["epoch"] for event in task.events("epoch")] == [1, 30]


def test_of_a_population_the_one_that_raises_ends_alone_and_the_others_finish(make: Any) -> None:
    task = make(a={"epochs": 6}, b={"epochs": 6}, c={"epochs": 6, "raise_at": 3}, d={"epochs": 6}, e={"epochs": 6})
    assert task.attempt() == 1
    assert_all_published(task, a=6, b=6, d=6, e=6)
    (failed,) = task.events("failed")
    assert failed["runs"] == ["c"] and failed["error"] == "RuntimeError"
    assert "cannot go beyond epoch 3" in failed["message"] and "Traceback" in failed["traceback"]
    again = {line for line, count in task.ledger().items() if count > 1}
    assert again == {"epoch a 3", "epoch b 3"}  # begun beyond the checkpoint at 3, which every half goes on from


def test_of_a_population_the_one_that_segfaults_ends_alone_and_the_others_finish(make: Any) -> None:
    task = make(a={"epochs": 4}, b={"epochs": 4, "signal_at": [2, signal.SIGSEGV]}, c={"epochs": 4})
    assert task.attempt() == 1
    assert_all_published(task, a=4, c=4)
    (failed,) = task.events("failed")
    assert failed["runs"] == ["b"] and failed["error"] == "SIGSEGV"
    assert "Segmentation fault" in failed["traceback"]  # what the interpreter's last words were


def test_a_population_killed_for_memory_goes_on_in_halves(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(a={"epochs": 4}, b={"epochs": 4, "signal_at": [2, signal.SIGKILL]})
    counter = itertools.count()
    monkeypatch.setattr(child, "oom_kills", lambda: next(counter))  # what the kernel would say
    assert task.attempt() == 1
    assert_all_published(task, a=4)
    assert task.events("restarted") == []
    assert [event["parts"] for event in task.events("split")] == [[["a"], ["b"]]]
    assert [(event["runs"], event["error"]) for event in task.events("failed")] == [(["b"], "OutOfMemory")]


def test_a_population_that_somebody_kills_goes_on_as_it_was_unless_it_never_gets_further(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("band.node.course.MOST_KILLS", 2)
    task = make(a={"epochs": 4}, b={"epochs": 4, "signal_at": [2, signal.SIGKILL]})
    assert task.attempt() == 1
    assert_all_published(task, a=4)
    assert [event["runs"] for event in task.events("restarted")] == [["a", "b"]] * 2 + [["b"]] * 2
    assert [event["runs"] for event in task.events("failed")] == [["b"]]


def test_a_failed_run_is_tried_again_from_its_checkpoint_by_the_next_attempt(make: Any) -> None:
    task = make(a={"epochs": 3}, b={"epochs": 6, "raise_at": 4})
    assert task.attempt() == 1
    text = task.task_json.read_text()
    task.task_json.write_text(text.replace('"raise_at":4', '"raise_at":99'))
    assert task.attempt() == 0
    assert_all_published(task, a=3, b=6)
    assert set(task.ledger().values()) == {1}
    assert_nothing_left(task)


def test_before_a_run_is_published_home_has_a_checkpoint_from_which_the_others_go_on_without_it(make: Any) -> None:
    task = make(a={"epochs": 3, "checkpoint_every": 100}, b={"epochs": 6})
    assert task.attempt(mirror_s=1000.0) == 0
    names = [(event["event"], event.get("run", event.get("step"))) for event in task.events()]
    assert names.index(("mirrored", 3)) < names.index(("published", "a"))
    assert [name for name in names if name[0] == "mirrored"] == [("mirrored", 3)]  # b is published alone: no need


BABBLER = r"""
import os, sys
said = [
    b"rubbish", b"[]", b"\xff", b'{"event": 7}', b'{"event": "epoch", "t": "now", "runs": NaN}',
    b'{"event": "checkpoint"}', b'{"event": "checkpoint", "slot": "../../x", "step": 1e999}',
    b'{"event": "ended", "code": 0}', b"{" * 100000,
    b'{"event": "run_finished", "run": ["a"]}', b'{"event": "run_finished", "run": "../../a"}', b'{"event": "half',
]
os.write(1, b"\xff\x00" * 10000)
with os.fdopen(int(sys.argv[-1]), "wb") as events:
    events.write(b"\n".join(said))
sys.exit(7)
"""


def test_nothing_a_trainer_says_can_end_the_supervisor(make: Any, tmp_path: Path) -> None:
    task = make(a={"epochs": 3})
    babbler = tmp_path / "babbler.py"
    babbler.write_text(BABBLER)
    assert run_task(task.task_json, trainer=[sys.executable, str(babbler)], timing=QUICK) == 1
    (failed,) = task.events("failed")
    assert failed["runs"] == ["a"] and "ended with code 7" in failed["message"]
    assert [event["code"] for event in task.events("ended")] == [1]


def test_a_trainer_that_cannot_be_started_is_named(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    task = make(a={"epochs": 3})
    assert run_task(task.task_json, trainer=["/nowhere/trainer"], timing=QUICK) == 1
    assert "the trainer /nowhere/trainer cannot be started" in capsys.readouterr().err
    assert task.attempt() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, "schema must be 1, got 9"),
        ({"schema": 0}, "schema must be 1, got 0"),
        ({"task": "0001"}, "is the file of task 0001, but lies in the folder of task 0000"),
        ({"runs": [{"id": "../../x"}]}, "run id must be 1 to 160"),
        ({"runs": 7}, "is no task file"),
        ({"dataset": {}}, "is no task file"),
    ],
)
def test_a_damaged_task_file_is_named(
    make: Any, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    task = make(a={"epochs": 3})
    task.task_json.write_text(json.dumps({**json.loads(task.task_json.read_text()), **change}))
    assert task.attempt() == 1
    said = capsys.readouterr().err
    assert "task.json" in said and message in said and not task.events()


def test_of_bits_flipped_anywhere_in_a_task_file_none_changes_what_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "0000" / "task.json"
    path.parent.mkdir()
    dataset = {"path": "/d.h5", "digest": "d", "file_digest": "f" * 64, "size_bytes": 6000}
    runs = [{"id": f"run{n}", "config": {"epochs": 12 + n, "hyper": {"lr": 0.01}}} for n in range(4)]
    data = signed({"schema": 1, "sweep": "demo", "task": "0000", "threads": 1, "runs": runs, "dataset": dataset})
    draws, refused = random.Random(1), 0
    for _ in range(300):
        place = draws.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :])
        try:
            read_task(path)
            assert json.loads(path.read_bytes())["runs"] == runs
        except BandError:
            refused += 1
    assert refused > 250


def test_a_work_folder_is_made_though_others_remove_its_parents(tmp_path: Path) -> None:
    is_over = threading.Event()

    def remove() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError):
                os.rmdir(tmp_path / "work" / "demo")
                os.rmdir(tmp_path / "work")

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for number in range(300):
            folder = tmp_path / "work" / "demo" / str(number)
            make_work_folder(folder)
            folder.rmdir()
    finally:
        is_over.set()
        remover.join()


def test_a_work_folder_is_not_tried_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real, removals = tmp_path / "work" / "demo", os.mkdir, [200]

    def removed_first(path: Any, *args: Any) -> None:
        if Path(path) == folder and removals[0]:
            removals[0] -= 1
            with contextlib.suppress(FileNotFoundError):
                folder.parent.rmdir()
        real(path, *args)

    monkeypatch.setattr(os, "mkdir", removed_first)
    make_work_folder(folder)
    assert folder.is_dir() and not removals[0]
    shutil.rmtree(folder.parent)
    removals[0] = 10_000
    with pytest.raises(FileNotFoundError):
        make_work_folder(folder)


def test_runs_to_be_skipped_are_left_alone(make: Any) -> None:
    task = make(a={"epochs": 2}, b={"epochs": 2})
    task.task_json.with_name("skip.json").write_text('{"runs": ["b"]}')
    assert task.attempt() == 0
    assert_all_published(task, a=2)
    assert all(" b " not in line for line in task.ledger())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_at_a_checkpoint_that_the_next_attempt_on_another_node_continues(
    make: Any, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = make(a={"epochs": 40, "epoch_s": 0.02, "checkpoint_every": 1000}, b={"epochs": 8, "epoch_s": 0.0})
    process = task.start()
    wait_for(lambda: task.ledger()["epoch a 15"] == 1)
    process.send_signal(number)
    assert process.wait(90) == 4
    assert task.events("interrupted")[0]["reason"] == signal.Signals(number).name
    monkeypatch.setenv("BAND_SCRATCH", str(tmp_path / "another"))
    assert task.attempt() == 0
    assert_all_published(task, a=40, b=8)
    assert set(task.ledger().values()) == {1}
    assert_nothing_left(task)


def test_told_that_runs_were_cancelled_an_attempt_goes_on_with_the_others_from_a_checkpoint(make: Any) -> None:
    task = make(
        a={"epochs": 60, "epoch_s": 0.02, "checkpoint_every": 1000}, b={"epochs": 9}, c={"epochs": 30}, d={"epochs": 60}
    )
    process = task.start()
    wait_for(lambda: task.ledger()["epoch a 15"] == 1)
    task.task_json.with_name("skip.json").write_text('{"runs": ["a", "b"]}')
    process.send_signal(signal.SIGUSR2)
    assert process.wait(90) == 0
    assert_all_published(task, b=9, c=30, d=60)
    assert set(task.ledger().values()) == {1}
    assert 15 <= sum(line.startswith("epoch a ") for line in task.ledger()) < 60
    assert [event["runs"] for event in task.events("started")] == [["a", "b", "c", "d"], ["c", "d"]]
    assert task.events("interrupted") == [] and len(task.events("claimed")) == 1
    task.task_json.with_name("skip.json").unlink()
    assert task.attempt() == 0
    assert_all_published(task, a=60, b=9, c=30, d=60)
    assert set(task.ledger().values()) == {1}


def test_a_warning_that_means_nothing_disturbs_nothing(make: Any) -> None:
    task = make(a={"epochs": 40, "epoch_s": 0.02})
    process = task.start()
    wait_for(lambda: task.ledger()["epoch a 5"] == 1)
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGCONT)
    assert process.wait(90) == 0
    assert len(task.events("started")) == 1


def test_a_trainer_that_does_not_listen_is_killed_and_the_task_continues(make: Any) -> None:
    task = make(a={"epochs": 200, "epoch_s": 0.02, "deaf": True})
    stopper = threading.Timer(0.6, os.kill, (os.getpid(), signal.SIGTERM))
    stopper.start()
    assert task.attempt(stop_s=0.3) == 4
    text = task.task_json.read_text()
    task.task_json.write_text(text.replace('"epochs":200', '"epochs":100').replace('"deaf":true', '"deaf":false'))
    assert task.attempt() == 0
    assert_all_published(task, a=100)  # more than it can have got to before it was killed
    assert max(task.ledger().values()) <= 2  # at most the epoch it was in


def test_a_second_signal_does_not_wait_for_the_trainer(make: Any) -> None:
    task = make(a={"epochs": 2000, "epoch_s": 0.02, "deaf": True})
    for delay in (0.5, 0.7):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert task.attempt(stop_s=60.0) == 4


def test_the_trainer_of_a_killed_supervisor_dies_and_the_next_attempt_continues(make: Any) -> None:
    task = make(a={"epochs": 60, "epoch_s": 0.02, "deaf": True}, b={"epochs": 5})
    process = task.start()
    wait_for(lambda: task.ledger()["epoch a 10"] == 1)
    (child,) = children_of(process.pid)
    kill(process.pid)
    process.wait()
    wait_for(lambda: has_ended(child))
    assert task.attempt() == 0
    assert_all_published(task, a=60, b=5)
    assert max(task.ledger().values()) <= 2
    assert_nothing_left(task)


def test_a_home_that_is_read_only_for_a_while_delays_a_task_and_loses_nothing(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(a={"epochs": 3}, b={"epochs": 30, "epoch_s": 0.02})
    real_open, until = os.open, [12]

    def read_only_at_first(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        name = os.fspath(path)
        if flags & (os.O_WRONLY | os.O_RDWR) and str(task.sweep.path) in str(name) and "claim" not in str(name):
            until[0] -= 1
            if until[0] > 0:
                raise OSError(30, "Read-only file system", name)
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only_at_first)
    assert task.attempt(home_wait_s=20.0) == 0
    assert until[0] <= 0
    assert_all_published(task, a=3, b=30)
    assert next(event["event"] for event in task.events()) == "claimed"  # kept until home took it


def test_a_home_that_stays_read_only_ends_with_75_and_the_next_attempt_on_that_node_publishes(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make(a={"epochs": 3}, b={"epochs": 4})
    with monkeypatch.context() as patch:
        real_open = os.open

        def read_only(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR) and str(task.sweep.runs) in str(path):
                raise OSError(30, "Read-only file system", str(path))
            return real_open(path, flags, *args, **kwargs)

        patch.setattr(os, "open", read_only)
        assert task.attempt() == 75
    said = capsys.readouterr().err
    assert str(task.work) in said and "a, b" in said
    assert task.published() == {}
    before = task.ledger()
    assert task.attempt() == 0
    assert_all_published(task, a=3, b=4)
    assert task.ledger() == before
    assert_nothing_left(task)


def test_a_changed_recording_is_refused_before_anything_is_trained(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make(a={"epochs": 3})
    (task.home / "recording.h5").write_bytes(b"other")
    assert task.attempt() == 1
    assert "is not the recording that the sweep was generated for" in capsys.readouterr().err
    assert task.events("failed")[0]["error"] == "StageError"
    assert not task.ledger()


def test_a_scratch_that_cannot_be_used_is_replaced_by_home_and_said_aloud(
    make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make(a={"epochs": 3})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BAND_SCRATCH", str(tmp_path / "file"))
    assert task.attempt() == 0
    assert_all_published(task, a=3)
    (event,) = task.events("staged")
    assert event["source"] == "home" and "cannot be used" in event["reason"]
    assert "reads the recording from home" in capsys.readouterr().err
    assert all("reading from home\n" in log.read_text() for log in task.sweep.logs.iterdir())
    assert [path.name for path in (task.sweep.path / ".scratch").rglob("*")] == ["data"]


def test_a_held_task_is_refused_and_left_alone(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    task = make(a={"epochs": 3})
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        ticks = int(Path(f"/proc/{alive.pid}/stat").read_text().rpartition(")")[2].split()[19])
        holder = Attempt(**{**Attempt.current().__dict__, "pid": alive.pid, "start_ticks": ticks})
        take(task.task_json.parent, attempt=holder)
        assert task.attempt() == 4
        assert "is held by attempt" in capsys.readouterr().err
        assert not task.ledger() and not task.events()
    finally:
        alive.kill()
        alive.wait()
    assert task.attempt() == 0


def test_an_attempt_that_has_lost_its_claim_stops_and_changes_no_checkpoint_at_home(make: Any) -> None:
    task = make(a={"epochs": 500, "epoch_s": 0.02})
    process = task.start()
    wait_for(lambda: bool(task.events("mirrored")))
    folder = task.task_json.parent
    before = {path.name for path in folder.glob("claim.*")}
    taken = take(folder, attempt=Attempt.current(), is_over=lambda claim: True)
    assert process.wait(90) == 4
    assert task.events("interrupted")[0]["reason"] == "another attempt holds the task"
    assert taken.still_mine() and before.isdisjoint(path.name for path in folder.glob("claim.*"))


def test_a_run_published_meanwhile_by_another_attempt_stands_and_ours_is_kept(make: Any) -> None:
    task = make(a={"epochs": 40, "epoch_s": 0.02})
    process = task.start()
    wait_for(lambda: task.ledger()["epoch a 5"] == 1)
    theirs = task.sweep.run("a")
    other = task.sweep.runs / ".other"
    other.mkdir(parents=True)
    (other / "metrics.csv").write_text("state\ntheirs\n")
    seal(other, result={"run_id": "a", "training": {"outcome": "ok"}})
    other.rename(theirs)
    assert process.wait(90) == 0
    assert task.published() == {"a": "theirs"}
    (kept,) = task.sweep.superseded.iterdir()
    assert expected_state("a", epochs=40) in (kept / "metrics.csv").read_text()
    assert [event["run"] for event in task.events("superseded")] == ["a"]


def test_a_published_folder_that_was_half_deleted_is_trained_again_and_kept_aside(make: Any) -> None:
    task = make(a={"epochs": 3})
    assert task.attempt() == 0
    (task.sweep.run("a") / "result.json").unlink()
    assert task.attempt() == 0
    assert_all_published(task, a=3)
    assert [path.name for path in task.sweep.superseded.iterdir()] == ["a.damaged"]


def test_the_module_runs_a_task_from_the_command_line_with_the_trainer_of_the_environment(make: Any) -> None:
    task = make(a={"epochs": 2})
    environment = {**os.environ, "BAND_TRAINER": " ".join(TRAINER), "PYTHONPATH": str(HELPERS.parents[1])}
    command = [sys.executable, "-m", "band.node.task"]
    assert subprocess.run([*command, str(task.task_json)], env=environment).returncode == 0
    assert_all_published(task, a=2)
    assert subprocess.run(command, env=environment, stderr=subprocess.DEVNULL).returncode == 2


def test_other_code_than_was_submitted_is_refused_and_said_of_what_was_to_be_trained(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make(a={"epochs": 1}, b={"epochs": 1}, c={"epochs": 1}, d={"epochs": 1})
    task.task_json.with_name("skip.json").write_text('{"runs": ["b", "c", "d"]}')
    assert task.attempt() == 0
    task.task_json.with_name("skip.json").write_text('{"runs": ["d"]}')
    before = [task.files(), len(task.events())]
    for wanted in ("0" * 64, "f" * 64):
        monkeypatch.setenv("BAND_CODE", wanted)
        assert task.attempt() == 78
        said = capsys.readouterr().err
        assert f"is not what was submitted ({wanted[:12]}…)" in said and "submit again to run the code of now" in said
        failed, ended = task.events()[-2:]
        assert (failed["event"], failed["runs"], failed["error"]) == ("failed", ["b", "c"], "CodeMismatch")
        assert (ended["event"], ended["code"]) == ("ended", 78)
    assert [task.files(), len(task.events()) - 4] == before, "nothing else may be touched"
    monkeypatch.setenv("BAND_CODE", code_digest(Path(band.__file__).parent))
    assert task.attempt() == 0
    assert sorted(task.published()) == ["a", "b", "c"]


def test_a_job_waits_for_a_home_that_shows_its_task_late_and_nobody_else_does(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make(a={"epochs": 1})
    Controller(monkeypatch)
    hidden = task.task_json.with_name("hidden")
    task.task_json.rename(hidden)

    def attempt(stop: StopRequest, *, wait_s: float = 0.0) -> int:
        timing = dataclasses.replace(QUICK, claim_wait_s=wait_s)
        with stop:
            return run_task(task.task_json, trainer=TRAINER, timing=timing, stop=stop)

    waits: list[float] = []
    real = time.sleep
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: (waits.append(seconds), real(seconds)))
        assert attempt(StopRequest(), wait_s=60.0) == 75 and not waits
        assert attempt(in_slurm(), wait_s=0.2) == 75 and time.monotonic() - start >= 0.2
    assert set(waits) == {QUICK.retry_s}, "home is not asked without a pause"
    asked = in_slurm()
    asked.ask("rescue")
    assert attempt(asked, wait_s=60.0) == 75
    assert time.monotonic() - start < 5 and not task.events()
    assert "the sweep's folder cannot be used: [Errno 2]" in capsys.readouterr().err
    threading.Timer(0.2, hidden.rename, (task.task_json,)).start()
    assert attempt(in_slurm(), wait_s=60.0) == 0
    assert_all_published(task, a=1)


def test_a_claim_that_home_does_not_take_back_is_said_and_changes_nothing_else(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make(a={"epochs": 1})
    real = Claim.release

    def refused(claim: Claim) -> None:
        with hooked(failing(errno.EROFS)):
            real(claim)

    with monkeypatch.context() as patch:
        patch.setattr(Claim, "release", refused)
        assert task.attempt() == 0
    assert "the claim could not be given back ([Errno 30]" in capsys.readouterr().err
    assert_all_published(task, a=1)
    assert task.events()[-1]["event"] == "ended" and task.attempt() == 0


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"]])
def test_a_wrong_command_line_is_answered_with_the_right_one(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: python -m band.node.task ")


def test_slurm_tells_whether_an_attempt_on_another_node_is_over(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(a={"epochs": 1})
    slurm = Controller(monkeypatch)
    elsewhere = dataclasses.replace(Attempt.current(), host="elsewhere", job_id="60", array_task=2)
    take(task.task_json.parent, attempt=elsewhere)
    codes = {}
    for state in ("RUNNING", "COMPLETING", "NODE_FAIL"):
        slurm.others["60_2"] = state
        with in_slurm() as stop:
            timing = dataclasses.replace(QUICK, claim_wait_s=0.0)
            codes[state] = run_task(task.task_json, trainer=TRAINER, timing=timing, stop=stop)
    assert codes == {"RUNNING": 4, "COMPLETING": 4, "NODE_FAIL": 0}
    assert_all_published(task, a=1)


def test_a_job_that_had_itself_queued_again_ends_with_its_code_once_slurm_begins_to_end_it(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(a={"epochs": 500, "epoch_s": 0.02})
    slurm = Controller(monkeypatch)
    slurm.fields["PreemptTime"] = "1800000100"
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BAND_TRAINER", " ".join(TRAINER))
    told: list[float] = []

    def end_it() -> None:
        wait_for(lambda: task.ledger()["epoch a 5"] == 1)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: bool(slurm.told))
        time.sleep(0.5)
        told.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end_it)
    with StopRequest():  # puts the handlers back that the main process of a job would keep
        ending.start()
        with pytest.raises(SystemExit) as caught:
            slurm_task(str(task.task_json), timing=QUICK)
        ended = time.monotonic()
    ending.join()
    assert caught.value.code == 4 and ended >= told[0] and slurm.told == ["scontrol requeue 70_3"]
    (interrupted,) = task.events("interrupted")
    assert interrupted["reason"] == "preemption"
