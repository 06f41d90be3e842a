"""What every importer gives: arrays under the names of our layout, where they come from, and what was done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import band
from band.data.continuous import open_continuous
from band.data.digest import file_digest
from band.data.hdf5 import write_hdf5
from band.data.recording import open_recording
from band.errors import DataError

Attributes = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A recording that was read, and is not written yet.

    Args:
        name: of the file it will get, without its ending.
        sources: the files it was read from.
        format: the importer's name.
        arrays: by name in the file: of trials `train_encod_data` and so on; of a recording that runs on `encod_data`
            (bin, neuron) and so on, see `band.data.continuous`.
        bin_ms: width of a bin; None where nobody gave it.
        attributes: of the source that are carried along, such as whom to attribute it to.
        options: what was asked of the importer.
        notes: one sentence each on what was decided, left out or filled in.
    """

    name: str
    sources: tuple[Path, ...]
    format: str
    arrays: Mapping[str, np.ndarray]
    bin_ms: float | None
    attributes: Attributes = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_continuous(self) -> bool:
        """Whether it runs on, and is to be chopped before it is trained on."""
        return "encod_data" in self.arrays

    @property
    def size_bytes(self) -> int:
        """Bytes of its arrays before they are compressed."""
        return sum(values.nbytes for values in self.arrays.values())


def provenance(imported: Imported) -> Attributes:
    """Return the attributes of the file: the source's own, the bin width, and how it came about."""
    sources = [{"file": path.name, "sha256": file_digest(path)} for path in imported.sources]
    how = {"format": imported.format, "sources": sources, "options": dict(imported.options), "band": band.__version__}
    own: Attributes = {"imported": json.dumps(how), "notes": json.dumps(imported.notes)}
    if imported.is_continuous:
        own["layout"] = "continuous"
    if imported.bin_ms is not None:
        own["bin_ms"] = float(imported.bin_ms)
    return {**imported.attributes, **own}


def write_imported(
    path: Path, imported: Imported, *, replace: bool = False, likelihood: str | None = "poisson"
) -> None:
    """Write a recording, whole or not at all, once it has been read back as training reads it.

    Args:
        path: the file to write.
        imported: the recording.
        replace: whether a file of that name gives way.
        likelihood: whose support the counts must lie in; None: values are not looked at.

    Raises:
        DataError: it breaks a rule of `band.data.checks`, which names file and key, or cannot be written.
    """

    def check(written: Path) -> None:
        try:
            if imported.is_continuous:
                open_continuous(written, bin_ms=imported.bin_ms or 1.0)
            else:
                open_recording(written, likelihood=likelihood)
        except DataError as error:
            sources = ", ".join(str(source) for source in imported.sources)
            raise DataError(f"{sources}: cannot be imported: {str(error).replace(f'{written}: ', '')}") from None

    write_hdf5(path, imported.arrays, attributes=provenance(imported), replace=replace, check=check)


def text_attributes(attributes: Mapping[str, Any]) -> Attributes:
    """Return the attributes that HDF5 holds as they are: text, numbers, small arrays of numbers."""
    kept: Attributes = {}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            kept[name] = value.decode(errors="replace")
        elif isinstance(value, (str, int, float, np.number)) or (
            isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.nbytes < 4096
        ):
            kept[name] = value
    return kept


def is_hdf5(path: Path) -> bool:
    """Return whether a file is HDF5, whatever its name; MATLAB 7.3 is, after a block of its own."""
    return bool(h5py.is_hdf5(path))
