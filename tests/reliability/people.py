"""What people do to a sweep that runs: submit twice, generate, edit, delete, move, interrupt, look as somebody else."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake_trainer import expected_state
from local_sweep import HELPERS, LocalSweep
from proc import wait_for
from sweep_files import write_shapes, write_sweep

from band.cli.sweep import main as band_sweep
from band.errors import PublishError
from band.run_dir import SweepDir, verify
from band.sweep.manifest import read_manifest
from reliability.calls import elsewhere
from reliability.ledger import Injection, Ledger

KIND = "people"
EPOCHS = 6
NOBODY = 65534
TIMEOUT_S = 120.0


@dataclass
class Project:
    """A project folder with a sweep of a few runs, as a user has it."""

    folder: Path
    draws: random.Random
    said: list[str] = field(default_factory=list)
    may_repeat: int = 1  # how often an epoch may have been trained

    @property
    def sweep(self) -> LocalSweep:
        """The sweep."""
        return LocalSweep(SweepDir(self.folder / "sweeps" / "demo"), self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """The surroundings of its commands."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BAND_SCRATCH": str(self.folder.parent / "scratch"),
            "BAND_TRAINER": f"{sys.executable} {HELPERS / 'fake_trainer.py'}",
            "FAKE_LEDGER": str(self.folder.parent / "ledger"),
            "FAKE_CONFIG": json.dumps({"epochs": EPOCHS, "epoch_s": 0.05, "checkpoint_every": 1}),
        }

    def write(self, *, seeds: int) -> None:
        """Write the sweep file."""
        values = {"name": "demo", "base": {"data.path": "recording.h5"}, "seeds": seeds}
        write_sweep(self.folder / "demo.yaml", values)

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in the project's folder."""
        command = [sys.executable, "-m", "band.cli.sweep", *words]
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        options = {"env": self.environment, "cwd": self.folder, "text": True, **options}
        return subprocess.Popen(command, **pipes, **options)

    def hear(self, process: subprocess.Popen[str]) -> int:
        """Wait for a command and keep what it said."""
        text, _ = process.communicate(timeout=TIMEOUT_S)
        self.said.append(text)
        return process.returncode

    def do(self, *words: str, **options: Any) -> int:
        """Give a command and return its code."""
        return self.hear(self.start(*words, **options))

    def train_a_while(self, *, published: int = 0) -> None:
        """Wait until training has come to a moment drawn at random."""
        wanted = self.draws.randrange(1, 2 * EPOCHS)
        wait_for(lambda: sum(self.sweep.epochs().values()) >= wanted)
        wait_for(lambda: len(self.names()) >= published)

    def names(self) -> list[str]:
        """Return the published runs."""
        return sorted(path.name for path in self.sweep.sweep.runs.glob("[!.]*"))

    def settle(self) -> None:
        """Wait until nothing works on the sweep."""
        wait_for(lambda: not self.sweep.processes())


def make_project(folder: Path, draws: random.Random) -> Project:
    """Make a project whose sweep has been generated."""
    project = Project(folder / "project", draws)
    project.folder.mkdir(parents=True)
    write_shapes(project.folder / "recording.h5")
    project.write(seeds=3)
    assert project.do("generate", "demo.yaml") == 0, project.said
    return project


# Each returns whether it came about as meant.


def submit_twice(project: Project) -> bool:
    """Two shells, one moment."""
    both = [project.start("submit", "demo", "--pack", "1", "--jobs", "2") for _ in range(2)]
    codes = [project.hear(process) for process in both]
    return sum("to train" in text for text in project.said[-2:]) == 2 or codes == [0, 0] or 4 in codes


def generate_meanwhile(project: Project) -> bool:
    """More runs, or fewer, are asked for while the sweep runs."""
    running = project.start("submit", "demo", "--jobs", "1")
    project.train_a_while()
    project.write(seeds=project.draws.choice((2, 4)))
    code, is_running = project.do("generate", "demo.yaml"), running.poll() is None
    project.hear(running)
    return code == 0 and is_running


def spoil_the_yaml(project: Project) -> bool:
    """The sweep file is saved half-edited while the sweep runs, and generated from; then mended."""
    running = project.start("submit", "demo", "--jobs", "1")
    project.train_a_while()
    text = (project.folder / "demo.yaml").read_text()
    (project.folder / "demo.yaml").write_text(text[: project.draws.randrange(1, len(text))])
    code, is_running = project.do("generate", "demo.yaml"), running.poll() is None
    (project.folder / "demo.yaml").write_text(text)
    project.hear(running)
    return code != 0 and is_running


def delete_a_run(project: Project) -> bool:
    """A published run's folder is deleted while others are trained: it is trained again when asked."""
    project.may_repeat = 2
    running = project.start("submit", "demo", "--pack", "1", "--jobs", "1")
    project.train_a_while(published=1)
    shutil.rmtree(project.sweep.sweep.run(project.names()[0]))
    is_running = running.poll() is None
    project.hear(running)
    return is_running


def move_the_folder(project: Project) -> bool:
    """The project is moved while nothing runs, half trained, and generated and submitted from its new place."""
    project.may_repeat = 2
    running = project.start("submit", "demo", "--jobs", "1")
    project.train_a_while()
    running.send_signal(signal.SIGINT)
    project.hear(running)
    project.settle()
    was_open = len(project.names()) < 3
    shutil.rmtree(project.folder.parent / "scratch")  # what lies there is the old place's
    target = project.folder.with_name("elsewhere")
    project.folder.rename(target)
    project.folder = target
    return project.do("generate", "demo.yaml") == 0 and was_open


