"""One's own part of a cluster: what one's running jobs have taken, and what fair-share says of one's accounts."""

from __future__ import annotations

import getpass
import math
import os
import re
from dataclasses import dataclass

from band.slurm.command import SlurmError, run
from band.slurm.jobs import SEPARATOR, whole
from band.slurm.options import count_gpus

_FIELDS = ("NumCPUs", "tres-alloc", "tres-per-node", "tres-per-job", "tres-per-task")
_GPUS = re.compile(r"gres/gpu=([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True)
class Use:
    """What one's running jobs have taken together."""

    jobs: int = 0
    cpus: int = 0
    gpus: int = 0


@dataclass(frozen=True, kw_only=True)
class Share:
    """One's standing in an account, as `sshare` has it."""

    account: str
    share: float  # of the cluster that one is promised, 0 to 1
    usage: float  # of all recent use that was one's own, 0 to 1
    factor: float | None  # of fair-share: 1 is served first, 0 last; None: not used here


def own_use(*, timeout_s: float = 20.0) -> Use:
    """Return what one's running jobs have taken.

    Raises:
        SlurmError: squeue failed.
    """
    columns = ",".join(f"{field}:{SEPARATOR}" for field in _FIELDS)
    argv = ["squeue", "--all", "--noheader", "--states=RUNNING", f"--user={os.getuid()}", f"--Format={columns}"]
    rows = [line.split(SEPARATOR) for line in run(argv, timeout_s=timeout_s).split("\n") if line]
    rows = [row for row in rows if len(row) >= len(_FIELDS)]
    cpus = sum(whole(row[0]) or 0 for row in rows)
    return Use(jobs=len(rows), cpus=cpus, gpus=sum(_gpus(*row[1:5]) for row in rows))


def _gpus(taken: str, *asked: str) -> int:
    """Return a job's GPUs as counted, or, on a cluster that does not count them, as asked for."""
    match = _GPUS.search(taken)
    return int(match[1]) if match else sum(count_gpus(text) for text in asked)


def shares(*, timeout_s: float = 20.0) -> list[Share]:
    """Return one's standing in each of one's accounts; none where the cluster does not keep any, or hides them."""
    columns = "Account,User,NormShares,EffectvUsage,FairShare"
    argv = ["sshare", "--noheader", "--parsable2", f"--users={getpass.getuser()}", f"--format={columns}"]
    try:
        rows = [line.split("|") for line in run(argv, timeout_s=timeout_s).splitlines()]
    except SlurmError:
        return []
    return [
        Share(
            account=row[0].strip(), share=_number(row[2]) or 0.0, usage=_number(row[3]) or 0.0, factor=_number(row[4])
        )
        for row in rows
        if len(row) == 5 and row[1]
    ]


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
