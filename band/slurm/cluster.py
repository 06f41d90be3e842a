"""What a cluster says of itself: limits, partitions, nodes. What it hides is None, and sbatch's refusal the limit."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from band.slurm.command import SlurmError, ask, run
from band.slurm.jobs import key_values, whole
from band.slurm.options import count_gpus
from band.slurm.units import UNLIMITED, time_s

_SETTING = re.compile(r"^(\w+)(?:\[\d+\])?\s*= (.*)$", re.MULTILINE)
_WHO = re.compile(r" \[[^]]*@[^]]*\]$")  # set a node's state, and when
_EXPECTED = re.compile(r"to start at (\S+) using (\d+) processors on nodes (\S+) in partition (\S+)")
_ACCOUNTS = "account,partition,qos,defaultqos,maxsubmit,grpsubmit,maxjobs,maxwall"
_QOS = "name,maxsubmitpu,maxsubmitpa,grpsubmit,maxjobspu,maxwall"


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition; None: not said, or no limit."""

    name: str
    is_default: bool = False
    state: str = ""
    max_wall_s: int | None = None
    qos: str = ""
    preempt_mode: str = ""
    tier: int = 0
    nodes: str = ""
    total_cpus: int = 0
    total_nodes: int = 0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node, and how much of it is taken."""

    name: str
    state: str = ""
    reason: str = ""
    cpus: int = 0
    cpus_taken: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    gpus_taken: int = 0
    features: str = ""
    partitions: tuple[str, ...] = ()

    @property
    def is_up(self) -> bool:
        """Whether jobs may start on it, now or when others end."""
        return not any(word in self.state for word in ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "MAINT", "POWER"))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one may ask of a cluster; None: hidden, or no limit."""

    version: str = ""
    cluster: str = ""
    max_array_size: int | None = None  # tasks that one array may have
    max_job_count: int | None = None  # jobs that the controller keeps, of all users
    max_submit_jobs: int | None = None  # of one's own, waiting and running, each task of an array one
    max_jobs: int | None = None  # of one's own that run
    max_wall_s: int | None = None
    has_accounting: bool | None = None
    job_requeue: bool | None = None
    partition: str = ""  # the one that jobs go to
    partitions: tuple[Partition, ...] | None = None
    nodes: tuple[Node, ...] | None = None  # of that partition


def limits(partition: str = "", *, account: str = "", qos: str = "", timeout_s: float = 20.0) -> Limits:
    """Return what a cluster allows a job in a partition (a list of them; "": the default one).

    Raises:
        SlurmError: no such command, or the controller does not answer; what alone is refused counts as hidden.
    """
    with ThreadPoolExecutor() as pool:  # sacctmgr takes a quarter of a second, twice
        config = pool.submit(run, ["scontrol", "show", "config"], timeout_s=timeout_s)
        seen_partitions = pool.submit(partitions, timeout_s=timeout_s)
        seen_nodes = pool.submit(nodes, timeout_s=timeout_s)
        user = pwd.getpwuid(os.getuid()).pw_name
        accounts = pool.submit(_table, "assoc", _ACCOUNTS, where=[f"user={user}"], timeout_s=timeout_s)
        qualities = pool.submit(_table, "qos", _QOS, where=[], timeout_s=timeout_s)
    settings = dict(_SETTING.findall(config.result()))
    found, everywhere = seen_partitions.result(), seen_nodes.result()
    names = [name for name in partition.split(",") if name] or [p.name for p in found or () if p.is_default]
    chosen = [p for p in found or () if p.name in names]
    walls = [p.max_wall_s for p in chosen if p.max_wall_s]
    rules = _rules(accounts.result(), qualities.result(), account=account, qos=qos, partitions=chosen)
    has_accounting = None
    if "AccountingStorageType" in settings:
        has_accounting = "slurmdbd" in settings["AccountingStorageType"]
    return Limits(
        version=settings.get("SLURM_VERSION", "").strip(),
        cluster=settings.get("ClusterName", "").strip(),
        max_array_size=whole(settings.get("MaxArraySize", "")),  # its largest index is one less, its first 0
        max_job_count=whole(settings.get("MaxJobCount", "")),
        max_submit_jobs=_least(rules, ("maxsubmit", "grpsubmit", "maxsubmitpu", "maxsubmitpa")),
        max_jobs=_least(rules, ("maxjobs", "maxjobspu")),
        max_wall_s=min(filter(None, [*walls, *(_wall(rule) for rule in rules)]), default=None),
        has_accounting=has_accounting,
        job_requeue=None if "JobRequeue" not in settings else settings["JobRequeue"].strip() == "1",
        partition=",".join(names),
        partitions=found,
        nodes=None
        if everywhere is None
        else tuple(n for n in everywhere if not names or set(n.partitions) & set(names)),
    )


