"""What bringing results home costs: a pull that is killed ten times, and a pull beside plain rsync of the same tree.

`python -m benchmarks.sync`: published runs of made-up bytes behind a real sshd on loopback. Every byte on the wire is
counted by a relay that the connection goes through. Ratios are of numbers of the same run, taken in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/helpers"))

from far_machine import FarMachine, running  # noqa: E402
from sealed_runs import publish, tree, verified  # noqa: E402

from band.run_dir import SweepDir  # noqa: E402

SMALL = {"metrics.csv": 8_000, "model.pt": 150_000, "outputs.h5": 350_000}
LARGE = {"metrics.csv": 20_000, "model.pt": 4_000_000, "outputs.h5": 16_000_000}


class Relay:
    """Passes a connection on to sshd and counts the bytes that come from there."""

    def __init__(self, port: int) -> None:
        self.target, self.received = port, 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            far = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                self.received += len(data) if is_counted else 0
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def pull(name: str, *options: str) -> subprocess.Popen[bytes]:
    """Start a pull in a process group of its own."""
    command = [sys.executable, "-m", "band.cli.sync", "pull", f"{name}:maze", "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)


def killed_pull(there: SweepDir, relay: Relay, *, kills: int) -> dict[str, float]:
    """Pull with SIGKILL to all of it at random moments, then to the end; return what it came to."""
    home, draws, done = SweepDir(Path("sweeps/maze").absolute()), random.Random(1), 0
    size = sum(path.stat().st_size for path in there.runs.rglob("*") if path.is_file())
    begun, started = time.monotonic(), relay.received
    while done < kills:
        process = pull("relayed", "--bwlimit", str(int(size / 1024 / (1.2 * kills))))  # so that kills fall all over it
        time.sleep(1 + 1.5 * draws.random())
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done += 1
    published = len(list(home.runs.glob("[!.]*")))
    to_the_end("relayed")
    wire = relay.received - started
    assert verified(home) == verified(there) and tree(home.runs) == tree(there.runs)
    seconds = time.monotonic() - begun
    shutil.rmtree(home.path)
    started = relay.received
    to_the_end("relayed")
    undisturbed = relay.received - started
    return {
        "kills": done, "runs": len(verified(home)), "published_by_last_kill": published, "tree_bytes": size,
        "wire_bytes": wire, "wire_bytes_undisturbed": undisturbed, "twice": (wire - undisturbed) / size,
        "seconds": seconds,
    }  # fmt: skip


def to_the_end(name: str) -> None:
    """Pull and wait."""
    process = pull(name)
    process.communicate()
    assert process.returncode == 0


def timed_pull() -> float:
    """Return the seconds of a whole pull into an empty home, from the command to its end."""
    shutil.rmtree("sweeps", ignore_errors=True)
    os.sync()
    begun = time.monotonic()
    process = pull("far")
    output, _ = process.communicate()
    assert process.returncode == 0 and json.loads(output)["sources"][0]["new"]
    return time.monotonic() - begun


def timed_rsync(there: SweepDir, *, is_checked: bool) -> float:
    """Return the seconds of `rsync -a` over the same kept connection; with a check, of sha256sum of it all as well."""
    shutil.rmtree("plain", ignore_errors=True)
    Path("plain").mkdir()
    os.sync()
    sockets = Path(os.environ["XDG_RUNTIME_DIR"]) / "band-ssh"
    begun = time.monotonic()
    rsh = f"ssh -o ControlPath={sockets}/%C"
    subprocess.run(["rsync", "-a", "-e", rsh, f"far:{there.path}/runs/", "plain/"], check=True)
    if is_checked:
        files = [path for path in Path("plain").rglob("*") if path.is_file()]
        for start in range(0, len(files), 500):
            subprocess.run(["sha256sum", *files[start : start + 500]], check=True, stdout=subprocess.DEVNULL)
        os.sync()
    return time.monotonic() - begun


@contextlib.contextmanager
def machines(folder: Path) -> Iterator[tuple[FarMachine, Relay]]:
    """Start the far machine, reached as `far` and, through the relay, as `relayed`; the home is the current folder."""
    with running(FarMachine(folder / "far")) as far:
        relay = Relay(far.port)
        far.write_client_config("Host relayed", "HostName 127.0.0.1", f"Port {relay.port}")
        with (far.folder / "known_hosts").open("a") as known:
            known.write(f"[127.0.0.1]:{relay.port} {(far.folder / 'host_key.pub').read_text()}")
        for name in ("run", "home"):
            (folder / name).mkdir(mode=0o700)
        os.environ.update(far.environment(folder / "run"), PYTHONPATH=str(ROOT))
        os.chdir(folder / "home")
        yield far, relay


def compare(there: SweepDir, *, rounds: int) -> dict[str, float]:
    """Return the medians of a pull, of plain rsync, and of rsync with digests, taken in turns."""
    timed_pull()  # opens the connection
    times = [
        (timed_pull(), timed_rsync(there, is_checked=False), timed_rsync(there, is_checked=True)) for _ in range(rounds)
    ]
    ours, plain, checked = (statistics.median(column) for column in zip(*times, strict=True))
    size = sum(path.stat().st_size for path in there.runs.rglob("*") if path.is_file())
    return {
        "runs": len(list(there.runs.iterdir())), "MiB": size / 2**20, "pull_s": ours, "rsync_s": plain,
        "rsync_and_sha256sum_s": checked, "rsync/pull": plain / ours, "checked/pull": checked / ours,
    }  # fmt: skip


def main() -> None:
    """Run the benchmark and print its numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, machines(Path(folder)) as (far, relay):
        there = publish(far.home / "maze", range(arguments.runs), sizes=SMALL)
        print(json.dumps(killed_pull(there, relay, kills=arguments.kills)), flush=True)
        subprocess.run([sys.executable, "-m", "band.cli.sync", "disconnect", "relayed"], stdout=subprocess.DEVNULL)
        print(json.dumps(compare(there, rounds=arguments.rounds)), flush=True)
        shutil.rmtree(there.path)
        there = publish(far.home / "maze", range(40), sizes=LARGE)
        print(json.dumps(compare(there, rounds=arguments.rounds)), flush=True)
        subprocess.run([sys.executable, "-m", "band.cli.sync", "disconnect", "far"], stdout=subprocess.DEVNULL)
        os.chdir("/")


if __name__ == "__main__":
    main()
