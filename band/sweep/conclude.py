"""One array that is over: each of its tasks is judged, what follows is done, and what nobody needs is removed.

Under the hold on the sweep's submissions. A verdict is one file, made whole or not at all; what is done about it can be
seen to be done, so that whoever comes after a process that was killed does the rest, and nothing twice.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from band.attempts import Claim, read_claim, release_for
from band.errors import BandError
from band.files import canonical_json, create_exclusive, read_json_object, remove_stale_temporaries
from band.run_dir import SweepDir, read_events
from band.slurm import command, jobs
from band.slurm.command import SlurmError
from band.slurm.units import memory_bytes, memory_text
from band.sweep.arrays import largest_memory, limits_of
from band.sweep.calibrate import learn_from_task
from band.sweep.fold import AttemptFold, add_to_index, by_task, read_index
from band.sweep.hold import slurm_says_over
from band.sweep.journal import Array, append, read_journals, standing
from band.sweep.ledger import Intent, read_intents, record
from band.sweep.policy import DEFAULT_RETRIES, Case, End, Policy, Verdict, judge
from band.sweep.slurm_scheduler import batch_output, settle_s
from band.sweep.slurm_script import CLOSING, FOLDER
from band.sweep.status import Survey, TaskState

STREAM = "closing"  # a stream of its own, TASK.closing-SUBMISSION-ARRAY.jsonl
MOST_LESSONS = 4  # tasks of an array whose speed is learned from: each takes a look at the whole manifest
MEMORY_OPTIONS = ("mem", "mem-per-cpu", "mem-per-gpu")


def due(sweep: SweepDir, survey: Survey) -> list[Array]:
    """Return the arrays that are over and not closed: of whose tasks none is waiting, running or unsettled."""
    places = standing(read_intents(sweep), read_journals(sweep))
    open_arrays = [array for array in read_journals(sweep) if array.is_sent and not array.is_closed]
    return [array for array in open_arrays if not unsettled(array, places=places, survey=survey)]


def unsettled(array: Array, *, places: Mapping[str, Array | None], survey: Survey) -> list[str]:
    """Return the tasks of an array of which it is not known how they ended: home's view of them may be behind."""
    attempts = by_task(survey.folds.values())
    return [task for task in own_tasks(array, places) if not _is_settled(task, survey=survey, attempts=attempts)]


def own_tasks(array: Array, places: Mapping[str, Array | None]) -> list[str]:
    """Return the tasks of an array that were not sent again since."""
    found = {task: places.get(task) for task in array.tasks}
    key = (array.submission, array.number)
    return [task for task, place in found.items() if place is not None and (place.submission, place.number) == key]


def _is_settled(task: str, *, survey: Survey, attempts: Mapping[str, Sequence[AttemptFold]]) -> bool:
    found = survey.scheduled.get(task)
    if found is None:
        return True  # all of it is published
    if not found.end:
        return found.state in ("lost", "cancelled") or not (found.state or found.words)
    newest = _newest(attempts.get(task, ()), job=found.job)
    if newest is not None and newest.code is not None:
        return True
    return time.time() > (found.end_t or 0.0) + settle_s()


def _newest(attempts: Sequence[AttemptFold], *, job: str) -> AttemptFold | None:
    return next((fold for fold in reversed(attempts) if fold.attempt.startswith(f"j{job}-r")), None)


