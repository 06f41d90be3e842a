"""What a submission would run, in which tasks, and the task files for it; the same for every scheduler."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from band.attempts import Claim
from band.files import canonical_json, write_atomic
from band.run_dir import SweepDir, read_task_json, signed
from band.sizes import with_trials_at_once
from band.sweep.estimate import estimate
from band.sweep.ledger import CANARY, Intent, new_task, record
from band.sweep.manifest import Manifest, Run
from band.sweep.pack import Packed, Room, dataset_shapes_of, one_of_each_shape, pack
from band.sweep.processes import held_claim
from band.sweep.resources import num_cores
from band.sweep.status import Survey, TaskState

SCHEMA = 1
SKIP = "skip.json"
WANTED = ("new", "interrupted", "unsynced", "lost")  # states of a run that submitting takes up
BUSY = ("running", "queued", "held", "planned", "submit_unknown")  # states of a task that somebody has
STAYS = ("failed", "cancelled", "retired")  # states of a run that its task's next attempt leaves alone


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a submission will do: new tasks, and tasks of earlier submissions that are continued as they were packed."""

    new: list[Packed]
    continued: dict[str, tuple[str, ...]]  # {task: all its runs}
    runs: tuple[str, ...]  # all that will be trained
    room: Room
    seconds: float  # on one core, all runs together
    home_bytes: int
    canaries: tuple[str, ...] = ()  # runs that go ahead, one of each shape, alone in their tasks

    @property
    def walltime_s(self) -> float:
        """Expected time on this machine: the work spread over the slots, but no less than the longest task."""
        longest = max((task.seconds for task in self.new), default=0.0)
        return max(self.seconds / self.room.slots, longest)


def plan(
    survey: Survey,
    *,
    sweep: SweepDir,
    room: Room,
    members: int = 0,
    limit: int = 0,
    adopt: bool = False,
    has_canary: bool = False,
    states: Sequence[str] = WANTED,
) -> Plan:
    """Return what submitting now would do; nothing is written.

    Args:
        survey: the sweep's present state.
        sweep: its folder.
        room: what runs at once.
        members: the largest population of a new task; 0: as many as pay.
        limit: take up only so many runs, the first of the manifest; 0: all.
        adopt: take up what runs on this machine as well: nobody would start it again if it died.
        has_canary: of each shape of new runs, one gets a task of its own.
        states: of runs to be taken up.

    Raises:
        SweepError: a single run needs more memory than there is.
    """
    manifest = survey.manifest
    states = (*states, "running") if adopt else states
    task_of = {run: task for task, runs in survey.ledger.tasks.items() for run in runs}
    busy = {task for task, found in survey.scheduled.items() if _is_busy(found, adopt=adopt)}
    wanted = [run for run in manifest.active() if survey.runs[run.id].state in states]
    wanted = [run for run in wanted if task_of.get(run.id) not in busy]
    wanted = wanted[:limit] if limit else wanted
    packed = {task for task in {task_of.get(run.id) for run in wanted} if task and _keeps(sweep, task, survey, room)}
    costs = [_cost(manifest, run, epoch=survey.runs[run.id].epoch) for run in wanted]
    fresh = [run for run in wanted if task_of.get(run.id) not in packed]
    canaries = one_of_each_shape(manifest, fresh) if has_canary else []
    rest = [run for run in fresh if run not in canaries]
    if not rest:
        canaries, rest = [], fresh  # nothing would follow
    first = pack(manifest, canaries, room=room, members=1)
    return Plan(
        new=[*first, *pack(manifest, rest, room=room, members=members)],
        continued={task: survey.ledger.tasks[task] for task in sorted(packed)},
        runs=tuple(run.id for run in wanted),
        room=room,
        seconds=sum(seconds for seconds, _ in costs),
        home_bytes=sum(home_bytes for _, home_bytes in costs),
        canaries=tuple(run.id for run in canaries),
    )


def _keeps(sweep: SweepDir, task: str, survey: Survey, room: Room) -> bool:
    """Return whether a task stays as it was packed: what has begun does, and all else that the room can hold."""
    try:
        values = read_task_json(sweep.task(task).task_json)
    except FileNotFoundError:
        return False
    if any(fold.task == task for fold in survey.folds.values()):
        return True
    fits = not room.task_bytes or int(values["memory_bytes"]) <= room.task_bytes
    return values["device"] == room.device and (fits or room.device == "cuda")


def packed_before(sweep: SweepDir, task: str, *, survey: Survey) -> Packed:
    """Return a task that is continued with what is left of its cost."""
    values = read_task_json(sweep.task(task).task_json)
    known = {run.id: run for run in survey.manifest.runs}
    runs = [known[run["id"]] for run in values["runs"] if run["id"] in known]
    left = [run for run in runs if survey.runs[run.id].state not in (*STAYS, "published")]
    seconds = sum(_cost(survey.manifest, run, epoch=survey.runs[run.id].epoch)[0] for run in left)
    return Packed(
        populations=(tuple(left),),
        dataset=runs[0].dataset,
        seconds=seconds,
        memory_bytes=int(values["memory_bytes"]),
    )


