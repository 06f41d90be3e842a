"""What this machine has room for: cores, memory and GPUs, as the container and the user's environment limit them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from band.errors import SweepError

UNLIMITED = 1 << 60
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Cores, free memory and GPU indices that a local queue may fill."""

    cores: int
    memory_bytes: int
    gpus: tuple[int, ...] = ()


def detect() -> Resources:
    """Return what is free on this machine now."""
    return Resources(cores=num_cores(), memory_bytes=free_memory_bytes(), gpus=visible_gpus())


def num_cores(cgroup: Path = CGROUP) -> int:
    """Return the cores this process may use: its affinity, or fewer where a container has a smaller quota."""
    cores = len(os.sched_getaffinity(0))
    for folder in _cgroup_folders(cgroup):
        quota, period = _words(folder / "cpu.max") or ("max", "0")
        if quota.isdecimal() and period.isdecimal() and int(period):
            cores = min(cores, max(int(quota) // int(period), 1))
    return cores


def free_memory_bytes(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the memory that can be taken without swapping, or what the container's limit leaves, if less."""
    free = UNLIMITED
    with suppress(OSError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    for folder in _cgroup_folders(cgroup):
        limit, used = _words(folder / "memory.max"), _words(folder / "memory.current")
        if limit and used and limit[0].isdecimal():
            reclaimable = _stat(folder / "memory.stat", key="inactive_file")
            free = min(free, int(limit[0]) - int(used[0]) + reclaimable)
    return max(free, 0)


def _cgroup_folders(root: Path) -> list[Path]:
    """Return this process's control group and those above it: each may set a limit."""
    own = ""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = line[3:].strip("/")
    leaf = root / own
    return [folder for folder in (leaf, *leaf.parents) if folder == root or root in folder.parents]


def _words(path: Path) -> list[str] | None:
    try:
        return path.read_text().split()
    except OSError:
        return None


def _stat(path: Path, *, key: str) -> int:
    words = _words(path) or []
    with suppress(ValueError, IndexError):
        return int(words[words.index(key) + 1])
    return 0


def visible_gpus(
    environment: Mapping[str, str] = os.environ, driver: Path = Path("/proc/driver/nvidia/gpus")
) -> tuple[int, ...]:
    """Return the indices of the GPUs that the trainer would see; none where its torch was built without them.

    Raises:
        SweepError: CUDA_VISIBLE_DEVICES names devices by anything but their index.
    """
    try:
        count = len(os.listdir(driver))
    except OSError:
        return ()
    if not count or not torch_has_cuda():
        return ()
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(range(count))
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    if not all(name.isdecimal() or name == "-1" for name in names):
        raise SweepError(f"CUDA_VISIBLE_DEVICES must list GPU indices such as 0,1, got {chosen!r}; set it so, or unset")
    return tuple(int(name) for name in names if name.isdecimal() and int(name) < count)


def torch_has_cuda() -> bool:
    """Return whether the installed torch has its CUDA library, without importing it."""
    spec = importlib.util.find_spec("torch")
    return spec is not None and spec.origin is not None and (Path(spec.origin).parent / "lib/libtorch_cuda.so").exists()
