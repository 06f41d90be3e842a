"""Labs that the tests of a session share, cleaned before each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from slurm_lab.lab import Lab, LabError


@pytest.fixture(scope="session")
def shared_slurm_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with accounting, as the last test left it."""
    if shutil.which("slurmdbd") is None or os.getuid() != 0:
        pytest.skip("no Slurm here, or not root")
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="session")
def shared_slurm_lab_without_accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab without accounting, as the last test left it."""
    if shutil.which("slurmctld") is None or os.getuid() != 0:
        pytest.skip("no Slurm here, or not root")
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


__all__ = ["LabError", "slurm_lab", "slurm_lab_without_accounting"]
