"""NumPy's .npy and .npz: plain arrays alone, nothing pickled is ever read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from band.data.importers.loose import Loose
from band.errors import DataError


def read_numpy(path: Path) -> Loose:
    """Return the arrays of a file by name; of a .npy file the one array, as "encod_data".

    Raises:
        DataError: the file cannot be read, or holds pickled objects.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    name = "the file"
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"encod_data": found}
        arrays: Loose = {}
        with found:
            for name in found.files:
                arrays[name] = found[name]
        return arrays
    except Exception as error:  # zipfile, zlib and numpy each have their own for a damaged file
        if "pickle" in str(error):
            raise DataError(
                f"{path}: {name} must be a plain array, found pickled objects, which are never read; save trials of "
                "different lengths in one array, padded with NaN"
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"{path}: must be a complete file of NumPy, but reading {name} failed: {reason}; copy or save it again"
        ) from error
