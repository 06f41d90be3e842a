"""The lab as the cluster of this process: what runs here asks it as a user on its login host would."""

from __future__ import annotations

import pytest
from slurm_lab.lab import Lab


@pytest.fixture
def lab(slurm_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with accounting that Slurm's commands of this process find."""
    monkeypatch.setenv("SLURM_CONF", slurm_lab.environment["SLURM_CONF"])
    monkeypatch.chdir(slurm_lab.home)
    return slurm_lab


@pytest.fixture
def lab_without_accounting(slurm_lab_without_accounting: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The same without slurmdbd."""
    monkeypatch.setenv("SLURM_CONF", slurm_lab_without_accounting.environment["SLURM_CONF"])
    monkeypatch.chdir(slurm_lab_without_accounting.home)
    return slurm_lab_without_accounting