def interrupt_twice(project: Project) -> bool:
    """Ctrl-C, and Ctrl-C again."""
    project.may_repeat = 2
    running = project.start("submit", "demo", "--jobs", "1")
    project.train_a_while()
    running.send_signal(signal.SIGINT)
    time.sleep(project.draws.uniform(0.0, 0.3))
    was_running = running.poll() is None
    running.send_signal(signal.SIGINT)
    return project.hear(running) == 130 and was_running


def cancel_and_retry(project: Project) -> bool:
    """A run is cancelled while it is trained, and wanted again."""
    project.may_repeat = 2
    running = project.start("submit", "demo", "--jobs", "1")
    project.train_a_while()
    run = project.draws.choice([run.id for run in read_manifest(project.sweep.sweep.path).active()])
    code = project.do("cancel", "demo", run)
    project.hear(running)
    project.settle()
    project.do("retry", "demo", run)
    return code in (0, 4)


def look_as_another(project: Project) -> bool:
    """Somebody who may only read looks while the sweep runs, and tries to submit."""
    for path in (project.folder, *project.folder.parents):
        if path.parent == Path("/dev/shm") or path.parent == Path("/tmp"):
            path.chmod(0o755)
    running = project.start("submit", "demo", "--jobs", "1")
    project.train_a_while()
    looks = (["submit", "--jobs", "2"], ["status"], ["logs"], ["status", "--json"])
    codes = []
    for words in looks:
        answer = elsewhere(lambda words=words: _as_another(project, words))
        assert not answer.error, answer.error
        code, text = answer.value
        codes.append(code)
        project.said.append(text)
    project.hear(running)
    return codes[0] not in (0, 70) and {*codes[1:]} <= {0, 4}


def _as_another(project: Project, words: list[str]) -> Any:
    """Become another user, once all that Python reads has been read, and give a command."""
    os.environ.update({**project.environment, "HOME": "/nonexistent"})
    os.chdir(project.folder)
    ways = [words] if words[0] != "submit" else [[*words, "--dry-run"], words]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        for number, way in enumerate((ways[0], *ways[-1:])):
            if number:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            try:
                code = band_sweep([way[0], "demo", *way[1:]])
            except SystemExit as end:
                code = int(end.code or 0)
    return [code, out.getvalue()]


def upgrade_meanwhile(project: Project) -> bool:
    """An attempt finds other code than was submitted: it trains nothing and says so; what is submitted next runs."""
    running = project.start("submit", "demo", "--jobs", "1")
    project.train_a_while()
    running.send_signal(signal.SIGINT)
    project.hear(running)
    project.settle()
    before = sum(project.sweep.epochs().values())
    task = project.sweep.sweep.task("0001").task_json
    command = [sys.executable, "-m", "band.node.task", str(task)]
    environment = {**project.environment, "BAND_CODE": "0" * 64}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    project.said.append(done.stdout + done.stderr)
    return done.returncode == 78 and sum(project.sweep.epochs().values()) == before


SCENES: dict[str, Callable[[Project], bool]] = {
    "two submits at once": submit_twice,
    "generated again, with more or fewer runs, while it runs": generate_meanwhile,
    "sweep file saved half-edited, and generated, while it runs": spoil_the_yaml,
    "a published run's folder deleted while others run": delete_a_run,
    "the project moved, half trained": move_the_folder,
    "Ctrl-C twice": interrupt_twice,
    "a run cancelled while it is trained, and retried": cancel_and_retry,
    "another user looks, and tries to submit": look_as_another,
    "other code than was submitted": upgrade_meanwhile,
}


def judge(project: Project) -> dict[str, Any]:
    """Submit until all is done, and return what is lost, doubled or wrong."""
    code, notes = 1, []
    for _ in range(4):
        project.settle()
        code = project.do("submit", "demo", "--jobs", "2", "--retry-failed")
        if code == 0:
            break
    if code:
        notes.append(f"never complete: {project.said[-1][-300:]}")
    notes += [f"a traceback: {text[-400:]}" for text in project.said if "Traceback" in text]
    wrong, lost = len(notes), 0
    for run in read_manifest(project.sweep.sweep.path).active():
        folder = project.sweep.sweep.run(run.id)
        try:
            verify(folder)
            if (folder / "metrics.csv").read_text().split()[1] != expected_state(run.id, epochs=EPOCHS):
                wrong, notes = wrong + 1, [*notes, f"{run.id} came to something else"]
        except PublishError as error:
            lost, notes = lost + 1, [*notes, str(error)]
    doubles = [path.name for path in project.sweep.sweep.superseded.glob("*")]
    doubles += [line for line, count in project.sweep.epochs().items() if line and count > project.may_repeat]
    notes += [f"done twice: {doubles[:5]}"] if doubles else []
    left = [str(path) for path in (project.folder.parent / "scratch").glob("work/*/*")]
    notes += [f"left: {left}"] if left else []
    return {"lost": lost, "duplicated": len(doubles), "wrong": wrong + bool(left), "note": "; ".join(notes)}


def bench(ledger: Ledger, *, folder: Path, seed: int, until: float) -> None:
    """Play one scene after the other until the time is over."""
    play(ledger, list(SCENES), folder=folder, seed=seed, until=until)


def play(ledger: Ledger, names: Sequence[str], *, folder: Path, seed: int, until: float, most: int = 10**6) -> None:
    """Play these scenes in turn."""
    for number in range(most):
        if time.monotonic() > until:
            return
        name, draws = names[number % len(names)], random.Random(f"{seed} {number}")
        if name.startswith("another user") and os.getuid() != 0:
            continue  # only root can become somebody else
        project = make_project(folder / "scene", draws)
        is_hit = SCENES[name](project)
        ledger.add(Injection(kind=KIND, fault=name, seed=f"{seed}.{number}", hit=is_hit, **judge(project)))
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder / "scene")
