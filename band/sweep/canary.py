"""One run of each shape goes ahead, for a while; the rest follows only if that ends well, with what it measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from band.attempts import Claim
from band.files import read_json_object
from band.run_dir import SweepDir
from band.slurm.command import SlurmError, run
from band.slurm.units import memory_bytes, memory_text, time_text
from band.sweep.arrays import ESTIMATE, limits_of, memory_for, time_for
from band.sweep.estimate import PROCESS_BYTES, estimate
from band.sweep.fold import by_task
from band.sweep.journal import Array, append, planned_tasks, read_journals
from band.sweep.ledger import CANARY, CANARY_S, Intent, read_intents, record
from band.sweep.manifest import Manifest
from band.sweep.pack import dataset_shapes_of
from band.sweep.status import Survey


def look(sweep: SweepDir, survey: Survey, *, claim: Claim) -> list[str]:
    """Let the rest of each submission whose canary has ended well follow it, or give it up; return it in words.

    A canary ends well when its run is published, or when it has trained for its time and made outputs that nobody
    keeps; then it goes on from its checkpoint beside the rest. What follows is a submission of its own, with --time
    and --mem as measured where they were estimates. It was not queued before, held, because at Slurm a user cannot
    raise the time limit of a job that is there.

    Args:
        sweep: the sweep's folder.
        survey: its state.
        claim: the hold on its submissions.

    Raises:
        ClaimError: the hold was lost.
        SlurmError: Slurm does not answer.
        OSError: the sweep's folder cannot be written.
    """
    said = []
    for intent, planned in planned_tasks(read_intents(sweep), read_journals(sweep)):
        canaries = intent.options.get(CANARY) or []
        rest = [task for task in planned if task not in canaries]
        if not canaries or not rest or any(task in planned for task in canaries):
            continue
        states = {name: survey.runs[name] for task in canaries for name in intent.tasks[task] if name in survey.runs}
        bad = [name for name, status in states.items() if _is_bad(status.state, outcome=status.outcome)]
        if bad:
            _give_up(sweep, intent, canaries=canaries, message=f"the canary {bad[0]} did not end well")
            said.append(
                f"submission {intent.number}: the canary {bad[0]} did not end well, {len(rest)} tasks are not sent; "
                f"band-sweep why {sweep.name} {bad[0]} says more; submit again when that is mended"
            )
        elif all(status.state == "published" or _rehearsal(survey, status.task) for status in states.values()):
            resting = [t for t in canaries if all(states[name].state == "interrupted" for name in intent.tasks[t])]
            said.append(_follow(sweep, intent, claim=claim, survey=survey, tasks=[*resting, *rest]))
    return said


def _follow(sweep: SweepDir, intent: Intent, *, claim: Claim, survey: Survey, tasks: Sequence[str]) -> str:
    """Request the tasks that wait for a canary that has ended well, it being among them where it was cut short."""
    options = corrected(sweep, intent, survey=survey, rest=tasks)
    members = {task: intent.tasks[task] for task in tasks}
    runs = [name for task in tasks for name in intent.tasks[task]]
    follower = record(sweep, "submit", runs=runs, tasks=members, options=options, scheduler="slurm", claim=claim)
    words = ", ".join(f"--{name} {options['sbatch'][name]}" for name in ("time", "mem") if name in options["sbatch"])
    return f"submission {follower.number}: the canary ended well, {len(tasks)} tasks follow with {words}"


def _rehearsal(survey: Survey, task: str) -> Mapping[str, float]:
    """Return what a canary that was cut short told of itself, nothing where it was not."""
    folds = by_task(survey.folds.values()).get(task, [])
    return next((fold.rehearsal for fold in reversed(folds) if fold.rehearsal), {})


def ahead(intent: Intent, tasks: Sequence[str]) -> list[str]:
    """Return those of a submission's planned tasks that may be sent now: its canary, as long as there is one."""
    canaries = intent.options.get(CANARY) or []
    return [task for task in tasks if task in canaries] if canaries else list(tasks)


