"""The zip archive that torch.save writes: its pickle as plain data, its tensors as arrays once they are asked for."""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band.bridge.rebuild import REBUILD
from band.bridge.unpickle import read_pickle
from band.bridge.values import ITEM_BYTES, Name, Storage, StoredTensor
from band.errors import ForeignError

if TYPE_CHECKING:
    import numpy as np

MAX_ENTRIES = 100_000
_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
_KEY = re.compile(r"[0-9A-Za-z_]{1,64}")
LEGACY = (
    "is of the format that torch wrote before 1.6, which cannot be read without running it; with that package and "
    "torch, load it and torch.save it again, then import the new file"
)


class Archive:
    """A checkpoint file; closed with the block it is opened in."""

    def __init__(self, path: Path) -> None:
        """Open a file that torch.save wrote.

        Raises:
            ForeignError: it cannot be read, is no such file, or is damaged.
        """
        self.path = path
        self._last: tuple[str, bytes] = ("", b"")
        try:
            self._zip = zipfile.ZipFile(path)
            entries = self._zip.infolist()
        except OSError as error:
            raise ForeignError(f"{path}: cannot be read ({error.strerror}); give the path of a .ckpt file") from None
        except zipfile.BadZipFile as error:
            raise ForeignError(f"{path}: {_what_else(path, str(error))}") from None
        except Exception as error:  # zipfile raises whatever a damaged directory leads it to
            raise ForeignError(f"{path}: its zip directory is damaged ({type(error).__name__}: {error})") from None
        try:
            self._entries = self._checked(entries)
        except ForeignError as error:
            self._zip.close()
            raise ForeignError(f"{path}: {error}") from None

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def content(self) -> tuple[Any, tuple[str, ...]]:
        """Return what the pickle holds, and the classes of which placeholders were made.

        Raises:
            ForeignError: it is damaged, or asks for a call.
        """
        try:
            return read_pickle(self._read("data.pkl"), rebuild=REBUILD, persistent=self._storage)
        except ForeignError as error:
            raise ForeignError(f"{self.path}: {error}") from None

    def array(self, tensor: StoredTensor) -> np.ndarray:
        """Return a tensor as an array of its own; bfloat16 becomes float32, which holds it exactly.

        Raises:
            ForeignError: its storage is missing or of another size.
        """
        import numpy as np

        storage, dtype = tensor.storage, tensor.dtype
        data = self._stored(storage)
        is_brain = dtype == "bfloat16"
        flat = np.frombuffer(data, np.dtype("<u2" if is_brain else dtype).newbyteorder("<"))
        strides = tuple(step * flat.itemsize for step in tensor.stride)
        if not math.prod(tensor.shape):
            found = np.empty(tensor.shape, flat.dtype)
        else:
            found = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
        if is_brain:
            return (found.astype(np.uint32) << 16).view(np.float32)
        return np.array(found, dtype=found.dtype.newbyteorder("="), order="C")

    def _checked(self, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        """Return the entries by their name below the archive's one folder."""
        roots = {entry.filename.partition("/")[0] for entry in entries if entry.filename.endswith("/data.pkl")}
        if len(roots) != 1:
            raise ForeignError("is a zip file, but not one that torch.save wrote: no single data.pkl in it")
        (root,) = roots
        found: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            folder, _, name = entry.filename.partition("/")
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ForeignError(f"{entry.filename[:80]!r} in it is compressed, which torch.save never does")
            if folder != root or name in found or len(found) >= MAX_ENTRIES:
                raise ForeignError(f"{entry.filename[:80]!r} in it is there twice, or beside the archive's folder")
            found[name] = entry
        if sum(entry.file_size for entry in entries) > self.path.stat().st_size:
            raise ForeignError("its entries say that they hold more than the file does: it is damaged")
        return found

    def _read(self, name: str) -> bytes:
        if name not in self._entries:
            raise ForeignError(f"has no {name[:80]!r} in it: the file is damaged")
        try:
            return self._zip.read(self._entries[name])
        except Exception as error:  # zipfile raises whatever a damaged entry leads it to
            raise ForeignError(f"{name[:80]!r} in it is damaged ({type(error).__name__}: {error})") from None

    def _storage(self, identity: Any) -> Storage:
        """Return the storage that a persistent id of the pickle describes."""
        if "byteorder" in self._entries and self._read("byteorder") != b"little":
            raise ForeignError("was written on a big-endian machine; save it again on another")
        if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
            raise ForeignError("its pickle refers to something outside of it that is no storage: it is damaged")
        _, kind, key, _, size = identity
        known = isinstance(kind, Name) and isinstance(key, str) and _KEY.fullmatch(key)
        if not known or not isinstance(size, int) or not 0 <= size < 2**48:
            raise ForeignError("its pickle describes a storage wrongly: it is damaged")
        name = kind.text.rpartition(".")[2].removesuffix("Storage")
        if name != "Untyped" and name not in _STORAGES:
            raise ForeignError(f"holds numbers of type {kind.text[:80]}, which no model here has")
        storage = Storage(_STORAGES.get(name, ""), key, size)
        entry = self._entries.get(f"data/{key}")
        if entry is None or entry.file_size != size * ITEM_BYTES.get(storage.dtype, 1):
            found = "is not there" if entry is None else f"has {entry.file_size} bytes"
            raise ForeignError(f"storage {key!r} must hold {size} numbers of type {kind.text}, but {found}")
        return storage

    def _stored(self, storage: Storage) -> bytes:
        name = f"data/{storage.key}"
        if self._last[0] != name:
            try:
                self._last = (name, self._read(name))
            except ForeignError as error:
                raise ForeignError(f"{self.path}: {error}") from None
        return self._last[1]


def _what_else(path: Path, problem: str) -> str:
    """Return what a file is that is no zip archive."""
    with path.open("rb") as file:
        head = file.read(512)
    is_tar = head[257:262] == b"ustar"
    if is_tar or head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return LEGACY
    return f"must be a checkpoint that torch.save wrote (a zip archive), but {problem[:1].lower()}{problem[1:]}"
