"""`band-sweep status --watch` in a real terminal: it shows, fits, and leaves everything as it was."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_sweep import LocalSweep, make_sweep


class Terminal:
    """A terminal of tmux with a shell in it."""

    def __init__(self, folder: Path, *, width: int, height: int) -> None:
        self._socket = folder / "tmux"
        shell = "env -u NO_COLOR -u COLUMNS -u LINES PS1='ready> ' bash --norc --noprofile"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), shell)

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self._socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    def type(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def says(self, name: str) -> str:
        return self.tmux("display-message", "-p", f"#{{{name}}}").strip()

    def wait_for(self, condition: Callable[[str], bool], *, timeout_s: float = 30) -> str:
        deadline = time.monotonic() + timeout_s
        while not condition(screen := self.screen()):
            assert time.monotonic() < deadline, screen
            time.sleep(0.1)
        return screen


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux here: apt-get install tmux")
    folder = tmp_path / "terminal"
    folder.mkdir()
    terminal = Terminal(folder, width=110, height=30)
    yield terminal
    terminal.tmux("kill-server")


def watch_command(sweep: LocalSweep) -> str:
    names = ("PYTHONPATH", "BAND_SCRATCH", "XDG_CACHE_HOME")
    settings = [f"{name}={shlex.quote({**os.environ, **sweep.environment}[name])}" for name in names]
    command = [sys.executable, "-m", "band.cli.sweep", "status", str(sweep.sweep.path), "--watch"]
    return " ".join([*settings, shlex.join(command)])


def test_watching_fits_any_size_and_ctrl_c_leaves_the_terminal_and_the_work_alone(
    tmp_path: Path, terminal: Terminal
) -> None:
    sweep = make_sweep(tmp_path, {f"run-{n:02d}": {} for n in range(60)}, base={"epochs": 10_000, "epoch_s": 0.02})
    sweep.band_sweep("submit", "--detach", "--jobs", "1", "--pack", "2")
    terminal.type("echo what was here", "Enter")
    terminal.type(watch_command(sweep), "Enter")
    shown = terminal.wait_for(lambda screen: "epochs/s" in screen and "run-00" in screen and "/10000" in screen)
    assert "what was here" not in shown and "\ndemo: 60 runs" in "\n" + shown
    epoch = next(line for line in shown.split("\n") if "run-00" in line)
    terminal.wait_for(lambda s: any("run-00" in line and line != epoch for line in s.split("\n")))
    for width, height in ((60, 14), (100, 24)):
        terminal.tmux("resize-window", "-x", str(width), "-y", str(height))
        shown = terminal.wait_for(lambda screen: screen.startswith("demo: 60 runs") and screen.count("demo: 60") == 1)
        assert shown.count("running") <= 3 and len(shown.rstrip("\n").split("\n")) <= height
    assert terminal.says("alternate_on") == "1"
    terminal.type("C-c")
    shown = terminal.wait_for(lambda screen: "no longer watched" in screen)
    assert "what was here" in shown and "Traceback" not in shown
    terminal.type("echo code $? && stty -a | grep -o ' -\\?echo '", "Enter")
    shown = terminal.wait_for(lambda screen: "code 130\n echo" in screen)
    assert (terminal.says("alternate_on"), terminal.says("cursor_flag")) == ("0", "1")
    assert sweep.supervisor_pids(), "the work goes on"
    sweep.band_sweep("cancel", "--all")


def test_ctrl_z_and_fg_give_the_terminal_back_and_take_it_again(tmp_path: Path, terminal: Terminal) -> None:
    sweep = make_sweep(tmp_path, {"a": {}})
    terminal.type("echo what was here", "Enter")
    terminal.type(watch_command(sweep).replace("status", "watch").removesuffix(" --watch"), "Enter")
    terminal.wait_for(lambda screen: screen.startswith("demo: 1 run"))
    terminal.type("C-z")
    shown = terminal.wait_for(lambda screen: "Stopped" in screen)
    assert "what was here" in shown and (terminal.says("alternate_on"), terminal.says("cursor_flag")) == ("0", "1")
    terminal.type("stty -a | grep -o ' -\\?icanon'", "Enter")
    terminal.wait_for(lambda screen: "\n icanon" in screen)
    terminal.type("fg", "Enter")
    terminal.wait_for(lambda screen: screen.startswith("demo: 1 run"))
    assert (terminal.says("alternate_on"), terminal.says("cursor_flag")) == ("1", "0")
    terminal.type("q")
    terminal.wait_for(lambda screen: "what was here" in screen)
    assert (terminal.says("alternate_on"), terminal.says("cursor_flag")) == ("0", "1")


def test_watching_ends_with_the_work_and_leaves_the_last_state_on_the_screen(
    tmp_path: Path, terminal: Terminal
) -> None:
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}}, base={"epochs": 60, "epoch_s": 0.05})
    sweep.band_sweep("submit", "--detach")
    terminal.type(watch_command(sweep) + "; echo code $?", "Enter")
    shown = terminal.wait_for(lambda screen: "code 0" in screen)
    assert "complete; next: band-sweep report demo" in shown


def test_watching_into_a_pipe_gives_plain_lines_and_then_the_state(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}}, base={"epochs": 20, "epoch_s": 0.1})
    sweep.band_sweep("submit", "--detach", "--jobs", "1", "--pack", "1")
    output = sweep.band_sweep("status", "--watch")
    assert "published b" in output and "complete" in output and "\x1b" not in output
