"""Record a sweep that is submitted from a laptop, runs on two nodes, is watched, pulled and reported: `make recording`.

The commands are typed into a real shell on a pseudo-terminal, and everything else is real too: a Slurm cluster
(tests/slurm_lab) behind an sshd (tests/helpers/far_machine.py). Only the places are chosen, so that no path of this
machine shows: in a mount namespace of its own the laptop's home is /home/you and the cluster's /srv/home, or others
where this project lies below these. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte
from far_machine import FarMachine, running
from pseudo_terminal import PseudoTerminal
from slurm_lab.lab import Lab
from terminal_picture import Screen

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
NAMESPACE = ["unshare", "--mount", "--uts", "--propagation", "private"]


def place_of(*choices: str) -> Path:
    """Return the first of some folders that holds nothing which is needed here, so that it can be covered."""
    needed = (ROOT, Path(sys.executable).resolve(), Path(sys.prefix))
    return next(Path(place) for place in choices if not any(path.is_relative_to(place) for path in needed))


NEAR, FAR = place_of("/home", "/mnt") / "you", place_of("/srv", "/media")
HOST = "informatics"
PROMPT = "laptop:~/band-sweep$"
WIDTH, HEIGHT = 110, 28
KEY_S = 0.055  # between two keys that are typed
NODE = {"nodes": 2, "cpus": 2, "memory_mb": 8000}


class Recorded(PseudoTerminal):
    """A shell on a terminal, of which is kept what was printed when."""

    def __init__(self, command: list[str], *, environment: dict[str, str]) -> None:
        """Start it."""
        super().__init__(command, environment=environment, width=WIDTH, height=HEIGHT)
        self.screen = Screen(WIDTH, HEIGHT)
        self._stream = pyte.ByteStream(self.screen)
        self.events: list[tuple[float, str]] = []
        self._begun, self._rest = time.monotonic(), b""

    def read(self, timeout_s: float = 0.0) -> None:
        """Show what has been sent by now, and keep it."""
        before = len(self.sent)
        super().read(timeout_s)
        new = self._rest + self.sent[before:]
        text = new.decode("utf-8", errors="ignore")
        self._rest = new[len(text.encode()) :]  # a character of which the end has not come yet
        if text:
            self.events.append((round(time.monotonic() - self._begun, 3), text))

    def rest(self, seconds: float) -> None:
        """Let time go by."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(min(left, 0.05))

    def press(self, keys: str, *, seconds: float = 1.5) -> None:
        """Press keys, and look at what they do."""
        for key in keys:
            self.type(key)
            self.rest(KEY_S)
        self.rest(seconds)

    def do(self, command: str, *, timeout_s: float = 120, seconds: float = 2.0) -> None:
        """Type a command, wait for the prompt after it, and let its answer be read."""
        self.press(command, seconds=0.5)
        self.type("\r")
        self.rest(0.2)
        self.wait_for(self.has_prompt, timeout_s=timeout_s)
        self.rest(seconds)

    def has_prompt(self, lines: list[str]) -> bool:
        """Whether the shell waits for a command."""
        return lines[self.screen.cursor.y] == PROMPT

    def save(self, path: Path, *, of_screen: bool = False) -> None:
        """Write the recording so far as asciicast, or what was printed since a command has taken the whole screen."""
        taken = [place for place, (_, data) in enumerate(self.events) if "\x1b[?1049h" in data]
        header = {"version": 2, "width": WIDTH, "height": HEIGHT, "env": {"TERM": "xterm-256color"}}
        lines = [header, *([t, "o", data] for t, data in self.events[taken[-1] if of_screen else 0 :])]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        print(f"{path}: {self.events[-1][0]:.0f} s")


