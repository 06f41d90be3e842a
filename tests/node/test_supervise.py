"""What is kept of a trainer's words and end, and what it is given."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_task import QUICK, TRAINER, FakeTask, make_task
from fake_trainer import expected_state
from proc import wait_for
from told_slurm import Controller, in_slurm

import band
from band.attempts import Attempt, take
from band.node import supervise
from band.node.stop import StopRequest
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
    assert not task.events("restarted"), "nobody had killed it"


@pytest.mark.parametrize("words", ["say('failed', error='ValueError', message='m')", ""])
def test_without_a_traceback_the_last_of_what_was_printed_stands_for_it(make: Any, words: str) -> None:
    task = make()
    attempt(task, f"print('x' * 9000 + '\\nlast words', flush=True); {words}\nsys.exit(1)")
    (event,) = task.events("failed")
    assert event["traceback"] == "x" * 3988 + "\nlast words\n" and not task.events("restarted")
    assert log_of(task) == b"x" * 9000 + b"\nlast words\n"


def test_an_end_without_words_is_told_by_its_code_or_signal(make: Any) -> None:
    task = make(a={}, b={})
    attempt(task, f"os.kill(os.getpid(), {int(signal.SIGSEGV)})")
    (split,) = task.events("split")
    assert (split["error"], split["message"]) == ("SIGSEGV", "the trainer died of SIGSEGV")
    assert [event["runs"] for event in task.events("failed")] == [["a"], ["b"]]
    attempt(task, "sys.exit(4)")
    assert "ended with code 4 before b was finished" in task.events("failed")[-1]["message"], "nobody had asked it to"
    attempt(task, "say('note', run='b'); say('told', run='b'); say('run_finished', run='x'); sys.exit(7)")
    failed = task.events("failed")[-1]
    assert (failed["error"], failed["message"]) == (
        "TrainerEnded",
        "the trainer ended with code 7 before b was finished",
    )


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGHUP, "SIGHUP"), (signal.SIGABRT, "SIGABRT"), (40, "signal 40")]
)
def test_whatever_signal_a_trainer_dies_of_is_named_and_does_not_start_it_again(
    make: Any, number: int, name: str
) -> None:
    task = make()
    attempt(task, f"signal.signal({int(number)}, signal.SIG_DFL); os.kill(os.getpid(), {int(number)})")
    (event,) = task.events("failed")
    assert (event["error"], event["message"]) == (name, f"the trainer died of {name}")
    assert not task.events("restarted") and [event["code"] for event in task.events("ended")] == [1]


@pytest.mark.parametrize("event", ["adapted", "epoch", "note", "started"])
def test_one_that_ends_as_a_canary_does_and_has_not_said_that_it_is_one_has_failed(make: Any, event: str) -> None:
    task = make()
    attempt(task, f"say({event!r}, runs={{}}); sys.exit(4)")
    assert [event["runs"] for event in task.events("failed")] == [["a"]] and not task.events("interrupted")


@pytest.mark.parametrize("code", [0, 1, 3, 5])
def test_a_canary_that_ends_with_another_code_than_it_shall_has_failed(make: Any, code: int) -> None:
    task = make()
    attempt(task, f"say('rehearsed', share=0.1, train_s=1.0, outputs_s=1.0); sys.exit({code})")
    (event,) = task.events("failed")
    assert event["message"] == f"the trainer ended with code {code} before a was finished"


ASKED = "say('started', runs=['a'], step=0); sys.stdin.readline();"


def asked_to_stop(task: FakeTask, script: str, *, times: int = 1, stop_s: float = 60.0) -> int:
    """Return the code of an attempt that is asked to stop once its trainer has started."""
    with StopRequest() as stop:

        def ask(event: Any) -> None:
            for _ in range(times if event["event"] == "started" else 0):
                stop.ask("enough")

        command = [sys.executable, "-S", "-c", PRELUDE + script]
        timing = dataclasses.replace(QUICK, stop_s=stop_s)
        return run_task(task.task_json, trainer=command, timing=timing, stop=stop, on_event=ask)


@pytest.mark.parametrize("code", [0, 4])
def test_a_trainer_that_stops_as_it_is_asked_to_has_not_failed(make: Any, code: int) -> None:
    task = make()
    assert asked_to_stop(task, f"{ASKED} sys.exit({code})") == 4
    assert not task.events("failed") and [event["reason"] for event in task.events("interrupted")] == ["enough"]


@pytest.mark.parametrize("how", ["sys.exit(1)", "sys.exit(3)", "sys.exit(5)", "os.kill(os.getpid(), 6)"])
def test_a_trainer_that_fails_when_it_is_asked_to_stop_has_failed(make: Any, how: str) -> None:
    task = make()
    assert asked_to_stop(task, f"{ASKED} {how}") == 1
    assert [event["runs"] for event in task.events("failed")] == [["a"]]


def test_a_trainer_that_does_not_stop_is_killed_when_its_time_is_over_or_somebody_is_in_haste(make: Any) -> None:
    task = make()
    deaf = "say('started', runs=['a'], step=0); time.sleep(60)"
    start = time.monotonic()
    assert asked_to_stop(task, deaf, stop_s=0.3) == 4
    assert time.monotonic() - start > 0.3
    assert asked_to_stop(task, deaf, times=2) == 4
    assert time.monotonic() - start < 30
    assert not task.events("failed") and not task.events("restarted")


@pytest.mark.parametrize(
    ("most", "kept", "is_cut"), [(1000, 2, True), (1199, 2, True), (1200, 3, True), (2400, 4, False)]
)
def test_of_a_log_that_grows_beyond_its_size_the_beginning_is_kept(
    make: Any, monkeypatch: pytest.MonkeyPatch, most: int, kept: int, is_cut: bool
) -> None:
    monkeypatch.setattr(supervise, "MAX_LOG_BYTES", most)
    task = make()
    script = """
