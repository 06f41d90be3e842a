"""Identity of datasets and files, cached by path, size, times and inode so that a known file costs one `stat`."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band.errors import DataError
from band.files import write_atomic

if TYPE_CHECKING:
    import h5py

SCHEMA = 1
MAX_ENTRIES = 4096
_TYPES = {"dataset": str, "file": str, "shapes": dict, "content": str}
CONTENT_RULES = "2"  # of band.data.recording; a new number has every file looked at again
SETTLED_NS = 2 * 10**9  # a file younger than this may change again within its clock's resolution


def dataset_digest(path: str | os.PathLike[str]) -> str:
    """Return the identity of what a recording holds: 64 hex digits over sorted keys, dtypes, shapes and bytes.

    Chunks, compression, attributes and byte order do not count, so repacking a file keeps its identity.

    Raises:
        DataError: the file is absent, damaged, or no HDF5 file that `band` can read.
    """
    return str(_cached(Path(path), "dataset", _hash_dataset))


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes in hex: what a copy of it is verified against.

    Raises:
        DataError: the file is absent or cannot be read.
    """
    return str(_cached(Path(path), "file", _hash_file))


def dataset_shapes(path: str | os.PathLike[str]) -> dict[str, dict[str, list[int]]]:
    """Return {split: {key: shape}} of the arrays whose names start with train_, valid_ or test_.

    Of several sessions trials are added up and the widest array counts; "sessions" then holds the shape of each one's
    train_encod_data.

    Raises:
        DataError: the file is absent, damaged, or no HDF5 file that `band` can read.
    """
    return dict(_cached(Path(path), "shapes", _read_shapes))


def check_content(path: str | os.PathLike[str], *, likelihood: str = "poisson", missing: str = "auto") -> None:
    """Look once through all values of a recording, as training will.

    Args:
        path: the recording.
        likelihood: a key of `band.data.checks.SUPPORTS`.
        missing: as `data.missing` of a run.

    Raises:
        DataError: the file breaks a rule of `band.data.checks`: names the file, the key, the rule and what was found.
    """
    rule = f"{CONTENT_RULES}:{likelihood}:{missing}"

    def check(path: Path) -> str:
        _check_content(path, likelihood=likelihood, missing=missing)
        return rule

    known = _cached(Path(path), "content", check).split()
    if rule not in known:
        stamp = _stamp(Path(path))
        check(Path(path))
        kept = [other for other in known if other.startswith(f"{CONTENT_RULES}:")]
        _remember(os.path.realpath(path), stamp, "content", " ".join([*kept, rule]))


def cache_path() -> Path:
    """Return where answers are kept: $XDG_CACHE_HOME/band/digests.json, by default under ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "band" / "digests.json"


def _cached(path: Path, kind: str, compute: Callable[[Path], Any]) -> Any:
    key = os.path.realpath(path)
    stamp = _stamp(path)
    entry = _read_cache().get(key)
    if isinstance(entry, dict) and entry.get("stamp") == stamp and isinstance(entry.get(kind), _TYPES[kind]):
        return entry[kind]
    value = compute(path)
    if _stamp(path) != stamp:
        raise DataError(f"{path}: changed while it was read; wait until it is written, then try again")
    if time.time_ns() - max(stamp[1], stamp[2]) > SETTLED_NS:
        _remember(key, stamp, kind, value)
    return value


def _stamp(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be found or read ({error.strerror}); check data.path") from error
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read_cache() -> dict[str, Any]:
    """Return the cache, empty where it is absent, damaged, foreign, or of another schema."""
    try:
        content = json.loads(cache_path().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    is_ours = isinstance(content, dict) and content.get("schema") == SCHEMA
    entries = content.get("entries") if is_ours else None
    return entries if isinstance(entries, dict) else {}


def _remember(key: str, stamp: list[int], kind: str, value: Any) -> None:
    """Add one answer to the cache; where it cannot be written, the next call computes again."""
    entries = _read_cache()
    entry = entries.pop(key, None)
    if not isinstance(entry, dict) or entry.get("stamp") != stamp:
        entry = {"stamp": stamp}
    entries[key] = {**entry, kind: value}
    newest = dict(list(entries.items())[-MAX_ENTRIES:])
    path = cache_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"schema": SCHEMA, "entries": newest}).encode())
    except OSError:
        return


def _check_content(path: Path, *, likelihood: str, missing: str) -> None:
    from band.data.recording import open_sessions

    open_sessions(path, likelihood=likelihood, missing=missing)


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _hash_dataset(path: Path) -> str:
    from band.data.hdf5 import NUMBERS_BYTES, TEXT_BYTES, datasets, is_text, open_hdf5, reading

    digest = hashlib.sha256()
    with open_hdf5(path) as file:
        for name, dataset in datasets(file, path).items():
            with reading(path, name, memory_bytes=TEXT_BYTES if is_text(dataset) else NUMBERS_BYTES):
                _add_dataset(digest, name, dataset)
    return digest.hexdigest()


def _add_dataset(digest: Any, name: str, dataset: h5py.Dataset) -> None:
    import h5py
    import numpy as np

    from band.data.hdf5 import as_little_endian, blocks, read_texts

    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    kind = "text" if is_text else dataset.dtype.newbyteorder("<").str
    # The header fixes the number of bytes that follow, so no two different files spell the same stream.
    digest.update(json.dumps([name, kind, list(dataset.shape)]).encode() + b"\n")
    parts = [()] if dataset.shape == () else blocks(dataset)
    for part in parts:
        if is_text:
            for raw in read_texts(dataset, part):
                digest.update(len(raw).to_bytes(8, "little") + raw)
        else:
            digest.update(as_little_endian(np.asarray(dataset[part])).tobytes())


def _read_shapes(path: Path) -> dict[str, dict[str, list[int]]]:
    from band.data.hdf5 import datasets, open_hdf5, split_of

    sessions: dict[str, dict[str, dict[str, list[int]]]] = {}
    with open_hdf5(path) as file:
        for name, dataset in datasets(file, path).items():
            session, _, base = name.rpartition("/")
            if named := split_of(base):
                sessions.setdefault(session, {}).setdefault(named[0], {})[named[1]] = list(dataset.shape)
    if "" in sessions or not sessions:
        return sessions.get("", {})
    return _summed(sessions)


def _summed(sessions: dict[str, dict[str, dict[str, list[int]]]]) -> dict[str, dict[str, list[int]]]:
    """Return the shapes of several sessions as if they were one."""
    shapes: dict[str, dict[str, list[int]]] = {}
    for splits in sessions.values():
        for split, keys in splits.items():
            for key, shape in keys.items():
                before = shapes.setdefault(split, {}).get(key)
                axes = [max(pair) for pair in zip(before[1:], shape[1:], strict=False)] if before else shape[1:]
                shapes[split][key] = [(before[0] if before else 0) + shape[0], *axes] if shape else shape
    encoded = {name: splits["train"]["encod_data"] for name, splits in sessions.items() if "train" in splits}
    return {**shapes, "sessions": encoded}
