"""MATLAB files: up to version 7 by scipy (an extra: `pip install 'band-sweep[matlab]'`), version 7.3 as the HDF5 it is.

Both give arrays with the axes that MATLAB shows. A cell array, or a field of a struct array, is a list; the fields of
one struct are named STRUCT.FIELD.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from band.data.hdf5 import open_hdf5, reading
from band.data.importers.imported import is_hdf5
from band.data.importers.loose import Loose
from band.errors import ConfigError, DataError

MAX_DEPTH = 6  # of structs in structs


def read_matlab(path: Path) -> Loose:
    """Return the variables of a file by name.

    Raises:
        ConfigError: scipy is not installed, and the file is older than version 7.3.
        DataError: the file cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    found: Loose = {}
    if is_hdf5(path):
        with open_hdf5(path) as file, reading(path, "its variables"):
            for name in sorted(set(file) - {"#refs#", "#subsystem#"}):
                _put(found, name, _of_hdf5(file, file.get(name, getlink=True), file[name], depth=0))
        return found
    for name, value in _load(path).items():
        if not name.startswith("__"):
            _put(found, name, _of_scipy(value, depth=0))
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ConfigError(
            "reading MATLAB files needs scipy; install it with: pip install 'band-sweep[matlab]'"
        ) from error
    try:
        return dict(loadmat(path))
    except Exception as error:  # scipy has a kind of error for each way in which a file can be damaged
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"{path}: must be a complete MATLAB file, but reading it failed: {reason}; it may be truncated, damaged or "
            "of another format: save it again"
        ) from error


def _put(found: Loose, name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _put(found, f"{name}.{key}", inner)
    elif value is not None:
        found[name] = value


def _of_scipy(value: Any, *, depth: int) -> Any:
    """Return an array, a list of arrays, a dict of a struct's fields, or None for what is none of these."""
    if depth > MAX_DEPTH:
        return None
    if hasattr(value, "toarray"):  # sparse
        return np.asarray(value.toarray())
    values = np.asarray(value)
    if values.dtype.names:
        elements = values.ravel(order="F")
        fields = {name: [_of_scipy(e[name], depth=depth + 1) for e in elements] for name in values.dtype.names}
        return {name: column[0] if len(elements) == 1 else _column(column) for name, column in fields.items()}
    if values.dtype.kind == "O":
        return _column([_of_scipy(element, depth=depth + 1) for element in values.ravel(order="F")])
    return values if values.dtype.kind in "biufU" else None


def _of_hdf5(file: h5py.File, link: Any, item: Any, *, depth: int) -> Any:
    if depth > MAX_DEPTH or not isinstance(link, h5py.HardLink):
        return None
    if isinstance(item, h5py.Group):
        if "MATLAB_sparse" in item.attrs:
            return None
        fields = {name: _of_hdf5(file, item.get(name, getlink=True), item[name], depth=depth + 1) for name in item}
        return fields or None
    kind = item.attrs.get("MATLAB_class", b"")
    if "MATLAB_empty" in item.attrs:
        return np.zeros((0, 0))
    if item.dtype.kind == "O":
        targets = [file[ref] for ref in np.asarray(item[()]).ravel() if ref]
        return _column([_of_hdf5(file, link, target, depth=depth + 1) for target in targets])
    values = np.asarray(item[()]).T
    if kind == b"char":
        return np.array(["".join(map(chr, row)) for row in np.atleast_2d(values).tolist()])
    return values if values.dtype.kind in "biuf" else None


def _column(elements: list[Any]) -> Any:
    """Return one value an element as one array of them, anything else as a list of arrays."""
    if not elements or any(not isinstance(element, np.ndarray) for element in elements):
        return None
    if all(element.size == 1 for element in elements):
        return np.array([element.ravel()[0] for element in elements])
    return elements
