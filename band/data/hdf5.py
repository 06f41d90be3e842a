"""Read-only access to HDF5 files that may be broken, foreign or hostile: every failure is a DataError."""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from band.errors import DataError
from band.files import whole_file

SPLIT_NAMES = ("train", "valid", "test")
BLOCK_BYTES = 64 * 2**20  # data is read in blocks of about this size
MAX_CHUNK_BYTES = 2**30  # HDF5 decompresses a whole chunk at once
MAX_EXPANSION = 2000  # deflate cannot exceed 1032:1
_FAILURES = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError, AttributeError)
MAX_NAMES = 10_000  # of arrays and groups; groups that share members can stand for far more than the file holds
NUMBERS_BYTES = 4 * MAX_CHUNK_BYTES  # of memory that reading numbers may take: a chunk as stored, unpacked, converted
TEXT_S = 60.0  # that reading texts may take
TEXT_BYTES = 2**29  # the same for texts, each of which says for itself how long it is
FREE_BYTES = 64 * 2**20  # below this a declared size is harmless, whatever the file's own size


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open `path` for reading only.

    Raises:
        DataError: the file is absent, unreadable, not HDF5, or truncated.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise DataError(f"{path}: must be an HDF5 file, found a folder or device")
    with reading(path, "the file", memory_bytes=TEXT_BYTES):
        file = h5py.File(path, "r")
    with file:
        yield file


@contextmanager
def reading(path: Path, what: str, *, memory_bytes: int = NUMBERS_BYTES) -> Iterator[None]:
    """Turn whatever HDF5 makes of a damaged file while `what` is read into a DataError.

    Args:
        path: the file.
        what: what errors say was read.
        memory_bytes: what reading may take; HDF5 allocates whatever a damaged or hostile file says it holds.

    Raises:
        DataError: reading failed.
    """
    try:
        with _memory(memory_bytes):
            yield
    except PermissionError as error:
        raise DataError(f"{path}: not readable for this user; check its permissions") from error
    except _FAILURES as error:
        raise DataError(
            f"{path}: must be a complete HDF5 file, but reading {what} failed: {_first_line(error)}; "
            "it may be truncated, damaged or of another format: copy or export it again"
        ) from error


