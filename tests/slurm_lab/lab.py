"""A lab: munged, mariadbd, slurmdbd, slurmctld and one slurmd a node, under one folder and in namespaces of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from slurm_lab import configuration, init
from slurm_lab.configuration import Plan, Settings

PORTS = range(20000, 32000, 64)  # below those that the kernel hands out by itself
PR_SET_PDEATHSIG_COMMAND = ("setpriv", "--pdeathsig", "KILL")
FOLDERS = ("etc", "run", "log", "state", "gpu", "home", "database")
LONGEST_SOCKET = 107  # bytes in a Unix socket's address


class LabError(Exception):
    """The lab does not do what it should; the message holds the end of the log that tells why."""


def wait_for(condition: Callable[[], object], *, timeout_s: float = 30, what: str = "") -> None:
    """Poll until `condition()` is true.

    Raises:
        LabError: it is still false after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"still waiting after {timeout_s:g} s{': ' + what if what else ''}")
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process's main thread."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def claim_ports() -> tuple[socket.socket, int]:
    """Return a socket that holds the first port of a free block, and that port; the rest goes with it."""
    for first in PORTS:
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
            claim.listen()
        except OSError:
            claim.close()
        else:
            return claim, first
    raise LabError(f"every port block from {PORTS[0]} to {PORTS[-1]} is taken: are that many labs running?")


