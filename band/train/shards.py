"""The processes that share the members of a search: one a shard, rank 0 being the trainer that the supervisor started.

Every rank trains its members and takes the same decisions from the same scores; what moves between them are rows of
members, through torch.distributed (gloo on CPUs, NCCL between GPUs). Alone, a rank moves nothing.

A rank ends when rank 0 does, whose end of the pipe on its stdin closes then; rank 0 fails when a rank has ended.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from band.config import PbtConfig
from band.errors import BandError, RankLost
from band.train.device import device_of
from band.train.generations import number_of
from band.train.population import Member, Population

WORDS = ("", "checkpoint", "stop", "rehearse")
TIMEOUT = timedelta(minutes=15)  # for a rank that neither answers nor dies; steps and checkpoints take seconds
LOCAL = "127.0.0.1"


@dataclass
class Ranks:
    """This process among those that share a search."""

    members: int  # of the search, on all ranks
    rank: int = 0
    size: int = 1
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)  # that rank 0 has started

    def owner(self, number: int) -> int:
        """Return the rank that trains a member."""
        return number * self.size // self.members

    def agree(self, word: str) -> str:
        """Return what rank 0 says is to be done, one of WORDS; another word asks for a checkpoint."""
        if self.size == 1:
            return word
        code = torch.tensor([WORDS.index(word) if word in WORDS else 1])
        with self._heard():
            dist.broadcast(code, src=0)
        return WORDS[int(code)]

    def share(self, value: Any) -> Any:
        """Return the value that rank 0 gives."""
        if self.size == 1:
            return value
        values = [value]
        with self._heard():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def everyone(self, members: Sequence[Member]) -> list[Member]:
        """Return the members of all ranks, by number."""
        if self.size == 1:
            return list(members)
        found: list[list[Member]] = [[] for _ in range(self.size)]
        with self._heard():
            dist.all_gather_object(found, list(members))
        return [member for part in found for member in part]

    def collect(self, population: Population) -> Population:
        """Return, at rank 0, a population with the members of all ranks; elsewhere what is given."""
        if self.size == 1:
            return population
        members = self.everyone(population.members)
        counts = Counter(self.owner(number_of(member.run_id)) for member in members)
        parts = [population.rows()]
        with self._heard():
            if self.rank and counts[self.rank]:
                _send(population.rows(), to=0)
            if not self.rank:
                others = (rank for rank in range(1, self.size) if counts[rank])
                parts += [_receive(population.rows(), count=counts[rank], source=rank) for rank in others]
        return population if self.rank else population.with_rows(members, _joined(parts))

    def exchange(self, population: Population, parents: Sequence[int]) -> Population:
        """Return a population with, for each member that is trained here, the row of its parent, wherever that was.

        Args:
            population: of this rank, when a generation has ended.
            parents: of every member, by number.
        """
        rows = population.rows()
        positions = {number_of(member.run_id): p for p, member in enumerate(population.members)}
        found = []
        with self._heard():
            for number, parent in enumerate(parents):
                to, source = self.owner(number), self.owner(parent)
                if source == self.rank:
                    row = [value[positions[parent] : positions[parent] + 1] for value in rows]
                    if to == self.rank:
                        found.append(row)
                    else:
                        _send(row, to=to)
                elif to == self.rank:
                    found.append(_receive(rows, count=1, source=source))
        return population.with_rows([], _joined(found))

    def close(self) -> None:
        """Wait for the ranks that were started, who have nothing left to do."""
        if self.size > 1:
            dist.destroy_process_group()
        for process in self.others:
            process.wait(timeout=TIMEOUT.total_seconds())

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Say in words that another rank has ended or does not answer."""
        try:
            yield
        except RuntimeError as error:
            time.sleep(0.5)  # so that the end of a process shows in its status
            codes = [code for process in self.others if (code := process.poll())]
            was_killed = any(code < 0 or code > 128 for code in codes)  # by a signal, as srun tells it too
            ended = "; ".join(f"one ended with code {code}" for code in codes) or str(error).splitlines()[0]
            raise (RankLost if was_killed else BandError)(
                f"rank {self.rank} of {self.size} that share a search has lost another: {ended}; the log has its words"
            ) from error


