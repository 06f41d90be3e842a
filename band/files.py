"""Files that are whole or absent: atomic writes, exclusive creation, verified copies, JSON lines; local disk or NFS."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from band.errors import BandError

CHUNK_BYTES = 1 << 20
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` under `path` so that at any moment, also after a crash, it holds all of the old or all of the new.

    The mode follows the umask. A link under `path` is replaced, not followed.

    Raises:
        OSError: the disk is full, read-only …; the old content stands and no temporary file is left.
    """
    temporary = _temporary_name(path)
    try:
        _write_new(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    fsync_folder(path.parent)


@contextmanager
def whole_file(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a temporary name beside `path`, for a library that writes files itself; at the end it becomes `path`.

    Args:
        path: the name that the file gets once it is whole and on the disk.
        replace: whether a file of that name gives way.

    Raises:
        FileExistsError: `path` is there and must not be replaced.
        OSError: the disk is full, read-only …; `path` is as it was and no temporary file is left.
    """
    temporary = _temporary_name(path)
    try:
        yield temporary
        file = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
            _discard(temporary)
    except BaseException:
        _discard(temporary)
        raise
    fsync_folder(path.parent)


def create_exclusive(path: Path, data: bytes) -> bool:
    """Create `path` holding `data` unless the name is taken; return whether this call created it.

    Of any number of callers, on any number of machines, exactly one gets True; nobody ever sees part of the content.

    Raises:
        OSError: the disk is full, read-only …, or has no hard links.
    """
    temporary = _temporary_name(path)
    try:
        _write_new(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # An NFS server whose answer was lost is asked again and then finds our own link in the way.
            if _identity(path) != _identity(temporary):
                return False
    finally:
        _discard(temporary)
    fsync_folder(path.parent)
    return True


def rename_exclusive(source: Path, target: Path, *, flush: bool = True) -> bool:
    """Give the non-empty folder `source` the name `target` unless that is taken; return whether it was done.

    Where the file system has no rename that refuses to replace (NFS), the ordinary one serves: it replaces nothing but
    an empty folder, and a folder that won the name is never empty.

    Args:
        source: a folder.
        target: its new path.
        flush: have the new name on the disk before returning; a caller with many to rename does that once.

    Raises:
        OSError: `source` is missing, the target lies on another file system, the disk is read-only …
    """
    assert any(source.iterdir()), f"{source} is empty"
    before = _identity(source)
    try:
        _rename_noreplace(source, target)
    except FileNotFoundError:
        if _identity(target) != before:  # equal: done at the first asking, NFS asked twice
            raise
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    if flush:
        fsync_folder(target.parent)
        fsync_folder(source.parent)
    return True


def refuses_to_replace(folder: Path) -> bool:
    """Return whether the file system of `folder` itself has a rename that refuses to replace (NFS has none).

    Raises:
        OSError: the folder cannot be written.
    """
    source, target = (_temporary_name(folder / "rename") for _ in range(2))
    try:
        for path in (source, target):
            path.mkdir()
        _renameat2(source, target)
    except OSError as error:
        if error.errno not in (*_TAKEN, *_UNSUPPORTED):
            raise
        return error.errno in _TAKEN
    finally:
        for path in (source, target):
            with suppress(OSError):
                path.rmdir()
    return False


def _rename_noreplace(source: Path, target: Path) -> None:
    try:
        _renameat2(source, target)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        os.rename(source, target)


def _renameat2(source: Path, target: Path) -> None:
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))


def copy_verified(source: Path, target: Path, *, sha256: str | None = None) -> str:
    """Copy a regular file, read the copy back from the disk, and only then give it its name; return its sha256.

    Args:
        source: a regular file; links are refused.
        target: replaced if it exists.
        sha256: what the content must be; None: whatever `source` holds.

    Raises:
        BandError: `source` is no regular file or not what `sha256` says, or the copy reads back differently.
        OSError: the disk is full, read-only …; the old `target` stands and no temporary file is left.
    """
    temporary = _temporary_name(target)
    try:
        read = _copy(source, temporary)
        if sha256 is not None and read != sha256:
            raise BandError(f"{source} has sha256 {read[:12]}…, expected {sha256[:12]}…: it changed or is damaged")
        written = sha256_file(temporary)
        if written != read:
            raise BandError(f"{target}: the copy of {source} reads back differently; check that disk, then try again")
        os.replace(temporary, target)
    except BaseException:
        _discard(temporary)
        raise
    fsync_folder(target.parent)
    return read


def copy_tree_verified(source: Path, target: Path, *, sha256: Mapping[str, str]) -> None:
    """Copy the named files of a flat folder into `target` (made where missing), each verified.

    A copy that was broken off is taken up again: files already there with the right content are not sent twice.

    Args:
        source: a folder.
        target: a folder; files of other names in it stay.
        sha256: what to copy: file name to the digest it must have.

    Raises:
        BandError: a file is missing or not what its digest says.
        OSError: the disk is full, read-only …
    """
    target.mkdir(parents=True, exist_ok=True)
    for name, digest in sha256.items():
        assert "/" not in name and name not in ("", ".", ".."), f"{name!r} is no file name"
        if not holds(target / name, digest):
            copy_verified(source / name, target / name, sha256=digest)
    fsync_folder(target)


def holds(path: Path, sha256: str) -> bool:
    """Return whether `path` is a regular file with that content; False where it cannot be read."""
    try:
        return sha256_file(path) == sha256
    except (OSError, BandError):
        return False


def sha256_file(path: Path) -> str:
    """Return the sha256 of a regular file in hex, read from the disk where the system allows, not from its cache.

    Raises:
        BandError: `path` is a link, folder or device.
        OSError: it is missing or cannot be read.
    """
    digest = hashlib.sha256()
    file = _open_regular(path)
    try:
        with suppress(OSError):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := os.read(file, CHUNK_BYTES):
            digest.update(chunk)
    finally:
        os.close(file)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys, no blanks, ASCII only, no NaN: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        BandError: it is not JSON (NaN and Infinity are not).
        OSError: it is missing or cannot be read.
    """
    try:
        return json.loads(path.read_bytes(), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise BandError(f"{path} is not valid JSON ({error}); restore it or delete it") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises:
        BandError: it is not a JSON object.
        OSError: it is missing or cannot be read.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise BandError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return cast("dict[str, Any]", value)


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON object as a line; a half line left by an earlier failure is closed off first.

    One writer a file: no lock is taken.

    Raises:
        OSError: the disk is full, read-only …; the file may then end in half a line, which readers pass over.
    """
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        size = os.fstat(file).st_size
        is_half = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        _write_all(file, (b"\n" if is_half else b"") + canonical_json(value) + b"\n")
    finally:
        os.close(file)


def read_lines(path: Path, *, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the JSON objects of the complete lines from byte `offset` on, and the offset to go on from.

    A half last line is left for the next call; a complete line that is no JSON object is passed over.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    objects = []
    for line in data[:end].split(b"\n"):
        with suppress(ValueError, RecursionError):
            value = json.loads(line, parse_constant=_reject_constant)
            if isinstance(value, dict):
                objects.append(value)
    return objects, offset + end


def remove_stale_temporaries(folder: Path, *, older_than_s: float = 86_400.0) -> None:
    """Remove temporary files that killed writers left in `folder`; errors are passed over."""
    now = time.time()
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                with suppress(OSError):
                    if now - entry.stat(follow_symlinks=False).st_mtime > older_than_s:
                        os.unlink(entry.path)


def sync_file_system(folder: Path) -> None:
    """Have all that was written to the file system of `folder` on its disk: one call for any number of files.

    Raises:
        OSError: the disk is full, or failed.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        os.sync()
        return
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if call(file) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(file)


def look_anew(folder: Path) -> None:
    """Have an NFS client ask its server what is in a folder, as it does when that is opened.

    A name that it once looked for in vain it else takes to be missing still, for up to a minute.

    Raises:
        OSError: the folder is missing or cannot be opened.
    """
    os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def fsync_folder(folder: Path) -> None:
    """Make names created in, or removed from, `folder` survive a power cut, where the file system can."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(file)


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.tmp")


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        return status.st_dev, status.st_ino
    return None


def _discard(path: Path) -> None:
    with suppress(OSError):
        os.unlink(path)


def _open_new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def _open_regular(path: Path) -> int:
    try:
        # O_NONBLOCK: opening a pipe that somebody put there must not wait for a writer.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BandError(f"{path} is a link, where only a regular file is accepted") from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise BandError(f"{path} is not a regular file")
    return file


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _write_new(path: Path, data: bytes) -> None:
    file = _open_new(path)
    try:
        _write_all(file, data)
        os.fsync(file)
    finally:
        os.close(file)


def _copy(source: Path, target: Path) -> str:
    """Copy into the new file `target`, flushed to the disk; return the sha256 of what was read."""
    digest = hashlib.sha256()
    reader = _open_regular(source)
    try:
        writer = _open_new(target)
        try:
            while chunk := os.read(reader, CHUNK_BYTES):
                digest.update(chunk)
                _write_all(writer, chunk)
            os.fsync(writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)
    return digest.hexdigest()