@contextmanager
def _memory(limit_bytes: int) -> Iterator[None]:
    """Let this process take so much more memory and no more: what asks for it gets an error, as on a full machine."""
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    wanted = taken + limit_bytes
    limits = [limit for limit in (before, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def is_text(dataset: h5py.Dataset) -> bool:
    """Return whether an array holds texts of any length."""
    return h5py.check_string_dtype(dataset.dtype) is not None


def read_texts(dataset: h5py.Dataset, part: Any = ()) -> list[bytes]:
    """Return texts of an array, or of a part of it, one after the other.

    A process of its own reads them, and is given up after a minute: of a heap that is damaged in some ways HDF5 never
    comes back, and nothing within a process can call it off.

    Raises:
        OSError: they cannot be read, or not in that time.
    """
    source, sink = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child reads, writes and ends
        pid = os.fork()
    if not pid:
        os.close(source)
        _send_texts(dataset, part, sink)
    os.close(sink)
    try:
        data = _read_within(source, TEXT_S)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(source)
        os.waitpid(pid, 0)
    head, _, rest = data.partition(b"\n")
    lengths = json.loads(head) if head else ["its process died"]
    if not all(isinstance(length, int) for length in lengths):
        raise OSError(lengths[0])
    ends = list(itertools.accumulate(lengths, initial=0))
    return [rest[start:end] for start, end in itertools.pairwise(ends)]


def _send_texts(dataset: h5py.Dataset, part: Any, sink: int) -> None:
    """Write a line with the lengths of all texts, or with a message, then the texts; never returns."""
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(math.ceil(TEXT_S) + 1)  # also if the other process is killed meanwhile
    try:
        values = np.asarray(dataset[part]).ravel().tolist()
        texts = [value if isinstance(value, bytes) else str(value).encode() for value in values]
        head: list[int | str] = [len(text) for text in texts]
    except Exception as error:  # whatever HDF5 raises is told to the other process
        texts, head = [], [f"{type(error).__name__}: {error}"]
    try:
        with open(sink, "wb") as file:
            file.write(json.dumps(head).encode() + b"\n" + b"".join(texts))
    finally:
        os._exit(0)


def _read_within(source: int, seconds: float) -> bytes:
    parts, end = [], time.monotonic() + seconds
    while select.select([source], [], [], max(end - time.monotonic(), 0))[0]:
        parts.append(os.read(source, 1 << 20))
        if not parts[-1]:
            return b"".join(parts)
    raise TimeoutError(f"reading takes more than {seconds:g} seconds")


def datasets(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """Return every dataset of the file by its full name, sorted, each safe to read block by block.

    Raises:
        DataError: a link out of the file, a type that is no number and no text, or a declared size out of all
            proportion to what the file holds.
    """
    found: dict[str, h5py.Dataset] = {}
    with reading(path, "its list of arrays", memory_bytes=TEXT_BYTES):
        _collect(file, "", path, found, itertools.count(1))
    return dict(sorted(found.items()))


def blocks(dataset: h5py.Dataset) -> Iterator[slice]:
    """Yield slices over the first axis that cover `dataset` in blocks of about BLOCK_BYTES, whole chunks each."""
    if dataset.shape == () or dataset.shape[0] == 0:
        return
    row_bytes = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    step = max(1, BLOCK_BYTES // row_bytes)
    if dataset.chunks:
        step = max(1, step // dataset.chunks[0]) * dataset.chunks[0]
    for start in range(0, dataset.shape[0], step):
        yield slice(start, min(start + step, dataset.shape[0]))


def write_hdf5(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    attributes: Mapping[str, str | float],
    replace: bool = True,
    check: Callable[[Path], object] | None = None,
    on_step: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> None:
    """Write arrays under their names into a new file, whole or not at all, compressed where that pays.

    Args:
        path: the file to write.
        arrays: name to values; text of any length is stored as UTF-8. Values are asked for one name at a time.
        attributes: of the file; `missing` is added where values are NaN.
        replace: whether a file of that name gives way.
        check: called with the file before it gets its name, raises a DataError if it must not.
        on_step: called with each name before it is written, its number from 0, and how many there are.

    Raises:
        DataError: the folder cannot be written to or has no room, `path` is there and must not be replaced, or `check`
            found something.
    """
    assert all("/" not in name for name in arrays), "names of groups are for the caller to replace"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, replace=replace) as temporary:
            with h5py.File(temporary, "w") as file:
                file.attrs.update(attributes)
                for number, name in enumerate(sorted(arrays)):
                    on_step(name, number, len(arrays))
                    _write_one(file, name, arrays[name])
            if check is not None:
                _check_as(check, temporary, path)
    except FileExistsError as error:
        raise DataError(f"{path}: is there already; give another name, or --force to replace it") from error
    except OSError as error:
        reason = error.strerror or _first_line(error)
        raise DataError(f"{path}: cannot be written: {reason}; choose another place") from error


def _write_one(file: h5py.File, name: str, values: np.ndarray) -> None:
    if values.dtype.kind == "U":
        file.create_dataset(name, data=values.astype(object), dtype=h5py.string_dtype())
        return
    if values.dtype.kind == "f" and np.isnan(values).any():
        file.attrs["missing"] = "mask"  # whoever writes NaN here means what was not observed; see open_sessions
    compression = "gzip" if values.ndim > 1 and values.size else None
    file.create_dataset(name, data=values, compression=compression, shuffle=bool(compression))


def _check_as(check: Callable[[Path], object], temporary: Path, path: Path) -> None:
    try:
        check(temporary)
    except DataError as error:
        raise DataError(str(error).replace(str(temporary), str(path))) from None


def split_of(name: str) -> tuple[str, str] | None:
    """Return ("train", "encod_data") for "train_encod_data", and None for a name without a split's prefix."""
    prefix, _, key = name.partition("_")
    return (prefix, key) if prefix in SPLIT_NAMES and key else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _collect(group: Any, prefix: str, path: Path, found: dict[str, h5py.Dataset], visited: Iterator[int]) -> None:
    for name in group:
        full = prefix + name
        if next(visited) > MAX_NAMES:
            raise DataError(f"{path}: must have at most {MAX_NAMES:,} arrays and groups")
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{path}: {full!r} must lie in the file itself, found a link ({type(link).__name__})")
        item = group[name]
        if isinstance(item, h5py.Group):
            if full.count("/") > 8:
                raise DataError(f"{path}: {full!r} is nested deeper than 8 groups")
            _collect(item, full + "/", path, found, visited)
        elif isinstance(item, h5py.Dataset):
            _check_storage(item, full, path)
            found[full] = item


def _check_storage(dataset: h5py.Dataset, name: str, path: Path) -> None:
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: {name!r} must lie in the file itself, found external or virtual storage")
    if dataset.shape is None:
        raise DataError(f"{path}: {name!r} must hold an array, found an empty dataspace")
    if not is_text(dataset) and dataset.dtype.kind not in "biufSU":
        raise DataError(f"{path}: {name!r} must hold numbers or text, found type {dataset.dtype}")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if size > FREE_BYTES and size > MAX_EXPANSION * stored:
        raise DataError(
            f"{path}: {name!r} declares {size:,} bytes {dataset.shape} of which the file holds {stored:,}; "
            "it was never fully written, or is damaged: export it again"
        )
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    row = size // max(1, dataset.shape[0]) if dataset.shape else size
    if max(chunk, row) > MAX_CHUNK_BYTES:
        raise DataError(
            f"{path}: {name!r} must have chunks and trials of at most {MAX_CHUNK_BYTES:,} bytes, "
            f"found {max(chunk, row):,}: write it with smaller chunks"
        )


def as_little_endian(values: np.ndarray) -> np.ndarray:
    """Return `values` contiguous and little-endian, so that equal numbers have equal bytes on every machine."""
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
