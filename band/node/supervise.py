"""Watches one trainer: its events, its checkpoints, its finished runs, and its end, whatever that is."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import band
from band.errors import RankLost, StageError
from band.node.checkpoints import Checkpoints
from band.node.child import Trainer
from band.node.job import Job
from band.node.publish import Publisher
from band.node.salvage import finished_runs
from band.node.stop import StopRequest

OUR_EVENTS = frozenset(
    ("claimed", "staged", "mirrored", "split", "published", "superseded", "failed", "interrupted", "ended")
)
MAX_LOG_BYTES = 32 << 20
TAIL_BYTES = 4000
MAX_MESSAGE, MAX_TRACEBACK = 4000, 20_000  # characters


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trainer ended."""

    kind: str  # "ended", "stopped" as we asked, "rehearsed" by itself, "failed", or "lost" to another attempt
    error: str = ""
    message: str = ""
    traceback: str = ""
    was_killed: bool = False  # by somebody's SIGKILL, not ours and not for want of memory


class Supervisor:
    """Runs trainers for the parts of a task, one after the other."""

    def __init__(self, job: Job, *, publisher: Publisher, checkpoints: Checkpoints, stop: StopRequest) -> None:
        self._job = job
        self._publisher = publisher
        self._checkpoints = checkpoints
        self._stop = stop
        self._log_bytes = 0
        self._next_mirror = 0.0

    def supervise(
        self,
        command: Sequence[str],
        *,
        runs: Sequence[str],
        folder: Path,
        later: Sequence[Sequence[str]],
        source: str,
    ) -> Ending:
        """Run one trainer to its end.

        Args:
            command: the trainer's command line but for `--events-fd`.
            runs: the runs that it trains.
            folder: where it works.
            later: the parts that come after it, whose checkpoints are kept at home too.
            source: where this attempt has said that it reads the recording: "scratch" or "home".

        Raises:
            StageError: it cannot be started.
        """
        watch = _Watch(self._job, runs=runs, folder=folder, later=later)
        self._next_mirror = time.monotonic() + self._job.timing.mirror_s
        try:
            trainer = Trainer(command, cwd=folder, environment=child_environment(self._job, source=source))
        except OSError as error:
            raise StageError(f"the trainer {command[0]} cannot be started: {error}; correct BAND_TRAINER") from None
        try:
            while not self._look(trainer, watch=watch):
                self._steer(trainer, watch=watch)
        finally:
            watch.lacked_memory = trainer.lacked_memory()
            status = trainer.close()
        self._collect(watch)
        return self._ending(status, watch=watch)

    def _steer(self, trainer: Trainer, *, watch: _Watch) -> None:
        """Ask the trainer to stop where that is due, and kill it where it does not listen."""
        if self._stop.take_warning():
            self._job.skip.look()
        if watch.asked is None and (self._stop.is_asked() or watch.has_skipped(self._publisher)):
            watch.asked = time.monotonic()
            trainer.command("stop")
            self._stop.explain()  # Slurm is asked while the trainer saves its checkpoint
        if watch.asked is None:
            self._keep_home(watch)
        elif self._stop.is_hasty or self._stop.waited_s(since=watch.asked) > self._patience_s():
            watch.we_killed = True
            trainer.kill()
        if watch.is_lost:
            trainer.kill()

    def _patience_s(self) -> float:
        return self._stop.patience_s(stop_s=self._job.timing.stop_s)

    def mirror(self, parts: Sequence[Sequence[str]]) -> bool:
        """Bring the newest checkpoints home; return False where another attempt holds the task now.

        A home that cannot be written is passed over: `Checkpoints.is_home` tells.
        """
        start = time.monotonic()
        try:
            if not self._job.claim.still_mine():
                return False
            # The checkpoint first, for there may be no time for more. One that has a finished run which is on this
            # node alone stays at home beside those that go on without it.
            self._checkpoints.mirror([*([run] for run in self._publisher.waiting), *parts])
            self._stop.took(time.monotonic() - start)
            self._publisher.flush()
        except OSError:
            self._next_mirror = time.monotonic() + min(self._job.timing.retry_s, self._job.timing.mirror_s)
        return True

    def _look(self, trainer: Trainer, *, watch: _Watch) -> bool:
        """Take what the trainer has to say; return whether it has ended and said all."""
        has_ended = trainer.has_ended()
        events, printed = trainer.read(timeout_s=0.0 if has_ended else self._job.timing.tick_s)
        for event in events:
            self._handle(event, watch=watch)
        if printed:
            watch.tail = (watch.tail + printed)[-TAIL_BYTES:]
            self._log(printed)
        return has_ended and not events and not printed

    def _handle(self, event: dict[str, Any], *, watch: _Watch) -> None:
        if not isinstance(event.get("t"), float):  # nor a whole number: one of JSON may be beyond every float
            event["t"] = time.time()
        name = event["event"]
        if name == "failed":
            watch.failure = event
        elif name == "checkpoint":
            self._checkpoints.add(event, folder=watch.folder, runs=watch.open_runs(self._publisher))
        elif name not in OUR_EVENTS:
            self._job.reporter.forward(event)
            watch.has_rehearsed |= name == "rehearsed"
            if name == "run_finished" and event.get("run") in watch.open_runs(self._publisher):
                self._take_finished(event["run"], watch=watch)

    def _take_finished(self, run: str, *, watch: _Watch) -> None:
        """Publish a run; not before home has a checkpoint from which the others go on without it as they do here."""
        open_runs = watch.open_runs(self._publisher)
        if len(open_runs) > 1:
            watch.is_lost = not self.mirror([open_runs, *watch.later])
        self._publisher.add(run, folder=watch.folder / "runs" / run, later=bool(self._stop.reason))

    def _keep_home(self, watch: _Watch) -> None:
        self._publisher.flush()
        if time.monotonic() >= self._next_mirror:
            self._next_mirror = time.monotonic() + self._job.timing.mirror_s
            self._job.skip.look()  # where the signal that tells of it came too early for this node's view of home
            watch.is_lost = not self.mirror([watch.open_runs(self._publisher), *watch.later])

    def _collect(self, watch: _Watch) -> None:
        """Take the runs that were finished by a trainer that died before it could say so."""
        for run in finished_runs(watch.folder):
            known = run.name in self._publisher.done or run.name in self._publisher.waiting
            if run.name in watch.runs and not known:
                self._job.reporter.report("run_finished", run=run.name)
                self._publisher.add(run.name, folder=run, later=bool(self._stop.reason))

    def _ending(self, status: int, *, watch: _Watch) -> Ending:
        if watch.is_lost:
            return Ending(kind="lost")
        open_runs = watch.open_runs(self._publisher)
        if not open_runs:
            return Ending(kind="ended")
        if watch.asked is not None and (watch.we_killed or status in (0, 4)):
            return Ending(kind="stopped")
        if watch.has_rehearsed and status == 4:
            return Ending(kind="rehearsed")
        return watch.failed(status, open_runs=open_runs, damaged=self._publisher.damaged)

    def _log(self, printed: bytes) -> None:
        if self._log_bytes > MAX_LOG_BYTES:
            return
        self._log_bytes += len(printed)
        if self._log_bytes > MAX_LOG_BYTES:
            printed += b"\n[the log ends here: it has reached its greatest size]\n"
        path = self._job.sweep.log_file(self._job.task.name, attempt=self._job.attempt.name)
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            with path.open("ab") as file:
                file.write(printed)


