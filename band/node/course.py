"""The course of an attempt that holds its task: salvage, stage, train, publish, sweep up, say how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from band.errors import BandError, ClaimError, DeviceError, StageError, VersionMismatch
from band.files import remove_stale_temporaries
from band.node.checkpoints import Checkpoints, task_events
from band.node.job import Job, Timing
from band.node.publish import Publisher, is_published
from band.node.salvage import salvage, sweep_up
from band.node.scratch import is_required
from band.node.stage import Interrupted, staged
from band.node.stop import TIME_LIMIT, StopRequest
from band.node.supervise import Ending, Supervisor

MOST_KILLS = 5  # of one population without a checkpoint in between
MOST_SILENT_DEATHS = 2  # of attempts on one node, before it is left
ALL_PUBLISHED, SOME_FAILED, INTERRUPTED, HOME_UNWRITABLE = 0, 1, 4, 75
REHEARSED = "the canary has shown what it takes"
REFUSED = VersionMismatch.exit_code
OF_THE_WHOLE_TASK = {  # errors that no division of a population mends, and what the attempt ends with
    VersionMismatch.__name__: REFUSED,
    StageError.__name__: SOME_FAILED,
    DeviceError.__name__: SOME_FAILED,
}

Streams = Sequence[Sequence[Mapping[str, Any]]]
T = TypeVar("T")


def patiently(work: Callable[[], T], *, timing: Timing, stop: StopRequest) -> T:
    """Return what `work` does at home; a job waits a while at its start for a home, or a claim, that is late.

    Raises:
        ClaimError, OSError: home goes on failing, or the task is still held.
    """
    deadline = time.monotonic() + (timing.claim_wait_s if stop.allocation is not None else 0.0)
    while True:
        try:
            return work()
        except (ClaimError, OSError):
            if stop.is_asked() or time.monotonic() > deadline:
                raise
        time.sleep(min(timing.retry_s, 1.0))


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
class Course:
    """One attempt, from its claim to its exit code."""

    job: Job
    command: list[str]
    stop: StopRequest
    why_home: str  # why there is no scratch, "" where there is
    plan: list[list[str]] = field(default_factory=list)  # the parts still to be trained, runs of one population each
    failed: list[str] = field(default_factory=list)
    killed: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)  # part: newest step, kills since
    is_lost: bool = False
    is_rehearsed: bool = False  # whether the trainer, of a canary, stopped by itself
    code: int = ALL_PUBLISHED  # what it ends with if nothing else happens
    leftovers: list[Path] = field(init=False)  # work folders on this node at its start, its own among them
    headway_from: tuple[int, int] = field(init=False)  # published runs and newest checkpoint at its start

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.job)
        self.checkpoints = Checkpoints(self.job)
        self.supervisor = Supervisor(self.job, publisher=self.publisher, checkpoints=self.checkpoints, stop=self.stop)

    def run(self) -> int:
        """Make the attempt and return its exit code."""
        job = self.job
        make_work_folder(job.work)
        remove_stale_temporaries(job.task.folder.path)
        streams = patiently(lambda: task_events(job), timing=job.timing, stop=self.stop)
        if self._shall_leave(streams) and self.stop.leave_node():
            return self._leave()
        patiently(lambda: self._look_around(streams), timing=job.timing, stop=self.stop)
        self.plan = self._parts(streams)
        self.headway_from = self._headway()
        if self.plan and not self.stop.is_asked():
            try:
                self._stage_and_train()
            except Interrupted:
                pass
            except BandError as error:
                self._give_up(error=type(error).__name__, message=str(error))
        return self._finish(streams)

    def _look_around(self, streams: Streams) -> None:
        """Learn which runs are published, and which checkpoints and finished runs there are here and at home."""
        for events in streams:
            self.checkpoints.learn(events)
        self.checkpoints.look_at_home()
        self.leftovers = salvage(self.job, publisher=self.publisher, checkpoints=self.checkpoints)
        self.publisher.done |= {run for run in self.job.task.run_ids if is_published(self.job.sweep, run)}

    def _headway(self) -> tuple[int, int]:
        return len(self.publisher.done), self.checkpoints.newest_step(self.job.task.run_ids)

    def _shall_leave(self, streams: Streams) -> bool:
        """Return whether attempts at this task have died on this node without a word, and it has not left one yet."""
        host, own = self.job.attempt.host, self.job.attempt.name
        if any("left" in event for events in streams for event in events):
            return False  # or a task that is at fault itself would go through all nodes, and in the end find none
        deaths = 0
        for events in streams:
            claimed = next((event for event in events if event["event"] == "claimed"), {})
            if claimed.get("host") == host and claimed.get("attempt") != own:
                deaths += not any(event["event"] == "ended" for event in events)
        return deaths >= MOST_SILENT_DEATHS

    def _leave(self) -> int:
        host = self.job.attempt.host
        reason = f"{MOST_SILENT_DEATHS} attempts died on {host} without a word"
        self.job.reporter.report("interrupted", reason=reason, requeued=True, left=host)
        self.job.reporter.say(f"task {self.job.task.name}: {reason}; it goes on elsewhere")
        return INTERRUPTED

    def _parts(self, streams: Streams) -> list[list[str]]:
        """Return the populations to train: as packed, as earlier attempts split them, as checkpoints go together."""
        rest = self._open(self.job.task.run_ids)
        splits = [event.get("parts") for events in streams for event in events if event["event"] == "split"]
        parts: list[list[str]] = []
        for part in next(filter(_are_parts, reversed(splits)), []):
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
        over = self.publisher.done | set(self.publisher.waiting) | self.job.skip.runs
        return [run for run in runs if run not in over]

    def _stage_and_train(self) -> None:
        job = self.job
        scratch = None if self.why_home else job.scratch
        with staged(job.task.dataset, scratch=scratch, should_stop=self.stop.is_asked) as data:
            fallback = self.why_home or data.fallback
            source = "home" if fallback else "scratch"
            where = {"path": str(data.path), "source": source, "volatile": job.is_volatile}
            job.reporter.report("staged", **where, copied=data.copied, reason=fallback)
            if fallback and is_required():
                raise StageError(
                    f"BAND_SCRATCH_REQUIRED is set, and the recording can be read from home only: {fallback}"
                )
            if fallback:
                job.reporter.say(f"task {job.task.name}: reads the recording from home ({fallback})")
            while self.plan and not (self.stop.is_asked() or self.is_lost or self.is_rehearsed):
                self.plan[0] = self._open(self.plan[0])
                if self.plan[0]:
                    self._train_part(data.path, source=source)
                else:
                    self.plan.pop(0)

    def _train_part(self, data: Path, *, source: str) -> None:
        part, later = self.plan[0], self.plan[1:]
        try:
            folder = self._new_folder()
            self.checkpoints.seed(folder, runs=part)
        except OSError as error:
            raise StageError(
                f"{self.job.work} cannot be written: {error}; free some room, or set BAND_SCRATCH"
            ) from None
        task = ["--task", str(self.job.task.path), "--work", str(folder), "--data", str(data), "--runs", ",".join(part)]
        command = [*self.command, *task]
        ending = self.supervisor.supervise(command, runs=part, folder=folder, later=later, source=source)
        rest = self._open(part)
        if ending.kind == "lost":
            self.is_lost = True
        elif ending.kind == "rehearsed":
            self.is_rehearsed = True
        elif ending.error in OF_THE_WHOLE_TASK:
            self._give_up(error=ending.error, message=ending.message, traceback=ending.traceback)
        elif ending.kind == "failed" and rest and not self._goes_on(ending, rest=rest):
            self._divide(ending, rest=rest, later=later)

    def _new_folder(self) -> Path:
        taken = [int(path.name) for path in self.job.work.iterdir() if path.name.isdecimal()]
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
            middle = len(rest) // 2
            self.plan = [rest[:middle], rest[middle:], *later]
            self.job.reporter.report("split", runs=rest, parts=list(self.plan), **why)
        else:
            self.plan = later
            self.failed += rest
            self.job.reporter.report("failed", runs=rest, **why)
            self.job.reporter.say(f"run {', '.join(rest)} failed: {ending.error}: {ending.message}")

    def _give_up(self, *, error: str, message: str, traceback: str = "") -> None:
        """Record the failure of all that is left."""
        runs = self._rest()
        self.plan = []
        self.failed += runs
        self.code = OF_THE_WHOLE_TASK.get(error, SOME_FAILED)
        self.job.reporter.report("failed", runs=runs, error=error, message=message, traceback=traceback)
        self.job.reporter.say(f"error: {message}")

    def _rest(self) -> list[str]:
        return [run for part in self.plan for run in self._open(part)]

    def _finish(self, streams: Streams) -> int:
        """Bring home what is finished and the checkpoints of what is not, sweep up, and return the exit code."""
        job = self.job
        self.stop.explain()
        missing = [run for run in job.task.run_ids if run not in self.publisher.done]
        kept = [part for part in (self._open(part) for part in self.plan) if part]
        kept += [[run] for run in missing if run in self.failed or run in job.skip.runs]
        if not self.is_lost and self._bring_home(kept):
            sweep_up(job, self.leftovers)
            if not kept:
                self.checkpoints.clear_home()
        if self.publisher.waiting and self.publisher.refusal:
            return self._unsynced()
        if self.is_lost or self._rest() or self.publisher.waiting:
            return self._interrupted(streams)
        return self.code or (SOME_FAILED if self.failed else ALL_PUBLISHED)

    def _interrupted(self, streams: Streams) -> int:
        """Have the job queued again, where that is ours to do and leads anywhere, and say that we were interrupted."""
        reason = "another attempt holds the task" if self.is_lost else self.stop.reason
        reason = REHEARSED if self.is_rehearsed and not reason else reason
        has_headway = self._headway() > self.headway_from
        before = [event for events in streams for event in events if event["event"] == "interrupted"][-1:]
        was_stuck = any(event.get("reason") == TIME_LIMIT and event.get("headway") is False for event in before)
        is_stuck = reason == TIME_LIMIT and not has_headway and was_stuck
        requeued = not self.is_lost and not is_stuck and self.stop.requeue()
        self.job.reporter.report("interrupted", reason=reason, requeued=requeued, headway=has_headway)
        self.job.reporter.say(f"task {self.job.task.name}: interrupted ({reason}); the next attempt continues")
        return INTERRUPTED

    def _bring_home(self, parts: list[list[str]]) -> bool:
        """Publish and mirror until all is at home or patience ends; return whether all is."""
        start = time.monotonic()
        while True:
            if not self.supervisor.mirror(parts):
                self.is_lost = True
                return False
            if not self.publisher.waiting and self.checkpoints.is_home(parts):
                return True
            if self._is_out_of_patience(since=start):
                return False
            time.sleep(self.job.timing.tick_s)

    def _is_out_of_patience(self, *, since: float) -> bool:
        timing, is_asked, left_s = self.job.timing, self.stop.is_asked(), self.stop.time_left_s()
        if self.stop.is_hasty:
            return True
        if left_s is not None:
            return left_s <= 0
        if self.stop.has_deadline and not is_asked:
            return False
        patience_s = min(timing.home_wait_s, timing.stop_s) if is_asked else timing.home_wait_s
        return self.stop.waited_s(since=since) > patience_s

    def _unsynced(self) -> int:
        """Say where finished runs are that home did not take."""
        job, runs = self.job, sorted(self.publisher.waiting)
        where = {"host": job.attempt.host, "path": str(job.work), "volatile": job.is_volatile}
        job.reporter.report("interrupted", reason="home cannot be written", requeued=False, runs=runs, **where)
        fate = "are lost when the job ends, for its scratch goes with it" if job.is_volatile else "are kept"
        job.reporter.say(
            f"task {job.task.name}: home cannot be written ({self.publisher.refusal}); finished runs {fate} on "
            f"{job.attempt.host} in {job.work}: {', '.join(runs)}; an attempt on that machine brings them home"
        )
        return HOME_UNWRITABLE


def _are_parts(value: object) -> TypeGuard[list[list[str]]]:
    return isinstance(value, list) and all(isinstance(part, list) for part in value)
