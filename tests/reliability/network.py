"""Faults of the network between two machines, while runs are brought home, files are sent, and a sweep is asked about.

Every byte of ssh goes through a wire of ours, which can be cut or stopped after a given number of them.
"""

from __future__ import annotations

import dataclasses
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from far_machine import FarMachine, running
from local_sweep import make_sweep
from sealed_runs import publish, tree, verified

from band.run_dir import SweepDir
from reliability.ledger import Injection, Ledger

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0  # no command may take longer, whatever befalls it
TRIES = 3  # that a user gives the same command, once the fault is over
SIZES = {"metrics.csv": 2_000, "model.pt": 20_000, "outputs.h5": 100_000}
NUM_RUNS = 5
PUSHED_BYTES = 400_000
HASTE = (("ServerAliveInterval=15", "ServerAliveInterval=1"), ("ConnectTimeout=30", "ConnectTimeout=3"))


class Wire:
    """A port that leads to another one, as long as it is let."""

    def __init__(self, port: int) -> None:
        self._port, self.struck, self.passed = port, 0, 0
        self.reset()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Let everything through."""
        self.cut_at, self.stop_at, self.stop_s, self.rate = -1, -1, 0.0, 0.0
        self.passed = self.struck = 0

    def close(self) -> None:
        """Take it away."""
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._port), timeout=5)
        except OSError:
            near.close()
            return
        with near, far, suppress(OSError):
            other = {near: far, far: near}
            while True:
                for end in select.select([near, far], [], [])[0]:
                    data = end.recv(4096)
                    if not data or not self._let_through(len(data)):
                        return
                    other[end].sendall(data)

    def _let_through(self, size: int) -> bool:
        self.passed += size
        if 0 <= self.cut_at <= self.passed:
            self.cut_at, self.struck = -1, self.struck + 1
            return False
        if 0 <= self.stop_at <= self.passed:
            self.stop_at, self.struck = -1, self.struck + 1
            time.sleep(self.stop_s)
        if self.rate:
            self.struck += 1
            time.sleep(size / self.rate)
        return True


@dataclass
class World:
    """A machine at home and one far away, with one thing after the other done between them."""

    folder: Path
    far: FarMachine
    wire: Wire
    rng: random.Random
    environment: dict[str, str]
    home: Path
    notes: list[str] = field(default_factory=list)
    undo: list[Callable[[], object]] = field(default_factory=list)
    timers: list[threading.Timer] = field(default_factory=list)

    def run(self, *words: str, program: str = "sync") -> tuple[int, str]:
        """Run `band-sync` or `band-sweep`; return its exit code and words; a hang or a traceback is noted."""
        with subprocess.Popen(
            [sys.executable, "-m", f"band.cli.{program}", *words], cwd=self.home, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            self.process = process
            try:
                said, _ = process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                ps = ["ps", "-ww", "-eo", "pid,ppid,stat,etimes,wchan:20,args"]
                shown = subprocess.run(ps, capture_output=True, text=True, errors="replace").stdout
                os.killpg(process.pid, signal.SIGKILL)
                ours = [line[:300] for line in shown.splitlines() if str(self.folder) in line]
                self.notes.append("\n".join([f"{words[0]} hung", *ours]))
                said, _ = process.communicate()
        text = said.decode("utf-8", "replace")
        if "Traceback" in text or process.returncode not in (0, 1, 3, 4, -9):
            self.notes.append(f"{words[0]} ended with {process.returncode}: {text[-500:]}")
        return process.returncode, text

    def meanwhile(self, seconds: float, act: Callable[[], object]) -> None:
        """Have something happen while the command runs."""
        self.timers.append(threading.Timer(seconds, act))
        self.timers[-1].start()

    def mend(self) -> None:
        """End the fault."""
        for timer in self.timers:
            timer.cancel()
            timer.join()
        while self.undo:
            self.undo.pop()()
        self.timers.clear()
        self.wire.reset()

    def some_bytes(self) -> int:
        """Return after how many bytes of a command something is to happen: a login takes some 8000."""
        return int(2 ** self.rng.uniform(8, 19))


Struck = Callable[[], object]
NetworkFault = Callable[[World], Struck]


def cut(world: World) -> Struck:
    world.wire.cut_at = world.some_bytes()
    return lambda: world.wire.struck


def stalled(world: World) -> Struck:
    world.wire.stop_at, world.wire.stop_s = world.some_bytes(), world.rng.uniform(0.5, 2.5)
    return lambda: world.wire.struck


def silent(world: World) -> Struck:
    """Nothing comes through any more, and nobody says so."""
    world.wire.stop_at, world.wire.stop_s = world.some_bytes(), 15.0
    return lambda: world.wire.struck


def throttled(world: World) -> Struck:
    world.wire.rate = world.rng.uniform(1e5, 5e5)
    return lambda: world.wire.struck


def sessions_killed(world: World) -> Struck:
    killed: list[int] = []
    world.meanwhile(world.rng.uniform(0.2, 1.0), lambda: killed.append(world.far.kill_sessions()))
    return lambda: sum(killed)


def sessions_stopped(world: World) -> Struck:
    """Every process that serves a connection stops; it goes on when the command has ended."""
    stopped: list[int] = []

    def stop() -> None:
        for pid in world.far.sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)

    def wake() -> None:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    world.meanwhile(world.rng.uniform(0.2, 0.8), stop)
    world.undo.append(wake)
    return lambda: stopped


def server_stopped(world: World) -> Struck:
    """The far machine takes connections, and says nothing."""
    _disconnect(world)
    assert world.far._process is not None
    pid = world.far._process.pid
    os.kill(pid, signal.SIGSTOP)
    world.undo.append(lambda: os.kill(pid, signal.SIGCONT))
    return lambda: True


def server_gone(world: World) -> Struck:
    world.far.stop()
    world.undo.append(world.far.start)
    return lambda: True


def key_changed(world: World) -> Struck:
    """The far machine has another key than it had."""
    key, public = world.far.folder / "host_key", world.far.folder / "host_key.pub"
    world.far.stop()
    old = {path: path.read_bytes() for path in (key, public)}
    for path in old:
        path.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    world.far.start()

    def restore() -> None:
        world.far.stop()
        for path, content in old.items():
            path.write_bytes(content)
        world.far.start()

    world.undo.append(restore)
    return lambda: "REMOTE HOST IDENTIFICATION" in _try_ssh(world)


def noise(world: World) -> Struck:
    """The login prints whatever it likes."""
    _disconnect(world)
    data = world.rng.randbytes(world.rng.randrange(1, 20_000)) + b"\nband-sync:00:{}\n"
    (world.far.home / "noise").write_bytes(data)
    (world.far.folder / "banner").write_bytes(data.replace(b"\0", b""))
    for name in (".bashrc", ".bash_profile", ".profile"):
        (world.far.home / name).write_text('cat "$HOME/noise"; cat "$HOME/noise" >&2\n')

    def quiet() -> None:
        _disconnect(world)
        (world.far.folder / "banner").write_text("")
        for name in (".bashrc", ".bash_profile", ".profile"):
            (world.far.home / name).unlink()

    world.undo.append(quiet)
    return lambda: "band-sync:00:" in _try_ssh(world)


def key_open_to_all(world: World) -> Struck:
    _disconnect(world)
    key = world.far.folder / "key"
    key.chmod(0o666)
    world.undo.append(lambda: key.chmod(0o600))
    return lambda: "UNPROTECTED" in _try_ssh(world)


def key_unknown_there(world: World) -> Struck:
    _disconnect(world)
    known = world.far.folder / "authorized_keys"
    text = known.read_text()
    known.write_text("")
    world.undo.append(lambda: known.write_text(text))
    return lambda: "Permission denied" in _try_ssh(world)


def master_killed(world: World) -> Struck:
    """The connection's own process at home is killed, and leaves its socket."""
    killed: list[int] = []

    def kill() -> None:
        for pid in _processes(f"{world.folder}", "ControlMaster=yes"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    world.meanwhile(world.rng.uniform(0.0, 1.0), kill)
    return lambda: killed


def command_killed(world: World) -> Struck:
    return _kill_command(world, lambda pid: os.kill(pid, signal.SIGKILL))


def group_killed(world: World) -> Struck:
    return _kill_command(world, lambda pid: os.killpg(pid, signal.SIGKILL))


def _kill_command(world: World, kill: Callable[[int], object]) -> Struck:
    killed: list[int] = []

    def strike() -> None:
        if world.process.poll() is None:
            kill(world.process.pid)
            killed.append(world.process.pid)

    world.meanwhile(world.rng.uniform(0.1, 1.0), strike)
    return lambda: killed


def rsync_killed(world: World) -> Struck:
    killed: list[int] = []

    def strike() -> None:
        end = time.monotonic() + 2
        while time.monotonic() < end and not killed:
            for pid in _processes("rsync", "--files-from=-")[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    world.meanwhile(0.1, strike)
    return lambda: killed


def _processes(*words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(word in line for word in words):
                found.append(int(path.parent.name))
    return found


def _try_ssh(world: World) -> str:
    ssh = [world.far.folder / "client/ssh", "-o", "BatchMode=yes", "far", "true"]
    done = subprocess.run(ssh, env=world.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    return (done.stdout + done.stderr).decode(errors="replace")


def _disconnect(world: World) -> None:
    world.run("disconnect", "far")


FAULTS: dict[str, NetworkFault] = {
    "cut after so many bytes": cut,
    "stalled for a while": stalled,
    "silent for good": silent,
    "throttled": throttled,
    "sessions there killed": sessions_killed,
    "sessions there stopped (SIGSTOP)": sessions_stopped,
    "far machine answers nothing": server_stopped,
    "far machine gone": server_gone,
    "host key changed": key_changed,
    "banner and login noise": noise,
    "private key open to all": key_open_to_all,
    "key not known there": key_unknown_there,
    "ssh's master process killed": master_killed,
    "command killed": command_killed,
    "command and its children killed": group_killed,
    "rsync killed": rsync_killed,
}

# --- what is done, and what it must come to ---


def pull(world: World, name: str, fault: NetworkFault) -> bool:
    """Bring a sweep home under a fault, then without; return whether it struck."""
    there = publish(world.far.home / name, range(NUM_RUNS), sizes=SIZES)
    before = tree(there.path)
    struck = _under(world, fault, ["pull", f"far:{name}"])
    here = world.home / "sweeps" / name
    if tree(here / "runs") != tree(there.runs):
        world.notes.append(f"not what is there: {sorted(set(tree(there.runs)) ^ set(tree(here / 'runs')))[:3]}")
    world.notes += [f"left on its way: {path}" for path in here.glob("sync/*/incoming/*/*")]
    if tree(there.path) != before:
        world.notes.append("something changed there")
    return struck


def status(world: World, name: str, fault: NetworkFault) -> bool:
    """Ask for the state of a sweep under a fault, then without."""
    publish(world.far.home / name, range(NUM_RUNS), sizes=SIZES)
    world.run("pull", f"far:{name}", "--what", "results")
    before = tree(world.home / "sweeps" / name)
    struck = _under(world, fault, ["status", name])
    if tree(world.home / "sweeps" / name) != before:
        world.notes.append("status changed something")
    return struck


def push(world: World, name: str, fault: NetworkFault) -> bool:
    """Send a file under a fault, then without."""
    (world.home / name).write_bytes(world.rng.randbytes(PUSHED_BYTES))
    struck = _under(world, fault, ["push", name, f"far:at-{name}/"])
    there = world.far.home / f"at-{name}"
    if tree(there) != {name: (world.home / name).read_bytes()}:
        world.notes.append(f"not what was sent: {list(there.rglob('*'))[:4]}")
    return struck


def submit(world: World, name: str, fault: NetworkFault) -> bool:
    """Submit a sweep to the far machine, which trains it by itself; each epoch must be trained once."""
    made = make_sweep(world.home / f"near-{name}", {f"run{number}": {"seed": number} for number in range(2)})
    made.sweep.path.rename(made.sweep.path.with_name(name))
    made = dataclasses.replace(made, sweep=SweepDir(made.sweep.path.with_name(name)))
    ledger = world.far.home / f"epochs-{name}"
    told = {key: made.environment[key] for key in ("BAND_TRAINER", "PYTHONPATH")}
    told |= {"FAKE_LEDGER": str(ledger), "BAND_SCRATCH": str(world.far.home / f"scratch-{name}")}
    lines = "".join(f"export {key}='{value}'\n" for key, value in told.items())
    settings = Path(world.environment["XDG_CONFIG_HOME"]) / "band/config.yaml"
    before = settings.read_text()
    settings.write_text(f"hosts: {{far: {{python: {sys.executable}, setup: [. ~/exports-{name}]}}}}\n")
    (world.far.home / f"exports-{name}").write_text(lines)
    where = ["--host", f"far:project-{name}", "--detach", "--jobs", "1"]
    struck = _under(world, fault, ["submit", str(made.sweep.path), *where], program="sweep")
    there = SweepDir(world.far.home / f"project-{name}/experiments/sweeps/{name}")
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and len(list(there.runs.glob("[!.]*"))) < 2:
        time.sleep(0.1)
    while time.monotonic() < end and _processes(str(there.path)):
        time.sleep(0.1)
    settings.write_text(before)
    epochs = Counter(ledger.read_text().split("\n")[:-1]) if ledger.exists() else Counter[str]()
    if verified(there) != ["run0", "run1"]:
        world.notes.append(f"not what was asked for: {verified(there)}")
    if set(epochs.values()) != {1} or len(epochs) != 6:
        world.notes.append(f"epochs trained: {dict(epochs)}")
    return struck


DEEDS: dict[str, Callable[[World, str, NetworkFault], bool]] = {
    "pull": pull,
    "push": push,
    "status": status,
    "submit --host": submit,
}


def _under(world: World, fault: NetworkFault, words: Sequence[str], *, program: str = "sync") -> bool:
    if world.rng.random() < 0.5:
        _disconnect(world)  # else through the connection that is open
    world.wire.reset()
    struck = fault(world)
    code, _ = world.run(*words, program=program)
    for timer in world.timers:
        timer.join()
    has_struck = bool(struck())
    world.mend()
    for _ in range(TRIES):
        code, said = world.run(*words, program=program)
        if code == 0:
            break
    else:
        world.notes.append(f"{words[0]} ends with {code} though the fault is over: {said[-400:]}")
    return has_struck


@contextmanager
def two_machines(folder: Path) -> Iterator[World]:
    """Yield two machines with a wire between them."""
    far = FarMachine(folder / "far")
    wire, own = Wire(far.port), far.port
    far.port = wire.port
    far.write_client_config()
    far.port = own
    ssh = far.folder / "client/ssh"  # in which the minute that ssh waits for a silent host is a few seconds
    changes = " ".join(f'[ "$word" = {old} ] && word={new};' for old, new in HASTE)
    ssh.write_text(
        "#!/bin/bash\nargs=()\n"
        f'for word in "$@"; do {changes} args+=("$word"); done\n'
        + ssh.read_text().partition("\n")[2].replace('"$@"', '"${args[@]}"')
    )
    runtime = folder / "run"
    for path in (runtime, folder / "home"):
        path.mkdir(mode=0o700)
    environment = {**os.environ, **far.environment(runtime), "PYTHONPATH": str(ROOT), "HOME": str(folder / "home")}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "NO_COLOR": "1"}
    settings = runtime / "config/band/config.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"hosts: {{far: {{python: {sys.executable}}}}}\n")
    with running(far):
        world = World(folder, far, wire, random.Random(0), environment, folder / "home")
        try:
            yield world
        finally:
            _disconnect(world)
            wire.close()


def strike(world: World, *, deed: str, fault: str, seed: str) -> Injection:
    """Do one thing under one fault, and say what came of it."""
    world.rng, world.notes = random.Random(f"{seed} {deed} {fault}"), []
    name = f"maze-{seed.replace('.', '-')}"
    has_struck = DEEDS[deed](world, name, FAULTS[fault])
    for folder in (world.far.home, world.home, world.home / "sweeps"):
        for path in folder.glob(f"*{name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    is_lost = any("not what" in note for note in world.notes)
    return Injection(
        kind="network", fault=fault, seed=f"{seed} {deed}", hit=has_struck,
        lost=int(is_lost), wrong=int(bool(world.notes) and not is_lost), note="; ".join(world.notes)[:2000],
    )  # fmt: skip


def bench(ledger: Ledger, *, folder: Path, seed: int, until: float) -> None:
    """Inject until that time."""
    rng = random.Random(seed)
    with two_machines(folder) as world:
        for number in range(10**6):
            if time.monotonic() > until:
                return
            deed, fault = rng.choice(list(DEEDS)), list(FAULTS)[number % len(FAULTS)]
            ledger.add(strike(world, deed=deed, fault=fault, seed=f"{seed}.{number}"))
