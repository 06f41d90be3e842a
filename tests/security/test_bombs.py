"""Small files that stand for much are refused before it costs time or memory."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from sweep_files import write_shapes

from band.data.hdf5 import datasets, open_hdf5
from band.errors import BandError, ConfigError, DataError
from band.slurm import jobs
from band.sweep.document import read_document
from band.sweep.fold import AttemptFold, fold_stream
from band.sweep.manifest import parse_manifest
from band.sweep.plan import make_plan
from band.sync.choice import parse_where


@contextmanager
def quick(most_s: float = 2.0) -> Iterator[None]:
    """See that what is done is done soon."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < most_s


def sweep_file(folder: Path, text: str) -> Path:
    write_shapes(folder / "r.h5")
    (folder / "s.yaml").write_text(text)
    return folder / "s.yaml"


def test_aliases_of_aliases_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with quick(), pytest.raises(ConfigError, match="expand to more than"):
        read_document(sweep_file(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("depth", [12, 40, 3000])
def test_references_to_references_are_refused_before_they_grow(tmp_path: Path, depth: int) -> None:
    lines = ['- "xxxxxxxxxx"', *(f'- "${{datasets[{n}]}}${{datasets[{n}]}}"' for n in range(depth))]
    with quick(), pytest.raises(ConfigError, match="more than can be followed"):
        read_document(sweep_file(tmp_path, "datasets:\n" + "\n".join(lines)))


@pytest.mark.parametrize("text", ["${oc.select:datasets}", "${.x}", "${oc.env:${name}}", "${" * 2000, "x${name}" * 600])
def test_references_of_other_forms_are_refused(tmp_path: Path, text: str) -> None:
    with quick(), pytest.raises(ConfigError):
        read_document(sweep_file(tmp_path, json.dumps({"name": "n", "datasets": [text]})))


def test_a_grid_of_a_billion_runs_is_refused(tmp_path: Path) -> None:
    grid = {key: [n / 1001 for n in range(1000)] for key in ("hyper.lr", "hyper.cd_rate", "hyper.weight_decay")}
    path = sweep_file(tmp_path, json.dumps({"base": {"data": {"path": "r.h5"}}, "grid": grid}))
    with quick(), pytest.raises(ConfigError, match="found 1000000000"):
        make_plan(path)


def with_text_of(path: Path, length: int) -> Path:
    """Write a recording of which one condition says that it is so long."""
    write_shapes(path)
    with h5py.File(path, "r+") as file:
        del file["train_cond"]
        file["train_cond"] = np.array(["condition"] * 90, dtype=object)
        place = file["train_cond"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[place : place + 4] = struct.pack("<I", length)
    path.write_bytes(data)
    return path


def test_a_text_that_says_it_has_four_gigabytes_takes_none(tmp_path: Path) -> None:
    path = with_text_of(tmp_path / "r.h5", 0xF0000000)
    program = (
        "import resource, sys\nfrom band.data.digest import dataset_digest\n"
        "from band.data.recording import open_sessions\n"
        "from band.errors import DataError\n"
        "for read in (open_sessions, dataset_digest):\n"
        "    try: read(sys.argv[1]); sys.exit('it was read')\n"
        "    except DataError as error: pass\n"
        # Not ru_maxrss of itself, which begins with that of the process that started it.
        "own = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]\n"
        "print(max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1_000_000  # KiB


def test_the_bound_on_memory_ends_with_the_reading(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open_hdf5(write_shapes(tmp_path / "r.h5")) as file:
        datasets(file, tmp_path / "r.h5")
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_groups_that_share_members_are_counted_as_often_as_they_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    with h5py.File(path, "w") as file:
        below = file.create_group("g0")
        below["x"] = np.zeros(2)
        for level in range(1, 7):
            group = file.create_group(f"g{level}")
            for link in range(40):
                group[f"l{link}"] = below
            below = group
    with quick(20), pytest.raises(DataError, match="at most"), open_hdf5(path) as file:
        datasets(file, path)


@pytest.mark.parametrize(
    "text", ["0-999999999999", "0-999999999", ",".join(["0-999999999"] * 50), "5-9:0", "²", "9" * 9999]
)
def test_a_range_of_array_tasks_is_no_longer_than_slurm_allows(text: str) -> None:
    with quick(5):
        assert len(jobs.array_tasks(text)) <= jobs.MOST_TASKS


def test_deep_and_endless_json_is_passed_over(tmp_path: Path) -> None:
    stream = tmp_path / "e.jsonl"
    odd = [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"event":"ended","t":1e999,"code":1}',
        b'{"event":"ended","t":1,"code":1e999}',
    ]
    odd += [b'{"event":"ended","t":%s,"code":1}' % (b"9" * 400), b'{"event":"epoch","t":1,"runs":{"a":{"epoch":"x"}}}']
    stream.write_bytes(b"\n".join([*odd, b'{"event":"ended","t":5,"code":3}', b""]))
    fold = AttemptFold("0001", "a")
    with quick():
        fold_stream(stream, fold=fold)
    assert (fold.code, fold.last_t) == (3, 5.0)
    with quick(), pytest.raises(BandError, match="not a line of a manifest"):
        parse_manifest("[" * 100_000, path=Path("m"))
    with quick():
        assert parse_where(["seed=" + "[" * 100_000])
