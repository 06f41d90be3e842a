"""One attempt at one task: claim, salvage, stage, train, publish, sweep up; `python -m band.node.task TASK.json`."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from band.attempts import Attempt, take
from band.errors import BandError, StageError
from band.files import remove_stale_temporaries
from band.node.checkpoints import Checkpoints, task_events
from band.node.job import Job, OnEvent, Reporter, Task, Timing, read_task
from band.node.publish import Publisher, is_published
from band.node.salvage import salvage, sweep_up
from band.node.scratch import find_scratch
from band.node.stage import Interrupted, staged
from band.node.supervise import Ending, StopRequest, Supervisor, worker_command

MOST_KILLS = 5  # of one population without a checkpoint in between
ALL_PUBLISHED, SOME_FAILED, INTERRUPTED, HOME_UNWRITABLE = 0, 1, 4, 75


def run_task(
    task_json: Path | str,
    *,
    on_event: OnEvent | None = None,
    trainer: Sequence[str] | None = None,
    timing: Timing | None = None,
) -> int:
    """Make one attempt at the task of a task file.

    Args:
        task_json: tasks/TASK/task.json of a sweep on the shared home.
        on_event: called with every event, those of each epoch too; None: notable ones are printed.
        trainer: command that speaks the trainer's protocol; None: $BAND_TRAINER, or `python -m band.train.worker`.
        timing: None: the usual one.

    Returns:
        0 all runs published, 1 some run failed, 4 to be continued, 75 home cannot be written. What a user can mend is
        printed, not raised.
    """
    command = list(trainer or shlex.split(os.environ.get("BAND_TRAINER", "")) or worker_command())
    try:
        with StopRequest() as stop:
            return _attempt(
                read_task(Path(task_json)), on_event=on_event, command=command, timing=timing or Timing(), stop=stop
            )
    except BandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: the sweep's folder cannot be used: {error}", file=sys.stderr)
        return HOME_UNWRITABLE


def _attempt(task: Task, *, on_event: OnEvent | None, command: list[str], timing: Timing, stop: StopRequest) -> int:
    attempt = Attempt.current()
    scratch, why_home = find_scratch(task.sweep)
    claim = take(task.folder.path, attempt=attempt)
    events = task.sweep.event_file(task.name, attempt=attempt.name)
    reporter = Reporter(events, on_event=on_event, epoch_s=timing.epoch_s)
    job = Job(task=task, attempt=attempt, claim=claim, scratch=scratch, reporter=reporter, timing=timing)
    reporter.report("claimed", claim=claim.number, attempt=attempt.name, host=attempt.host, pid=attempt.pid)
    code = SOME_FAILED
    try:
        code = _Attempt(job, command=command, stop=stop, why_home=why_home).run()
    finally:
        reporter.report("ended", code=code)
        try:
            claim.release()
        except OSError as error:
            reporter.say(
                f"task {task.name}: the claim could not be given back ({error}); that we have ended tells the rest"
            )
    return code


def make_work_folder(path: Path) -> None:
    """Make an attempt's work folder, though tasks that end at this moment remove parents of it that are empty.

    Raises:
        OSError: it cannot be made.
    """
    for _ in range(100):
        with suppress(FileNotFoundError):
            path.mkdir(parents=True, exist_ok=True)
            return
    path.mkdir(parents=True, exist_ok=True)


@dataclass
class _Attempt:
    job: Job
    command: list[str]
    stop: StopRequest
    why_home: str  # why there is no scratch, "" where there is
    plan: list[list[str]] = field(default_factory=list)  # the parts still to be trained, runs of one population each
    failed: list[str] = field(default_factory=list)
    killed: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)  # part: newest step, kills since
    is_lost: bool = False

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.job)
        self.checkpoints = Checkpoints(self.job)
        self.supervisor = Supervisor(self.job, publisher=self.publisher, checkpoints=self.checkpoints, stop=self.stop)

    def run(self) -> int:
        job = self.job
        make_work_folder(job.work)
        remove_stale_temporaries(job.task.folder.path)
        streams = task_events(job)
        for events in streams:
            self.checkpoints.learn(events)
        self.checkpoints.look_at_home()
        salvage(job, publisher=self.publisher, checkpoints=self.checkpoints)
        self.publisher.done |= {run for run in job.task.run_ids if is_published(job.sweep, run)}
        self.plan = self._parts(streams)
        if self.plan:
            try:
                self._stage_and_train()
            except Interrupted:
                pass
            except BandError as error:
                self._report_failure([run for part in self.plan for run in part], error=error)
        return self._finish()

    def _parts(self, streams: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[str]]:
        """Return the populations to train: as packed, as earlier attempts split them, as checkpoints go together."""
        rest = self._open(self.job.task.run_ids)
        splits = [event for events in streams for event in events if event["event"] == "split"]
        parts: list[list[str]] = []
        for part in splits[-1].get("parts", []) if splits else []:
            parts.append([run for run in part if run in rest])
            rest = [run for run in rest if run not in part]
        plan = []
        populations = [[run for run in population if run in rest] for population in self.job.task.populations]
        for part in [*populations, *parts]:
            while part:
                together = self.checkpoints.covered(part)
                plan.append(together)
                part = [run for run in part if run not in together]
        return plan

    def _open(self, runs: Iterable[str]) -> list[str]:
        over = self.publisher.done | set(self.publisher.waiting) | self.job.task.skip
        return [run for run in runs if run not in over]

    def _stage_and_train(self) -> None:
        job = self.job
        scratch = None if self.why_home else job.scratch
        with staged(job.task.dataset, scratch=scratch, should_stop=lambda: bool(self.stop.reason)) as data:
            fallback = self.why_home or data.fallback
            source = "home" if fallback else "scratch"
            job.reporter.report("staged", path=str(data.path), source=source, copied=data.copied, reason=fallback)
            if fallback:
                job.reporter.say(f"task {job.task.name}: reads the recording from home ({fallback})")
            while self.plan and not self.stop.reason and not self.is_lost:
                self.plan[0] = self._open(self.plan[0])
                if self.plan[0]:
                    self._train_part(data.path)
                else:
                    self.plan.pop(0)

    def _train_part(self, data: Path) -> None:
        part, later = self.plan[0], self.plan[1:]
        try:
            folder = self._new_folder()
            self.checkpoints.seed(folder, runs=part)
        except OSError as error:
            raise StageError(
                f"{self.job.work} cannot be written: {error}; free some room, or set BAND_SCRATCH"
            ) from None
        task = ["--task", str(self.job.task.path), "--work", str(folder), "--data", str(data), "--runs", ",".join(part)]
        ending = self.supervisor.supervise([*self.command, *task], runs=part, folder=folder, later=later)
        rest = self._open(part)
        if ending.kind == "lost":
            self.is_lost = True
        elif ending.kind == "failed" and not self._goes_on(ending, rest=rest):
            self._divide(ending, rest=rest, later=later)

    def _new_folder(self) -> Path:
        taken = [int(path.name) for path in self.job.work.iterdir() if path.name.isdigit()]
        folder = self.job.work / str(max(taken, default=-1) + 1)
        folder.mkdir()
        return folder

    def _goes_on(self, ending: Ending, *, rest: list[str]) -> bool:
        """Return whether a population that somebody killed goes on as it was: unless that happens time and again."""
        step = self.checkpoints.newest_step(rest)
        step_before, kills = self.killed.get(tuple(rest), (step, 0))
        kills = kills + 1 if step == step_before else 1
        if not ending.was_killed or kills > MOST_KILLS:
            return False
        self.killed[tuple(rest)] = (step, kills)
        self.job.reporter.report("restarted", runs=rest, error=ending.error, message=ending.message)
        return True

    def _divide(self, ending: Ending, *, rest: list[str], later: list[list[str]]) -> None:
        """Go on in halves, or record the failure of the one run that is left."""
        why = {"error": ending.error, "message": ending.message, "traceback": ending.traceback}
        if len(rest) > 1:
            middle = (len(rest) + 1) // 2
            self.plan = [rest[:middle], rest[middle:], *later]
            self.job.reporter.report("split", runs=rest, parts=self.plan, **why)
        else:
            self.plan = later
            self.failed += rest
            self.job.reporter.report("failed", runs=rest, **why)
            self.job.reporter.say(f"run {', '.join(rest)} failed: {ending.error}: {ending.message}")

    def _report_failure(self, runs: list[str], *, error: BandError) -> None:
        self.failed += runs
        self.plan = []
        self.job.reporter.report("failed", runs=runs, error=type(error).__name__, message=str(error), traceback="")
        self.job.reporter.say(f"error: {error}")

    def _finish(self) -> int:
        """Bring home what is finished and the checkpoints of what is not, sweep up, and return the exit code."""
        job = self.job
        missing = [run for run in job.task.run_ids if run not in self.publisher.done]
        kept = [part for part in (self._open(part) for part in self.plan) if part]
        kept += [[run] for run in missing if run in self.failed or run in job.task.skip]
        is_home = not self.is_lost and self._bring_home(kept)
        if is_home:
            sweep_up(job)
            if not kept:
                self.checkpoints.clear_home()
        if self.publisher.waiting:
            return self._unsynced()
        if self.is_lost or self.stop.reason:
            reason = "another attempt holds the task" if self.is_lost else self.stop.reason
            job.reporter.report("interrupted", reason=reason)
            job.reporter.say(f"task {job.task.name}: interrupted ({reason}); the next attempt continues")
            if self.is_lost or self._open(job.task.run_ids):
                return INTERRUPTED
        return SOME_FAILED if self.failed else ALL_PUBLISHED

    def _bring_home(self, parts: list[list[str]]) -> bool:
        """Publish and mirror until all is at home or patience ends; return whether all is."""
        timing = self.job.timing
        start = time.monotonic()
        while True:
            if not self.supervisor.mirror(parts):
                self.is_lost = True
                return False
            if not self.publisher.waiting and self.checkpoints.is_home(parts):
                return True
            patience_s = min(timing.home_wait_s, timing.stop_s) if self.stop.reason else timing.home_wait_s
            if self.stop.count > 1 or time.monotonic() - start > patience_s:
                return False
            time.sleep(timing.tick_s)

    def _unsynced(self) -> int:
        runs = sorted(self.publisher.waiting)
        where = str(self.job.work)
        host = self.job.attempt.host
        self.job.reporter.report("interrupted", reason="home cannot be written", runs=runs, host=host, path=where)
        self.job.reporter.say(
            f"task {self.job.task.name}: home cannot be written ({self.publisher.refusal}); finished runs are kept on "
            f"{host} in {where}: {', '.join(runs)}; an attempt on that machine brings them home"
        )
        return HOME_UNWRITABLE


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one attempt at the task whose file is the one argument; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1 or given[0].startswith("-"):
        print("usage: python -m band.node.task SWEEP/tasks/TASK/task.json", file=sys.stderr)
        return 2
    return run_task(Path(given[0]))


if __name__ == "__main__":
    raise SystemExit(main())
