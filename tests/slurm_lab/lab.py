"""A lab: munged, mariadbd, slurmdbd, slurmctld and one slurmd a node, under one folder and in namespaces of its own."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from slurm_lab import configuration, init
from slurm_lab.configuration import CGROUP_KILLS, NO_WCKEYS, QUICK_FAILURE, Plan, Settings
from slurm_lab.namespaces import UNSHARE, Host, LabError, Process, wait_for
from slurm_lab.node import Node

__all__ = ["CGROUP_KILLS", "NO_WCKEYS", "QUICK_FAILURE", "Lab", "LabError", "Node"]

PORTS = range(20000, 32000, 64)  # below those that the kernel hands out by itself
FOLDERS = ("etc", "run", "log", "state", "gpu", "home", "database")
LONGEST_SOCKET = 107  # bytes in the address of a Unix socket
# The shell outlives the owner, and takes away the only thing that the kernel would keep.
GUARDIAN = '"$@"; find "$CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null'


def claim_ports() -> tuple[socket.socket, int]:
    """Return a socket that holds the first port of a free block, and that port; the rest of the block goes with it.

    Raises:
        LabError: all are taken.
    """
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


class Lab:
    """A Slurm cluster, running while this is entered; everything of it lies in one folder."""

    def __init__(
        self,
        root: Path,
        *,
        nodes: int = 2,
        cpus: int = 4,
        memory_mb: int = 16000,
        accounting: bool = True,
        settings: Settings | None = None,
        home_seen_late_s: float = 0,
    ) -> None:
        """Plan a lab.

        Args:
            root: the folder of all that is the lab's.
            nodes: how many.
            cpus: of a node.
            memory_mb: of a node.
            accounting: whether there is a slurmdbd.
            settings: lines of slurm.conf that replace or join those of `configuration.base_settings`.
            home_seen_late_s: for how long each node's kernel goes on seeing names, absent ones too, and sizes of home
                as it saw them last, as a client of NFS does (needs bindfs); the login host sees home at once.

        Raises:
            LabError: the path of `root` is too long for a socket, or no port is free.
        """
        longest = root.resolve() / "nodes/c1/spool/c1_9999.4294967291"  # by which slurmd finds the script of a job
        if len(os.fsencode(longest)) > LONGEST_SOCKET:
            raise LabError(f"{root.resolve()} is too long a path for a lab: its sockets have {LONGEST_SOCKET} bytes")
        self._claim, first_port = claim_ports()
        self.plan = Plan(
            root=root.resolve(),
            node_names=tuple(f"c{number}" for number in range(1, nodes + 1)),
            cpus=cpus,
            memory_mb=memory_mb,
            accounting=accounting,
            first_port=first_port,
        )
        self.home = self.plan.home
        self.nodes = {
            name: Node(name, plan=self.plan, home_seen_late_s=home_seen_late_s) for name in self.plan.node_names
        }
        self._settings: Settings = dict(settings or {})
        self._changed: Settings = {}  # settings of `configure`, until `reset`
        self._guardian: subprocess.Popen[str] | None = None  # outside of the lab, and alive as long as it
        self._login: Host | None = None
        self._daemons: dict[str, Process] = {}

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        """The whole environment of a user on the login host; nothing is inherited from the caller's."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "USER": "root",
            "LOGNAME": "root",
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "SLURM_CONF": f"{self.plan.root}/etc/slurm.conf",
            "BAND_KERNELS_FOLDER": f"{self.plan.root}/kernels",  # built once a lab, not once a home
        }

    # Up and down

    def __enter__(self) -> Lab:
        """Start everything; return when all nodes are idle.

        Raises:
            LabError: something does not start.
        """
        try:
            self._lay_out()
            self._boot()
            self._start_munged()
            if self.plan.accounting:
                self._start_database()
                self.start_dbd()
            self.start_controller()
            for node in self.nodes.values():
                node.start(login=self.login)
            self.wait_for(self.is_idle, what="all nodes to be idle")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the lab."""
        self.close()

    def close(self) -> None:
        """End every process of the lab; its mounts go with them, its folder stays for its logs."""
        if self._login is not None:
            self._login.first.end()
        if self._guardian is not None:
            self._guardian.communicate(timeout=30)
        self._claim.close()

    @property
    def login(self) -> Host:
        """The login host's namespaces, in which the lab's daemons run as well."""
        assert self._login is not None, "the lab was never entered"
        return self._login

    def _lay_out(self) -> None:
        plan = self.plan
        for folder in FOLDERS:
            (plan.root / folder).mkdir(parents=True, exist_ok=True)
        for name in plan.node_names:
            plan.scratch(name).mkdir(parents=True, exist_ok=True)
            plan.spool(name).mkdir(exist_ok=True)
        for number in range(configuration.GPUS_PER_NODE):
            os.mknod(plan.root / f"gpu/nvidia{number}", 0o20666, os.makedev(1, 3))
        self._write("munge.key", secrets.token_hex(64), mode=0o600)
        self._write("slurmdbd.conf", configuration.slurmdbd_conf(plan), mode=0o600)
        self._write("slurm.conf", configuration.slurm_conf(plan, settings=self._settings))
        self._write("gres.conf", configuration.gres_conf(plan))
        self._write("job_submit.lua", configuration.JOB_SUBMIT_LUA)
        self._write("cgroup.conf", configuration.CGROUP_CONF)
        self._write("hosts", configuration.hosts(plan))

    def _write(self, name: str, text: str, *, mode: int = 0o644) -> None:
        path = self.plan.root / "etc" / name
        path.touch(mode=mode)
        path.write_text(text)

    def _boot(self) -> None:
        owner = os.pidfd_open(os.getpid())  # readable when this process has ended, however it ended
        first = [sys.executable, "-I", init.__file__, self.plan.root, self.plan.cgroup, owner]
        log = self.plan.root / "log/daemons"
        environment = {
            **self.environment,
            "MYSQL_UNIX_PORT": str(self.plan.database_socket),
            "CGROUP": str(self.plan.cgroup),
        }
        with log.open("a") as words:
            self._guardian = subprocess.Popen(
                ["sh", "-c", GUARDIAN, "sh", *UNSHARE, *map(str, first)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                pass_fds=(owner, self._claim.fileno()),
                start_new_session=True,  # Ctrl-C in a terminal is for the tests, not for the cluster
            )
        os.close(owner)
        self._login = Host.of(self._guardian, log=log, environment=environment)

    # Daemons

    def _start_daemon(self, command: Sequence[str | Path], *, is_ready: Callable[[], bool]) -> None:
        daemon = self._daemons[str(command[0])] = self.login.daemon(command)
        self.wait_for(lambda: not daemon.is_up() or is_ready(), what=f"{command[0]} to answer")
        if not daemon.is_up():
            raise LabError(f"{command[0]} ended:\n{self.login.log.read_text()[-2000:]}")

    def _start_munged(self) -> None:
        root, socket_path = self.plan.root, self.plan.munge_socket
        files = [f"--key-file={root}/etc/munge.key", f"--socket={socket_path}", f"--pid-file={root}/run/munge.pid"]
        files += [f"--log-file={root}/log/munged", f"--seed-file={root}/run/munge.seed"]
        # Force: the folders of a test may be closed to all but their owner.
        self._start_daemon(["munged", "--foreground", "--force", *files], is_ready=socket_path.exists)

    def _start_database(self) -> None:
        root, socket_path = self.plan.root, self.plan.database_socket
        small = ["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=16M"]
        # Its temporary tables are named by its process id, which in namespaces of their own all labs' servers have.
        where = ["--no-defaults", "--user=root", f"--datadir={root}/database", f"--tmpdir={root}/run", *small]
        install = [
            "mariadb-install-db",
            *where,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--force",
        ]
        self.run(install, check=True)
        quick = ["--skip-networking", "--innodb-flush-log-at-trx-commit=0"]
        files = [f"--socket={socket_path}", f"--pid-file={root}/run/mysql.pid"]
        self._start_daemon(["mariadbd", *where, *quick, *files], is_ready=socket_path.exists)

    def start_dbd(self) -> None:
        """Start slurmdbd; return when it answers."""
        show = ["sacctmgr", "--noheader", "--parsable2", "show", "cluster", "format=cluster"]
        self._start_daemon(["slurmdbd", "-D"], is_ready=lambda: self.run(show).returncode == 0)
        if not self.run(show, check=True).stdout:
            self.run(["sacctmgr", "--immediate", "add", "cluster", "lab"], check=True)

    def stop_dbd(self) -> None:
        """End slurmdbd; slurmctld keeps what it has to say until it is back."""
        self._daemons["slurmdbd"].end(signal.SIGTERM)

    def start_controller(self) -> None:
        """Start slurmctld, or let a paused one go on; return when it answers."""
        if "slurmctld" in self._daemons and self._daemons["slurmctld"].is_up():
            self._daemons["slurmctld"].send(signal.SIGCONT)
        else:
            is_ready = lambda: self.run(["scontrol", "ping"]).returncode == 0  # noqa: E731
            self._start_daemon(["slurmctld", "-D"], is_ready=is_ready)

    def stop_controller(self) -> None:
        """End slurmctld as an administrator does; it keeps its jobs."""
        self.run(["scontrol", "shutdown", "slurmctld"], check=True)
        self.wait_for(lambda: not self._daemons["slurmctld"].is_up(), what="slurmctld to end")

    def kill_controller(self) -> None:
        """Kill -9 slurmctld; it may have forgotten its last few seconds when it is back."""
        self._daemons["slurmctld"].end()

    def pause_controller(self) -> None:
        """Freeze slurmctld: commands hang, time out, and what they asked is done when it goes on."""
        self._daemons["slurmctld"].send(signal.SIGSTOP)

    def configure(self, **settings: str | int) -> None:
        """Give slurm.conf other lines, beside those the lab was made with, and restart what reads it.

        Jobs live on. Daemons and nodes that were down or stopped are up again.
        """
        self._changed = settings
        self._write("slurm.conf", configuration.slurm_conf(self.plan, settings={**self._settings, **settings}))
        self._revive()
        self.stop_controller()
        self.start_controller()
        for node in self.nodes.values():
            node.restart_slurmd()
        self.wait_for(self.is_up, what="all nodes to be up")

    @contextlib.contextmanager
    def configured(self, **settings: str | int) -> Iterator[None]:
        """Have other settings for a while; see `configure`."""
        try:
            self.configure(**settings)
            yield
        finally:
            self.configure()

    def update_node(self, name: str, state: str) -> None:
        """Say of a node what an administrator says: DRAIN, DOWN (its jobs are lost at once) or RESUME."""
        self.run(["scontrol", "update", f"NodeName={name}", f"State={state}", "Reason=lab"], check=True)

    def set_limits(self, *, max_submit: int = -1, max_jobs: int = -1) -> None:
        """Limit the jobs, array tasks counted singly, that may be queued and that may run; -1 is no limit."""
        limits = {"MaxSubmitJobs": max_submit, "MaxJobs": max_jobs}
        assignments = [f"{name}={value}" for name, value in limits.items()]
        self.run(["sacctmgr", "--immediate", "modify", "user", "root", "set", *assignments], check=True)
        wanted = [f"{name}={value if value >= 0 else ''}" for name, value in limits.items()]

        def is_known() -> bool:
            shown = self.run(["scontrol", "show", "assoc_mgr", "flags=assoc", "users=root"]).stdout
            known = re.sub(r"\(\d*\)", "", shown).split()
            return all(limit in known for limit in wanted)

        self.wait_for(is_known, what=f"slurmctld to know {' '.join(wanted)}")

    def wiping_epilog(self) -> Path:
        """Return a script that empties a node's scratch, for the setting `Epilog`."""
        path = self.plan.root / "etc/epilog"
        path.write_text(f"#!/bin/sh\nrm -rf {init.SCRATCH}/*\n")
        path.chmod(0o755)
        return path

    # What a user does

    def run(
        self, command: Sequence[str | Path], *, cwd: Path | None = None, timeout_s: float = 60, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user on the login host would, in `home` unless told otherwise.

        Raises:
            LabError: `check` is set and the command failed; the message holds its words.
            subprocess.TimeoutExpired: it was killed after `timeout_s`.
        """
        with self.popen(command, cwd=cwd) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            raise LabError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{out}{err}")
        return subprocess.CompletedProcess(list(map(str, command)), process.returncode, out, err)

    def popen(self, command: Sequence[str | Path], *, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start a command on the login host; the process is the command itself, and ends with the calling thread."""
        return subprocess.Popen(
            self.login_command(command, cwd=cwd),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def login_command(self, command: Sequence[str | Path], *, cwd: Path | None = None) -> list[str]:
        """Return the command line that becomes a command on the login host, and ends with the thread that starts it."""
        host = ["nsenter", f"--target={self.login.first.pid}", "--mount", "--uts"]
        return ["setpriv", "--pdeathsig", "KILL", *host, "env", f"--chdir={cwd or self.home}", *map(str, command)]

    def sbatch(self, *options: str, wrap: str) -> str:
        """Submit a line of shell and return the job id; its output lands in `home`."""
        return self.run(["sbatch", "--parsable", *options, "--wrap", wrap], check=True).stdout.strip()

    def wait_for(self, condition: Callable[[], object], *, timeout_s: float = 30, what: str = "") -> None:
        """Poll until `condition()` is true.

        Raises:
            LabError: it is still false after `timeout_s`; the message shows queue and nodes.
        """
        wait_for(condition, timeout_s=timeout_s, what=what, situation=self._situation)

    def wait_for_job(self, job: str, *states: str, timeout_s: float = 60) -> None:
        """Wait until a job, or an array task such as "12_3", is in one of the states that `squeue` knows."""
        self.wait_for(
            lambda: self.job_states().get(job) in states, timeout_s=timeout_s, what=f"{job} to be {' or '.join(states)}"
        )

    def job_states(self) -> dict[str, str]:
        """Return the state of every job and array task that slurmctld still knows, by id such as "12" or "12_3"."""
        out = self.run(["squeue", "--noheader", "--states=all", "--array", "--format=%i=%T"], check=True).stdout
        return dict(line.split("=") for line in out.split())

    def job(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` says of a job or array task, by name: JobState, Restarts, NodeList …"""
        out = self.run(["scontrol", "--oneliner", "show", "job", job], check=True).stdout
        return dict(re.findall(r"([\w/:]+)=(.*?)(?= [\w/:]+=|\s*$)", out.strip()))

    def node_states(self) -> dict[str, str]:
        """Return the state of every node as `sinfo` says it, such as "idle" or "down*"."""
        out = self.run(["sinfo", "--noheader", "--Node", "--partition=normal", "--format=%N=%T"]).stdout
        return dict(line.split("=") for line in out.split())

    def is_idle(self) -> bool:
        """Return whether every node is up and has no job."""
        return set(self.node_states().values()) == {"idle"}

    def is_up(self) -> bool:
        """Return whether every node answers and takes jobs."""
        return set(self.node_states().values()) <= {"idle", "mixed", "allocated"}

    def pids(self, *, command: str = "", job: str = "", environment: str = "") -> list[int]:
        """Return processes on all nodes, as the machine counts them; see `Node.pids`."""
        found = (node.pids(command=command, job=job, environment=environment) for node in self.nodes.values())
        return list(itertools.chain.from_iterable(found))

    def _situation(self) -> str:
        if self._login is None or not self._login.first.is_up():
            return "the lab is down"
        shown = [self.run(command, timeout_s=15) for command in (["squeue", "--states=all"], ["sinfo", "--Node"])]
        return "".join(done.stdout + done.stderr for done in shown) + f"logs: {self.plan.root}/log"

    # Between tests

    def cancel_all(self) -> None:
        """Cancel every job, kill what it runs without waiting for it to end by itself, and wait until none is left."""

        def is_empty() -> bool:
            self.run(["scancel", "--user=root"])
            for pid in self.pids(environment="SLURM_JOB_ID="):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.run(["squeue", "--noheader"], check=True).stdout

        self.wait_for(is_empty, what="an empty queue")

    def reset(self) -> None:
        """Undo what a test did: all is up, limits and settings are its own, no job; home and scratch are empty."""
        if self._changed:
            self.configure()
        self._revive()
        for node in self.nodes.values():
            node.repair()
        if self.plan.accounting:
            self.set_limits()
        self.cancel_all()
        for name, state in self.node_states().items():
            if state != "idle":
                self.run(["scontrol", "update", f"NodeName={name}", "State=RESUME"])  # refused where it needs none
        self.wait_for(self.is_idle, what="all nodes to be idle")
        for folder in (self.home, *(node.scratch for node in self.nodes.values())):
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _revive(self) -> None:
        if self.plan.accounting and not self._daemons["slurmdbd"].is_up():
            self.start_dbd()
        self.start_controller()
        for node in self.nodes.values():
            if node.host.first.is_up():
                node.wake()
            node.start()