@contextmanager
def places() -> Iterator[tuple[Lab, dict[str, str]]]:
    """Yield a cluster, and the environment of a shell on a laptop that knows it as informatics."""
    with tempfile.TemporaryDirectory(prefix="recording-") as folder, mounted(Path(folder)):
        project = NEAR / "band-sweep"
        for name in ("experiments", "sbatch_templates"):
            shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("sweeps"))
        (project / "datasets").mkdir()
        (NEAR / ".run").mkdir(mode=0o700)
        configuration = NEAR / ".config/band/config.yaml"
        configuration.parent.mkdir(parents=True)
        configuration.write_text(f"hosts: {{{HOST}: {{path: ~/project, python: ~/band-venv/bin/python}}}}\n")
        with Lab(FAR, **NODE) as lab:
            (lab.home / "band-venv").symlink_to(BIN.parent)
            lab.environment["BAND_KERNELS_FOLDER"] = str(Path.home() / ".cache/band/kernels")  # as after a first sweep
            (lab.home / "project").mkdir()
            login = FarMachine(
                NEAR / ".login", home=lab.home, environment=lab.environment, inside=lab.login_command([])
            )
            login.write_client_config(f"Host {HOST}", "HostName 127.0.0.1", f"Port {login.port}")
            with running(login):
                environment = login.environment(NEAR / ".run")
                yield (
                    lab,
                    {
                        **environment,
                        "PATH": f"{BIN}:{environment['PATH']}",
                        "HOME": str(NEAR),
                        "XDG_CONFIG_HOME": str(NEAR / ".config"),
                        "TERM": "xterm-256color",
                        "LANG": "C.UTF-8",
                        "OMP_NUM_THREADS": "1",
                    },
                )
                subprocess.run([BIN / "band-sync", "disconnect", HOST], env={**os.environ, **environment})


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Have two folders of this machine be empty ones, in the mount namespace that this process was started in."""
    for place in (NEAR.parent, FAR):
        (folder / place.name).mkdir()
        subprocess.run(["mount", "--bind", folder / place.name, place], check=True)
    try:
        yield
    finally:
        for place in (NEAR.parent, FAR):
            subprocess.run(["umount", "--lazy", place])


def shell(environment: dict[str, str]) -> Recorded:
    """Return a shell on the laptop, at its first prompt."""
    rc = NEAR / ".bashrc"
    rc.write_text(f"PS1='{PROMPT} '\nbind 'set enable-bracketed-paste off'\ncd {NEAR}/band-sweep\nclear\n")
    terminal = Recorded(["bash", "--rcfile", str(rc), "-i"], environment=environment)
    terminal.wait_for(terminal.has_prompt)
    terminal.events.clear()
    terminal.events.append((0.0, f"\x1b[H\x1b[2J{PROMPT} "))
    terminal._begun = time.monotonic()
    return terminal


def tour(terminal: Recorded, *, keep: Path) -> None:
    """Go from a sweep file to a report, and save the recording."""
    sweep = "project/experiments/sweeps/demo"
    terminal.rest(1.0)
    terminal.do("band-data simulate reach datasets/demo_reach.h5 --small")
    terminal.do("band-sweep generate experiments/demo.yaml --set max_epochs=60 --set kl_increase_epoch=30")
    terminal.do(f"band-sweep submit demo --host {HOST} --cluster edinburgh --gres=none --mem=2G --time=10 --pack 1")
    watch(terminal, sweep, look=look_around)
    terminal.do("band-sync pull demo --watch 1m", timeout_s=1800)
    terminal.do("band-sweep report demo", seconds=4.0)
    terminal.do("ls experiments/sweeps/demo/report", seconds=0.5)
    terminal.save(keep / "recording.cast")


def watch(terminal: Recorded, sweep: str, *, look: Callable[[Recorded], None]) -> None:
    """Look at a sweep on the cluster as it trains, and leave it."""
    terminal.press(f"ssh -t {HOST} '~/band-venv/bin/band-sweep watch ~/{sweep}'", seconds=0.5)
    terminal.type("\r")
    terminal.wait_for(lambda lines: any("running" in line.split() for line in lines[1:4]), timeout_s=120)
    terminal.rest(3.0)
    look(terminal)
    terminal.type("q")
    terminal.wait_for(terminal.has_prompt)
    terminal.rest(1.0)


def look_around(terminal: Recorded) -> None:
    """Look at a run's curves as they grow, and at the nodes."""
    terminal.wait_for(lambda lines: any("left at most" in line for line in lines), timeout_s=300)
    terminal.rest(12.0)
    terminal.press("c", seconds=6.0)
    terminal.press("q", seconds=2.0)
    terminal.press("n", seconds=4.0)
    terminal.press("q", seconds=3.0)


def maze(terminal: Recorded, *, keep: Path) -> None:
    """Train a shortened experiments/mc_maze.yaml, and save screens of `watch` and the sweep as it came home."""
    shutil.copy(Path(os.environ["BAND_DATASETS"], "mc_maze_large_9cond-10ms.h5"), NEAR / "band-sweep/datasets")

    def screens_of_it(terminal: Recorded) -> None:
        terminal.wait_for(lambda lines: any("published" in line for line in lines[:6]), timeout_s=1800)
        terminal.rest(20.0)
        terminal.save(keep / "watch.cast", of_screen=True)

    changes = "--set max_epochs=100 --set kl_increase_epoch=50"
    terminal.do(f"band-sweep generate experiments/mc_maze.yaml {changes}")
    terminal.do(f"band-sweep submit mc_maze --host {HOST} --cluster edinburgh --gres=none --mem=2G --time=60 --pack 3")
    watch(terminal, "project/experiments/sweeps/mc_maze", look=screens_of_it)
    terminal.do("band-sync pull mc_maze --watch 1m", timeout_s=3600)
    terminal.do("band-sweep report mc_maze")
    curves(terminal, keep=keep)
    shutil.copytree(NEAR / "band-sweep/experiments/sweeps/mc_maze", keep / "mc_maze", symlinks=True)


def curves(terminal: Recorded, *, keep: Path) -> None:
    """Look at the curves of a run at home, and save the screen."""
    terminal.press("band-sweep watch mc_maze\r")
    terminal.wait_for(lambda lines: "quit" in lines[-1])
    terminal.press("/band0.1\rc", seconds=3.0)
    terminal.save(keep / "curves.cast", of_screen=True)
    terminal.press("qq")


def main() -> int:
    """Record one scene into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", choices=("tour", "maze"), help="maze needs its recording in $BAND_DATASETS")
    parser.add_argument("keep", type=Path, help="folder for what is recorded")
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    keep = args.keep.resolve()
    if os.environ.get("RECORDING_NAMESPACE") != "yes":
        command = [*NAMESPACE, sys.executable, __file__, args.scene, keep]
        return subprocess.run(command, env={**os.environ, "RECORDING_NAMESPACE": "yes"}).returncode
    socket.sethostname("laptop")
    with places() as (_, environment):
        terminal = shell(environment)
        try:
            (tour if args.scene == "tour" else maze)(terminal, keep=keep)
        except BaseException:
            terminal.save(keep / "broken.cast")
            raise
        finally:
            terminal.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
