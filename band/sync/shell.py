"""What rsync takes for its remote shell: runs a command at the far end and passes on what that command prints.

A login may print before any command does: banners, a `.bashrc` that echoes. All of it ends where a mark stands that the
far shell prints just before it becomes the command. This is a program of its own and imports nothing of band.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import subprocess
import sys
import threading

SETTINGS = (
    "BAND_SYNC_SHELL"  # in the environment, as JSON: ssh (words), setup (lines), folder (there), life (descriptor)
)
CHUNK_BYTES = 1 << 20
MOST_NOISE_BYTES = 1 << 20
NO_FOLDER = 66  # exit code: the folder in which the command is to run is not there
NO_MARK = 254  # exit code: the login ended before the command began


def far_command(words: list[str], *, setup: str, folder: str, mark: str) -> str:
    """Return the one string that the far login shell is given; every word of it is quoted."""
    shell = ["bash", "-lc"] if setup else ["sh", "-c"]
    program = f'{setup}[ -z "$1" ] || cd -- "$1" || exit {NO_FOLDER}; shift; printf %s "$0"; exec "$@"'
    return shlex.join([*shell, program, mark, folder, *words])


def relay(source: int, *, target: int, mark: bytes) -> bool:
    """Pass on what follows the mark until the source ends; return whether the mark came."""
    noise, has_begun = b"", False
    while data := os.read(source, CHUNK_BYTES):
        if not has_begun:
            noise = (noise + data)[-MOST_NOISE_BYTES:]
            place = noise.find(mark)
            if place < 0:
                continue
            has_begun, data = True, noise[place + len(mark) :]
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
    if not has_begun:
        sys.stderr.write(noise[-2000:].decode("utf-8", "replace"))
    return has_begun


def end_with(life: int, far: subprocess.Popen[bytes]) -> None:
    """End the far command once the other end of a pipe is closed: whoever had it has died."""
    with contextlib.suppress(OSError):
        os.read(life, 1)
    far.terminate()


def main() -> int:
    """Run the command that follows the name of the far host, which the settings know better."""
    settings = json.loads(os.environ[SETTINGS])
    os.set_blocking(1, True)  # rsync makes both ends of its pipes non-blocking
    mark = f"band-sync:{os.urandom(8).hex()}:"
    command = far_command(sys.argv[2:], setup=settings["setup"], folder=settings["folder"], mark=mark)
    has_begun = True
    with subprocess.Popen([*settings["ssh"], command], stdout=subprocess.PIPE) as far:
        assert far.stdout is not None
        with contextlib.suppress(OSError):  # more than an administrator allows: it is slower then
            fcntl.fcntl(far.stdout, fcntl.F_SETPIPE_SZ, CHUNK_BYTES)
        if settings["life"] >= 0:
            threading.Thread(target=end_with, args=(settings["life"], far), daemon=True).start()
        try:
            has_begun = relay(far.stdout.fileno(), target=1, mark=mark.encode())
        except OSError:
            far.terminate()  # nobody reads any more
    return far.returncode & 0xFF if has_begun or far.returncode else NO_MARK


if __name__ == "__main__":
    raise SystemExit(main())
