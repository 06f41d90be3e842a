"""The local queue: starts the tasks of a sweep on this machine, never more at once than it has room for.

It runs in a session of its own, so that neither Ctrl-C nor a closed terminal reaches it, and holds nothing that cannot
be found again: when it is killed, its tasks go on, and the next queue waits for those and starts the rest.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from band.attempts import Attempt, take
from band.errors import BandError, ClaimError
from band.files import canonical_json, write_atomic
from band.run_dir import EventWriter, SweepDir, read_task_json
from band.sweep.calibrate import learn_from_task
from band.sweep.fold import AttemptFold, add_to_index
from band.sweep.ledger import RECEIPT, read_intents, request_numbers
from band.sweep.local import Claims, queue_tasks
from band.sweep.manifest import Manifest, read_manifest
from band.sweep.processes import ask_to_stop, held_claim, is_here
from band.sweep.status import HOME_UNWRITABLE, Survey, take_survey
from band.sweep.submit import write_skip
from band.sweep.submitit_jobs import Job, start_job, sweep_up

TICK_S = 0.2
HOME_WAIT_S = 600.0  # how long the queue waits for a home that cannot be used, as an attempt does
MOST_DEATHS = 3  # ends of a task, one after the other, without a checkpoint or a result in between
OPEN = ("new", "interrupted", "unsynced")  # states of a run that an attempt would take up, as claims alone show them


@dataclass
class Running:
    """A task that this queue has started, or has found running."""

    job: Job | None  # None where an earlier queue started it
    threads: int
    memory_bytes: int
    gpu: int | None = None
    progress: tuple[int, int] = (0, -1)  # published runs and last checkpoint when it started
    asked: str = ""  # the attempt that this queue asked to stop; a second signal would cost it its checkpoint


@dataclass
class Queue:
    """Works through the tasks of a submission, and of those that are made while it works."""

    sweep: SweepDir
    submission: str
    room: Mapping[str, Any]
    pending: list[str] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    indexed: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)  # requests already looked at
    num_stops: int = 0  # how often the queue was asked to stop
    manifest: Manifest | None = None
    folds: dict[str, AttemptFold] | None = None

    def run(self) -> None:
        """Work until every task is over; when asked to stop, until those that run have ended; asked twice, at once."""
        refused_t = 0.0  # since when home cannot be used
        while True:
            try:
                self._work()
                refused_t = 0.0
            except OSError as error:  # each part of the work is done again until it is done
                if not refused_t:
                    refused_t = time.monotonic()
                    say(f"the sweep's folder cannot be used ({error}); trying again")
                elif time.monotonic() - refused_t > HOME_WAIT_S or self.num_stops > 1:
                    raise
            else:
                if self.num_stops > 1 or not (self.running or (self.pending and not self.num_stops)):
                    return
            time.sleep(TICK_S)

    def _work(self) -> None:
        self.read_requests()
        self._reap()
        if self.num_stops:
            for task in self.running:
                self._ask(task)
        else:
            self._start_more()

    # --- requests --------------------------------------------------------------------------------------------------

    def read_requests(self) -> None:
        """When there are new requests: take up their tasks, and stop running tasks of which a run was cancelled."""
        requests = request_numbers(self.sweep)
        if requests == self.seen:
            return
        self.manifest = read_manifest(self.sweep.path)
        survey = self._survey()
        wanted = queue_tasks(self.sweep, since=self.submission)
        known = {*self.pending, *self.running}
        self.pending += sorted(task for task in wanted - known if self._open_runs(task, survey=survey))
        for task in self.running:
            if any(survey.runs[run].state == "running" for run in self._cancelled(task, survey=survey)):
                say(f"task {task}: a run of it was cancelled")
                self._ask(task)
        self.seen = requests

    def _cancelled(self, task: str, *, survey: Survey) -> frozenset[str]:
        return survey.ledger.cancelled.intersection(survey.ledger.tasks[task])

    def _survey(self) -> Survey:
        assert self.manifest is not None
        survey = take_survey(self.sweep, self.manifest, scheduler=Claims(self.sweep), folds=self.folds)
        self.folds = survey.folds
        return survey

    def _open_runs(self, task: str, *, survey: Survey) -> list[str]:
        members = survey.ledger.tasks[task]
        return [run for run in members if run in survey.runs and survey.runs[run].state in (*OPEN, "running")]

    # --- starting --------------------------------------------------------------------------------------------------

    def _start_more(self) -> None:
        for task in list(self.pending):
            claim = held_claim(self.sweep.task(task).path)
            if claim is not None and not is_here(claim.attempt):
                say(f"task {task} is left to attempt {claim.attempt.name} on {claim.attempt.host}, which may be alive")
                self.pending.remove(task)
            elif claim is not None:
                say(f"task {task} is running already: waiting for it")
                self._enter(task, job=None, gpu=None)
            elif self._has_room(task):
                self._start(task)

    def _needs(self, task: str) -> tuple[int, int]:
        values = read_task_json(self.sweep.task(task).task_json)
        return int(values["threads"]), int(values["memory_bytes"])

    def _has_room(self, task: str) -> bool:
        if not self.running:
            return True
        threads, memory_bytes = self._needs(task)
        used_threads = sum(entry.threads for entry in self.running.values())
        used_bytes = sum(entry.memory_bytes for entry in self.running.values())
        slots, is_cpu = int(self.room["slots"]), self.room["device"] == "cpu"
        has_cores = used_threads + threads <= max(int(self.room["cores"]), slots * int(self.room["threads"]))
        has_memory = not is_cpu or used_bytes + memory_bytes <= int(self.room["memory_bytes"])
        return len(self.running) < slots and has_cores and has_memory

    def _start(self, task: str) -> None:
        survey = self._survey()
        write_skip(self.sweep, task, members=survey.ledger.tasks[task], survey=survey)
        used = [entry.gpu for entry in self.running.values()]
        gpu = min(self.room["gpus"], key=used.count, default=None)  # more tasks at once than GPUs share them
        job = start_job(self.sweep, submission=self.submission, task=task, gpu=gpu)
        self._enter(task, job=job, gpu=gpu)
        say(f"task {task} started: {len(self._open_runs(task, survey=survey))} runs")

    def _enter(self, task: str, *, job: Job | None, gpu: int | None) -> None:
        threads, memory_bytes = self._needs(task)
        progress = self._progress(task)
        self.pending.remove(task)
        self.running[task] = Running(job, threads, memory_bytes, gpu=gpu, progress=progress)

    def _progress(self, task: str) -> tuple[int, int]:
        folds = [fold for fold in (self.folds or {}).values() if fold.task == task]
        published = sum(phase == "published" for fold in folds for phase in fold.phases.values())
        return published, max((fold.checkpoint_step for fold in folds), default=-1)

    # --- ending ----------------------------------------------------------------------------------------------------

    def _ask(self, task: str) -> None:
        """Ask the supervisor of a task, as soon as it holds it, to checkpoint and stop."""
        entry = self.running[task]
        claim = held_claim(self.sweep.task(task).path)
        if claim is not None and claim.attempt.name != entry.asked and ask_to_stop(claim.attempt):
            entry.asked = claim.attempt.name

    def _reap(self) -> None:
        for task, entry in list(self.running.items()):
            if entry.job is not None and not entry.job.is_over():
                continue
            if held_claim(self.sweep.task(task).path):
                continue  # the supervisor has outlived the process that submitit put above it
            last_words = entry.job.clean_up() if entry.job else ""
            again = self._conclude(task, entry=entry, last_words=last_words)
            del self.running[task]
            if again:
                self.pending.insert(0, task)

    def _conclude(self, task: str, *, entry: Running, last_words: str) -> bool:
        """Return whether a task that has ended is to be started once more."""
        survey = self._survey()
        self._index(task)
        open_runs = self._open_runs(task, survey=survey)
        if not open_runs:
            say(f"task {task} is over")
            self._learn_speed(task)
            return False
        if self.num_stops:
            say(f"task {task} has stopped; {len(open_runs)} of its runs are not finished")
            return False
        newest = max((f for f in survey.folds.values() if f.task == task), key=lambda f: f.first_t, default=None)
        if newest is not None and newest.interruption and not entry.asked:
            say(f"task {task} was interrupted ({newest.interruption}); submit again to continue it")
            return False
        moved = self._progress(task) > entry.progress or bool(entry.asked)
        self.deaths[task] = 0 if moved else self.deaths.get(task, 0) + 1
        if self.deaths[task] >= MOST_DEATHS:
            self._give_up(task, runs=open_runs, last_words=last_words)
            return False
        say(f"task {task} ended before its runs did; starting it again")
        return True

    def _give_up(self, task: str, *, runs: list[str], last_words: str) -> None:
        message = f"ended {MOST_DEATHS} times in a row without getting anywhere"
        say(f"task {task} {message}: its runs count as failed")
        events = EventWriter(self.sweep.event_file(task, attempt=f"queue-{self.submission}"))
        error = last_words.strip().split("\n")[-1] if last_words.strip() else ""
        events.write("failed", runs=runs, error="Died", message=error or message, traceback=last_words)
        events.write("ended", code=1)

    def _learn_speed(self, task: str) -> None:
        """Compare what the runs of a task took with what was expected, for the estimates to come."""
        with suppress(BandError, OSError, KeyError, TypeError):  # an estimate is not worth a failure
            learn_from_task(self.sweep, task=task)

    def _index(self, task: str) -> None:
        ended = [fold for fold in (self.folds or {}).values() if fold.task == task and fold.code is not None]
        fresh = [fold for fold in ended if fold.stem not in self.indexed]
        add_to_index(self.sweep, self.submission, fresh)
        self.indexed.update(fold.stem for fold in fresh)


def say(message: str) -> None:
    """Put a line with the time into the queue's log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), message, flush=True)