def partitions(*, timeout_s: float = 20.0) -> tuple[Partition, ...] | None:
    """Return all partitions that one may see, None where they are hidden."""
    rows = _rows("partition", key="PartitionName", timeout_s=timeout_s)
    return None if rows is None else tuple(_partition(row) for row in rows)


def nodes(*, timeout_s: float = 20.0) -> tuple[Node, ...] | None:
    """Return all nodes that one may see, None where they are hidden."""
    rows = _rows("node", "--detail", key="NodeName", timeout_s=timeout_s)
    return None if rows is None else tuple(_node(row) for row in rows)


@dataclass(frozen=True, kw_only=True)
class Start:
    """When and where Slurm would start a job, as it is now."""

    t: float  # unix seconds
    nodes: str
    partition: str
    cpus: int


def expected_start(script: Path | str, *options: str, timeout_s: float = 20.0) -> Start | None:
    """Return when Slurm would start a script, None where it does not say.

    Raises:
        SlurmError: it would be refused; says why.
    """
    answer = ask(["sbatch", "--test-only", *options, str(script)], timeout_s=timeout_s)
    match = _EXPECTED.search(answer.stderr + answer.stdout)
    if not match:
        return None
    with suppress(ValueError):
        when = datetime.fromisoformat(match[1]).timestamp()
        return Start(t=when, nodes=match[3], partition=match[4], cpus=int(match[2]))
    return None


def _rows(what: str, *options: str, key: str, timeout_s: float) -> list[dict[str, str]] | None:
    try:
        text = run(["scontrol", "--oneliner", *options, "show", what], timeout_s=timeout_s)
    except SlurmError as error:
        if error.kind == "refused":
            return None
        raise
    return [key_values(line) for line in text.splitlines() if line.startswith(f"{key}=")]


def _partition(row: Mapping[str, str]) -> Partition:
    return Partition(
        name=row["PartitionName"],
        is_default=row.get("Default") == "YES",
        state=row.get("State", ""),
        max_wall_s=None if row.get("MaxTime", "") in UNLIMITED else time_s(row.get("MaxTime", "")),
        qos=_word(row.get("QoS", "")),
        preempt_mode=row.get("PreemptMode", ""),
        tier=whole(row.get("PriorityTier", "")) or 0,
        nodes=_word(row.get("Nodes", "")),
        total_cpus=whole(row.get("TotalCPUs", "")) or 0,
        total_nodes=whole(row.get("TotalNodes", "")) or 0,
    )


def _node(row: Mapping[str, str]) -> Node:
    return Node(
        name=row["NodeName"],
        state=row.get("State", ""),
        reason=_word(_WHO.sub("", row.get("Reason", ""))),
        cpus=whole(row.get("CPUEfctv", "")) or whole(row.get("CPUTot", "")) or 0,
        cpus_taken=whole(row.get("CPUAlloc", "")) or 0,
        memory_bytes=(whole(row.get("RealMemory", "")) or 0) * 2**20,
        gpus=count_gpus(row.get("Gres", "")),  # CfgTRES counts GPUs only where accounts are kept of them
        gpus_taken=count_gpus(row.get("GresUsed", "")),
        features=_word(row.get("ActiveFeatures", "")),
        partitions=tuple(name for name in row.get("Partitions", "").split(",") if name),
    )


def _rules(
    accounts: list[dict[str, str]],
    qualities: list[dict[str, str]],
    *,
    account: str,
    qos: str,
    partitions: list[Partition],
) -> list[dict[str, str]]:
    """Return the user's association and the qualities of service that bound these jobs; none where they are hidden."""
    names = {p.name for p in partitions}
    own = [r for r in accounts if account in ("", r["account"]) and (not r["partition"] or r["partition"] in names)]
    if not own:
        return []
    granted = qos or own[0]["defaultqos"] or own[0]["qos"].partition(",")[0]
    bounding = {granted, *(p.qos for p in partitions if p.qos)}
    return [*own, *(row for row in qualities if row["name"] in bounding)]


def _table(what: str, columns: str, *, where: list[str], timeout_s: float) -> list[dict[str, str]]:
    condition = ["where", *where] if where else []
    argv = ["sacctmgr", "--noheader", "--parsable2", "show", what, *condition, f"format={columns}"]
    try:
        text = run(argv, timeout_s=timeout_s)
    except SlurmError:
        return []
    names = columns.split(",")
    rows = [line.split("|") for line in text.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def _least(rules: list[dict[str, str]], names: tuple[str, ...]) -> int | None:
    found = [whole(rule.get(name, "")) for rule in rules for name in names]
    return min((value for value in found if value is not None), default=None)


def _wall(rule: Mapping[str, str]) -> int | None:
    return time_s(rule["maxwall"]) if rule.get("maxwall") else None


def _word(text: str) -> str:
    return "" if text in ("N/A", "(null)", "None") else text