@dataclass
class Closing:
    """The closing of one array that is over."""

    sweep: SweepDir
    claim: Claim  # the hold on its submissions
    survey: Survey
    array: Array

    @cached_property
    def intents(self) -> list[Intent]:
        """All requests, oldest first."""
        return read_intents(self.sweep)

    @cached_property
    def intent(self) -> Intent:
        """The request that the array came from."""
        return next(intent for intent in self.intents if intent.number == self.array.submission)

    @cached_property
    def attempts(self) -> Mapping[str, list[AttemptFold]]:
        """The attempts at training each task, oldest first."""
        return by_task(fold for fold in self.survey.folds.values() if not fold.is_hearsay)

    @cached_property
    def starts(self) -> Mapping[str, Mapping[str, End]]:
        """How Slurm ended those starts of a task's job after which it was queued again, by task and attempt."""
        try:
            records = [job for job in jobs.accounted([self.array.job_id]) if job.name == self.array.token]
        except SlurmError:
            return {}  # without accounts the attempts' own words must do
        found: dict[str, dict[str, End]] = {}
        for index, task in enumerate(self.array.tasks):
            starts = [job for job in records if job.array_task == index and job.start_t is not None]
            found[task] = {
                f"j{job.label}-r{number}": End(state=job.state, node=job.nodes, exit_code=job.exit_code)
                for number, job in enumerate(starts[:-1])
            }
        return found

    def conclude(self) -> list[str]:
        """Judge each task and do what follows; return it in words.

        Raises:
            ClaimError: the hold was lost.
            OSError: the sweep's folder cannot be written.
        """
        tasks = own_tasks(self.array, standing(self.intents, read_journals(self.sweep)))
        verdicts = {task: verdict for task in tasks if (verdict := self._verdict(task)) != Verdict()}
        self._cancel(verdicts)
        self._forgive(verdicts)
        said = self._send_again(verdicts)
        for task in sorted(set(tasks) - set(verdicts))[:MOST_LESSONS]:
            with suppress(BandError, OSError, KeyError, TypeError):  # an estimate is not worth a failure
                learn_from_task(self.sweep, task=task)
        self._index()
        self._tidy()
        append(self.sweep, self.array.submission, array=self.array.number, step="closed")
        self._drop_leftovers()
        return [_words(task, verdict) for task, verdict in verdicts.items()] + said

    # --- judging ---------------------------------------------------------------------------------------------------

    def _verdict(self, task: str) -> Verdict:
        """Return what follows from how a task ended: as it was judged before, or judged now and written down."""
        path = self.sweep.event_file(task, attempt=f"{STREAM}-{self.array.submission}-{self.array.number}")
        if (known := _noted(path)) is not None:
            return known
        if task not in self.survey.scheduled:
            return Verdict()
        case = self._case(task)
        verdict = judge(case, Policy({**DEFAULT_RETRIES, **self.intent.options.get("policy", {})}))
        if verdict != Verdict():
            release_for(self.sweep.task(task).path, is_over=lambda claim: slurm_says_over(claim.attempt))
            events = self._events(task, case=case, verdict=verdict)
            path.parent.mkdir(exist_ok=True)
            create_exclusive(path, b"".join(canonical_json(event) + b"\n" for event in events))
        return verdict

    def _case(self, task: str) -> Case:
        open_runs, failures = [], {}
        retired = {run.id for run in self.survey.manifest.runs if run.retired}
        for run in self.survey.ledger.tasks[task]:
            status = self.survey.runs.get(run)
            if status is None or status.state == "published" or run in retired | self.survey.ledger.cancelled:
                continue
            if status.state == "failed" and not status.blamed:
                failures[run] = status.error
            else:
                open_runs.append(run)
        found = self.survey.scheduled.get(task, TaskState())
        state = found.end or ("CANCELLED" if found.state == "cancelled" else "")
        values = read_json_object(self.sweep.task(task).task_json)
        return Case(
            open_runs=open_runs,
            failures=failures,
            attempts=self.attempts.get(task, []),
            ends=self._ends(task),
            end=End(state=state, node=found.node, exit_code=found.exit_code),
            job=found.job,
            populations=values.get("populations", ()),
        )

    def _ends(self, task: str) -> dict[str, End]:
        """Return how Slurm ended earlier attempts, as far as closing jobs noted it and the accounts still tell."""
        ends = {}
        for path in self.sweep.event_files(task):
            if path.name.startswith(f"{task}.{STREAM}-"):
                for event in read_events(path)[0]:
                    if event["event"] == "noted" and event.get("attempt"):
                        ends[event["attempt"]] = End(state=event["end"], node=event["node"])
        return {**ends, **self.starts.get(task, {})}

    def _events(self, task: str, *, case: Case, verdict: Verdict) -> list[dict[str, Any]]:
        """Return what the closing has to say of a task: its verdict, and the events that make it hold."""
        claim = read_claim(self.sweep.task(task).path)
        newest = _newest(case.attempts, job=case.job)
        base = {"t": time.time(), "claim": claim.number if claim else 0}
        noted = {"attempt": newest.attempt if newest else "", "end": case.end.state, "node": case.end.node}
        events = [{**base, "event": "noted", **noted, "verdict": asdict(verdict)}]
        if verdict.parts:
            runs = [run for part in verdict.parts[:2] for run in part]
            message = f"Slurm ended job {case.job} for want of memory; its population goes on in halves"
            why = {"error": "OutOfMemory", "message": message, "traceback": ""}
            events.append({**base, "event": "split", "runs": runs, "parts": verdict.parts, **why})
        for error, message in dict.fromkeys(verdict.failed.values()):
            runs = [run for run, why in verdict.failed.items() if why == (error, message)]
            end = {"error": error, "message": message, "traceback": ""}
            events.append({**base, "event": "failed", "runs": runs, **end})
        if verdict.unsynced:
            node = case.end.node or (newest.host if newest else "")
            events.append({**base, "event": "unsynced", "runs": verdict.unsynced, "host": node})
        return [*events, {**base, "event": "ended", "code": 0}]

    # --- doing -----------------------------------------------------------------------------------------------------

    def _cancel(self, verdicts: Mapping[str, Verdict]) -> None:
        """Enter into the ledger what a user did with scancel, so that it holds when Slurm has forgotten it."""
        runs = {run for verdict in verdicts.values() for run in verdict.cancelled} - self.survey.ledger.cancelled
        if runs:
            record(self.sweep, "cancel", runs=sorted(runs), claim=self.claim)

    def _forgive(self, verdicts: Mapping[str, Verdict]) -> None:
        failures = {}
        for task, verdict in verdicts.items():
            for run in verdict.forgiven:
                past = [fold.stem for fold in self.attempts.get(task, ()) if fold.phases.get(run) == "failed"]
                if not self.survey.ledger.forgiven.get(run, frozenset()).issuperset(past):
                    failures[run] = past
        if failures:
            record(self.sweep, "retry", failures=failures, claim=self.claim)

    def _send_again(self, verdicts: Mapping[str, Verdict]) -> list[str]:
        """Make a submission of the tasks that go on, one for each set of options; from then on they are planned."""
        groups: dict[tuple[float, tuple[str, ...]], list[str]] = {}
        for task, verdict in verdicts.items():
            if verdict.again:
                groups.setdefault((verdict.memory_factor, verdict.exclude), []).append(task)
        said = []
        for (factor, exclude), tasks in groups.items():
            options = self._options(tasks, factor=factor, exclude=exclude)
            runs = [run for task in tasks for run in verdicts[task].again]
            members = {task: self.survey.ledger.tasks[task] for task in tasks}
            intent = record(
                self.sweep, "submit", runs=runs, tasks=members, options=options, scheduler="slurm", claim=self.claim
            )
            said.append(f"submission {intent.number}: {len(tasks)} tasks go on")
        return said

    def _options(self, tasks: Sequence[str], *, factor: float, exclude: tuple[str, ...]) -> dict[str, Any]:
        """Return what to ask Slurm for: as before, with more memory and without some nodes where that is due."""
        options = dict(self.intent.options)
        sbatch, origins = dict(options["sbatch"]), dict(options.get("origins", {}))
        grown = factor / options.get("memory_factor", 1.0)
        if grown != 1.0:
            for name, value in self._memory(sbatch, tasks=tasks).items():
                most = max(self._most_memory(name), value)  # beyond what a node has, Slurm would let it wait for ever
                sbatch[name], origins[name] = memory_text(min(value * grown, most)), "policy"
            if options.get("mem_bytes"):
                options["mem_bytes"] = int(options["mem_bytes"] * grown)
        if exclude:
            nodes = [node for node in str(sbatch.get("exclude", "")).split(",") if node]
            sbatch["exclude"], origins["exclude"] = ",".join(dict.fromkeys([*nodes, *exclude])), "policy"
        return {**options, "sbatch": sbatch, "origins": origins, "memory_factor": factor}

    def _memory(self, sbatch: Mapping[str, Any], *, tasks: Sequence[str]) -> dict[str, int]:
        """Return the memory that was asked for, in bytes; without such an option, what Slurm gave the job."""
        asked = {name: memory_bytes(str(sbatch[name])) for name in MEMORY_OPTIONS if name in sbatch}
        known = {name: value for name, value in asked.items() if value}
        if known:
            return known
        given = re.search(r"mem=(\w+)", jobs.show(self.array.job_id, self.array.index_of(tasks[0])).get("TRES", ""))
        estimate = max(int(read_json_object(self.sweep.task(task).task_json)["memory_bytes"]) for task in tasks)
        return {"mem": (memory_bytes(given[1]) if given else None) or estimate}

    def _most_memory(self, option: str) -> float:
        """Return the most that a node of the partition could give by one of the options for memory."""
        options = self.intent.options
        try:
            largest = largest_memory(limits_of(options["sbatch"]))
        except SlurmError:
            largest = 0
        shares = {"mem-per-cpu": options.get("cpus", 1), "mem-per-gpu": max(options.get("gpus", 0), 1)}
        return (largest // shares.get(option, 1) >> 20 << 20) or math.inf

    def _drop_leftovers(self) -> None:
        """Cancel what of the array still waits at Slurm, and its closing job if that is held: nothing is left to do.

        Such jobs stay for ever where Slurm holds them, as it does after a launch that failed.
        """
        with suppress(SlurmError):
            for job in {job.job_id: job for job in jobs.queued() if job.state in jobs.WAITING}.values():
                is_closing = job.name == f"{self.array.token}-{CLOSING}" and job.is_held
                if is_closing or job.name == self.array.token:
                    command.run(["scancel", "--state=PENDING", job.job_id])

    # --- tidying ---------------------------------------------------------------------------------------------------

    def _index(self) -> None:
        """Keep what the attempts that have ended came to, but for those that are kept already."""
        known = read_index(self.sweep)
        folds = [fold for task in self.array.tasks for fold in self.attempts.get(task, ())]
        add_to_index(
            self.sweep, self.array.submission, [f for f in folds if f.code is not None and f.stem not in known]
        )

    def _tidy(self) -> None:
        """Remove the calls of tasks that are over, and what Slurm logged where nobody need read it."""
        remove_stale_temporaries(self.sweep.events)
        folder = self.sweep.submission(self.array.submission) / FOLDER
        _unlink(folder.glob(f"{self.array.job_id}_*"))
        with suppress(OSError):
            folder.rmdir()
        for index, task in enumerate(self.array.tasks):
            log = batch_output(self.sweep, job=f"{self.array.job_id}_{index}")
            with suppress(OSError):
                if task not in self.survey.scheduled or log.stat().st_size == 0:
                    log.unlink()


def _noted(path: Path) -> Verdict | None:
    """Return the verdict that a stream of a closing holds, None where there is no such stream."""
    for event in read_events(path)[0]:
        if event["event"] == "noted":
            values = event["verdict"]
            return Verdict(
                kind=values["kind"],
                failed={run: (error, message) for run, (error, message) in values["failed"].items()},
                parts=tuple(tuple(part) for part in values["parts"]),
                memory_factor=values["memory_factor"],
                **{key: tuple(values[key]) for key in ("again", "forgiven", "cancelled", "unsynced", "exclude")},
            )
    return None


def _words(task: str, verdict: Verdict) -> str:
    fates = {"go on": verdict.again, "failed": verdict.failed, "cancelled": verdict.cancelled}
    fates["wait on their node"] = verdict.unsynced
    counts = ", ".join(f"{len(runs)} runs {fate}" for fate, runs in fates.items() if runs)
    with_memory = f", with {verdict.memory_factor:g} x memory" if verdict.memory_factor > 1 else ""
    without = f", avoiding {', '.join(verdict.exclude)}" if verdict.exclude else ""
    return (
        f"task {task}: {verdict.kind or 'over'}: {counts}{', in halves' if verdict.parts else ''}{with_memory}{without}"
    )


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
