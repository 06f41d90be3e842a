"""How a sweep fits a cluster: what runs at once there, how long and with how much memory, how long an array may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from band.errors import SweepError
from band.slurm import cluster, jobs
from band.slurm.cluster import Limits, Node
from band.slurm.options import Value
from band.slurm.units import memory_text, time_text
from band.sweep.ledger import Intent
from band.sweep.pack import MEMORY_SHARE, Packed, Room, short_of_memory
from band.sweep.request import Request

SLOTS = 16  # tasks at once where a cluster hides its nodes
WORTH_S = 900.0  # of work that makes a task worth starting
GPU_CORES = 10.0  # a GPU is taken to train a population that much faster than one core
TIME_SHARE = 0.8  # of a time limit that is planned for: the rest is for staging, publishing and a slow node
TIME_FACTOR, SPARE_S, TIME_STEP_S = 2.0, 600.0, 600.0
MEMORY_FACTOR, MEMORY_STEP = 1.3, 100 * 2**20
UNLIMITED = 2**60
THROTTLE = "throttle"  # action of a request
ESTIMATE = "estimate"  # origin of an option that nobody set


@dataclass
class Queue:
    """What a cluster lets through, and how much of that is taken."""

    limits: Limits
    own: int = 0  # jobs in the queue, each task of an array being one

    def free(self) -> float:
        """Return how long an array may be now, with a closing job beside it."""
        limits = (self.limits.max_submit_jobs, self.limits.max_job_count)
        most = min(math.inf if limit is None else limit for limit in limits) - self.own - 1
        return min(most, math.inf if self.limits.max_array_size is None else self.limits.max_array_size)


def limits_of(options: dict[str, str]) -> Limits:
    """Return what a cluster says of its limits where these options of sbatch lead; None for what it hides.

    Raises:
        SlurmError: no such command, or nobody answers.
    """
    return cluster.limits(options.get("partition", ""), account=options.get("account", ""), qos=options.get("qos", ""))


def look_at_queue(options: dict[str, str]) -> Queue:
    """Return a cluster's limits, and how many jobs are one's own.

    Raises:
        SlurmError: no such command, or nobody answers.
    """
    return Queue(limits_of(options), own=sum(not jobs.is_over(job.state) for job in jobs.queued()))


def room_on(request: Request, limits: Limits) -> Room:
    """Return what tasks have room for on a cluster.

    Args:
        request: what each asks for.
        limits: what the cluster says of itself.
    """
    slots = min(request.max_parallel or UNLIMITED, _slots(request, limits))
    memory = request.memory_bytes or _memory_share(request, limits)
    most_s = request.time_s or limits.max_wall_s
    return Room(
        slots=slots,
        threads=request.cpus,
        device="cuda" if request.gpus else "cpu",
        memory_bytes=UNLIMITED,
        task_bytes=int(MEMORY_SHARE * memory) if memory else UNLIMITED,
        task_s=TIME_SHARE * most_s * (GPU_CORES if request.gpus else 1.0) if most_s else 0.0,
        worth_s=WORTH_S,
    )


def _slots(request: Request, limits: Limits) -> int:
    """Return how many tasks the nodes hold at once, whatever else runs there."""
    return sum(_held(node, request) for node in limits.nodes or ()) or SLOTS


def _held(node: Node, request: Request) -> int:
    """Return how many tasks a node holds at once, by its CPUs, its GPUs and, where it tells of it, its memory."""
    kinds = [(node.cpus, request.cpus), (node.gpus, request.gpus)]
    if node.memory_bytes:
        kinds.append((node.memory_bytes, request.memory_bytes or 0))
    return min(there // asked for there, asked in kinds if asked)


def is_too_large(request: Request, limits: Limits) -> bool:
    """Return whether no node of the partition, up or not, holds a task; False where they are hidden."""
    return bool(limits.nodes) and not any(_held(node, request) for node in limits.nodes or ())


def largest_memory(limits: Limits) -> int:
    """Return the memory of the partition's largest node, 0 where that is not known."""
    return max((node.memory_bytes for node in limits.nodes or ()), default=0)


def _memory_share(request: Request, limits: Limits) -> int:
    """Return a task's share of the largest node's memory, 0 where that is not known."""
    shares = [
        node.memory_bytes * request.cpus // max(node.cpus, request.cpus)
        for node in limits.nodes or ()
        if node.memory_bytes and node.cpus
    ]
    return max(shares, default=0)


def task_seconds(packed: Packed, *, request: Request) -> float:
    """Return how long a task is expected to take."""
    return packed.seconds / (GPU_CORES if request.gpus else 1.0)


def time_for(seconds: float) -> float:
    """Return the time limit to ask for where a task is expected to take so many seconds."""
    return TIME_STEP_S * math.ceil((TIME_FACTOR * seconds + SPARE_S) / TIME_STEP_S)


def memory_for(size_bytes: float) -> int:
    """Return the memory to ask for where a task is expected to take so much."""
    return MEMORY_STEP * math.ceil(MEMORY_FACTOR * size_bytes / MEMORY_STEP)


def with_defaults(request: Request, *, tasks: Sequence[Packed], limits: Limits) -> Request:
    """Return the request with --time and --mem for its longest and its largest task, where nothing sets them."""
    added: dict[str, Value] = {}
    if "time" not in request.sbatch:
        longest = max((task_seconds(task, request=request) for task in tasks), default=0.0)
        seconds = min(time_for(longest), limits.max_wall_s or math.inf)
        added["time"] = Value(time_text(seconds), ESTIMATE)
    has_memory = any(option in request.sbatch for option in ("mem", "mem-per-cpu", "mem-per-gpu"))
    if not has_memory and tasks:
        largest = max(task.memory_bytes for task in tasks)
        added["mem"] = Value(memory_text(memory_for(largest)), ESTIMATE)
    return replace(request, sbatch=dict(sorted({**request.sbatch, **added}.items())))


def warnings_of(request: Request, *, tasks: Sequence[Packed], limits: Limits) -> list[str]:
    """Return what is amiss with a request that Slurm may well accept."""
    lines = list(request.template.warnings)
    alone = [task for task in tasks if len(task.runs) == 1]
    longest = max((task_seconds(task, request=request) for task in alone), default=0.0)
    if request.time_s is not None and longest > request.time_s:
        lines.append(
            f"one run may take {longest / 3600:.1f} h, longer than --time {request.value('time')}: it would be queued "
            "again and continue from its checkpoint"
        )
    if limits.max_wall_s is not None and (request.time_s or 0) > limits.max_wall_s:
        lines.append(
            f"--time {request.value('time')} is longer than the partition allows ({time_text(limits.max_wall_s)})"
        )
    if short := short_of_memory(tasks):
        lines.append(f"{short}; more by --mem avoids it")
    if is_too_large(request, limits):
        lines.append(f"no node of partition {limits.partition} has the CPUs, memory or GPUs that one task asks for")
    return lines


def throttle_of(intents: Sequence[Intent], intent: Intent) -> int:
    """Return how many tasks of a submission may run at once, 0 for any: the last request that says so counts."""
    later = [other.options["max_parallel"] for other in intents if other.action == THROTTLE and other.t > intent.t]
    return int(later[-1] if later else intent.options["max_parallel"] or 0)


def check_continued(request: Request, *, devices: Sequence[str]) -> None:
    """Check that tasks that were packed before can go on here.

    Raises:
        SweepError: they need a GPU, and none is asked for.
    """
    if "cuda" in devices and not request.gpus:
        raise SweepError("some of the tasks began on a GPU and continue on one; ask for it by --gpus 1")
