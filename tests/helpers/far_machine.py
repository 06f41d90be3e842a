"""A machine at the other end of ssh: a real sshd on loopback, with keys, a configuration and a home of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from proc import children_of

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""
USER = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
START_S = 10.0


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class FarMachine:
    """One sshd. What the test runs as `ssh` knows it as `far`; nobody's own ~/.ssh is touched."""

    def __init__(
        self,
        folder: Path,
        *,
        home: Path | None = None,
        environment: Mapping[str, str] | None = None,
        inside: Sequence[str] = (),
    ) -> None:
        """Lay it out.

        Args:
            folder: an empty folder for keys, logs and configuration.
            home: the home there; None: one in the folder.
            environment: what a session there finds, beside HOME.
            inside: words before the command line of sshd, which put it into namespaces.
        """
        self.folder, self.home, self.port = folder, home or folder / "home", free_port()
        self.log, self._inside = folder / "sshd.log", list(inside)
        self._environment = {"PATH": os.environ["PATH"], **(environment or {}), "HOME": str(self.home)}
        self.home.mkdir(parents=True, exist_ok=True)
        self.bin = folder / "bin"  # comes first in the PATH of a session there
        self.bin.mkdir(parents=True)
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
        (folder / "banner").write_text("")
        self.write_server_config()
        self.write_client_config()
        self._process: subprocess.Popen[bytes] | None = None

    def write_server_config(self) -> None:
        """Write sshd's configuration; a session's HOME and PATH are this machine's own."""
        lines = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {self.folder}/host_key", "UsePAM no",
            f"AuthorizedKeysFile {self.folder}/authorized_keys", "StrictModes no", "PermitRootLogin yes",
            "PidFile none", f"Banner {self.folder}/banner", "MaxStartups 100", "MaxSessions 50", "LogLevel INFO",
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in self._session().items()),
        ]  # fmt: skip
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def _session(self) -> dict[str, str]:
        return {**self._environment, "PATH": f"{self.bin}:{self._environment['PATH']}"}

    def hide(self, name: str) -> None:
        """Have a session there lack a command."""
        links = [path for folder in ("/usr/bin", "/bin") for path in Path(folder).iterdir() if path.name != name]
        shadow = self.folder / f"without-{name}"
        shadow.mkdir()
        for path in links:
            if not (shadow / path.name).exists():
                (shadow / path.name).symlink_to(path)
        self._environment["PATH"] = str(shadow)

    def knows(self, other: FarMachine, *, name: str, through: str = "") -> None:
        """Let home reach another machine too, by a name of its own and perhaps through this one, with the same key."""
        (other.folder / "authorized_keys").write_text((self.folder / "key.pub").read_text())
        jump = [f"ProxyJump {through}"] if through else []
        self.write_client_config(f"Host {name}", "HostName 127.0.0.1", f"Port {other.port}", *jump)
        with (self.folder / "known_hosts").open("a") as known:
            known.write((other.folder / "known_hosts").read_text())

    def write_client_config(self, *more: str) -> None:
        """Write what stands for ~/.ssh/config, and the `ssh` that reads it alone."""
        known = self.folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{self.port} {(self.folder / 'host_key.pub').read_text()}")
        common = [f"IdentityFile {self.folder}/key", "IdentitiesOnly yes", f"User {USER}"]
        common += [f"UserKnownHostsFile {known}", "GlobalKnownHostsFile none", "StrictHostKeyChecking yes"]
        hosts = ["Host far other", f"Port {self.port}", "HostName 127.0.0.1", *more, "Host *", *common]
        (self.folder / "ssh_config").write_text("\n".join(hosts) + "\n")
        wrapper = self.folder / "client" / "ssh"
        wrapper.parent.mkdir(exist_ok=True)
        ssh = shutil.which("ssh", path="/usr/bin:/bin")
        wrapper.write_text(f'#!/bin/sh\nexec {ssh} -F {self.folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)

    def start(self) -> None:
        """Start sshd and wait until it listens."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        command = [*self._inside, SSHD, "-D", "-f", self.folder / "sshd_config", "-E", self.log]
        self._process = subprocess.Popen(command, start_new_session=True)
        deadline = time.monotonic() + START_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                assert time.monotonic() < deadline and self._process.poll() is None, self.log.read_text()
                time.sleep(0.02)

    def restart(self) -> None:
        """Have sessions find what has changed since it was started."""
        self.stop()
        self.write_server_config()
        self.start()

    def stop(self) -> None:
        """End sshd and every session of it."""
        self.kill_sessions()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def sessions(self) -> list[int]:
        """Return the processes that serve connections: children of sshd, and theirs that are sshd too."""
        assert self._process is not None
        found, waiting = [], [self._process.pid]
        while waiting:
            parent = waiting.pop()
            for child in children_of(parent):
                found.append(child)
                waiting.append(child)
        return found

    def kill_sessions(self) -> int:
        """Kill every connection there is, as a network that is cut would; return how many processes that were."""
        if self._process is None or self._process.poll() is not None:
            return 0
        victims = self.sessions()
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return len(victims)

    @property
    def logins(self) -> int:
        """How often somebody has logged in."""
        return self.log.read_text().count("Accepted publickey") if self.log.exists() else 0

    def environment(self, runtime: Path) -> dict[str, str]:
        """Return the environment of a command at home: its `ssh` is ours, its sockets stand in `runtime`."""
        path = f"{self.folder}/client:{os.environ['PATH']}"
        return {"PATH": path, "XDG_RUNTIME_DIR": str(runtime), "XDG_CONFIG_HOME": str(runtime / "config")}


@contextmanager
def running(machine: FarMachine) -> Iterator[FarMachine]:
    """Start a machine, and end it with all its connections."""
    machine.start()
    try:
        yield machine
    finally:
        machine.stop()
