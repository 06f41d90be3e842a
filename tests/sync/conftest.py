"""Two machines: home, which is the folder that a test runs in, and one behind a real sshd on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from far_machine import FarMachine, running

from band.cli import sync

CHECK = Path(__file__).parents[2] / "scripts/ssh_packages.sh"


@dataclass
class Home:
    """The near machine, and the commands typed there."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    environment: dict[str, str]

    def band_sync(self, *arguments: str, code: int = 0) -> str:
        """Run `band-sync` here, check its exit code and return all that it printed."""
        self.capture.readouterr()
        found = sync.main(list(arguments))
        said = self.capture.readouterr()
        assert found == code, f"{arguments} ended with {found}:\n{said.out}{said.err}"
        assert "Traceback" not in said.err
        return said.out + said.err

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run `band-sync … --json` and return what it says."""
        return dict(json.loads(self.band_sync(*arguments, "--json", code=code).splitlines()[0]))

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Start `band-sync` in a process, and a process group, of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "band.cli.sync", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def configure(self, text: str) -> None:
        """Write the user's configuration."""
        path = Path(os.environ["XDG_CONFIG_HOME"]) / "band/config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope="session")
def can_run_sshd() -> None:
    """Skip what needs an sshd where there can be none, with the line that changes that."""
    done = subprocess.run([CHECK], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(done.stderr.strip())


@pytest.fixture
def far(can_run_sshd: None, tmp_path: Path) -> Iterator[FarMachine]:
    """The machine at the other end."""
    with running(FarMachine(tmp_path / "far")) as machine:
        yield machine


@pytest.fixture
def home(
    far: FarMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Home]:
    """The near machine; its connections end with the test."""
    near = Home(tmp_path / "near", capfd, far.environment(tmp_path / "run"))
    for folder in (near.folder, tmp_path / "run"):
        folder.mkdir(mode=0o700)
    for name, value in near.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(near.folder)
    yield near
    sync.main(["disconnect", "far"])
