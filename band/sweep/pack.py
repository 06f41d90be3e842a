"""Runs of equal shape into populations, and populations into tasks that fill a machine."""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from band.errors import SweepError
from band.sizes import RECOMPUTED, Shapes, sizes_of, training_bytes, trials_that_fit, with_trials_at_once
from band.sweep.estimate import PROCESS_BYTES, Estimate, estimate, num_members
from band.sweep.manifest import Manifest, Run
from band.sweep.populations import paying, shape_key
from band.sweep.resources import Resources

WEIGHT = "hyper.behavior_weight"  # what sets an LFADS run apart from the BAND run that it is compared with

AUTO = "auto"  # of `pack`: as many as pay

MAX_MEMBERS_CPU = 16  # beyond it a core gains nothing, and first results only come later
MAX_MEMBERS_GPU = 64
SHORT_S = 300.0  # a population that takes no longer need not hand out results early: on a CPU too it may be large
MOST_SHORT_TASKS = 16  # over more tasks than that work is spread only where each is then worth starting
GROUPS_A_SLOT = 4  # with that many populations a slot, they balance themselves and are not split further
MEMORY_SHARE = 0.9  # of what is free; the rest is for the system and for what the estimate missed


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A task before it is written: populations trained one after the other, and what the task needs."""

    populations: tuple[tuple[Run, ...], ...]
    dataset: int
    seconds: float  # alone on one core, summed over the members
    memory_bytes: int
    trials_at_once: dict[str, int] = field(default_factory=dict)  # by run, where a whole batch would not fit

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of all its populations."""
        return tuple(run for population in self.populations for run in population)


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many tasks run at once, and with what."""

    slots: int
    threads: int
    device: str  # "cpu" or "cuda"
    memory_bytes: int  # of all tasks together
    gpus: tuple[int, ...] = ()
    task_bytes: int = 0  # most memory of one task; 0: all there is, or an even share
    task_s: float = 0.0  # most seconds of one task, unless a single run takes longer; 0: any
    worth_s: float = 0.0  # populations follow one another in one task until that makes it worth starting; 0: never

    @property
    def max_members(self) -> int:
        """The largest population that pays on this device."""
        return MAX_MEMBERS_GPU if self.device == "cuda" else MAX_MEMBERS_CPU


def room_for(resources: Resources, *, jobs: int = 0, threads: int = 0, device: str = "auto") -> Room:
    """Return how many tasks at once a machine has room for.

    Args:
        resources: what the machine has.
        jobs: tasks at once; 0: one a GPU, else one for each `threads` cores.
        threads: cores a task; 0: one, or with `jobs` given an even share of the cores.
        device: "cpu", "cuda", or "auto": GPUs where there are any.

    Raises:
        SweepError: GPUs are asked for where the trainer would see none.
    """
    if device == "cuda" and not resources.gpus:
        raise SweepError(
            "--device cuda: no GPU is visible to the installed torch; use --device cpu, or install a CUDA torch"
        )
    use_gpus = bool(resources.gpus) and device != "cpu"
    slots = jobs or (len(resources.gpus) if use_gpus else max(resources.cores // max(threads, 1), 1))
    share = max(resources.cores // slots, 1) if jobs or use_gpus else 1
    return Room(
        slots=slots,
        threads=threads or share,
        device="cuda" if use_gpus else "cpu",
        memory_bytes=int(MEMORY_SHARE * resources.memory_bytes),
        gpus=resources.gpus if use_gpus else (),
    )


def most_members(manifest: Manifest, *, given: int | None = None) -> int:
    """Return the largest population that is asked for, 0 for what pays: as `given`, else as the sweep file's `pack`."""
    asked = manifest.options.get("pack", AUTO) if given is None else given
    return 0 if asked == AUTO else int(asked)


def population_key(run: Run, *, config: Mapping[str, Any]) -> str:
    """Return what must be equal for two runs to be members of one population."""
    data = {key: value for key, value in config["data"].items() if key != "fold"}
    parts = [run.dataset, data, config["arch"], config["train"], config["output"], config["pbt"]]
    return json.dumps(parts, sort_keys=True)


