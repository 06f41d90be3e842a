"""Two machines: home, which is the folder that a test runs in, and one behind a real sshd on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from far_machine import FarMachine, running
from near_machine import Home

from band.cli import sync


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