class _Watch:
    """What is seen of one trainer."""

    def __init__(self, job: Job, *, runs: Sequence[str], folder: Path, later: Sequence[Sequence[str]]) -> None:
        self._skip = job.skip
        self.asked: float | None = None  # when it was asked to stop (monotonic)
        self.runs = list(runs)
        self.folder = folder
        self.later = later
        self.tail = b""
        self.failure: Mapping[str, Any] = {}
        self.we_killed = False
        self.lacked_memory = False
        self.is_lost = False
        self.has_rehearsed = False

    def open_runs(self, publisher: Publisher) -> list[str]:
        return [run for run in self.runs if run not in publisher.done and run not in publisher.waiting]

    def has_skipped(self, publisher: Publisher) -> bool:
        """Return whether it still trains a run that is not to be trained any more."""
        return not self._skip.runs.isdisjoint(self.open_runs(publisher))

    def failed(self, status: int, *, open_runs: Sequence[str], damaged: Mapping[str, str]) -> Ending:
        printed = self.tail.decode(errors="replace")
        if self.failure:
            error, message, trace = (str(self.failure.get(key, "")) for key in ("error", "message", "traceback"))
            trace = (trace or printed)[-MAX_TRACEBACK:]
            was_killed = error == RankLost.__name__  # a process of the trainer's, and with it the trainer
            message = message[:MAX_MESSAGE]
            return Ending(kind="failed", error=error[:200], message=message, traceback=trace, was_killed=was_killed)
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
            is_kill = -status == signal.SIGKILL
            if is_kill and self.lacked_memory:
                message = "the trainer was killed for want of memory; train fewer runs at once, or ask for more memory"
                return Ending(kind="failed", error="OutOfMemory", message=message, traceback=printed)
            message = f"the trainer died of {name}"
            return Ending(kind="failed", error=name, message=message, traceback=printed, was_killed=is_kill)
        message = f"the trainer ended with code {status} before {', '.join(open_runs)} was finished"
        reasons = [damaged[run] for run in open_runs if run in damaged]
        return Ending(kind="failed", error="TrainerEnded", message="; ".join([message, *reasons]), traceback=printed)


def child_environment(job: Job, *, source: str) -> dict[str, str]:
    """Return the trainer's environment: ours, this code first, as many threads as the task has, whence it reads."""
    threads = str(job.task.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    code = str(Path(band.__file__).resolve().parent.parent)
    paths = [] if code in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")) else [code]
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {
        **os.environ,
        **dict.fromkeys(names, threads),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "BAND_ATTEMPT": job.attempt.name,
        "BAND_DATA_SOURCE": source,
    }


def worker_command() -> list[str]:
    """Return the command that starts the trainer with this interpreter."""
    return [sys.executable, "-m", "band.train.worker"]