def one_of_each_shape(manifest: Manifest, runs: Sequence[Run]) -> list[Run]:
    """Return the first run of each population that could be made of `runs`, or none where that would be all of them."""
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(population_key(run, config=manifest.run_config(run)), run)
    return list(first.values()) if len(first) < len(runs) else []


def pack(manifest: Manifest, runs: Sequence[Run], *, room: Room, members: int = 0) -> list[Packed]:
    """Return the tasks that train `runs`: longest first, neighbours of the manifest together.

    Args:
        manifest: the sweep.
        runs: those to pack; each ends up in exactly one task.
        room: what runs at once.
        members: the most runs of a task, then one population; 0: what pays on the device and fits memory and time.

    Raises:
        SweepError: a single run needs more memory than there is.
    """
    populations = sorted(_populations(manifest, runs, room=room, members=members), key=lambda task: -task.seconds)
    if members or not room.worth_s:
        return populations
    searches = [task for task in populations if num_members(manifest.run_config(task.runs[0])) > 1]
    rest = [task for task in populations if task not in searches]
    return sorted([*searches, *_joined(rest, room=room)], key=lambda task: -task.seconds)


def _populations(manifest: Manifest, runs: Sequence[Run], *, room: Room, members: int) -> list[Packed]:
    """Return the tasks of one population each."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        config = manifest.run_config(run)
        own = run.id if num_members(config) > 1 else ""  # a search is a population in itself
        groups.setdefault(own + population_key(run, config=config), []).append(run)
    tasks = []
    for group in groups.values():
        cost, at_once = _affordable(manifest, group[0], room=room)
        limit = _member_limit(cost, room=room, members=members or _measured(manifest, group[0], room=room))
        parts = math.ceil(len(group) / limit)
        if len(groups) < GROUPS_A_SLOT * room.slots:
            parts = min(math.ceil(parts / room.slots) * room.slots, len(group))
        tasks += [
            _packed(part, cost=cost, at_once=at_once) for part in _split_between_pairs(group, parts=parts, limit=limit)
        ]
    return tasks


def _split_between_pairs(group: Sequence[Run], *, parts: int, limit: int) -> list[Sequence[Run]]:
    """Return a group in `parts` pieces; runs that differ in the weight of behaviour alone stay together if they can."""
    pairs: dict[str, list[Run]] = {}
    for run in group:
        others = {key: value for key, value in run.overrides.items() if key != WEIGHT}
        pairs.setdefault(json.dumps([run.dataset, others], sort_keys=True), []).append(run)
    pieces = [[run for pair in part for run in pair] for part in split_evenly(list(pairs.values()), parts=parts)]
    if parts <= len(pairs) and all(len(piece) <= limit for piece in pieces):
        return list(pieces)
    return split_evenly(group, parts=parts)


def _joined(populations: Sequence[Packed], *, room: Room) -> list[Packed]:
    """Return tasks in which short populations of one recording follow one another, about equally long."""
    total = sum(population.seconds for population in populations)
    most = min(room.worth_s, room.task_s or math.inf, total / min(room.slots, MOST_SHORT_TASKS))
    by_dataset: dict[int, list[Packed]] = {}
    for population in populations:
        by_dataset.setdefault(population.dataset, []).append(population)
    tasks = []
    for group in by_dataset.values():
        count = math.ceil(sum(population.seconds for population in group) / most - 1e-6)
        tasks += _dealt_out(group, count=min(max(count, 1), len(group)), most_s=room.task_s or math.inf)
    return tasks


def _dealt_out(populations: Sequence[Packed], *, count: int, most_s: float) -> list[Packed]:
    """Return populations, longest first, each put where least is to do; more than `count` tasks if one got too long."""
    tasks = list(populations[:count])
    order = [(task.seconds, place) for place, task in enumerate(tasks)]
    heapq.heapify(order)
    for population in populations[count:]:
        seconds, place = order[0]
        if seconds + population.seconds > most_s:
            tasks.append(population)
            heapq.heappush(order, (population.seconds, len(tasks) - 1))
        else:
            tasks[place] = _follow(tasks[place], population)
            heapq.heapreplace(order, (tasks[place].seconds, place))
    return tasks


def _follow(task: Packed, population: Packed) -> Packed:
    return Packed(
        populations=(*task.populations, *population.populations),
        dataset=task.dataset,
        seconds=task.seconds + population.seconds,
        memory_bytes=max(task.memory_bytes, population.memory_bytes),
        trials_at_once=task.trials_at_once | population.trials_at_once,
    )


def dataset_shapes_of(manifest: Manifest, dataset: int) -> Shapes:
    """Return {split: {key: shape}} of one of the sweep's recordings."""
    shapes: Shapes = manifest.datasets[dataset].get("shapes") or {}
    return shapes


