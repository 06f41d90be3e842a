"""Tests of this folder write thousands of small files and wait for the disk: they do so in memory where they can."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory; on the disk, as usual, where there is no such place."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=MEMORY, prefix="band-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
