"""Finished runs that wait on a node which could not write home: which they are, and a job there that fetches them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from band.attempts import Attempt, ended_here, release_for
from band.errors import SchedulerError
from band.files import write_atomic
from band.run_dir import EventWriter, SweepDir
from band.slurm import cluster, jobs
from band.slurm.command import run
from band.sweep.fold import by_task
from band.sweep.hold import slurm_says_over
from band.sweep.ledger import Intent, read_intents
from band.sweep.slurm_script import SHARED, surroundings
from band.sweep.status import Survey

TIME_MIN, MEMORY = 60, "1G"
TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The runs that wait on one node, by task."""

    node: str  # "" where nobody knows
    tasks: Mapping[str, tuple[str, ...]]

    @property
    def runs(self) -> list[str]:
        """All of them."""
        return [run for runs in self.tasks.values() for run in runs]

    @property
    def is_here(self) -> bool:
        """Whether the node is this machine."""
        name = os.uname().nodename
        return self.node in (name, name.partition(".")[0])


def waiting(survey: Survey) -> list[Waiting]:
    """Return the runs that are finished, or may be, and not at home, node by node."""
    attempts = by_task(survey.folds.values())
    found: dict[str, dict[str, list[str]]] = {}
    for name in survey.in_state("unsynced"):
        status = survey.runs[name]
        past = [fold for fold in attempts.get(status.task, []) if fold.host and name in fold.phases]
        # A closing job noted the node under Slurm's name for it; an attempt knows the host's own alone.
        node = past[-1].host if past and (past[-1].is_hearsay or not status.node) else status.node
        found.setdefault(node, {}).setdefault(status.task, []).append(name)
    return [
        Waiting(node=node, tasks={task: tuple(runs) for task, runs in sorted(tasks.items())})
        for node, tasks in sorted(found.items())
    ]


def command_for(sweep: SweepDir, waits: Waiting) -> list[str]:
    """Return what fetches these runs when it is run on their node."""
    return ["-m", "band.node.rescue", *(str(sweep.task(task).task_json) for task in waits.tasks)]


def script_for(sweep: SweepDir, waits: Waiting) -> str:
    """Return the script of a job, pinned to the node, that fetches these runs.

    Raises:
        SchedulerError: nobody knows on which node they are, or they never were at Slurm.
    """
    intent = _intent_of(sweep, waits)
    options = {name: value for name, value in intent.options["sbatch"].items() if name in SHARED}
    options |= {"job-name": _job_name(sweep, waits), "nodelist": waits.node, "time": TIME_MIN, "mem": MEMORY}
    options |= {"ntasks": 1, "cpus-per-task": 1, "chdir": str(sweep.code / intent.options["code"])}
    options |= {"output": str(sweep.logs).replace("%", "%%") + "/rescue.%j.out"}
    lines = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in options.items()]
    setup = surroundings(sweep.code / intent.options["code"], setup=intent.options["setup"])
    call = f"exec python3 -u {shlex.join(command_for(sweep, waits))}"
    return "\n".join(["#!/bin/bash", *lines, "#SBATCH --no-requeue", *setup, call, ""])


def _intent_of(sweep: SweepDir, waits: Waiting) -> Intent:
    intents = [intent for intent in read_intents(sweep) if set(waits.tasks).intersection(intent.tasks)]
    if not waits.node or not intents or intents[-1].scheduler != "slurm":
        where = f"on {waits.node}" if waits.node else "on a node that nobody knows"
        raise SchedulerError(
            f"{len(waits.runs)} runs wait {where}, which is not this machine and no node of a cluster that they were "
            f"sent to; give the same command there, or give them up with --give-up: the next submit then goes on from "
            "what is home"
        )
    return intents[-1]


def _job_name(sweep: SweepDir, waits: Waiting) -> str:
    return f"band-{sweep.name[:60]}-rescue-{waits.node}"


def send(sweep: SweepDir, waits: Waiting) -> tuple[str, bool]:
    """Queue the job that fetches these runs, unless there is one; return its id, and whether it is new.

    Raises:
        SchedulerError: the node is down, or Slurm refuses or does not answer.
        OSError: the sweep's folder cannot be written.
    """
    script = script_for(sweep, waits)
    name = _job_name(sweep, waits)
    there = [job for job in jobs.queued(name=name) if not jobs.is_over(job.state)]
    if there:
        return there[0].job_id, False
    _check_up(sweep, waits)
    for task in waits.tasks:
        release_for(sweep.task(task).path, is_over=lambda claim: ended_here(claim) or slurm_says_over(claim.attempt))
    path = sweep.submission(_intent_of(sweep, waits).number) / f"rescue.{waits.node}.sh"
    write_atomic(path, script.encode())
    return run(["sbatch", "--parsable", str(path)], timeout_s=TIMEOUT_S).strip().partition(";")[0], True


def give_up(sweep: SweepDir, waits: Waiting) -> None:
    """Note that these runs will not come from their node: from then on they count as unfinished, and may go on.

    If they do come later, whichever is published first counts, and the other is kept aside.

    Raises:
        OSError: the sweep's folder cannot be written.
    """
    for task, runs in waits.tasks.items():
        release_for(sweep.task(task).path, is_over=lambda claim: ended_here(claim) or slurm_says_over(claim.attempt))
        events = EventWriter(sweep.event_file(task, attempt=f"rescue-{Attempt.current().name}"))
        if not (events.write("missing", runs=runs) and events.write("ended", code=0)):
            raise OSError(f"{events.path} cannot be written")


def _check_up(sweep: SweepDir, waits: Waiting) -> None:
    nodes = {node.name: node for node in cluster.nodes() or ()}
    node = nodes.get(waits.node)
    if nodes and (node is None or not node.is_up):
        state = f"is {node.state.lower()}" if node else "is no node of this cluster"
        reason = f" ({node.reason})" if node and node.reason else ""
        raise SchedulerError(
            f"{waits.node} {state}{reason}, and {len(waits.runs)} finished runs wait there; once it is back give the "
            f"same command again, or give them up with --give-up: the next submit then goes on from what is home"
        )


def as_json(waits: Sequence[Waiting]) -> list[dict[str, object]]:
    """Return what waits as JSON values."""
    return [{"node": entry.node, "is_here": entry.is_here, "tasks": dict(entry.tasks)} for entry in waits]
