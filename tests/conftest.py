"""What every test runs under: one thread, no colours, caches and scratch of its own, no traces of a Slurm job."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

SSH_CHECK = Path(__file__).parents[1] / "scripts/ssh_packages.sh"
pytest_plugins = ["slurm_lab.fixtures"]  # a real Slurm cluster, see tests/slurm_lab/README.md

# Before torch is imported anywhere: tests compare bits, and several of them may share a machine of two cores.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell starts what it puts into the background deaf to Ctrl-C, which several tests give to what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes says more about what else the machine is doing than about the code.
hypothesis.settings.register_profile("band", deadline=None)
hypothesis.settings.load_profile("band")


@pytest.fixture(scope="session", autouse=True)
def private_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and the processes they start, from the user's caches, scratch and terminal."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))]:
            patch.delenv(name)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("BAND_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        patch.setenv("MPLBACKEND", "Agg")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "120")
        yield


@pytest.fixture(scope="session")
def can_run_sshd() -> None:
    """Skip what needs an sshd where there can be none, with the line that changes that."""
    done = subprocess.run([SSH_CHECK], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(done.stderr.strip())
