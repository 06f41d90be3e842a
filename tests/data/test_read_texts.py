"""Texts of HDF5 are read by a process of its own, which a damaged file cannot hold up for ever."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from proc import has_ended, wait_for

from band.data import hdf5
from band.data.hdf5 import read_texts
from band.data.recording import open_sessions
from band.errors import DataError

TEXTS = ["left", "", "vor dem Reiz: größer", "a" * 200_000]


class Endless:
    """An array that is never read to its end."""

    def __getitem__(self, part: Any) -> Any:
        while True:
            time.sleep(0.01)


class Dying(Endless):
    """An array whose reading ends the process."""

    def __getitem__(self, part: Any) -> Any:
        import os

        os._exit(3)


@pytest.mark.parametrize("dtype", [h5py.string_dtype(), "S200000"])
def test_texts_come_back_as_they_were_written(tmp_path: Path, dtype: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        kind = dtype if isinstance(dtype, str) else object
        file.create_dataset("texts", data=np.array([text.encode() for text in TEXTS], dtype=kind), dtype=dtype)
        assert [text.decode() for text in read_texts(file["texts"])] == TEXTS
        assert [text.decode() for text in read_texts(file["texts"], slice(1, 3))] == TEXTS[1:3]
        assert read_texts(file["texts"], slice(0, 0)) == []


def test_what_cannot_be_read_is_an_error_and_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "TEXT_S", 0.3)
    with pytest.raises(TimeoutError, match=r"takes more than 0\.3 seconds"):
        read_texts(Endless())  # type: ignore[arg-type]
    with pytest.raises(OSError, match="died"):
        read_texts(Dying())  # type: ignore[arg-type]
    with pytest.raises(OSError, match="TypeError: 'int' object is not subscriptable"):
        read_texts(7)  # type: ignore[arg-type]


@pytest.fixture
def circles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An input that `make fuzz` found: HDF5 2.0.0 never returns from reading its conditions."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from fuzz.targets import TARGETS

    path = tmp_path / "circles.h5"
    path.write_bytes(TARGETS["recordings"].structured(base64.b64decode("BS8ILv///w==")[1:]))
    return path


def test_a_recording_whose_heap_goes_in_circles_is_refused(circles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "TEXT_S", 0.5)
    with pytest.raises(DataError, match="must be a complete HDF5 file"):
        open_sessions(circles, bin_ms=None, likelihood="poisson", missing="auto")


def test_nothing_goes_on_in_circles_when_the_reader_is_killed(circles: Path) -> None:
    script = """
import os, sys
from band.data import hdf5, recording
fork = os.fork
def told():
    pid = fork()
    if pid:
        print(pid, flush=True)
    return pid
os.fork, hdf5.TEXT_S = told, 2.0
recording.open_sessions(sys.argv[1], bin_ms=None, likelihood="poisson", missing="auto")
"""
    with subprocess.Popen([sys.executable, "-c", script, str(circles)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        child = int(reader.stdout.readline())
        reader.kill()
    assert not has_ended(child)
    wait_for(lambda: has_ended(child))
