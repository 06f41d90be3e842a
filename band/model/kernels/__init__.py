"""Compiled recurrences: for CPUs `scan.cpp`, built by the machine's own compiler the first time it is wanted, for GPUs
`gpu.py`, built by Triton.

Without a compiler, or with BAND_KERNELS=plain, the recurrences are ATen's operators, bin by bin; the two agree to
rounding. A build for CPUs is kept in the user's cache under a name that tells what it was made for; Triton has its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from band import owners

SOURCE = Path(__file__).with_name("scan.cpp")
TIMEOUT_S = 300.0
VECTORS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "DEFAULT": (),
}


def kernels_for(values: Tensor) -> Any:
    """Return the compiled operators for these values, None where the plain path is to be taken."""
    load = {"cpu": load_kernels, "cuda": load_gpu_kernels}.get(values.device.type)
    if load is None or values.dtype not in (torch.float32, torch.float64):
        return None
    return load(os.environ.get("BAND_KERNELS", ""))


def kernels_name(device: str) -> str:
    """Return by what the recurrences of this process run on a device: "compiled" or "plain"."""
    return "plain" if kernels_for(torch.empty(0, device=device)) is None else "compiled"


@lru_cache
def load_kernels(wanted: str = "") -> Any:
    """Build the operators if need be and return them, None where that cannot be done or is not wanted."""
    if wanted == "plain":
        return None
    try:
        torch.ops.load_library(str(build()))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        warnings.warn(
            f"training goes without compiled recurrences, 1.4 to 2.4 times as slow: {detail[-500:]}", stacklevel=2
        )
        return None
    return torch.ops.band


@lru_cache
def load_gpu_kernels(wanted: str = "") -> Any:
    """Return the operators for GPUs, tried once, None where there is no Triton, it fails, or it is not wanted."""
    if wanted == "plain":
        return None
    try:
        from band.model.kernels import gpu

        one = torch.ones(1, device="cuda")
        gpu.mask(one.long(), one.int(), one, one.clone()[None])
    except Exception as error:  # Triton needs a C compiler and a GPU that it knows, and fails in many ways
        warnings.warn(f"training goes without compiled recurrences, up to twice as slow: {error}", stacklevel=2)
        return None
    return gpu


def build() -> Path:
    """Return the library, compiled now unless it is in the cache.

    Raises:
        OSError: there is no compiler, or the cache cannot be written.
        subprocess.SubprocessError: the compiler failed.
    """
    path = cache_folder() / f"scan-{_fingerprint()}.so"
    if path.exists() and is_trusted(path):
        return path
    owners.make_private(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        subprocess.run([*command(), "-o", str(made)], check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
        os.replace(made, path)
    return path


def is_trusted(library: Path) -> bool:
    """Return whether a library and its folder are this user's, or root's, and nobody else can write them."""
    return not any(owners.problem(path, is_roots_too=True) for path in (library.parent, library))


def command() -> list[str]:
    """Return the compiler's command line but for where the library goes."""
    torch_folder = Path(torch.__file__).parent
    capability = _capability()
    return [
        os.environ.get("CXX", "c++"),
        *("-std=c++17", "-O3", "-fPIC", "-shared", "-ffp-contract=off", "-fopenmp", "-w"),
        *("-DAT_PARALLEL_OPENMP=1", f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}"),
        *VECTORS[capability],
        *(f"-I{torch_folder / 'include'}", str(SOURCE)),
        *(f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"),
    ]


def cache_folder() -> Path:
    """Return where builds are kept: $BAND_KERNELS_FOLDER, or in the user's cache."""
    if folder := os.environ.get("BAND_KERNELS_FOLDER"):
        return Path(folder)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "band" / "kernels"


def _capability() -> str:
    found = torch.backends.cpu.get_cpu_capability()
    return found if found in VECTORS else "DEFAULT"


def _fingerprint() -> str:
    parts = (SOURCE.read_text(), torch.__version__, _capability(), platform.machine(), str(Path(torch.__file__)))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