logs = os.path.join(os.environ["HOME_OF_SWEEP"], "logs")
for number, letter in enumerate("abcd"):
    os.write(1, letter.encode() * 599 + b"\\n")
    while number < KEPT and not sum(file.stat().st_size >= 600 * (number + 1) for file in os.scandir(logs)):
        time.sleep(0.01)
"""
    monkeypatch.setenv("HOME_OF_SWEEP", str(task.sweep.path))
    task.sweep.logs.mkdir()
    attempt(task, script.replace("KEPT", str(kept)))
    printed = b"".join(letter.encode() * 599 + b"\n" for letter in "abcd")
    note = b"\n[the log ends here: it has reached its greatest size]\n" if is_cut else b""
    assert log_of(task) == printed[: 600 * kept] + note


def test_a_log_is_some_thirty_mebibytes_at_most(make: Any) -> None:
    task = make()
    attempt(task, "[os.write(1, bytes(1 << 20)) for _ in range(44)]")
    assert 32 << 20 < len(log_of(task)) < 38 << 20


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
        task,
        "say('note', n=1); say('note', n=2, t='late'); say('epoch', n=3, runs={}, t=10**400); say('note', n=4, t=7.5);"
        "say('adapted', n=5); say('published', run='a')",
    )
    told = [event for event in heard if "n" in event]
    assert [event["n"] for event in told] == [1, 2, 3, 4, 5] and told[3]["t"] == 7.5
    assert all(start <= event["t"] <= time.time() for event in [*told[:3], told[4]])
    assert set(told[4]) == {"event", "n", "t"}, "as it was said"
    assert not task.events("published") and len(task.events("note")) == 3


FINISH = """
sys.path[:0] = os.environ['PYTHONPATH'].split(':')
from band.run_dir import seal
from pathlib import Path
def finish(run):
    folder = Path("runs") / run
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("state\\nours\\n")
    seal(folder, result={"run_id": run, "training": {"outcome": "ok"}})
