"""`band-sweep watch` on a pseudo-terminal: right at any size and with thousands of runs, and gone without a trace."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_sweep import LocalSweep, make_sweep
from pseudo_terminal import PseudoTerminal

from band.run_dir import EventWriter
from band.sweep.ledger import new_task, record
from band.sweep.status import STATES

RUNS = 5000
TRACE = 'Traceback (most recent call last):\n  File "x.py", line 3\nValueError: layer 7 is bad'
Watching = Callable[..., PseudoTerminal]


def large_sweep(folder: Path) -> LocalSweep:
    """A sweep of 5 000 runs, of which 2 000 are published, 8 have failed and 8 were interrupted."""
    runs = {f"run-{n:04d}": {"hyper.lr": 0.01 * (1 + n % 2), "seed": n} for n in range(RUNS)}
    local = make_sweep(folder, runs)
    names = list(runs)
    tasks = {f"{n // 8:04d}": names[n : n + 8] for n in range(0, RUNS, 8)}
    record(local.sweep, "submit", tasks=tasks, runs=names)
    for run in names[:2000]:
        local.sweep.run(run).mkdir(parents=True)
    failed, broken = tasks["0250"], tasks["0251"]
    events = EventWriter(local.sweep.event_file("0250", attempt="one"))
    events.write("claimed", claim=0, attempt="one", host="c1", pid=1)
    events.write("started", runs=failed, step=0)
    events.write("failed", runs=failed, error="ValueError", message="layer 7 is bad", traceback=TRACE)
    events.write("ended", code=1)
    events = EventWriter(local.sweep.event_file("0251", attempt="one"))
    events.write("claimed", claim=0, attempt="one", host="c2", pid=1)
    events.write("started", runs=broken, step=0)
    for epoch in range(1, 30):
        progress = {
            "epoch": epoch,
            "max_epochs": 700,
            "valid_recon": 100.0 / epoch,
            "valid_bits_per_spike": 0.01 * epoch,
        }
        events.write("epoch", runs=dict.fromkeys(broken, progress), steps_per_s=1.0)
    local.sweep.logs.mkdir()
    log = local.sweep.log_file("0251", attempt="one")
    log.write_text("".join(f"line {n} \x1b[31mred\n" for n in range(300)))
    return local


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> LocalSweep:
    return large_sweep(tmp_path_factory.mktemp("large"))


@pytest.fixture
def watching() -> Iterator[Watching]:
    """Start `band-sweep watch` on a terminal that is closed afterwards."""
    opened: list[PseudoTerminal] = []

    def start(sweep: LocalSweep, *, code: str = "", width: int = 100, height: int = 30, **more: str) -> PseudoTerminal:
        named = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **more}
        environment = {k: v for k, v in sweep.environment.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        call = ["-c", code, "watch"] if code else ["-m", "band.cli.sweep", "watch"]
        command = [sys.executable, *call, str(sweep.sweep.path)]
        opened.append(PseudoTerminal(command, environment={**environment, **named}, width=width, height=height))
        opened[-1].wait_for(lambda lines: lines[0].startswith("demo: ") and "quit" in lines[-1])
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def test_it_is_right_at_every_size_it_is_given(large: LocalSweep, watching: Watching) -> None:
    terminal = watching(large)
    for width, height in ((60, 14), (200, 60), (41, 9), (20, 5), (100, 30), (80, 24)):
        terminal.resize(width, height)
        lines = terminal.wait_for(
            lambda lines: lines[0].startswith("demo: 5000 runs") and lines[-1].startswith("? help  q quit")
        )
        assert sum(line.startswith("demo: ") for line in lines) == 1
        assert sum("run-2000" in line for line in lines) == 1, lines
        if height >= 14:
            assert lines[1].split() == ["published", "2000", "interrupted", "8", "failed", "8", "new", "2984"]
            assert any("8 failed" in line and "ValueError: layer 7 is bad" in line for line in lines)
            shown = [line for line in lines if line[2:].startswith("run-")]
            assert len(shown) == height - 2 - next(n for n, line in enumerate(lines) if "  state" in line)
    terminal.type("q")
    assert terminal.wait() == 0 and terminal.is_as_before()


def test_thousands_of_runs_are_scrolled_filtered_and_found(large: LocalSweep, watching: Watching) -> None:
    terminal = watching(large)
    begun = time.monotonic()
    terminal.type("\x1b[F")
    terminal.wait_for(lambda lines: any(line.startswith("> run-1999") for line in lines))
    terminal.type("\x1b[H\x1b[6~")
    terminal.wait_for(lambda lines: any(line.startswith("> run-20") and " new " in line for line in lines))
    assert time.monotonic() - begun < 5
    terminal.type("/run-2*4 lr=0.01\r")
    lines = terminal.wait_for(lambda lines: "/run-2*4 lr=0.01: 100 of 5000" in lines[-1])
    assert all(line[2:].split()[0].endswith("4") for line in lines if line[2:].startswith("run-"))
    terminal.type("sss")
    terminal.wait_for(lambda lines: "failed /run-2*4 lr=0.01: 1 of 5000" in lines[-1])
    terminal.type("\x1b")
    terminal.wait_for(lambda lines: lines[-1].startswith("? help"))
    terminal.type("/nothing-like-it\r")
    terminal.wait_for(lambda lines: any("no run is like that" in line for line in lines))
    terminal.type("ce\rlq")
    assert terminal.wait() == 0 and terminal.is_as_before()


def test_log_curves_reason_failures_and_nodes_of_a_run_are_a_key_away(large: LocalSweep, watching: Watching) -> None:
    terminal = watching(large)
    terminal.type("/run-2000\re")
    lines = terminal.wait_for(lambda lines: any("failed: ValueError: layer 7 is bad" in line for line in lines[3:]))
    assert any(line.startswith("next: band-sweep") for line in lines) and lines[0].startswith("why run-2000")
    assert any(line.startswith("Traceback") for line in lines)
    terminal.type("q\x1b/run-2008\rl")
    lines = terminal.wait_for(lambda lines: "line 299 \\x1b[31mred" in lines[-2])
    assert lines[0] == "log of run-2008" and "of 301" in lines[-1]
    with large.sweep.log_file("0251", attempt="one").open("a") as log:
        log.write("one more\n")
    terminal.wait_for(lambda lines: "one more" in lines[-2])
    terminal.type("\x1b[H")
    terminal.wait_for(lambda lines: lines[2].startswith("line 0"))
    terminal.type("qc")
    lines = terminal.wait_for(lambda lines: any(line.startswith("valid_bits_per_spike   0.29") for line in lines))
    assert any(0x2800 < ord(character) < 0x2900 for line in lines for character in line)
    terminal.type("qf")
    terminal.wait_for(lambda lines: lines[1] == "8 runs: ValueError: layer 7 is bad" and "8 on c1" in lines[2])
    terminal.type("qn")
    terminal.wait_for(lambda lines: lines[2].split() == ["c1", "0", "0", "0", "8"])
    terminal.type("q?")
    terminal.wait_for(lambda lines: lines[0] == "keys")
    terminal.type("qq")
    assert terminal.wait() == 0 and terminal.is_as_before()


def test_a_line_that_is_slow_carries_what_changes_and_no_more(large: LocalSweep, watching: Watching) -> None:
    terminal = watching(large)
    terminal.read(0.3)
    first = len(terminal.sent)
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        terminal.read(0.2)
    assert first < 12_000 and len(terminal.sent) - first < 300, "the clock alone"
    terminal.type("q")
    assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else None,
)
def test_a_signal_leaves_the_terminal_as_it_was(
    tmp_path: Path, watching: Watching, number: signal.Signals, code: int
) -> None:
    terminal = watching(make_sweep(tmp_path, {"a": {}}))
    assert terminal.attributes() != terminal.before
    os.kill(terminal.process.pid, number)
    assert terminal.wait() == code and terminal.is_as_before() and b"Traceback" not in terminal.sent


@pytest.mark.parametrize("place", ["band.cli.watch.Screen._draw", "band.cli.progress.Watch.look"])
def test_a_fault_of_ours_leaves_the_terminal_as_it_was_and_is_named(
    tmp_path: Path, watching: Watching, place: str
) -> None:
    module, name, method = place.rsplit(".", 2)
    code = (
        f"import sys; from band.cli import sweep; from {module} import {name} as owner\n"
        f"works, calls = owner.{method}, []\n"
        "def breaks(self, *given):\n"
        "    calls.append(1)\n"
        "    return works(self, *given) if len(calls) < 2 else [][1]\n"
        f"owner.{method} = breaks\n"
        "sys.exit(sweep.main(sys.argv[1:]))\n"
    )
    terminal = watching(make_sweep(tmp_path, {"a": {}}), code=code)
    assert terminal.wait() == 70 and terminal.is_as_before()
    assert b"error: IndexError" in terminal.sent.rpartition(b"\x1b[?1049l")[2]


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(tmp_path: Path, watching: Watching) -> None:
    terminal = watching(make_sweep(tmp_path, {"a": {}}))
    os.kill(terminal.process.pid, signal.SIGTSTP)
    # A session's leader whose parent is in another session is not stopped by SIGTSTP: the signal is passed over, as
    # POSIX has it for orphaned groups, so that it comes back at once. What it sent in between is what counts.
    deadline = time.monotonic() + 10
    while terminal.sent.count(b"\x1b[?1049h") < 2:
        assert time.monotonic() < deadline
        terminal.read(0.05)
    assert terminal.sent.index(b"\x1b[?1049l") < terminal.sent.rindex(b"\x1b[?1049h")
    terminal.wait_for(lambda lines: lines[0].startswith("demo: 1 run") and "quit" in lines[-1])
    terminal.type("q")
    assert terminal.wait() == 0 and terminal.is_as_before()


def test_a_sweep_whose_folder_is_gone_for_a_while_is_said_so_and_shown_again(
    tmp_path: Path, watching: Watching
) -> None:
    local = make_sweep(tmp_path, {"a": {}, "b": {}})
    terminal = watching(local)
    away = local.sweep.path.with_name("away")
    local.sweep.path.rename(away)
    terminal.wait_for(lambda lines: "No such file" in lines[1])
    away.rename(local.sweep.path)
    terminal.wait_for(lambda lines: "No such file" not in lines[1] and "new 2" in lines[1])
    terminal.type("q")
    assert terminal.wait() == 0


def test_no_color_keeps_colours_off_the_screen(large: LocalSweep, watching: Watching) -> None:
    plain, coloured = watching(large, NO_COLOR="1"), watching(large)
    for terminal, expected in ((plain, False), (coloured, True)):
        terminal.type("q")
        assert terminal.wait() == 0
        assert (b";31m" in terminal.sent) is expected


def test_new_runs_and_states_come_by_themselves(tmp_path: Path, watching: Watching) -> None:
    local = make_sweep(tmp_path, {"a": {}, "b": {}})
    terminal = watching(local)
    task = new_task(local.sweep)
    record(local.sweep, "submit", runs=["a"], tasks={task: ["a"]})
    events = EventWriter(local.sweep.event_file(task, attempt="one"))
    events.write("started", runs=["a"], step=0)
    terminal.wait_for(lambda lines: lines[1].split() == ["interrupted", "1", "new", "1"])
    local.sweep.run("a").mkdir(parents=True)
    terminal.wait_for(lambda lines: lines[1].split() == ["published", "1", "new", "1"])
    terminal.type("q")
    assert terminal.wait() == 0


def test_a_terminal_that_can_only_go_on_gets_lines(tmp_path: Path) -> None:
    local = make_sweep(tmp_path, {"a": {}})
    command = [sys.executable, "-m", "band.cli.sweep", "watch", str(local.sweep.path)]
    terminal = PseudoTerminal(command, environment={**local.environment, "TERM": "dumb"})
    assert terminal.wait() == 4 and b"\x1b" not in terminal.sent and b"1 new" in terminal.sent
    terminal.close()


def test_in_a_pipe_it_prints_lines_and_ends_with_the_work(tmp_path: Path) -> None:
    local = make_sweep(tmp_path, {"a": {}, "b": {"raise_at": 1}}, base={"epochs": 20, "epoch_s": 0.05})
    local.band_sweep("submit", "--detach", "--jobs", "1", "--pack", "1")
    output = local.band_sweep("watch", code=4)
    assert "published a" in output and "failed b: RuntimeError" in output and "\x1b" not in output
    assert all(line[2] == line[5] == ":" for line in output.splitlines()), "each line begins with the time"
    assert any(state in output.splitlines()[0] for state in STATES)
