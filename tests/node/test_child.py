"""The trainer as a child process: what is heard of it, what it is told, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from proc import has_ended, wait_for

from band.node import child
from band.node.child import Trainer, oom_kills

START = "import json, os, signal, sys, time\nevents = int(sys.argv[-1])\nassert sys.argv[-2] == '--events-fd'\n"


def trainer(tmp_path: Path, script: str, **environment: str) -> Trainer:
    """Return a Python without site packages that does what the script says."""
    command = [sys.executable, "-I", "-S", "-c", START + script]
    return Trainer(command, cwd=tmp_path, environment={"PATH": os.environ["PATH"], **environment})


def heard(process: Trainer, *, until: Callable[[list[Any], bytes], bool] | None = None) -> tuple[list[Any], bytes]:
    """Return all that is heard of a trainer until it has ended and said all, or until what is wanted has come."""
    events: list[Any] = []
    printed = b""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        over = process.has_ended()
        more, text = process.read(timeout_s=0.0 if over else 0.05)
        events += more
        printed += text
        if until(events, printed) if until else over and not more and not text:
            return events, printed
    raise AssertionError(f"heard {events}, {printed!r}")


def test_events_come_whole_however_they_are_cut_and_what_is_none_is_passed_over(tmp_path: Path) -> None:
    process = trainer(
        tmp_path,
        """
print("printed to its output", flush=True)
print("and to its errors", file=sys.stderr, flush=True)
for part in (
    b'{"event": "a", "n": ', b'NaN}\\n{"event": 7}\\n[]\\nrub',
    b'bish\\n{"n": 1}\\n{"event": "b"', b'}\\n{"event": "c"}\\n{"ev',
):
    os.write(events, part)
    time.sleep(0.03)
sys.exit(5)
""",
    )
    events, printed = heard(process)
    assert events == [{"event": "a", "n": None}, {"event": "b"}, {"event": "c"}]
    assert printed == b"printed to its output\nand to its errors\n"
    assert process.close() == 5


def test_much_is_heard_in_pieces_and_all_of_it(tmp_path: Path) -> None:
    script = """
for number in range(3000):
    os.write(1, b"x" * 3000)
    os.write(events, json.dumps({"event": "e", "n": number}).encode() + b"\\n")
"""
    process = trainer(tmp_path, script)
    events, printed = heard(process)
    assert [event["n"] for event in events] == list(range(3000)) and printed == b"x" * 9_000_000
    assert process.close() == 0


def test_a_line_that_does_not_end_is_kept_up_to_16_mib(tmp_path: Path) -> None:
    script = """
for size in (16 << 20, (16 << 20) + 1):
    part = b'{"event": "'
    part += b"x" * (size - len(part))
    while part:
        part = part[os.write(events, part):]
    print("written", flush=True)
    sys.stdin.readline()
    os.write(events, b'"}\\n{"event": "after"}\\n')
"""
    process = trainer(tmp_path, script)
    for kept in (True, False):
        events, _ = heard(process, until=lambda events, printed: printed == b"written\n")
        assert events == [] and process.read(timeout_s=0.0) == ([], b"")  # the rest of what was in the pipe
        process.command("go on")
        events, _ = heard(process, until=lambda events, printed: bool(events) and events[-1]["event"] == "after")
        assert [len(event["event"]) for event in events] == [(16 << 20) - 11] * kept + [5]
    process.close()


def test_commands_arrive_and_one_to_a_trainer_that_is_gone_or_deaf_harms_nobody(tmp_path: Path) -> None:
    process = trainer(tmp_path, "print(sys.stdin.readline() + sys.stdin.readline(), end='', flush=True)")
    process.command("stop")
    process.command("now")
    assert heard(process)[1] == b"stop\nnow\n"
    process.command("stop")
    process.close()
    deaf = trainer(tmp_path, "time.sleep(60)")
    start = time.monotonic()
    for _ in range(100):
        deaf.command("x" * 10_000)
    assert time.monotonic() - start < 5 and not deaf.has_ended()
    assert deaf.close() == -signal.SIGKILL


def test_what_slurm_sends_to_all_processes_of_a_job_does_not_reach_the_trainer(tmp_path: Path) -> None:
    process = trainer(tmp_path, "print(os.getcwd(), os.environ['NAME'], flush=True)\nsys.stdin.read()", NAME="value")
    assert heard(process, until=lambda events, printed: printed.endswith(b"\n"))[1] == f"{tmp_path} value\n".encode()
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP):
        os.kill(process.process.pid, number)
    assert process.read(timeout_s=0.2) == ([], b"") and not process.has_ended()
    assert process.close() == -signal.SIGKILL


def test_a_trainer_is_killed_when_its_supervisor_dies_and_does_not_begin_where_that_has_died_already(
    tmp_path: Path,
) -> None:
    script = """
import ctypes
number = ctypes.c_int()
assert ctypes.CDLL(None).prctl(2, ctypes.byref(number)) == 0  # PR_GET_PDEATHSIG
print(number.value, os.getsid(0) == os.getpid(), flush=True)
"""
    process = trainer(tmp_path, script)
    assert heard(process)[1] == b"9 True\n"
    assert process.close() == 0
    for parent, code in ((os.getpid(), 0), (0, 3), (1 << 30, 3)):
        pid = os.fork()
        if not pid:
            child._deaf_and_mortal(parent)()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


def test_whatever_a_trainer_started_ends_with_it(tmp_path: Path) -> None:
    script = """
pid = os.fork()
if not pid:
    time.sleep(60)
print(pid, flush=True)
"""
    process = trainer(tmp_path, script)
    _, printed = heard(process, until=lambda events, printed: printed.endswith(b"\n"))
    before = len(os.listdir("/proc/self/fd"))
    process.close()
    wait_for(lambda: has_ended(int(printed)))
    assert len(os.listdir("/proc/self/fd")) == before - 4  # both pipes, its input, and what waits for them


def test_one_that_has_closed_its_pipes_and_lives_is_waited_for_without_haste(tmp_path: Path) -> None:
    process = trainer(tmp_path, "for file in (1, 2, events): os.close(file)\ntime.sleep(0.4)\nos._exit(3)")
    start, reads = time.monotonic(), 0
    while not process.has_ended():
        assert process.read(timeout_s=0.1) == ([], b"")
        reads += 1
    assert time.monotonic() - start > 0.3 and reads < 20
    assert process.close() == 3


def test_a_command_that_cannot_be_started_leaves_nothing_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        Trainer(["/nowhere/trainer"], cwd=tmp_path, environment={})
    assert os.listdir("/proc/self/fd") == before


def test_kills_for_want_of_memory_are_those_that_the_kernel_counts_since_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = tmp_path / "vmstat"
    counted.write_text("nr_free_pages 17\npgfault 8\noom_kill 4\noom_kill_more 99\n")
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path: real(counted if str(path) == "/proc/vmstat" else path))
    assert oom_kills() == 4
    process = trainer(tmp_path, "")
    assert not process.lacked_memory()
    counted.write_text("nr_free_pages 17\noom_kill 5\n")
    assert process.lacked_memory()
    process.close()
    for text in ("oom_kill many\n", "nr_free_pages 17\n"):
        counted.write_text(text)
        assert oom_kills() == 0
    counted.unlink()
    assert oom_kills() == 0