"""


def test_a_run_that_is_finished_when_another_attempt_holds_the_task_stays_here(make: Any) -> None:
    task = make()
    with StopRequest() as stop:

        def tell(event: Any) -> None:
            if event["event"] == "started":
                stop.ask("enough")
            if event["event"] == "run_finished":
                take(task.task_json.parent, attempt=Attempt.current(), is_over=lambda claim: True)

        script = PRELUDE + FINISH + f"{ASKED} finish('a'); say('run_finished', run='a')"
        command = [sys.executable, "-S", "-c", script]
        assert run_task(task.task_json, trainer=command, timing=QUICK, stop=stop, on_event=tell) == 4
    (event,) = task.events("interrupted")
    assert event["reason"] == "another attempt holds the task" and not task.published()
    assert list(task.work.rglob("result.json"))


def test_a_run_that_was_finished_before_the_trainer_died_is_published_though_it_said_nothing(make: Any) -> None:
    task = make(a={}, b={})
    script = f"{FINISH}\nfinish('a'); finish('c'); sys.exit(1)"
    attempt(task, script)
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


def test_and_they_do_come_home_each_time_that_it_is_due(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(a={"epochs": 1000, "epoch_s": 0.01})
    real_monotonic, jumps = time.monotonic, [0]
    monkeypatch.setattr(time, "monotonic", lambda: real_monotonic() + 1001 * jumps[0])
    with StopRequest() as stop:

        def wait(event: Any) -> None:
            if event["event"] == "checkpoint" and jumps[0] == len(task.events("mirrored")):
                jumps[0] += 1
            if jumps[0] == 4:
                stop.ask("enough")

        timing = dataclasses.replace(QUICK, mirror_s=1000.0)
        assert run_task(task.task_json, trainer=TRAINER, timing=timing, stop=stop, on_event=wait) == 4


def test_nor_does_one_that_an_earlier_attempt_left_come_home_at_once(make: Any) -> None:
    task = make(a={"epochs": 20, "raise_at": 10})
    assert task.attempt(mirror_s=1000.0) == 1 and len(task.events("mirrored")) == 1
    (copy,) = task.task_json.parent.glob("population.*.pt")
    leftover = task.work / "0000.j1-r0" / "0"
    leftover.mkdir(parents=True)
    shutil.move(copy, leftover)
    task.task_json.write_text(task.task_json.read_text().replace('"raise_at":10', '"raise_at":99'))
    assert task.attempt(mirror_s=1000.0) == 0
    assert set(task.ledger().values()) == {1} and len(task.events("mirrored")) == 1


@pytest.mark.parametrize("is_told", [True, False])
def test_which_runs_were_cancelled_is_looked_at_when_a_signal_tells_and_not_all_the_time(
    make: Any, tmp_path: Path, is_told: bool
) -> None:
    quick = {"epochs": 15, "epoch_s": 0.01, "gated": is_told, "paced": True}
    task = make(a=quick, b=quick)
    gate = tmp_path / "gate"
    gate.touch()

    def cancel(event: Any) -> None:
        if event["event"] == "started" and "a" not in event["runs"]:
            gate.unlink()
        elif event["event"] == "started":
            task.task_json.with_name("skip.json").write_text('{"runs": ["a"]}')
            if is_told:
                signal.raise_signal(signal.SIGUSR2)

    timing = dataclasses.replace(QUICK, mirror_s=1000.0)
    assert run_task(task.task_json, trainer=TRAINER, timing=timing, on_event=cancel) == 0
    assert list(task.published()) == (["b"] if is_told else ["a", "b"])


def test_between_two_copies_of_checkpoints_is_as_long_as_there_shall_be(make: Any) -> None:
    task = make(a={"epochs": 65, "epoch_s": 0.01})
    assert task.attempt(mirror_s=0.25) == 0
    times = [event["t"] for event in [*task.events("claimed"), *task.events("mirrored")]]
    assert (
        len(times) >= 3 and min(later - t for t, later in itertools.pairwise(times)) > 0.1
    )  # less where one took long


def test_a_home_that_refuses_checkpoints_is_tried_again_soon_and_not_at_once(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(a={"epochs": 1000, "epoch_s": 0.01})
    real, tries = os.open, []
    with StopRequest() as stop:

        def refused(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_CREAT and "population." in str(path) and str(task.home) in str(path):
                tries.append(time.monotonic())
                if len(tries) == 4:
                    stop.ask("enough")
                raise OSError(errno.EDQUOT, "Disk quota exceeded", str(path))
            return real(path, flags, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refused)
            start = time.monotonic()
            timing = dataclasses.replace(QUICK, mirror_s=0.2, retry_s=0.1)
            assert run_task(task.task_json, trainer=TRAINER, timing=timing, stop=stop) == 4
    assert tries[0] - start > 0.2 and min(later - t for t, later in itertools.pairwise(tries[:4])) > 0.099
    assert tries[3] - start < 60 and not task.events("mirrored")


def test_time_is_left_before_the_end_of_a_job_for_what_bringing_a_checkpoint_home_has_taken(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(a={"epochs": 30, "epoch_s": 0.01})
    slurm = Controller(monkeypatch)
    slurm.fields["EndTime"] = f"{time.time() + 41:.0f}"
    real_open, real_monotonic, late = os.open, time.monotonic, [0.0]

    def slow(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT and "population." in str(path) and str(task.home) in str(path):
            late[0] += 2.0
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", slow)
    monkeypatch.setattr(time, "monotonic", lambda: real_monotonic() + late[0])
    with in_slurm() as stop:
        assert 10 <= stop.margin_s < 10.5
        assert run_task(task.task_json, trainer=TRAINER, timing=QUICK, stop=stop) == 0
        assert task.events("mirrored") and 16 <= stop.margin_s < 19


@pytest.mark.parametrize("how", ["sys.exit(1)", "os.kill(os.getpid(), 9)"])
def test_that_the_trainer_of_cancelled_runs_fails_is_no_failure(make: Any, how: str) -> None:
    task = make(a={}, b={})

    def cancel(event: Any) -> None:
        if event["event"] == "started":
            task.task_json.with_name("skip.json").write_text('{"runs": ["a", "b"]}')
            signal.raise_signal(signal.SIGUSR2)

    command = [sys.executable, "-S", "-c", f"{PRELUDE}{ASKED} {how}"]
    assert run_task(task.task_json, trainer=command, timing=QUICK, on_event=cancel) == 0
    assert [event["event"] for event in task.events()] == ["claimed", "staged", "started", "ended"]


def test_a_supervisor_sleeps_while_its_trainer_trains(make: Any) -> None:
    task = make()
    before = time.process_time()
    attempt(task, "time.sleep(0.7)")
    assert time.process_time() - before < 0.15


def test_that_runs_were_cancelled_is_noticed_though_no_signal_told_of_it(make: Any) -> None:
    task = make(a={"epochs": 1000, "epoch_s": 0.01}, b={"epochs": 30, "epoch_s": 0.01})
    process = task.start()
    wait_for(lambda: task.ledger()["epoch a 5"] == 1)
    task.task_json.with_name("skip.json").write_text('{"runs": ["a"]}')
    assert process.wait(60) == 0
    assert task.published() == {"b": expected_state("b", epochs=30)}
    assert [event["runs"] for event in task.events("started")] == [["a", "b"], ["b"]]
