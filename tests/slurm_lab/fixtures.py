"""Labs that the tests of a session share, cleaned before each test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_lab.lab import Lab

CHECK = Path(__file__).parents[2] / "scripts/slurm_packages.sh"


@pytest.fixture(scope="session")
def can_run_slurm() -> None:
    """Skip what needs a lab where there can be none, with the line that changes that."""
    done = subprocess.run([CHECK], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(done.stderr.strip())


@pytest.fixture
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a lab of one's own; that of `tmp_path` has the test's name in it, too long for a socket."""
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def shared_slurm_lab(can_run_slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with accounting, as the last test left it."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="session")
def shared_slurm_lab_without_accounting(can_run_slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab without accounting, as the last test left it."""
    with Lab(tmp_path_factory.mktemp("lab"), accounting=False) as lab:
        yield lab


@pytest.fixture
def slurm_lab(shared_slurm_lab: Lab) -> Lab:
    """A running lab with accounting: no jobs, all nodes idle, home and scratch empty."""
    shared_slurm_lab.reset()
    return shared_slurm_lab


@pytest.fixture
def slurm_lab_without_accounting(shared_slurm_lab_without_accounting: Lab) -> Lab:
    """The same without slurmdbd."""
    shared_slurm_lab_without_accounting.reset()
    return shared_slurm_lab_without_accounting
