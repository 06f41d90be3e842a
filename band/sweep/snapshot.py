"""The code that jobs run: a copy of this package in the sweep's folder, named by its content, taken when submitting."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import shutil
from pathlib import Path

from band.errors import SweepError
from band.files import rename_exclusive
from band.run_dir import SweepDir, code_digest

PACKAGE = Path(__file__).parents[1]
PACKAGES = ("torch", "numpy", "h5py")  # whose versions the trainer compares with those at submit time


def take_snapshot(sweep: SweepDir, *, package: Path = PACKAGE) -> str:
    """Copy the package into code/DIGEST/, unless that is there, and return the digest.

    Raises:
        SweepError: the copy that is there was changed; names it.
        OSError: the folder cannot be written.
    """
    digest = code_digest(package)
    if not (sweep.code / digest).exists():
        digest = _copy(package, sweep=sweep)
    path = sweep.code / digest
    if code_digest(path / package.name) != digest:
        raise SweepError(f"{path} is not what was copied there; delete that folder, and submit again")
    return digest


def _copy(package: Path, *, sweep: SweepDir) -> str:
    """Return the digest of the copy: a file may have been edited since the original's was taken."""
    temporary = sweep.code / f".{secrets.token_hex(6)}.tmp"
    temporary.mkdir(parents=True)
    try:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(package, temporary / package.name, ignore=ignored, ignore_dangling_symlinks=True)
        for path in temporary.rglob("*"):
            if path.is_file():
                os.chmod(path, 0o444)
        digest = code_digest(temporary / package.name)
        rename_exclusive(temporary, sweep.code / digest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return digest


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers may depend on, without importing anything; "" for what is absent."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found
