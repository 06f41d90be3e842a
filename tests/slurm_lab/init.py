"""First process of a lab: gives it a file system, a host name and process ids of its own, and ends it with its owner.

Run as `unshare --mount --uts --pid --fork python3 init.py ROOT CGROUP OWNER_PIDFD`. When this process ends, however it
ends, the kernel kills everything that was started inside and takes the mounts away.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

LOGIN_HOST = "login"
SCRATCH = Path("/disk/scratch")
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")  # there only with cgroups of version 1
STAGING = Path("/mnt")  # where the new root is put together before it becomes the root


def mount(*arguments: str | Path) -> None:
    """Call mount(8)."""
    subprocess.run(["mount", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


def mirror_root(entries: list[Path]) -> None:
    """Put everything that / holds into a new file system, where folders can be added without touching the machine."""
    mount("-t", "tmpfs", "-o", "mode=755", "lab", STAGING)
    for entry in entries:
        place = STAGING / entry.name
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
        elif entry == STAGING:
            place.mkdir()
        elif entry.is_dir():
            place.mkdir()
            mount("--rbind", entry, place)
        else:
            place.touch()
            mount("--bind", entry, place)


def enter_new_root() -> None:
    """Make the new file system the root of this process and of all that follow."""
    os.chdir(STAGING)
    subprocess.run(["pivot_root", ".", "."], check=True)
    subprocess.run(["umount", "--lazy", "."], check=True)
    os.chdir("/")


def mount_own_files(root: Path, *, cgroup: Path) -> None:
    """Show the lab's own scratch, configuration, host names and memory cgroups where programs look for them."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", "mode=755", "database", root / "database")  # a disk would cost seconds of waiting
    for ours, place in ((root / "etc/hosts", Path("/etc/hosts")), (root / "etc", Path("/etc/slurm"))):
        if place.exists():  # /etc/slurm is where Slurm looks without SLURM_CONF
            mount("--bind", ours, place)
    if (MEMORY_CGROUPS / "cgroup.procs").exists():
        cgroup.mkdir(exist_ok=True)
        mount("--bind", cgroup, MEMORY_CGROUPS)  # two labs have nodes and jobs of the same names


def main(root: Path, cgroup: Path, owner: int) -> None:
    """Set the lab up, say by which name it is found, and wait until its owner is gone or closes our input."""
    socket.sethostname(LOGIN_HOST)
    mirror_root(sorted(Path("/").iterdir()))
    enter_new_root()
    mount_own_files(root, cgroup=cgroup)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the orphans that fall to us
    print(os.readlink("/proc/self/ns/uts"), flush=True)
    end = select.poll()
    end.register(owner, select.POLLIN)
    end.register(sys.stdin.fileno(), select.POLLHUP)
    end.poll()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
