"""The package as others get it: sdist and wheel, alone in an empty environment, and all wheels collected."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import band

ROOT = Path(__file__).parents[1]
NEEDED = ("sbatch_templates/edinburgh.sh", "sbatch_templates/venv.sh", "model/kernels/scan.cpp", "page/assets/")
COMMANDS = ("band-sweep", "band-train", "band-data", "band-sync")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was built from it."""
    source, out = tmp_path_factory.mktemp("source") / "band-sweep", tmp_path_factory.mktemp("dist")
    source.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = subprocess.run(["tar", "-C", ROOT, "--null", "-T", "-", "-c"], input=tracked.encode(), capture_output=True)
    subprocess.run(["tar", "-C", source, "-x"], input=listed.stdout, check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


def test_sdist_and_wheel_have_all_that_a_command_reads(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"band_sweep-{band.__version__}-py3-none-any.whl"
    with tarfile.open(sdist) as source, zipfile.ZipFile(wheel) as installed:
        in_sdist, in_wheel = source.getnames(), installed.namelist()
    for name in NEEDED:
        assert any(f"band/{name}" in path for path in in_wheel), name
        assert any(f"band/{name}" in path for path in in_sdist), name
    modules = subprocess.run(["git", "ls-files", "band"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {name for name in modules.split() if name.endswith(".py")} <= set(in_wheel)
    assert not [name for name in in_wheel if name.startswith(("tests/", "benchmarks/"))]


def test_an_empty_environment_without_a_network_runs_the_commands(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    (wheel,) = built.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    for command in COMMANDS:
        done = subprocess.run([tmp_path / "env/bin" / command, "--help"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and done.stdout.startswith(f"usage: {command}"), done.stdout + done.stderr
    done = subprocess.run(
        [tmp_path / "env/bin/band-sweep", "status", "nothing"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    inspect = [tmp_path / "env/bin/band-data", "inspect", "recording.h5"]
    done = subprocess.run(inspect, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and f"{python} -m pip install numpy" in done.stderr and "fault" not in done.stderr


def collect(tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run collect_wheels.sh with a pip that writes down what it is asked; return that too."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *"pip wheel"*) touch "$7/band_sweep-{band.__version__}-py3-none-any.whl";; esac\n'
        f'case "$*" in -c*) exec {sys.executable} "$@";; *) echo "$@" >>{tmp_path}/asked;; esac\n'
    )
    python.chmod(0o755)
    script = [str(ROOT / "scripts/collect_wheels.sh"), *arguments, str(tmp_path / "wheels")]
    done = subprocess.run(script, env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, timeout=60)
    asked = tmp_path / "asked"
    return done, asked.read_text() if asked.exists() else ""


def test_wheels_are_collected_with_the_pins_and_the_line_that_installs_them(tmp_path: Path) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    done, asked = collect(tmp_path, "--python", version, "--extras", "nwb,matlab")
    assert done.returncode == 0, done.stderr
    (download,) = [line for line in asked.splitlines() if "pip download" in line]
    assert f"--only-binary=:all: --python-version {version} --platform manylinux_2_28_x86_64" in download
    assert "--constraint constraints.txt" in download and download.endswith(".whl[nwb,matlab]")
    line = f"    pip install --no-index --find-links wheels 'band-sweep[nwb,matlab]=={band.__version__}'\n"
    assert done.stdout.endswith(line), done.stdout


def test_a_python_that_is_not_supported_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    done, asked = collect(tmp_path, "--python", "3.9")
    assert done.returncode == 2 and "must be 3.10, 3.11, 3.12 or 3.13, got 3.9" in done.stderr and not asked


def test_another_python_than_the_one_that_downloads_is_refused_for_its_pins_would_be_wrong(tmp_path: Path) -> None:
    other = "3.10" if sys.version_info[1] != 10 else "3.13"
    done, asked = collect(tmp_path, "--python", other)
    assert done.returncode == 2 and f"Python {other} is needed on this machine too" in done.stderr and not asked


def test_the_changelog_has_a_section_for_what_is_released_next_or_for_this_version() -> None:
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "Unreleased" or sections[0].strip("[]") == band.__version__
    assert len(sections) == len(set(sections))


def test_a_tag_names_a_version_that_the_changelog_has() -> None:
    tags = subprocess.run(["git", "tag", "--list", "v*"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sections = {
        name.strip("[]") for name in re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    }
    assert {tag.removeprefix("v") for tag in tags.split()} <= sections
