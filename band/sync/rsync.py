"""rsync, called with lists of arguments through the open connection; files that have come in part are continued."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from band.errors import BandError, ConfigError
from band.sync.connection import CONNECTION, NOT_FOUND, Connection, tail
from band.sync.shell import NO_MARK

POLL_S = 0.1
SOME_FILES_FAILED = (23, 24)
# Continued where they stopped, in place: whatever killed the last transfer, what had come is there under its name.
# What is known beforehand, sizes and digests, is checked afterwards, so rsync need not read anything twice.
OPTIONS = ("--append", "--times", "--omit-dir-times", "-s", "--from0", "--files-from=-")
CHANGING = ("--append-verify", *OPTIONS[1:])  # of files without a digest, such as logs that grow
_NO_RSYNC = re.compile(r"rsync: (?:command )?not found")
_MOVED = re.compile(rb"\r\s*([0-9]+)\s+[0-9]+%")
_RATE = re.compile(r"[0-9]+(\.[0-9]+)?[KMGkmg]?")


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Files to be moved by one call of rsync."""

    source: str  # folder; with `is_push` here, else there
    target: str  # folder; with `is_push` there, else here
    names: tuple[str, ...]  # below both
    is_push: bool = False
    options: tuple[str, ...] = OPTIONS

    @property
    def far_folder(self) -> str:
        """The end that is there."""
        return self.target if self.is_push else self.source


def check_rate(text: str) -> str:
    """Return a bandwidth limit as rsync takes it: bytes a second with K, M or G, without one K.

    Raises:
        ConfigError: it is none.
    """
    if text and not _RATE.fullmatch(text):
        raise ConfigError(f"--bwlimit must be a rate such as 500K or 10M (bytes a second), got {text!r}")
    return text


def words(transfer: Transfer, *, far_shell: list[str], bwlimit: str = "") -> list[str]:
    """Return the command line. The connection names the host: no name of a file or host is a word of a shell."""
    far = "far:./"  # the folder in which it runs: a name would be taken for a pattern there
    near = os.path.abspath(transfer.source if transfer.is_push else transfer.target).rstrip("/") + "/"
    ends = (near, far) if transfer.is_push else (far, near)
    limit = [f"--bwlimit={bwlimit}"] if bwlimit else []
    # The links of a push are ours, made for it; without the option links are passed over.
    push = ["--copy-links", "--info=progress2", "--no-human-readable"] if transfer.is_push else []
    rsync = shutil.which("rsync") or "rsync"
    return [rsync, *transfer.options, *push, *limit, f"--rsh={_rsh(far_shell)}", "--", *ends]


def _rsh(shell: list[str]) -> str:
    """Return words as rsync splits them again: at blanks, unless in double quotes, in which two stand for one."""
    quoted = ['"' + word.replace('"', '""') + '"' if re.search(r"[\s'\"]", word) else word for word in shell[:-1]]
    return " ".join(quoted)


def move(
    connection: Connection, transfer: Transfer, *, lock: int = -1, bwlimit: str = "", look: Callable[[int], None]
) -> str:
    """Move files, and return what rsync said of those that it could not move, "" where it moved all.

    Args:
        connection: the open connection.
        transfer: what to move.
        lock: a descriptor that rsync holds as long as it lives, -1: none.
        bwlimit: as `check_rate` returns it.
        look: called again and again meanwhile, with the bytes that a push has moved so far.

    Raises:
        RemoteError: the connection broke, or there is no rsync.
        BandError: rsync failed on this side: the disk is full …
    """
    if not transfer.names:
        return ""
    with (
        tempfile.TemporaryFile() as names,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        _life_line() as (life, held),
    ):
        names.write(b"".join(os.fsencode(name) + b"\0" for name in transfer.names))
        names.seek(0)
        with subprocess.Popen(
            words(transfer, far_shell=connection.shell(), bwlimit=bwlimit),
            stdin=names,
            stdout=output,
            stderr=errors,
            env=connection.environment(folder=transfer.far_folder, life=life),
            pass_fds=[file for file in (life, lock) if file >= 0],
        ) as process:
            os.close(life)
            code = _wait(process, look=lambda: look(_moved(output)), held=held)
        said = tail(errors)
    if code in SOME_FILES_FAILED:
        return said
    if code:
        raise _failure(connection, code, said)
    return ""


@contextmanager
def _life_line() -> Iterator[tuple[int, list[int]]]:
    """Yield the end of a pipe that the far command watches, and the end whose closing, by our death too, ends it."""
    life, held = os.pipe()
    ends = [held]
    try:
        yield life, ends
    finally:
        for end in ends:
            os.close(end)


def _moved(output: IO[bytes]) -> int:
    """Return the bytes in the last line of progress that rsync has written."""
    end = output.seek(0, os.SEEK_END)
    numbers = _MOVED.findall(os.pread(output.fileno(), 400, max(end - 400, 0)))
    return int(numbers[-1]) if numbers else 0


def _wait(process: subprocess.Popen[bytes], *, look: Callable[[], None], held: list[int]) -> int:
    try:
        while True:
            try:
                return process.wait(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                look()
    finally:
        if process.poll() is None:  # interrupted, or what was looked at failed
            os.close(held.pop())
            process.terminate()
            process.wait()


def _failure(connection: Connection, code: int, said: str) -> BandError:
    if "No space left" in said or "Disk quota exceeded" in said:
        return no_room(said)
    if code == NOT_FOUND or _NO_RSYNC.search(said):
        return connection.failure(NOT_FOUND, said, what="rsync")
    if code == NO_MARK:
        return connection.failure(NO_MARK, said, what="rsync")
    if code in (1, 2, 3, 4, 11, 13, 22):
        return BandError(f"rsync ended with {code}: {said}; what has come is kept")
    return connection.failure(CONNECTION, said, what="rsync")


def no_room(said: str) -> BandError:
    """Return the error for a disk that is full, here or there."""
    return BandError(
        f"{said}\nno room for more; what has come is kept: make room, or want less (--what), "
        "and give the same command again"
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Return names in the order in which rsync moves them."""
    return sorted(names, key=os.fsencode)
