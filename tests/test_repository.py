"""The repository holds together: pins, scripts that make the environment, and the commands that its pages show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import band
from band.cli.sweep import COMMANDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "datasets/README.md", "scripts/demo.sh", "band/cli/sync.py")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
DATA_COMMANDS = {"inspect", "check", "simulate", "import", "join", "chop", "merge"}


def executable(path: Path, *lines: str) -> Path:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path


def make_environment(**environment: str | Path) -> subprocess.CompletedProcess[str]:
    """Run scripts/environment.sh with variables of its own."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("VENV", "PYTHON", "VIRTUAL_ENV")}
    given = {name: str(value) for name, value in environment.items()}
    script = [str(ROOT / "scripts/environment.sh")]
    return subprocess.run(script, env={**inherited, **given}, capture_output=True, text=True, timeout=60)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment whose pip writes down what it is asked, and fails while there is a file named `offline`."""
    executable(
        tmp_path / "env/bin/python",
        'case "$*" in',
        f'*"pip install"*) echo "$@" >>{tmp_path}/asked; echo words of pip; test ! -e {tmp_path}/offline;;',
        f'*) exec {sys.executable} "$@";;',
        "esac",
    )
    return tmp_path / "env"


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_to_one_version_that_satisfies_it(python: str) -> None:
    surroundings = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins: dict[str, list[str]] = {}
    for pin in map(Requirement, lines):
        if pin.marker is None or pin.marker.evaluate({**surroundings, "extra": ""}):
            pins.setdefault(pin.name.lower(), []).append(str(pin.specifier).removeprefix("=="))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [needed for extra in project["optional-dependencies"].values() for needed in extra]
    for needed in map(Requirement, project["dependencies"] + extras):
        (version,) = pins[needed.name.lower()]
        assert needed.specifier.contains(version), f"{needed} against {version} on Python {python}"


def test_the_version_that_is_cited_is_the_version_that_there_is() -> None:
    assert f"\nversion: {band.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_shows_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    shown = re.findall(r"(?:^|`|\$ |run |&& )band-(sweep|data) ([a-z]+)", text, re.MULTILINE)
    assert {name for tool, name in shown if tool == "sweep"} <= set(COMMANDS)
    assert {name for tool, name in shown if tool == "data"} <= DATA_COMMANDS
    for path in re.findall(r"experiments/\w+\.yaml", text):
        assert (ROOT / path).exists(), path


def test_make_names_every_target_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets is not None
    done = subprocess.run(["make", "-s", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True)
    assert re.findall(r"^  make ([\w-]+)", done.stdout, re.MULTILINE) == targets[1].split()


def test_where_venv_is_missing_the_line_that_installs_it_is_printed(tmp_path: Path) -> None:
    python = executable(
        tmp_path / "python3", f'case "$*" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac'
    )
    done = make_environment(VENV=tmp_path / "env", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1 and "    sudo apt-get install python3-venv\n" in done.stderr
    done = make_environment(VENV=tmp_path / "env", PYTHON=python)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert done.returncode == 1 and f"    sudo apt-get install python{version}-venv\n" in done.stderr
    assert not (tmp_path / "env").exists()


def test_a_python_that_is_too_old_is_named_with_its_version(tmp_path: Path) -> None:
    python = executable(tmp_path / "python", '[ "$1" = --version ] && echo Python 3.9.2 || exit 1')
    done = make_environment(VENV=tmp_path / "env", PYTHON=python)
    assert done.returncode == 1
    assert f"Python 3.10 to 3.13 is needed; {python} is Python 3.9.2." in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("the only copy")
    done = make_environment(VENV=tmp_path)
    assert done.returncode == 1 and f"{tmp_path} holds no Python 3.10 to 3.13" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_environment_is_installed_into_once_and_with_the_pins(environment: Path) -> None:
    assert make_environment(VENV=environment).returncode == 0
    assert make_environment(VENV=environment).returncode == 0
    (asked,) = (environment.parent / "asked").read_text().splitlines()
    assert "--constraint constraints.txt --editable .[dev]" in asked


def test_an_installation_that_fails_shows_the_end_of_its_log_and_is_tried_again(environment: Path) -> None:
    offline = environment.parent / "offline"
    offline.touch()
    done = make_environment(VENV=environment)
    assert done.returncode == 1
    assert "  | words of pip\n" in done.stderr and f"{environment}/band-install.log" in done.stderr
    offline.unlink()
    assert make_environment(VENV=environment).returncode == 0
    assert len((environment.parent / "asked").read_text().splitlines()) == 2


def test_a_quiet_command_fails_with_the_status_of_its_own(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo first; echo last; exit 3"]
    quietly = [str(ROOT / "scripts/quietly.sh"), str(tmp_path / "log"), *command]
    done = subprocess.run(quietly, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "  | first\n  | last\n" in done.stderr and "status 3" in done.stderr
