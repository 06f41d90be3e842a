"""What a Tab offers in real shells: commands, options, choices, sweeps of this folder and their runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from local_sweep import make_sweep
from pseudo_terminal import PseudoTerminal

from band.cli.completion import SHELLS, script
from band.cli.sweep import main

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_band
printf '%s\\n' "${COMPREPLY[@]}"
"""
CASES: list[tuple[str, set[str], set[str]]] = [  # what is typed, what must be offered, what must not
    ("band-sweep st", {"status"}, {"submit"}),
    ("band-sync p", {"pull", "push"}, {"status"}),
    ("band-train ex", {"export"}, {"infer"}),
    ("band-data s", {"simulate"}, {"inspect"}),
    ("band-sweep submit --re", {"--retry-failed", "--retry-cancelled"}, {"--detach"}),
    ("band-sweep submit --parti", {"--partition"}, set()),
    ("band-data check --fo", {"--folds"}, set()),
    ("band-sweep submit --device c", {"cpu", "cuda"}, {"auto"}),
    ("band-sweep logs d", {"demo"}, set()),
    ("band-sweep cancel --no-wait d", {"demo"}, set()),
    ("band-sweep logs demo run-0", {"run-00", "run-01"}, {"other"}),
    ("band-sweep logs --attempt 2 demo run-01 o", {"other"}, {"run-00"}),
]
Offers = Callable[[str], set[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make_sweep(folder, {"run-00": {"hyper.lr": 0.01}, "run-01": {}, "other": {}})
    for shell in SHELLS:
        (folder / f"band.{shell}").write_text(script(shell))
    return folder


def shell_or_skip(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here: apt-get install {name}")
    return path


def printed(command: list[str], *, folder: Path) -> list[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.split("\n")


@pytest.mark.parametrize(("typed", "offered", "kept_back"), CASES, ids=[case[0] for case in CASES])
def test_bash_offers(folder: Path, typed: str, offered: set[str], kept_back: set[str]) -> None:
    found = set(
        printed([shell_or_skip("bash"), "--norc", "-c", BASH, "bash", "band.bash", *typed.split(" ")], folder=folder)
    )
    assert offered <= found and not kept_back & found


@pytest.mark.parametrize(("typed", "offered", "kept_back"), CASES, ids=[case[0] for case in CASES])
def test_fish_offers(folder: Path, typed: str, offered: set[str], kept_back: set[str]) -> None:
    code = f"source band.fish; complete -C {json.dumps(typed)}"
    found = {line.split("\t")[0] for line in printed([shell_or_skip("fish"), "--no-config", "-c", code], folder=folder)}
    assert offered <= found and not kept_back & found


def test_zsh_offers(folder: Path) -> None:
    zsh = shell_or_skip("zsh")
    environment = {**os.environ, "TERM": "xterm", "HOME": str(folder), "PS1": "ready> ", "ZDOTDIR": str(folder)}
    terminal = PseudoTerminal([zsh, "-f", "-i"], environment=environment, width=120, height=40)
    try:
        setup = f"cd {folder}; LISTMAX=999; autoload -U compinit; compinit -u -D; . ./band.zsh; clear; print set-up"
        terminal.type(f"{setup}\n")
        terminal.wait_for(lambda lines: any(line == "set-up" for line in lines))
        for typed, offered, _ in CASES:
            terminal.type(f"\x15{typed}\t\t")
            wanted = [f" {word}" for word in offered]
            terminal.wait_for(lambda lines, all_of=wanted: all(word in " " + " ".join(lines) for word in all_of))
            assert not any("not found" in line or "error" in line for line in terminal.lines()), terminal.lines()
            terminal.type("\x15\x0c")
            terminal.wait_for(lambda lines: not any("band-" in line for line in lines))
    finally:
        terminal.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_sound_and_the_same_each_time(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert text == script(shell)
    subprocess.run([shell_or_skip(shell), "-n"], input=text, text=True, check=True, timeout=30)
