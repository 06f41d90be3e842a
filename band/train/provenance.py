"""What produced a result: code, versions, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from band.run_dir import code_digest

PACKAGES = ("torch", "numpy", "h5py", "submitit", "omegaconf")


@lru_cache
def git_state() -> tuple[str | None, bool | None]:
    """Return commit and whether the checkout differs from it; None outside a checkout that tracks this package."""
    here = Path(__file__).parents[2]

    def git(*words: str) -> str | None:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, env=environment
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "band/__init__.py"):
        return None, None
    status = git("status", "--porcelain", "--untracked-files=no", "--", "band")
    return git("rev-parse", "HEAD"), None if status is None else bool(status)


def versions() -> dict[str, str]:
    """Return the version of Python and of each package that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def provenance(*, device: str, threads: int, packing: list[str], attempt: str, kernels: str) -> dict[str, Any]:
    """Return the provenance section of a `result.json`.

    Args:
        device: where it trained, "cpu" or "cuda".
        threads: of the trainer.
        packing: ids of the runs that started in one population.
        attempt: name of the attempt that finished it.
        kernels: by what its recurrences ran, "compiled" or "plain"; the two agree to rounding, not bit by bit.
    """
    commit, dirty = git_state()
    return {
        "code": code_digest(Path(__file__).parents[1]),
        "commit": commit,
        "dirty": dirty,
        "versions": versions(),
        "host": platform.node(),
        "device": device,
        "threads": threads,
        "packing": packing,
        "attempt": attempt,
        "kernels": kernels,
    }
