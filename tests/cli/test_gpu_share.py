"""What the watch says of GPUs: of this machine, and of a real Slurm cluster and one's own part of it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from local_sweep import make_sweep
from pseudo_terminal import PseudoTerminal
from sent_sweep import SentSweep
from slurm_lab.lab import Lab

from band.cli import gpu_share


def put_program(folder: Path, name: str, text: str, patch: pytest.MonkeyPatch) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return path


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("echo '37, 20000, 80000'; echo '0, 0, 80000'", "GPUs: 37 % busy, 25% of memory; 0 % busy, 0% of memory"),
        ("echo '[N/A], 1, 2'", ""),
        ("exit 9", ""),
    ],
)
def test_gpus_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, words: str) -> None:
    put_program(tmp_path, "nvidia-smi", answer, monkeypatch)
    assert gpu_share.here() == words


def test_they_are_asked_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    put_program(tmp_path / "bin", "nvidia-smi", f"echo x >>{tmp_path}/asked; echo '1, 1, 2'", monkeypatch)
    machine = gpu_share.Machine()
    survey = make_sweep(tmp_path, {"a": {}}).survey()
    assert machine.look(survey) and not machine.look(survey) and not machine.look(survey)
    assert (tmp_path / "asked").read_text() == "x\n" and machine.words == "GPUs: 1 % busy, 50% of memory"


def test_a_sweep_at_slurm_is_watched_with_jobs_nodes_and_ones_share(slurm_lab: Lab, tmp_path: Path) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a", "b"], base={"epochs": 10_000, "epoch_s": 0.1})
    job = sent.send("a")
    sent.send("b", "--begin=now+1hour")
    slurm_lab.wait_for(lambda: "epoch" in sent.events("a"))
    command = [sys.executable, "-m", "band.cli.sweep", "watch", str(sent.sweep.path)]
    environment = {**sent.environment, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    terminal = PseudoTerminal(command, environment=environment, width=120, height=24)
    lines = terminal.wait_for(lambda lines: "yours: 0 of 4 GPUs" in lines[3] and "/10000" in lines[6])
    assert " 1 of " in lines[3].partition("GPUs")[2]
    assert lines[1].split() == ["running", "1", "queued", "1"]
    assert f"{job}_0 on c" in next(line for line in lines if line[2:].startswith("a "))
    assert "PENDING (BeginTime)" in next(line for line in lines if line[2:].startswith("b "))
    terminal.type("/b\re")
    terminal.wait_for(lambda lines: lines[0] == "why b is queued" and "band-sweep" in " ".join(lines))
    terminal.type("q\x1b/a\rl")
    terminal.wait_for(lambda lines: any("training a from step 0" in line for line in lines))
    terminal.type("qq")
    assert terminal.wait() == 0 and terminal.is_as_before()
    terminal.close()
    assert slurm_lab.job_states()[f"{job}_0"] == "RUNNING"


def test_slurm_that_does_not_answer_holds_up_no_key(slurm_lab: Lab, tmp_path: Path) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a"], base={"epochs": 10_000, "epoch_s": 0.1})
    sent.send("a")
    slurm_lab.wait_for(lambda: "epoch" in sent.events("a"))
    (tmp_path / "bin").mkdir()
    real = next(path for folder in os.environ["PATH"].split(":") if (path := Path(folder) / "squeue").exists())
    slow = tmp_path / "bin/squeue"
    slow.write_text(f'#!/bin/sh\n[ -e {tmp_path}/slow ] && sleep 12\nexec {real} "$@"\n')
    slow.chmod(0o755)
    environment = {**sent.environment, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    environment["PATH"] = f"{tmp_path}/bin:{environment['PATH']}"
    command = [sys.executable, "-m", "band.cli.sweep", "watch", str(sent.sweep.path)]
    terminal = PseudoTerminal(command, environment=environment, width=100, height=24)
    terminal.wait_for(lambda lines: "running 1" in lines[1])
    (tmp_path / "slow").touch()
    time.sleep(6)  # by then the queue is being asked again
    for key, title in (("?", "keys"), ("q", "demo: 1 run"), ("n", "nodes"), ("q", "demo: 1 run")):
        begun = time.monotonic()
        terminal.type(key)
        terminal.wait_for(lambda lines, title=title: lines[0].startswith(title))
        assert time.monotonic() - begun < 2
    terminal.type("q")
    assert terminal.wait(timeout_s=5) == 0 and terminal.is_as_before()
    terminal.close()
