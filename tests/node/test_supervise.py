"""What is kept of a trainer's words and end, and what it is given."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_task import QUICK, FakeTask, make_task
from fake_trainer import expected_state
from proc import wait_for

import band
from band.node import supervise
from band.node.task import run_task

PRELUDE = """
import json, os, signal, sys, time
events = os.fdopen(int(sys.argv[-1]), "w")
def say(event, **fields):
    events.write(json.dumps({"event": event, **fields}) + "\\n")
    events.flush()
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(**runs: dict[str, Any]) -> FakeTask:
        return make_task(tmp_path, runs or {"a": {}}, monkeypatch=monkeypatch)

    return made


def attempt(task: FakeTask, script: str) -> list[dict[str, Any]]:
    """Make an attempt with a trainer that does what the script says; return what a listener hears."""
    heard: list[Any] = []
    command = [sys.executable, "-S", "-c", PRELUDE + script]
    run_task(task.task_json, trainer=command, timing=QUICK, on_event=heard.append)
    return heard


def log_of(task: FakeTask) -> bytes:
    (log,) = task.sweep.logs.iterdir()
    return log.read_bytes()


def test_what_a_trainer_says_of_its_failure_is_kept_within_bounds(make: Any) -> None:
    task = make()
    attempt(task, "say('failed', error='E' * 1000, message='m' * 10_000, traceback='t' * 50_000 + 'end'); sys.exit(1)")
    (event,) = task.events("failed")
    assert event["error"] == "E" * 200 and event["message"] == "m" * 4000
    assert event["traceback"] == "t" * 19_997 + "end"


@pytest.mark.parametrize("words", ["say('failed', error='E', message='m')", ""])
def test_without_a_traceback_the_last_of_what_was_printed_stands_for_it(make: Any, words: str) -> None:
    task = make()
    attempt(task, f"print('x' * 9000 + '\\nlast words', flush=True); {words}\nsys.exit(1)")
    (event,) = task.events("failed")
    assert event["traceback"] == "x" * 3988 + "\nlast words\n"
    assert log_of(task) == b"x" * 9000 + b"\nlast words\n"


def test_an_end_without_words_is_told_by_its_code_or_signal(make: Any) -> None:
    task = make(a={}, b={})
    attempt(task, f"os.kill(os.getpid(), {int(signal.SIGSEGV)})")
    (split,) = task.events("split")
    assert (split["error"], split["message"]) == ("SIGSEGV", "the trainer died of SIGSEGV")
    assert [event["runs"] for event in task.events("failed")] == [["a"], ["b"]]
    attempt(task, "sys.exit(4)")
    assert "ended with code 4 before b was finished" in task.events("failed")[-1]["message"], "nobody had asked it to"
    attempt(task, "sys.exit(7)")
    failed = task.events("failed")[-1]
    assert (failed["error"], failed["message"]) == (
        "TrainerEnded",
        "the trainer ended with code 7 before b was finished",
    )


def test_of_a_log_that_grows_beyond_its_size_the_beginning_is_kept(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "MAX_LOG_BYTES", 1000)
    task = make()
    script = """
logs = os.path.join(os.environ["HOME_OF_SWEEP"], "logs")
for number, letter in enumerate("abcd"):
    os.write(1, letter.encode() * 599 + b"\\n")
    while number < 2 and not sum(file.stat().st_size >= 600 * (number + 1) for file in os.scandir(logs)):
        time.sleep(0.01)
"""
    monkeypatch.setenv("HOME_OF_SWEEP", str(task.sweep.path))
    task.sweep.logs.mkdir()
    attempt(task, script)
    log = log_of(task)
    assert log.startswith(b"a" * 599 + b"\n" + b"b" * 599 + b"\n\n[the log ends here")
    assert log.count(b"[the log ends here") == 1 and len(log) < 1300


def test_a_trainer_has_this_code_first_its_threads_and_where_it_reads(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/mine", "", "/theirs"]))
    monkeypatch.setenv("MARK", "kept")
    task = make()
    task.task_json.write_text(json.dumps({**json.loads(task.task_json.read_text()), "threads": 3}))
    attempt(task, "print(json.dumps([dict(os.environ), os.getcwd(), sys.argv[1:-1]]))")
    environment, folder, arguments = json.loads(log_of(task))
    code = str(Path(band.__file__).resolve().parents[1])
    assert environment["PYTHONPATH"].split(os.pathsep) == [code, "/mine", "/theirs"]
    assert {environment[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")} == {"3"}
    assert environment["BAND_DATA_SOURCE"] == "scratch" and environment["MARK"] == "kept"
    (log,) = task.sweep.logs.iterdir()
    assert log.name == f"0000.{environment['BAND_ATTEMPT']}.log"
    assert arguments.pop() == "--events-fd"
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given["--task"] == str(task.task_json) and given["--work"] == folder and given["--runs"] == "a"
    assert Path(given["--data"]).name == "recording.h5"


def test_events_go_on_with_a_time_and_those_that_are_ours_to_tell_do_not(make: Any) -> None:
    task = make()
    start = time.time()
    heard = attempt(
        task, "say('note', n=1); say('note', n=2, t='late'); say('note', n=3, t=7.5); say('published', run='a')"
    )
    notes = [event for event in heard if event["event"] == "note"]
    assert [event["n"] for event in notes] == [1, 2, 3] and notes[2]["t"] == 7.5
    assert all(start <= event["t"] <= time.time() for event in notes[:2])
    assert not task.events("published") and len(task.events("note")) == 3


def test_a_run_that_was_finished_before_the_trainer_died_is_published_though_it_said_nothing(make: Any) -> None:
    task = make(a={}, b={})
    script = """
from band.run_dir import seal
from pathlib import Path
for run in ("a", "c"):
    folder = Path("runs") / run
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("state\\nours\\n")
    seal(folder, result={"run_id": run, "training": {"outcome": "ok"}})
sys.exit(1)
"""
    attempt(task, script.replace("from band", "sys.path[:0] = os.environ['PYTHONPATH'].split(':')\nfrom band", 1))
    assert task.published() == {"a": "ours"}
    assert [event["run"] for event in task.events("run_finished")] == ["a"]
    assert [event["runs"] for event in task.events("failed")] == [["b"]]


def test_a_trainer_that_loses_one_of_its_processes_is_started_again_and_not_for_ever(make: Any) -> None:
    task = make(a={"epochs": 3, "raise_at": 1, "raise_as": "RankLost"})
    assert task.attempt() == 1
    assert [event["runs"] for event in task.events("restarted")] == [["a"]] * 5
    assert [event["error"] for event in task.events("failed")] == ["RankLost"]


def test_checkpoints_come_home_no_oftener_than_they_shall(make: Any) -> None:
    task = make(a={"epochs": 20, "epoch_s": 0.01})
    assert task.attempt(mirror_s=1000.0) == 0
    assert len(task.events("checkpoint")) == 20 and not task.events("mirrored")


def test_that_runs_were_cancelled_is_noticed_though_no_signal_told_of_it(make: Any) -> None:
    task = make(a={"epochs": 1000, "epoch_s": 0.01}, b={"epochs": 30, "epoch_s": 0.01})
    process = task.start()
    wait_for(lambda: task.ledger()["epoch a 5"] == 1)
    task.task_json.with_name("skip.json").write_text('{"runs": ["a"]}')
    assert process.wait(60) == 0
    assert task.published() == {"b": expected_state("b", epochs=30)}
    assert [event["runs"] for event in task.events("started")] == [["a", "b"], ["b"]]