def split_evenly(items: Sequence[Any], *, parts: int) -> list[Sequence[Any]]:
    """Return `items` in `parts` consecutive pieces whose sizes differ by one at most."""
    edges = [len(items) * part // parts for part in range(parts + 1)]
    return [items[start:end] for start, end in itertools.pairwise(edges)]


def _member_limit(cost: Estimate, *, room: Room, members: int) -> int:
    """Return how many members of that cost fit into one task."""
    is_short = cost.seconds * MAX_MEMBERS_GPU <= SHORT_S
    most = members or (MAX_MEMBERS_GPU if is_short else room.max_members)
    if room.task_s:
        most = max(min(most, int(room.task_s / cost.seconds)), 1)
    if room.device == "cuda":  # their memory is the GPU's, which the trainer finds out
        return most
    fits = ((room.task_bytes or room.memory_bytes // room.slots) - PROCESS_BYTES) // cost.memory_bytes
    return max(min(most, fits), 1)


def _affordable(manifest: Manifest, run: Run, *, room: Room) -> tuple[Estimate, int]:
    """Return the cost of a run, or of a search, that memory holds, and how many trials at once it takes: 0 for all.

    A population that is too large for memory is divided, which costs little; what cannot be divided is computed twice.

    Raises:
        SweepError: it needs more memory than there is even so.
    """
    config, shapes = manifest.run_config(run), dataset_shapes_of(manifest, run.dataset)
    cost = estimate(config, shapes)
    there = room.task_bytes or room.memory_bytes
    if room.device == "cuda" or PROCESS_BYTES + cost.memory_bytes <= there:  # of a GPU the trainer asks how much it has
        return cost, 0
    sizes, members = sizes_of(config, shapes), num_members(config)
    free = there - PROCESS_BYTES - (cost.memory_bytes - training_bytes(config, sizes, members=members))
    trials = trials_that_fit(config, sizes, members=members, free_bytes=free)
    if trials is None:
        need, has = (f"{value / 2**30:.1f} GiB" for value in (PROCESS_BYTES + cost.memory_bytes, there))
        remedy = "give more by --mem" if room.task_bytes else "free some"
        raise SweepError(f"one run needs about {need} of memory and {has} can be used; {remedy}, or make arch smaller")
    return estimate(with_trials_at_once(config, trials), shapes), trials


def short_of_memory(tasks: Sequence[Packed]) -> str:
    """Return in words which runs go through the model with fewer trials at once, empty where none do."""
    found = {run: trials for task in tasks for run, trials in task.trials_at_once.items()}
    if not found:
        return ""
    first, most = min(found), max(found.values())
    which = first if len(found) == 1 else f"{len(found)} runs, {first} among them,"
    return (
        f"for want of memory {which} will take at most {most} trials of a batch at once, and about {RECOMPUTED:g} x "
        "the time; the results are the same but for rounding"
    )


def _measured(manifest: Manifest, run: Run, *, room: Room) -> int:
    """Return the population that was measured to pay for runs like this one, 0 where none was."""
    shapes = dataset_shapes_of(manifest, run.dataset)
    return paying(shape_key(manifest.run_config(run), shapes, device=room.device, threads=room.threads)) or 0


def _packed(runs: Sequence[Run], *, cost: Estimate, at_once: int) -> Packed:
    return Packed(
        populations=(tuple(runs),),
        dataset=runs[0].dataset,
        seconds=cost.seconds * len(runs),
        memory_bytes=PROCESS_BYTES + cost.memory_bytes * len(runs),
        trials_at_once={run.id: at_once for run in runs} if at_once else {},
    )