class Node:
    """One node: a slurmd with a host name, process ids and a scratch disk of its own."""

    def __init__(self, lab: Lab, name: str) -> None:
        """Name the node; `start` brings it up."""
        self.lab = lab
        self.name = name
        self.scratch = lab.plan.scratch(name)  # what jobs on the node see as /disk/scratch
        self.init_pid = 0  # host process id of the node's first process
        self._holder: subprocess.Popen[str] | None = None
        self._slurmd: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Boot the node if it is down, and start its slurmd if that is not running."""
        if self._holder is None or self._holder.poll() is not None:
            self._boot()
        if self._slurmd is None or self._slurmd.poll() is not None:
            self._slurmd = self.lab.daemon(["slurmd", "-D", "-N", self.name], inside=self.init_pid)

    def _boot(self) -> None:
        script = (
            f'hostname {self.name} && mount -t proc proc /proc && mount --bind "$1" /disk/scratch && echo ready && '
            "trap '' CHLD && exec sleep infinity"  # ignored, so that the kernel reaps the node's orphans
        )
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
        self._holder = self.lab.inside(
            self.lab.init_pid, [*unshare, "sh", "-c", script, "sh", str(self.scratch)], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise LabError(f"node {self.name} does not boot; see {self.lab.plan.root}/log/daemons")
        ((unshare_pid,),) = [children(self._holder.pid)]
        (self.init_pid,) = children(unshare_pid)

    def pids(self) -> list[int]:
        """Return the host process ids of all that runs on the node, its first process excepted."""
        home = os.readlink(f"/proc/{self.init_pid}/ns/uts")
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/uts") == home and int(entry.name) != self.init_pid:
                    found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """Cut the power: slurmd and every process of every job are gone at once."""
        assert self._holder is not None
        os.kill(self.init_pid, signal.SIGKILL)
        self._holder.wait(timeout=30)

    def kill_slurmd(self) -> None:
        """Kill -9 the slurmd alone; jobs live on."""
        assert self._slurmd is not None
        os.kill(children(self._slurmd.pid)[0], signal.SIGKILL)
        self._slurmd.wait(timeout=30)

    def stop(self) -> None:
        """Freeze everything on the node, slurmd, supervisors and trainers alike."""
        self._signal_all(signal.SIGSTOP)

    def wake(self) -> None:
        """Let a stopped node go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        signalled: set[int] = set()
        while new := set(self.pids()) - signalled:  # a process may have forked while we went through them
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            signalled |= new

    def run(self, command: Sequence[str | Path], *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on the node, outside of any job."""
        return subprocess.run(
            self.lab.inside_command(self.init_pid, command), env=self.lab.environment, capture_output=True, text=True,
            timeout=timeout_s, stdin=subprocess.DEVNULL,
        )  # fmt: skip


class Lab:
    """A running Slurm cluster, as a context manager."""

    def __init__(
        self,
        root: Path,
        *,
        nodes: int = 2,
        cpus: int = 4,
        memory_mb: int = 16000,
        accounting: bool = True,
        settings: Settings | None = None,
    ) -> None:
        """Plan a lab in a folder of its own; `settings` are lines of slurm.conf that replace or join the lab's."""
        self._claim, first_port = claim_ports()
        self.plan = Plan(
            root=root.resolve(),
            node_names=tuple(f"c{number}" for number in range(1, nodes + 1)),
            cpus=cpus,
            memory_mb=memory_mb,
            accounting=accounting,
            first_port=first_port,
        )
        self.settings: Settings = dict(settings or {})
        self.home = self.plan.root / "home"
        self.nodes = {name: Node(self, name) for name in self.plan.node_names}
        self.init_pid = 0
        self._init: subprocess.Popen[str] | None = None
        self._daemons: dict[str, subprocess.Popen[str]] = {}

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        """The whole environment of a user on the login host, nothing inherited from the tests'."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "SLURM_CONF": f"{self.plan.root}/etc/slurm.conf",
        }

    def __enter__(self) -> Lab:
        """Start everything; return when all nodes are idle."""
        try:
            self._prepare()
            self._start_init()
            self._start_munged()
            if self.plan.accounting:
                self._start_database()
                self.start_dbd()
            self.start_controller()
            for node in self.nodes.values():
                node.start()
            self.wait_for(self.is_idle, what="all nodes idle")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process of the lab; its mounts go with them, its folder stays."""
        self.close()

    def close(self) -> None:
        """End every process of the lab."""
        if self._init is not None:
            if self.init_pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.init_pid, signal.SIGKILL)
            self._init.kill()
            self._init.wait(timeout=30)
        holders = [node._holder for node in self.nodes.values()] + [node._slurmd for node in self.nodes.values()]
        for process in [*self._daemons.values(), *holders]:
            if process is not None:
                process.wait(timeout=30)
        self._claim.close()

    def _prepare(self) -> None:
        plan = self.plan
        for folder in FOLDERS:
            (plan.root / folder).mkdir(parents=True, exist_ok=True)
        for name in plan.node_names:
            plan.scratch(name).mkdir(parents=True, exist_ok=True)
            (plan.root / "nodes" / name / "spool").mkdir(exist_ok=True)
        for number in range(configuration.GPUS_PER_NODE):
            os.mknod(plan.root / f"gpu/nvidia{number}", 0o20666, os.makedev(1, 3))
        key = plan.root / "etc/munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        self._write_configuration()

    def _write_configuration(self) -> None:
        folder = self.plan.root / "etc"
        (folder / "slurm.conf").write_text(configuration.slurm_conf(self.plan, settings=self.settings))
        (folder / "hosts").write_text(configuration.hosts(self.plan))
        (folder / "gres.conf").write_text(configuration.gres_conf(self.plan))
        (folder / "slurmdbd.conf").touch(mode=0o600)
        (folder / "slurmdbd.conf").write_text(configuration.slurmdbd_conf(self.plan))

    def _start_init(self) -> None:
        owner = os.pidfd_open(os.getpid())
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
        command = [*unshare, sys.executable, "-I", init.__file__, str(self.plan.root), str(owner)]
        kept = (owner, self._claim.fileno())
        self._init = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=kept)
        os.close(owner)
        assert self._init.stdout is not None
        if self._init.stdout.readline() != "ready\n":
            raise LabError("the lab's first process does not start; its words are above")
        (self.init_pid,) = children(self._init.pid)

    def inside_command(self, pid: int, command: Sequence[str | Path], *, pid_namespace: bool = True) -> list[str]:
        """Return the command line that runs a command in the namespaces of a process."""
        namespaces = ["--mount", "--uts", *(["--pid"] if pid_namespace else [])]
        return [*PR_SET_PDEATHSIG_COMMAND, "nsenter", "--target", str(pid), *namespaces, "--", *map(str, command)]

    def inside(self, pid: int, command: Sequence[str | Path], *, stdout: int | None = None) -> subprocess.Popen[str]:
        """Start a command in the namespaces of a process; it ends with them."""
        log = self.plan.root / "log/daemons"
        with log.open("a") as words:
            return subprocess.Popen(
                self.inside_command(pid, command),
                env={**self.environment, "MYSQL_UNIX_PORT": str(self.plan.database_socket)},
                stdin=subprocess.DEVNULL,
                stdout=words if stdout is None else stdout,
                stderr=words,
                text=True,
            )

    def daemon(self, command: Sequence[str | Path], *, inside: int | None = None) -> subprocess.Popen[str]:
        """Start a daemon that stays in the foreground."""
        return self.inside(self.init_pid if inside is None else inside, command)

    def _start_munged(self) -> None:
        root = self.plan.root
        self._daemons["munged"] = self.daemon(
            ["munged", "--foreground", "--force", f"--key-file={root}/etc/munge.key",
             f"--socket={self.plan.munge_socket}", f"--pid-file={root}/run/munge.pid",
             f"--log-file={root}/log/munged", f"--seed-file={root}/run/munge.seed"]
        )  # fmt: skip
        self.wait_for(self.plan.munge_socket.exists, what="munged")

    def _start_database(self) -> None:
        small = ["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=16M"]
        where = ["--no-defaults", "--user=root", f"--datadir={self.plan.root}/database", *small]
        self.run(
            ["mariadb-install-db", *where, "--auth-root-authentication-method=normal", "--skip-test-db"], check=True
        )
        quick = ["--skip-networking", "--innodb-flush-log-at-trx-commit=0"]
        files = [f"--socket={self.plan.database_socket}", f"--pid-file={self.plan.root}/run/mysql.pid"]
        self._daemons["mariadbd"] = self.daemon(["mariadbd", *where, *quick, *files])
        self.wait_for(self.plan.database_socket.exists, what="mariadbd")

    def start_dbd(self) -> None:
        """Start slurmdbd and wait until it answers."""
        self._daemons["slurmdbd"] = self.daemon(["slurmdbd", "-D"])
        self.wait_for(lambda: self.run(["sacctmgr", "--noheader", "show", "cluster"]).returncode == 0, what="slurmdbd")
        if (
            "lab"
            not in self.run(
                ["sacctmgr", "--noheader", "--parsable2", "show", "cluster", "format=cluster"]
            ).stdout.split()
        ):
            self.run(["sacctmgr", "--immediate", "add", "cluster", "lab"], check=True)
            self.run(["sacctmgr", "--immediate", "modify", "account", "root", "set", "qos=normal"], check=True)

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        self._daemons["slurmctld"] = self.daemon(["slurmctld", "-D"])
        self.wait_for(lambda: self.run(["scontrol", "ping"]).returncode == 0, what="slurmctld")

    def stop_controller(self) -> None:
        """End slurmctld as `scontrol shutdown slurmctld` does."""
        self._stop("slurmctld")

    def stop_dbd(self) -> None:
        """End slurmdbd; slurmctld keeps what it has to say until it is back."""
        self._stop("slurmdbd")

    def _stop(self, name: str) -> None:
        process = self._daemons[name]
        os.kill(children(process.pid)[0], signal.SIGTERM)
        process.wait(timeout=30)

    def run(
        self, command: Sequence[str | Path], *, cwd: Path | None = None, timeout_s: float = 60, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user on the login host would, in `home` unless told otherwise."""
        with self.popen(command, cwd=cwd) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            raise LabError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{out}{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def popen(self, command: Sequence[str | Path], *, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start a command on the login host; the process is the command itself, so that it can be killed."""
        where = ["env", f"--chdir={cwd or self.home}"]
        return subprocess.Popen(
            self.inside_command(self.init_pid, [*where, *command], pid_namespace=False),
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def sbatch(self, *options: str, wrap: str) -> str:
        """Submit one shell line and return the job id."""
        return self.run(["sbatch", "--parsable", *options, "--wrap", wrap], check=True).stdout.strip()

    def wait_for(self, condition: Callable[[], object], *, timeout_s: float = 30, what: str = "") -> None:
        """Poll until `condition()` is true; see `wait_for` of this module."""
        wait_for(condition, timeout_s=timeout_s, what=what)

    def is_idle(self) -> bool:
        """Return whether every node is idle."""
        states = self.run(["sinfo", "--noheader", "--Node", "--partition=normal", "--format=%T"]).stdout.split()
        return len(states) == len(self.nodes) and set(states) == {"idle"}

    def job_states(self) -> dict[str, str]:
        """Return the state of every job and array task that slurmctld still knows, by id such as "12" or "12_3"."""
        out = self.run(["squeue", "--noheader", "--states=all", "--array", "--format=%i %T"], check=True).stdout
        return {job: state for job, state in (line.split() for line in out.splitlines())}

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left."""

        def is_empty() -> bool:
            self.run(["scancel", "--user=root"])
            return not self.run(["squeue", "--noheader"], check=True).stdout

        self.wait_for(is_empty, what="an empty queue")

    def reset(self) -> None:
        """Undo what a test did: daemons run, limits and settings are the lab's own, no job, empty home and scratch."""
        for name, start in (("slurmdbd", self.start_dbd), ("slurmctld", self.start_controller)):
            if name in self._daemons and self._daemons[name].poll() is not None:
                start()
        for node in self.nodes.values():
            node.start()
            node.wake()
        if self.plan.accounting:
            self.set_limits()
        self.cancel_all()
        self.wait_for(self.is_idle, what="all nodes idle")
        for folder in (self.home, *(node.scratch for node in self.nodes.values())):
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def set_limits(self, *, max_submit: int = -1, max_jobs: int = -1) -> None:
        """Limit the jobs, array tasks counted singly, that one may have queued and running; -1 is no limit."""
        limits = [f"MaxSubmitJobs={max_submit}", f"MaxJobs={max_jobs}"]
        self.run(["sacctmgr", "--immediate", "modify", "user", "root", "set", *limits], check=True)