def _joined(parts: Sequence[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.cat(values) for values in zip(*parts, strict=True)]


def _send(rows: Sequence[torch.Tensor], *, to: int) -> None:
    for value in rows:
        dist.send(value.contiguous(), dst=to)


def _receive(like: Sequence[torch.Tensor], *, count: int, source: int) -> list[torch.Tensor]:
    found = [value.new_empty((count, *value.shape[1:])) for value in like]
    for value in found:
        dist.recv(value, src=source)
    return found


@dataclass(frozen=True)
class Launch:
    """How this process finds the others that share a search; without `arguments` it can only be alone."""

    arguments: tuple[str, ...] = ()  # of the command line that started rank 0
    rank: int = 0
    store: str = ""  # HOST:PORT where rank 0 keeps the addresses of all

    def device(self, kind: str) -> torch.device:
        """Return this rank's device: of several GPUs of a machine each rank takes another."""
        if kind != "cuda" or not self.rank:
            return device_of(kind)
        device = torch.device("cuda", self.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device

    def join(self, run: str, pbt: PbtConfig, *, device: torch.device) -> Ranks:
        """Return this process as one of those that share the search of a run; rank 0 starts the others.

        Raises:
            BandError: they do not come up.
        """
        ranks = Ranks(pbt.members, self.rank, pbt.shards)
        if ranks.size == 1:
            return ranks
        assert self.arguments or self.rank, "only a trainer process can be shared"
        with ranks._heard():
            store = self._start(ranks, run) if not self.rank else self._find(ranks)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=TIMEOUT)
        return ranks

    def _start(self, ranks: Ranks, run: str) -> dist.TCPStore:
        """Start the other ranks and wait until each is there, or one has ended.

        By srun where the Slurm job has a task for each rank, on whatever nodes; else as children on this machine, among
        which its cores are then shared.
        """
        has_tasks = int(os.environ.get("SLURM_NTASKS") or 1) >= ranks.size and shutil.which("srun")
        host = _own_address() if has_tasks else LOCAL
        store = dist.TCPStore(host, 0, ranks.size, True, timeout=TIMEOUT, wait_for_workers=False)
        arguments = [*self.arguments, "--runs", run, "--store", f"{host}:{store.port}"]
        if has_tasks:
            ranks.others.append(_by_srun(ranks.size, arguments))
        else:
            _share_cores(ranks.size)
            ranks.others += [_here(rank, arguments) for rank in range(1, ranks.size)]
        while not store.check([f"here/{rank}" for rank in range(1, ranks.size)]):
            if any(process.poll() for process in ranks.others):
                raise RuntimeError("it did not start")
            time.sleep(0.05)
        return store

    def _find(self, ranks: Ranks) -> dist.TCPStore:
        host, _, port = self.store.rpartition(":")
        if host == LOCAL:
            _share_cores(ranks.size)
        store = dist.TCPStore(host, int(port), ranks.size, False, timeout=TIMEOUT)
        store.set(f"here/{ranks.rank}", "")
        return store


def _own_address() -> str:
    """Return the name under which other nodes find this one; where it has none, all are one machine: loopback."""
    try:
        socket.gethostbyname(os.uname().nodename)
    except OSError:
        return LOCAL
    return os.uname().nodename


def _share_cores(size: int) -> None:
    """Take an equal part of the task's threads, and loopback, which all ranks are on."""
    torch.set_num_threads(max(torch.get_num_threads() // size, 1))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _here(rank: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "band.train.worker", *arguments, "--rank", str(rank)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def _by_srun(size: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a task for every rank; that of rank 0, which is here already, ends at once."""
    cpus = ["--cpus-per-task", os.environ["SLURM_CPUS_PER_TASK"]] if os.environ.get("SLURM_CPUS_PER_TASK") else []
    srun = ["srun", "--overlap", "--kill-on-bad-exit=1", f"--ntasks={size}", "--distribution=block", *cpus]
    command = [*srun, sys.executable, "-m", "band.train.worker", *arguments, "--rank=-1"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "BAND_DATA_SOURCE": "home"})