def work(sweep: SweepDir, *, submission: str) -> int:
    """Hold the sweep and work through its tasks; return the exit code of the process.

    Requests that come in while the hold is given up are looked at once more, so that none is left lying.
    """
    intent = next(intent for intent in read_intents(sweep) if intent.number == submission)
    queue = Queue(sweep=sweep, submission=submission, room=intent.options)
    signal.signal(signal.SIGTERM, lambda *_: setattr(queue, "num_stops", queue.num_stops + 1))
    for ignored in (signal.SIGINT, signal.SIGHUP):  # inherited by all that is started from here
        signal.signal(ignored, signal.SIG_IGN)
    attempt = Attempt.current()
    while True:
        claim = take(sweep.submissions, attempt=attempt)
        receipt = {"schema": 1, "scheduler": "local", "attempt": attempt.name, "host": attempt.host, "pid": attempt.pid}
        write_atomic(sweep.submission(submission) / RECEIPT, canonical_json(receipt) + b"\n")
        try:
            sweep_up(sweep)
            queue.run()
        finally:
            sweep_up(sweep)
            claim.release()
        if queue.num_stops or request_numbers(sweep) == queue.seen:
            return 0


def main(arguments: list[str]) -> int:
    """Run a queue: `python -m band.sweep.queue SWEEP_FOLDER SUBMISSION`."""
    folder, submission = arguments
    try:
        return work(SweepDir(Path(folder)), submission=submission)
    except ClaimError as error:
        say(f"not started: {error}")
        return error.exit_code
    except BandError as error:
        say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        say(f"error: the sweep's folder cannot be used: {error}")
        return HOME_UNWRITABLE


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