def _is_busy(task: TaskState, *, adopt: bool) -> bool:
    """Return whether somebody has the task; with `adopt`, what runs outside of Slurm may be taken up."""
    return task.state in BUSY and not (adopt and task.state == "running" and not task.job)


def _cost(manifest: Manifest, run: Run, *, epoch: int) -> tuple[float, int]:
    """Return the seconds that a run still takes alone, and its bytes at home."""
    config = manifest.run_config(run)
    cost = estimate(config, dataset_shapes_of(manifest, run.dataset))
    return cost.seconds * (1 - epoch / max(config["train"]["max_epochs"], epoch, 1)), cost.home_bytes


def write(
    plan: Plan,
    *,
    sweep: SweepDir,
    manifest: Manifest,
    scheduler: str = "local",
    options: Mapping[str, Any] | None = None,
    claim: Claim | None = None,
) -> Intent:
    """Write the task files of a plan and then the request, which alone makes them count.

    Args:
        plan: what to submit.
        sweep: the sweep's folder.
        manifest: its manifest.
        scheduler: who is to run it.
        options: what the scheduler is asked for; None: the plan's room, on this machine.
        claim: the hold on the sweep's submissions, where the scheduler needs it.

    Raises:
        ClaimError: the hold was lost; nothing is submitted then.
        OSError: the sweep folder cannot be written; nothing is submitted then.
    """
    tasks = dict(plan.continued)
    for task, members in plan.continued.items():
        _follow_dataset(sweep, task=task, manifest=manifest, members=members)
    for packed in plan.new:
        task = new_task(sweep)
        values = _task_values(packed, task=task, sweep=sweep, manifest=manifest, room=plan.room)
        write_atomic(sweep.task(task).task_json, signed(values))
        tasks[task] = tuple(run.id for run in packed.runs)
    if plan.canaries and options is not None:
        options = {**options, CANARY: sorted(task for task, runs in tasks.items() if set(runs) <= set(plan.canaries))}
    if options is None:
        options = dataclasses.asdict(plan.room) | {"cores": num_cores()}
    return record(sweep, "submit", runs=plan.runs, tasks=tasks, options=options, scheduler=scheduler, claim=claim)


def write_skip(sweep: SweepDir, task: str, *, members: Iterable[str], survey: Survey) -> None:
    """Tell the task's next attempt which runs to leave alone; no file where there are none.

    Raises:
        OSError: the task's folder cannot be written.
    """
    leave_alone(sweep, task, runs=[run for run in members if run not in survey.runs or survey.runs[run].state in STAYS])


def leave_alone(sweep: SweepDir, task: str, *, runs: Iterable[str]) -> None:
    """Write which runs of a task are not to be trained now; no file where there are none.

    Raises:
        OSError: the task's folder cannot be written.
    """
    path = sweep.task(task).path / SKIP
    skipped = sorted(runs)
    if skipped:
        write_atomic(path, canonical_json({"runs": skipped}) + b"\n")
    else:
        path.unlink(missing_ok=True)


def _task_values(packed: Packed, *, task: str, sweep: SweepDir, manifest: Manifest, room: Room) -> dict[str, Any]:
    populations = [[run.id for run in population] for population in packed.populations]
    return {
        "schema": SCHEMA,
        "sweep": sweep.name,
        "task": task,
        "runs": [{"id": run.id, "config": _config(manifest, run, packed.trials_at_once)} for run in packed.runs],
        **({"populations": populations} if len(populations) > 1 else {}),
        "dataset": _dataset(manifest, packed.dataset),
        "threads": room.threads,
        "device": room.device,
        "memory_bytes": packed.memory_bytes,
    }


def _config(manifest: Manifest, run: Run, trials_at_once: Mapping[str, int]) -> dict[str, Any]:
    config = manifest.run_config(run)
    return with_trials_at_once(config, trials_at_once[run.id]) if run.id in trials_at_once else config


def _dataset(manifest: Manifest, number: int) -> dict[str, Any]:
    return {key: manifest.datasets[number][key] for key in ("path", "digest", "file_digest", "size_bytes")}


def _follow_dataset(sweep: SweepDir, *, task: str, manifest: Manifest, members: Sequence[str]) -> None:
    """Point a task that nobody holds to where its recording is now: its content is part of its runs' identity."""
    path = sweep.task(task).task_json
    dataset = _dataset(manifest, next(run.dataset for run in manifest.runs if run.id in members))
    values = read_task_json(path)
    if values["dataset"] != dataset and not held_claim(path.parent):
        write_atomic(path, signed({**values, "dataset": dataset}))
