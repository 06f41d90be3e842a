"""A dataset's identity follows its content alone, and a known file costs one stat."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from recording_files import small_arrays, write
from tiny import write_recording

from band.data import digest
from band.data.digest import cache_path, check_content, dataset_digest, dataset_shapes, file_digest
from band.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest, "SETTLED_NS", -(10**18))  # files of a test are young, and yet are to be cached


def test_repacking_keeps_the_identity_and_changes_the_file(tmp_path):
    arrays = small_arrays()
    plain = write(tmp_path / "plain.h5", arrays)
    packed = tmp_path / "packed.h5"
    with h5py.File(packed, "w") as file:
        file.attrs["bin_ms"] = 5.0
        for name, values in reversed(arrays.items()):
            typed = values.astype(values.dtype.newbyteorder(">"))
            options = {"chunks": (2, 3, 1), "compression": "gzip"} if values.ndim == 3 and values.shape[-1] > 1 else {}
            file.create_dataset(name, data=typed, **options)
    assert dataset_digest(plain) == dataset_digest(packed)
    assert file_digest(plain) != file_digest(packed)
    assert file_digest(packed) == hashlib.sha256(packed.read_bytes()).hexdigest()


def test_the_identity_is_the_documented_hash(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    path = write(tmp_path / "x.h5", {"b": values, "a": np.array([b"x", b"yz"])})
    spelled = b'["a", "|S2", [2]]\n' + b"x\0yz" + b'["b", "<f4", [1, 3, 2]]\n' + values.tobytes()
    by_text = b'["a", "text", [2]]\n' + b"".join(len(t).to_bytes(8, "little") + t for t in (b"x", b"yz"))
    by_text += b'["b", "<f4", [1, 3, 2]]\n' + values.tobytes()
    assert dataset_digest(path) in {hashlib.sha256(s).hexdigest() for s in (spelled, by_text)}


@pytest.mark.parametrize("change", ["value", "type", "shape", "name", "more"])
def test_every_change_of_content_changes_the_identity(tmp_path, change):
    arrays = small_arrays()
    before = dataset_digest(write(tmp_path / "before.h5", arrays))
    if change == "value":
        arrays["train_behavior"][0, 0, 0] += 1e-3
    elif change == "type":
        arrays["train_behavior"] = arrays["train_behavior"].astype(np.float64)
    elif change == "shape":
        arrays["train_behavior"] = arrays["train_behavior"].reshape(12, 4, 4)
    elif change == "name":
        arrays["train_velocity"] = arrays.pop("train_behavior")
    else:
        arrays["zero"] = np.zeros(0)
    assert dataset_digest(write(tmp_path / "after.h5", arrays)) != before


def test_blocks_give_the_digest_of_the_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5", small_arrays(counts=(50, 20)))
    whole = dataset_digest(path)
    cache_path().unlink()
    monkeypatch.setattr("band.data.hdf5.BLOCK_BYTES", 1000)
    assert dataset_digest(path) == whole


def test_shapes_are_by_split_and_key(tmp_path):
    path = write(tmp_path / "x.h5", small_arrays() | {"psth": np.ones((3, 2))})
    shapes = dataset_shapes(path)
    assert shapes["train"] == {"encod_data": [12, 8, 5], "recon_data": [12, 8, 5], "behavior": [12, 8, 2], "cond": [12]}
    assert set(shapes) == {"train", "valid"}


KNOWN = """
import sys
from band.data.digest import dataset_digest, dataset_shapes, file_digest
print(dataset_digest(sys.argv[1]), file_digest(sys.argv[1]), bool(dataset_shapes(sys.argv[1])))
print(any(name in sys.modules for name in ("numpy", "h5py", "torch")))
"""


def test_a_known_file_is_answered_without_numpy_and_a_changed_one_is_read_again(tmp_path):
    path = write(tmp_path / "x.h5", small_arrays())
    answers = (dataset_digest(path), file_digest(path), dataset_shapes(path))
    done = subprocess.run([sys.executable, "-c", KNOWN, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [f"{answers[0]} {answers[1]} True", "False"]
    write(path, small_arrays(seed=1))
    assert (dataset_digest(path), file_digest(path)) != answers[:2]


def test_same_size_and_restored_time_do_not_deceive(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"one")
    stat, first = path.stat(), file_digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns and file_digest(path) != first


def test_a_young_file_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "SETTLED_NS", 10**10)
    path = write(tmp_path / "x.h5", small_arrays())
    dataset_digest(path)
    assert not cache_path().exists()


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b'{"schema": 1}', b'{"schema": 1, "entries": []}', b"[" * 99999, b"\xff\xfe", "entry"]
)
def test_garbage_in_the_cache_costs_only_time(tmp_path, garbage):
    path = write(tmp_path / "x.h5", small_arrays())
    right = dataset_digest(path), dataset_shapes(path)
    content = json.loads(cache_path().read_bytes())
    if garbage == "entry":
        content["entries"][os.path.realpath(path)] |= {"dataset": 7, "shapes": "no"}
        garbage = json.dumps(content).encode()
    cache_path().write_bytes(garbage)
    assert (dataset_digest(path), dataset_shapes(path)) == right
    assert json.loads(cache_path().read_bytes())["entries"][os.path.realpath(path)]["dataset"] == right[0]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = write(tmp_path / "x.h5", small_arrays())
    assert len(dataset_digest(path)) == 64


def test_a_file_that_changes_while_it_is_read_has_no_digest(tmp_path, monkeypatch):
    path = write(tmp_path / "x.h5", small_arrays())

    def replaced_meanwhile(read: Path) -> str:
        read.write_bytes(b"another")
        return "0" * 64

    monkeypatch.setattr(digest, "_hash_file", replaced_meanwhile)
    with pytest.raises(DataError, match="changed while it was read"):
        file_digest(path)
    with pytest.raises(DataError, match="cannot be found"):
        file_digest(tmp_path / "none")


def test_values_are_looked_at_once_and_a_broken_rule_names_file_key_and_place(tmp_path, monkeypatch):
    path = write_recording(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["train_recon_data"][3, 2, 1] = -1.0
    rule = r"a\.h5.*train_recon_data must hold non-negative whole counts.*trial 3, bin 2, channel 1"
    with pytest.raises(DataError, match=rule):
        check_content(path)
    write_recording(path)
    check_content(path)
    monkeypatch.setattr(digest, "_check_content", lambda path, **_: pytest.fail("a known file is not read again"))
    check_content(path)
