"""One node of a lab: a slurmd with a host name, process ids and a scratch disk of its own, and what can befall it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from slurm_lab.configuration import Plan
from slurm_lab.init import SCRATCH
from slurm_lab.namespaces import UNSHARE, Host, LabError, Process


class Node:
    """A node; its faults happen at once and last until `start`, `wake` or `repair`."""

    def __init__(self, name: str, *, plan: Plan, home_seen_late_s: float = 0) -> None:
        """Name the node; `start` brings it up. It may see of home, for some seconds, what it has seen before."""
        self.name = name
        self._home_seen_late_s = home_seen_late_s
        self.scratch = plan.scratch(name)  # the disk that is mounted as /disk/scratch, seen from outside
        self._plan = plan
        self._login: Host | None = None
        self._host: Host | None = None
        self._slurmd: Process | None = None
        self._covers: list[Path] = []  # folders that a fault has mounted something over

    @property
    def host(self) -> Host:
        """The node's namespaces."""
        assert self._host is not None, f"node {self.name} was never started"
        return self._host

    def start(self, *, login: Host | None = None) -> None:
        """Boot the node if it is down, and start its slurmd if that is not running; `login` names the lab it joins."""
        self._login = login or self._login
        is_boot = self._host is None or not self._host.first.is_up()
        if is_boot:
            self._host = self._boot()
            self._covers = []
        if not self.is_served():
            self._slurmd = self.host.daemon(["slurmd", "-D", "-N", self.name, *(["-b"] if is_boot else [])])

    def _boot(self) -> Host:
        assert self._login is not None
        late = f"-o entry_timeout={self._home_seen_late_s:g},negative_timeout={self._home_seen_late_s:g}"
        late += f",attr_timeout={self._home_seen_late_s:g}"
        home = f'bindfs {late} "$2" "$2"' if self._home_seen_late_s else "true"
        script = (
            f'hostname {self.name} && mount -t proc proc /proc && mount --bind "$1" {SCRATCH} && {home} && '
            "readlink /proc/self/ns/uts && trap '' CHLD && exec sleep infinity"  # the kernel reaps the node's orphans
        )
        with self._login.detach([*UNSHARE, "sh", "-c", script, "sh", self.scratch, self._plan.home]) as starter:
            return Host.of(starter, log=self._login.log, environment=self._login.environment)

    def kill(self) -> None:
        """Cut the power: slurmd and every process of every job are gone when this returns; the scratch disk stays."""
        self.host.first.end()

    def is_served(self) -> bool:
        """Return whether its slurmd is there."""
        return self._slurmd is not None and self._slurmd.is_up()

    def kill_slurmd(self) -> None:
        """Kill -9 the slurmd alone; jobs live on."""
        self._end_slurmd(signal.SIGKILL)

    def restart_slurmd(self) -> None:
        """Start slurmd anew, so that it reads its configuration; jobs live on."""
        self._end_slurmd(signal.SIGTERM)
        self.start()

    def _end_slurmd(self, number: signal.Signals) -> None:
        assert self._slurmd is not None
        self._slurmd.end(number)

    def stop(self) -> None:
        """Freeze everything on the node, slurmd, supervisors and trainers alike."""
        self.host.signal_all(signal.SIGSTOP)

    def wake(self) -> None:
        """Let a stopped node go on."""
        self.host.signal_all(signal.SIGCONT)

    def pids(self, *, command: str = "", job: str = "", environment: str = "") -> list[int]:
        """Return processes on the node, as the machine counts them, oldest first.

        Args:
            command: only those whose command line holds this text.
            job: only those of a job such as "12" or "12_3"; Slurm's own slurmstepd is none.
            environment: only those in whose environment a line begins so, such as "SLURM_JOB_ID=".
        """
        return [
            pid
            for pid in self.host.pids()
            if os.fsencode(command) in _read(pid, "cmdline").replace(b"\0", b" ")
            and os.fsencode(f"\0{environment}") in b"\0" + _read(pid, "environ")
            and job in ("", *_job_ids(_read(pid, "environ")))
        ]

    def run(self, command: Sequence[str | Path], *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on the node, outside of any job, and return what it said.

        Raises:
            LabError: it failed.
        """
        done = subprocess.run(
            self.host.command(command),
            env=dict(self.host.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode:
            raise LabError(f"on {self.name}, {' '.join(map(str, command))} ended with {done.returncode}: {done.stderr}")
        return done

    def shrink_scratch(self, *, size_mb: int) -> Path:
        """Put a small empty disk in the place of scratch; return the folder in which it can be seen from outside."""
        self._cover(SCRATCH, "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "scratch")
        return Path(f"/proc/{self.host.first.pid}/root") / SCRATCH.relative_to("/")

    def fill_scratch(self) -> Path:
        """Put a full disk in the place of scratch; return the folder in which it can be seen from outside."""
        folder = self.shrink_scratch(size_mb=1)
        self.run(["sh", "-c", f"! cat /dev/zero > {SCRATCH}/full"])
        return folder

    def protect(self, folder: Path = SCRATCH) -> None:
        """Make a folder read-only on this node; what has it open, or stands in it, may still write."""
        self._cover(folder, "--bind", str(folder))
        self.run(["mount", "-o", "remount,bind,ro", folder])

    def remove_scratch(self) -> None:
        """Leave the node without any /disk/scratch."""
        self._cover(SCRATCH.parent, "-t", "tmpfs", "-o", "ro,mode=755", "nothing")

    def _cover(self, folder: Path, *arguments: str) -> None:
        self.run(["mount", *arguments, folder])
        self._covers.append(folder)

    def repair(self) -> None:
        """Undo what was done to the node's folders."""
        while self._covers and self.host.first.is_up():
            self.run(["umount", "--lazy", self._covers[-1]])
            self._covers.pop()


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


def _job_ids(environment: bytes) -> tuple[str, str]:
    """Return both names of the job that a process belongs to, its own and the one as a task of an array."""
    pairs = (line.split("=", 1) for line in os.fsdecode(environment).split("\0") if "=" in line)
    known = dict(pairs)
    return known.get("SLURM_JOB_ID", ""), "{}_{}".format(*map(known.get, ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")))
