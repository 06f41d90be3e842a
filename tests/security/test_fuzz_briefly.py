"""Every reader of what others may have written, fed for a moment; `make fuzz` goes on for as long as one likes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from band.slurm import cluster, jobs, share
from fuzz.mutate import spliced
from fuzz.targets import TARGETS, Target
from fuzz.worker import strategy

SECONDS = 0.2  # of each way to make inputs


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have what a target changes in this process as it was."""
    here = Path.cwd()
    for name in ("HOME", "BAND_SCRATCH", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for module in (jobs, cluster, share):
        monkeypatch.setattr(module, "run", module.run)
    yield
    os.chdir(here)


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_whatever_is_read_there_is_a_result_or_an_error_in_words(target: Target, tmp_path: Path) -> None:
    take = target.start(tmp_path)
    for data in target.corpus:
        take(data)
    draws, end = random.Random(1), time.monotonic() + SECONDS
    while time.monotonic() < end:
        take(b"\1" + draws.randbytes(draws.randrange(4, 48)))
        take(b"\0" + spliced(target.seeds, draws.randbytes(48)))
    end = time.monotonic() + SECONDS
    quiet = settings(
        max_examples=50, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )

    @seed(1)
    @quiet
    @given(strategy(target))
    def feed(data: bytes) -> None:
        if time.monotonic() < end:
            take(data)

    feed()
