"""A submission to Slurm, from the request to the arrays: planned and shown without a trace, or written and sent."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from band.attempts import Claim
from band.errors import SweepError
from band.files import read_json_object
from band.run_dir import SweepDir, code_digest
from band.slurm.cluster import Limits, Start, expected_start
from band.slurm.command import SlurmError
from band.slurm.options import num_processes
from band.sweep.arrays import (
    Queue,
    check_continued,
    is_too_large,
    limits_of,
    look_at_queue,
    room_on,
    task_seconds,
    warnings_of,
    with_defaults,
)
from band.sweep.ledger import Intent
from band.sweep.pack import Packed
from band.sweep.request import Request
from band.sweep.slurm_script import array_text
from band.sweep.slurm_submit import Fed, feed
from band.sweep.snapshot import PACKAGE, take_snapshot, versions
from band.sweep.space import space
from band.sweep.status import Survey
from band.sweep.submit import WANTED, Plan, packed_before, plan, write


@dataclass(frozen=True, kw_only=True)
class SlurmPlan:
    """What a submission would ask of a cluster."""

    request: Request  # with --time and --mem filled in
    plan: Plan
    costs: list[Packed]  # its new tasks, and what is left of those that are continued
    queue: Queue
    warnings: list[str] = field(default_factory=list)

    @property
    def limits(self) -> Limits:
        """Return what the cluster says of itself."""
        return self.queue.limits

    @property
    def tasks(self) -> int:
        """Return how many array tasks there are."""
        return len(self.plan.new) + len(self.plan.continued)

    @property
    def arrays(self) -> list[int]:
        """Return the sizes of the arrays that go now; the rest is fed by closing jobs."""
        free = int(max(min(self.queue.free(), self.tasks), 0))
        return [free] if free else []

    @property
    def task_hours(self) -> float:
        """Return the hours that all tasks together are expected to take."""
        return sum(task_seconds(task, request=self.request) for task in self.costs) / 3600

    @property
    def walltime_s(self) -> float:
        """Return the seconds from the first start to the last end, if the cluster is free."""
        slots = max(min(self.plan.room.slots, self.tasks), 1)
        longest = max((task_seconds(task, request=self.request) for task in self.costs), default=0.0)
        return max(3600 * self.task_hours / slots, longest)


def make_plan(
    survey: Survey, *, sweep: SweepDir, request: Request, members: int = 0, limit: int = 0, in_queue: bool = True
) -> SlurmPlan:
    """Return what submitting now would ask; nothing is written.

    Args:
        survey: the sweep's present state.
        sweep: its folder.
        request: how its tasks are to run.
        members: the largest population of a new task; 0: as many as pay.
        limit: take up only so many runs; 0: all.
        in_queue: look at one's own jobs in the queue as well.

    Raises:
        SlurmError: no cluster here, or it does not answer.
        SweepError: a run needs more memory than a task has, or a GPU that is not asked for.
    """
    options = {name: option.value for name, option in request.sbatch.items()}
    queue = look_at_queue(options) if in_queue else Queue(limits_of(options))
    room = room_on(request, queue.limits)
    planned = plan(
        survey,
        sweep=sweep,
        room=room,
        members=members,
        limit=limit,
        has_canary=request.canary_s > 0,
        states=[state for state in WANTED if state != "unsynced"],  # they wait on their node for a rescue
    )
    _check_processes(request, survey=survey, runs=planned.runs)
    devices = [str(read_json_object(sweep.task(task).task_json)["device"]) for task in planned.continued]
    check_continued(request, devices=devices)
    costs = [*planned.new, *(packed_before(sweep, task, survey=survey) for task in planned.continued)]
    complete = with_defaults(request, tasks=costs, limits=queue.limits)
    warnings = warnings_of(complete, tasks=costs, limits=queue.limits)
    home = space(sweep.path)
    if planned.home_bytes > home.num_bytes:
        where = f"{home.limit} in {sweep.path.parent}"
        warnings.append(f"the results may take {planned.home_bytes} bytes, and {home.num_bytes} are {where}")
    return SlurmPlan(request=complete, plan=planned, costs=costs, queue=queue, warnings=warnings)


def _check_processes(request: Request, *, survey: Survey, runs: Sequence[str]) -> None:
    """Check that a job has several tasks only where a run is a search that as many processes share."""
    asked, option = num_processes(request.sbatch)
    if not option:
        return
    for run in survey.manifest.runs:
        pbt = survey.manifest.run_config(run)["pbt"]
        shards = pbt["shards"] if pbt["members"] else 1
        if run.id in runs and shards != asked:
            raise SweepError(
                f"{request.sbatch[option].origin}: {option} must be 1 for {run.id}: a job of band is one process on "
                f"one node, or as many as pbt.shards of a search, which is {shards}; found {asked} processes"
            )


def send(made: SlurmPlan, *, sweep: SweepDir, survey: Survey, claim: Claim) -> tuple[Intent, Fed]:
    """Write a plan's task files, the snapshot and the request, and send what the limits let through.

    Raises:
        SlurmError: no node can ever hold a task, sbatch refused for good, or did not answer.
        ClaimError: the hold was lost.
        OSError: the sweep's folder cannot be written.
    """
    _check_size(made, sweep=sweep)
    options = made.request.options(code=take_snapshot(sweep), versions=versions())
    sweep.logs.mkdir(parents=True, exist_ok=True)  # Slurm would let a job die without a word for want of it
    intent = write(made.plan, sweep=sweep, manifest=survey.manifest, scheduler="slurm", options=options, claim=claim)
    return intent, feed(sweep, claim=claim, survey=survey, queue=made.queue)


def _check_size(made: SlurmPlan, *, sweep: SweepDir) -> None:
    """Check that a task fits a node: sbatch takes one that fits none as long as it is held, and it would wait for ever.

    Raises:
        SlurmError: none is large enough, and Slurm says so too; nothing was sent.
    """
    if is_too_large(made.request, made.limits):
        refusal = expected(script_of(made, sweep=sweep))
        if isinstance(refusal, str):
            raise SlurmError(refusal, kind="refused")


def script_of(made: SlurmPlan, *, sweep: SweepDir) -> str:
    """Return the script of the first array that would be sent; its token and numbers are stand-ins."""
    tasks = [*sorted(made.plan.continued), *(f"{number:04d}" for number in range(1, len(made.plan.new) + 1))]
    options = made.request.options(code=code_digest(PACKAGE), versions=versions())
    intent = Intent(number="NNNN", action="submit", t=time.time(), options=options, scheduler="slurm")
    size = max(made.arrays, default=len(tasks))
    token = f"band-{sweep.name}-NNNN-1-XXXXXXXX"
    return array_text(sweep, intent, tasks=tasks[:size], number=1, token=token)


def expected(script: str) -> Start | str | None:
    """Return when Slurm would start that script; in words why it would refuse; None where it does not say."""
    lines = [line for line in script.splitlines() if not line.startswith(("#SBATCH --chdir", "#SBATCH --hold"))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.sh"
        path.write_text("\n".join(lines) + "\n")
        try:
            return expected_start(path)
        except SlurmError as error:
            return str(error)


def as_json(made: SlurmPlan) -> dict[str, Any]:
    """Return a plan as plain values."""
    origins: Mapping[str, Any] = {
        name: {"value": option.value, "origin": option.origin} for name, option in made.request.sbatch.items()
    }
    return {
        "cluster": made.request.cluster,
        "runs": list(made.plan.runs),
        "tasks": made.tasks,
        "arrays": made.arrays,
        "planned_tasks": made.tasks - sum(made.arrays),
        "sbatch": origins,
        "max_parallel": made.request.max_parallel,
        "task_hours": made.task_hours,
        "gpu_hours": made.task_hours * made.request.gpus,
        "walltime_s": made.walltime_s,
        "home_bytes": made.plan.home_bytes,
        "warnings": made.warnings,
    }
