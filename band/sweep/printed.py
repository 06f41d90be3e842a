"""What runs printed: the logs of their attempts, Slurm's batch output, tracebacks, and following all of it."""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from band.files import read_json_object
from band.run_dir import SweepDir, read_events
from band.sweep.fold import AttemptFold
from band.sweep.slurm_scheduler import batch_output
from band.sweep.status import RunStatus

CONTEXT_LINES = 5  # shown before a traceback
PULLED_TASKS = "tasks.json"  # in the folder of a machine that logs were brought from: the runs of each task there
TAIL_LINES = 40  # of a log in which no traceback shows where to look
TRACEBACK = "Traceback (most recent call last)"


def job_of(attempt: str) -> str:
    """Return the Slurm job, such as "123_4", that made an attempt; "" for one on this machine."""
    name, _, restart = attempt.rpartition("-r")
    return name[1:] if name.startswith("j") and restart.isdecimal() and name[1:].replace("_", "").isdecimal() else ""


def task_of(name: str) -> tuple[str, str]:
    """Return task and attempt of a log named TASK.ATTEMPT.log, ("", "") for other names."""
    task, _, attempt = name.removesuffix(".log").partition(".")
    return (task, attempt) if name.endswith(".log") else ("", "")


@dataclass(frozen=True, kw_only=True)
class PulledLog:
    """The log of an attempt that was made on another machine, as it was brought home."""

    source: str  # name of the folder of that machine
    task: str
    attempt: str
    runs: Sequence[str]
    path: Path

    @property
    def batch_output(self) -> Path:
        """What the Slurm job itself printed."""
        return self.path.with_name(f"{job_of(self.attempt) or self.attempt}.out")


def pulled_logs(sweep: SweepDir) -> list[PulledLog]:
    """Return the logs that `band-sync pull --what logs` has brought home: by machine and task, oldest attempt first."""
    found = []
    for known in sorted(sweep.sync.glob(f"*/{PULLED_TASKS}")):
        tasks = read_json_object(known)["tasks"]
        for path in sorted((known.parent / "logs").glob("*.log")):
            task, attempt = task_of(path.name)
            if task in tasks:
                source = known.parent.name
                found.append(PulledLog(source=source, task=task, attempt=attempt, runs=tasks[task], path=path))
    return found


def log_of(sweep: SweepDir, status: RunStatus, *, attempts: Sequence[AttemptFold]) -> Path | None:
    """Return the file of what the newest attempt at a run's task prints, None where it was never submitted."""
    if attempts:
        return attempt_log(sweep, attempts[-1])
    return batch_output(sweep, job=status.job) if status.job else None


def attempt_log(sweep: SweepDir, fold: AttemptFold) -> Path:
    """Return the log of an attempt; the job's own output where it ended before its trainer came to print."""
    log, job = sweep.log_file(fold.task, attempt=fold.attempt), job_of(fold.attempt)
    is_silent = bool(job) and fold.code is not None and not log.exists()
    return batch_output(sweep, job=job) if is_silent else log


def failure_lines(sweep: SweepDir, run: str, *, status: RunStatus, attempts: Sequence[AttemptFold]) -> list[str]:
    """Return why a run failed: the lines of its log before the traceback, the traceback, the last word."""
    fold = next((fold for fold in reversed(attempts) if fold.phases.get(run) == "failed"), None)
    last_word = f"{run} failed: {status.error}: {status.message}"
    if fold is None:
        newest = [fold for fold in attempts if status.job and job_of(fold.attempt) == status.job][-1:]
        logs = [sweep.log_file(status.task, attempt=own.attempt) for own in newest]
        logs += [batch_output(sweep, job=status.job)] if status.job else []
        return [*_tails(logs), last_word]
    event = _failed_event(sweep, fold, run=run)
    log = sweep.log_file(fold.task, attempt=fold.attempt)
    trace = str(event.get("traceback") or "").strip().split("\n")
    if not trace[0].startswith("Traceback"):
        job = job_of(fold.attempt)
        logs = [log] if log.exists() or not job else [batch_output(sweep, job=job)]
        return [*(_tails(logs) if log.exists() or job else trace), last_word]
    lines = _lines(log)
    begin = _beginning(trace, lines=lines)
    return [*lines[max(begin - CONTEXT_LINES, 0) : begin], *trace, last_word]


def _failed_event(sweep: SweepDir, fold: AttemptFold, *, run: str) -> Mapping[str, Any]:
    events, _ = read_events(sweep.event_file(fold.task, attempt=fold.attempt))
    return next((e for e in reversed(events) if e["event"] == "failed" and run in e.get("runs", ())), {})


def _beginning(trace: Sequence[str], *, lines: Sequence[str]) -> int:
    """Return where a traceback begins in a log: after a division, several runs may have printed theirs."""
    starts = [number for number, line in enumerate(lines) if TRACEBACK in line]
    own = [number for number in starts if list(lines[number : number + len(trace)]) == list(trace)]
    return (own or starts or [len(lines)])[-1]


def _tails(logs: Sequence[Path]) -> list[str]:
    found: list[str] = []
    for log in logs:
        lines = _lines(log)
        if lines:
            left_out = [f"… {len(lines) - TAIL_LINES} lines before these"] if len(lines) > TAIL_LINES else []
            found += [f"== the end of {log}", *left_out, *lines[-TAIL_LINES:]]
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").rstrip("\n").replace("\r", "\n").split("\n")
    except FileNotFoundError:
        return []


class Tail:
    """A file that grows: each look gives the lines that are complete since the last, also when it was rotated."""

    def __init__(self, path: Path, *, most_bytes: int = 0) -> None:
        """Follow the file of that path, which need not be there yet: from its beginning, or its last `most_bytes`."""
        self.path = path
        self._most_bytes = most_bytes
        self._file: BinaryIO | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""  # a line that is not complete yet

    def lines(self, *, is_last: bool = False) -> list[str]:
        """Return what is new, line by line; with `is_last` also a last line without its end."""
        text = self._rest + self._decoder.decode(self._read(), final=is_last)
        *complete, self._rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if is_last and self._rest:
            complete.append(self._rest)
            self._rest = ""
        return complete

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> bytes:
        """Return what is new in the file that was open, then in the one that has taken its place."""
        data = b""
        if self._file is not None:
            if os.fstat(self._file.fileno()).st_size < self._file.tell():
                self._file.seek(0)
            data = self._file.read()
        with suppress(FileNotFoundError):
            now = os.stat(self.path)
            if self._file is None or os.fstat(self._file.fileno()).st_ino != now.st_ino:
                self.close()
                self._file = self.path.open("rb")
                self._skip(now.st_size)
                data += self._file.read()
        return data

    def _skip(self, size: int) -> None:
        """Go to the first line of the last `most_bytes` of a file that is longer."""
        assert self._file is not None
        if 0 < self._most_bytes < size:
            self._file.seek(size - self._most_bytes)
            self._file.readline()