def _is_bad(state: str, *, outcome: str) -> bool:
    return state in ("failed", "cancelled") or (state == "published" and outcome not in ("", "ok"))


def _give_up(sweep: SweepDir, intent: Intent, *, canaries: Sequence[str], message: str) -> None:
    array = next(a for a in read_journals(sweep) if a.submission == intent.number and set(a.tasks) & set(canaries))
    append(sweep, intent.number, array=array.number, step="closed", is_final=True, message=message)


def corrected(sweep: SweepDir, intent: Intent, *, survey: Survey, rest: Sequence[str]) -> dict[str, Any]:
    """Return the options for what follows a canary: estimates of time and memory replaced by what it measured."""
    options = {name: value for name, value in intent.options.items() if name not in (CANARY, CANARY_S)}
    sbatch, origins = dict(options["sbatch"]), dict(options["origins"])
    arrays = [a for a in read_journals(sweep) if a.submission == intent.number and not a.is_dead]
    slower, larger = [], []
    for task in intent.options[CANARY]:
        cost_s, cost_bytes = _expected(sweep, survey.manifest, task=task)
        slower += [seconds / cost_s for seconds in _seconds(survey, task) if cost_s]
        larger += [size / cost_bytes for size in _most_memory(arrays, task)]
    expected = [_expected(sweep, survey.manifest, task=task) for task in rest]
    if slower and origins.get("time") == ESTIMATE:
        longest_s = max(seconds for seconds, _ in expected) * max(slower)
        most_s = limits_of({name: str(value) for name, value in sbatch.items()}).max_wall_s
        options["time_s"] = int(min(time_for(longest_s), most_s or math.inf))
        sbatch["time"], origins["time"] = time_text(options["time_s"]), "canary"
    if larger and origins.get("mem") == ESTIMATE:
        largest = max(size for _, size in expected) * max(larger)
        options["mem_bytes"] = memory_for(largest)
        sbatch["mem"], origins["mem"] = memory_text(options["mem_bytes"]), "canary"
    return {**options, "sbatch": sbatch, "origins": origins}


def _expected(sweep: SweepDir, manifest: Manifest, *, task: str) -> tuple[float, int]:
    """Return the seconds on one core and the bytes that a task was estimated at."""
    values = read_json_object(sweep.task(task).task_json)
    dataset = next(n for n, entry in enumerate(manifest.datasets) if entry["digest"] == values["dataset"]["digest"])
    shapes = dataset_shapes_of(manifest, dataset)
    seconds = sum(estimate(member["config"], shapes).seconds for member in values["runs"])
    return seconds, max(int(values["memory_bytes"]), PROCESS_BYTES)


def _seconds(survey: Survey, task: str) -> list[float]:
    """Return how long a task takes: as it told when it was cut short, else from the first event of it to the last."""
    if told := _rehearsal(survey, task):
        return [told["train_s"] / told["share"] + told["outputs_s"]]
    folds = by_task(survey.folds.values()).get(task, [])
    return [sum(fold.last_t - fold.first_t for fold in folds)] if folds else []


def _most_memory(arrays: Sequence[Array], task: str) -> list[int]:
    """Return the most memory that Slurm saw a task use; nothing where it keeps no accounts or looked too seldom."""
    array = next((array for array in arrays if task in array.tasks), None)
    if array is None:
        return []
    job = f"{array.job_id}_{array.index_of(task)}"
    try:
        text = run(["sacct", "--noheader", "--parsable2", f"--jobs={job}", "--format=MaxRSS"])
    except SlurmError:
        return []
    sizes = [size for line in text.splitlines() if line.strip() and (size := memory_bytes(_with_unit(line.strip())))]
    return [max(sizes)] if sizes else []


def _with_unit(text: str) -> str:
    """Return an amount of memory as sacct prints it, bytes where no unit stands behind, in a form with a unit."""
    return f"{int(text) // 1024}K" if text.isdecimal() else text
