"""Files sent to another machine: verified there, whole or not at all, continued where they stopped, over nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.errors import BandError, DataError
from band.files import sha256_file
from band.sync.connection import Connection
from band.sync.rsync import Transfer, move


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A file to be sent, and its name there below the folder of the shipment."""

    path: Path
    name: str
    size: int
    sha256: str

    def entry(self) -> dict[str, Any]:
        """Return what the far end is told of it."""
        return {"name": self.name, "size": self.size, "sha256": self.sha256}


def parcel(path: Path, *, name: str = "", sha256: str = "") -> Parcel:
    """Return a file as it is to be sent.

    Raises:
        DataError: it is no file, or cannot be read.
    """
    try:
        real = path.resolve(strict=True)
        return Parcel(path=real, name=name or path.name, size=real.stat().st_size, sha256=sha256 or sha256_file(real))
    except (OSError, BandError) as error:
        raise DataError(f"{path} cannot be sent: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """Files for one folder on another machine, and what is there already."""

    parcels: tuple[Parcel, ...]
    folder: str  # as it was asked for
    incoming: str
    paths: tuple[str, ...]  # where each file is, or will be
    states: tuple[str, ...]  # "new", "same" or "differs"
    arrived: tuple[int, ...]  # bytes of each that came in an earlier call
    options: tuple[tuple[str, Any], ...] = ()  # of the request

    def of_state(self, state: str) -> list[Parcel]:
        """Return the files in a state."""
        return [each for each, found in zip(self.parcels, self.states, strict=True) if found == state]

    @property
    def size_bytes(self) -> int:
        """Bytes that are still to be sent."""
        sizes = zip(self.parcels, self.states, self.arrived, strict=True)
        return sum(max(each.size - arrived, 0) for each, state, arrived in sizes if state == "new")


def offer(connection: Connection, parcels: Sequence[Parcel], *, folder: str, **options: Any) -> Shipment:
    """Ask the far end what it has of some files.

    Args:
        connection: to it.
        parcels: the files.
        folder: where they are to be; relative ones start at the host's `path`, or at the home there.
        options: is_whole (the folder itself is there as a whole or not at all), reuse (the same content under another
            name will do), may_rename (one file and no such folder: it is the file's new name), is_dry_run.

    Raises:
        BandError: the far end refuses; its words.
    """
    options = {"start": connection.config.path, **options}
    answer = connection.call("offer", folder=folder, files=[each.entry() for each in parcels], **options)
    return Shipment(
        parcels=tuple(parcels),
        folder=folder,
        incoming=str(answer["incoming"]),
        paths=tuple(str(entry["path"]) for entry in answer["files"]),
        states=tuple(str(entry["state"]) for entry in answer["files"]),
        arrived=tuple(int(entry["arrived"]) for entry in answer["files"]),
        options=tuple(options.items()),
    )


def send(
    connection: Connection, shipment: Shipment, *, bwlimit: str = "", look: Callable[[int], None] = lambda moved: None
) -> None:
    """Send what the far end does not have, and have it verified and put in its place there.

    Raises:
        RemoteError: the connection broke; the next call goes on.
        BandError: a file changed while it was sent, or the far end has no room.
    """
    new = shipment.of_state("new")
    if not new:
        return
    with tempfile.TemporaryDirectory() as folder:
        for each in new:  # each under its digest, so that what waits there is never continued with something else
            link = Path(folder, each.sha256)
            if not link.is_symlink():
                os.symlink(each.path, link)
        names = tuple(sorted({each.sha256 for each in new}))
        transfer = Transfer(source=folder, target=shipment.incoming, names=names, is_push=True)
        trouble = move(connection, transfer, bwlimit=bwlimit, look=look)
    if trouble:
        raise BandError(f"not all of it could be sent: {trouble}")
    request = {**dict(shipment.options), "folder": shipment.folder}
    connection.call("place", files=[each.entry() for each in new], **request)
