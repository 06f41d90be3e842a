"""First process of a lab: gives it a file system, a host name and process ids of its own, and ends it with its owner.

Run as `unshare --mount --uts --pid --fork python3 init.py ROOT OWNER_PIDFD`. When this process ends, however it ends,
the kernel kills everything that was started inside and takes the mounts away.
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
STAGING = Path("/mnt")  # where the new root is put together before it becomes the root


def mount(*arguments: str | Path) -> None:
    """Call mount(8)."""
    subprocess.run(["mount", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


def mirror_root(entries: list[Path]) -> None:
    """Fill a new file system with everything that / holds, so that folders can be added without touching the machine."""
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


def main(root: Path, owner: int) -> None:
    """Set the lab up, say so, and wait until its owner is gone or closes our input."""
    socket.sethostname(LOGIN_HOST)
    mirror_root(sorted(Path("/").iterdir()))
    enter_new_root()
    Path("/disk/scratch").mkdir(parents=True, exist_ok=True)
    if Path("/etc/slurm").is_dir():
        mount("--bind", root / "etc", "/etc/slurm")  # found without SLURM_CONF too
    mount("--bind", root / "etc/hosts", "/etc/hosts")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the orphans that fall to us
    print("ready", flush=True)
    waiting = select.poll()
    waiting.register(owner, select.POLLIN)
    waiting.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    waiting.poll()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
