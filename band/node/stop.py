"""Whether an attempt shall stop, why, how much time it has then, and whether its job is to be queued again."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from band.node.allocation import Allocation

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TIME_LIMIT, PREEMPTION, REQUEUED = "time limit", "preemption", "requeued"
LEAST_MARGIN_S = 60.0  # before the time limit; less where the whole limit is short
AFTER_SIGTERM_S = 28.0  # Slurm kills 30 s after SIGTERM unless its administrators chose otherwise
LAST_WORDS_S = 5.0
KILL_S = 120.0  # how long to wait to be killed after a requeue that was granted


class StopRequest:
    """Whether and why the attempt was asked to stop; within the block it takes the signals that ask."""

    def __init__(self, allocation: Allocation | None = None) -> None:
        self.allocation = allocation
        self.reason = ""
        self.count = 0  # of signals that ask to stop
        self.requeued = False  # whether the job will run again
        self._since = 0.0  # monotonic
        self._end_t: float | None = None
        self._slowest_s = 0.0
        self._has_warning = False
        self._is_explained = False
        self._shall_requeue = False
        self._asked_for: int | None = None  # signals that had come when we had the job queued again
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in STOP_SIGNALS}
            self._before[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, self._warn)
            self._before[signal.SIGCONT] = signal.signal(signal.SIGCONT, signal.SIG_DFL)
        if self.allocation is not None:
            look = self.allocation.look()
            self._end_t = look.end_t if look else self.allocation.promised_end_t
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.ask(signal.Signals(number).name)

    def _warn(self, number: int, frame: FrameType | None) -> None:
        self._has_warning = True

    def ask(self, reason: str) -> None:
        """Ask to stop; the first reason stands."""
        if not self.reason:
            self.reason, self._since = reason, time.monotonic()
        self.count += 1

    @property
    def is_hasty(self) -> bool:
        """Whether somebody asked a second time, and does not want to wait; Slurm repeats its signals as it likes."""
        return self.count > 1 and self.allocation is None

    @property
    def has_deadline(self) -> bool:
        """Whether the end of the job is known."""
        return self._end_t is not None

    @property
    def margin_s(self) -> float:
        """Seconds before the job's end at which to stop: more than bringing a checkpoint home took so far."""
        assert self.allocation is not None and self._end_t is not None
        length = max(self._end_t - self.allocation.start_t, 0.0)
        return min(max(min(LEAST_MARGIN_S, length / 4), 10 + 3 * self._slowest_s), length / 2)

    def took(self, seconds: float) -> None:
        """Take note of how long it took to bring a checkpoint home."""
        self._slowest_s = max(self._slowest_s, seconds)

    def is_asked(self) -> bool:
        """Return whether to stop now, by request or because the time limit is near."""
        if not self.reason and self.allocation is not None and self._is_late():
            look = self.allocation.look()  # the limit may have been changed
            self._end_t = look.end_t if look else self._end_t
            if self._is_late():
                self.ask(TIME_LIMIT)
        return bool(self.reason)

    def _is_late(self) -> bool:
        return self._end_t is not None and time.time() >= self._end_t - self.margin_s

    def take_warning(self) -> bool:
        """Return whether SIGUSR2 has come since the last call; if it announces a preemption, ask to stop."""
        if not self._has_warning:
            return False
        self._has_warning = False
        look = self.allocation.look() if self.allocation else None
        if look is not None and look.is_preempted:
            self.ask(PREEMPTION)
        return True

    def explain(self) -> None:
        """Find out, once, why we shall stop: whether Slurm queues the job again, we have to, or nobody may.

        Without an answer nobody does: it may be the user's scancel, which a requeue would undo.
        """
        if self._is_explained or not self.reason or self.allocation is None:
            return
        self._is_explained = True
        if self.reason in (TIME_LIMIT, PREEMPTION):
            self._shall_requeue = True
            return
        look = self.allocation.look()
        if look is None:
            return
        if look.restarts > self.allocation.restart:
            self.reason, self.requeued = REQUEUED, True
        elif look.state == "RUNNING" and look.is_preempted:
            self.reason, self._shall_requeue = PREEMPTION, True

    def patience_s(self, *, stop_s: float) -> float:
        """Return how many seconds of its time the trainer gets, from the request on, to save a checkpoint."""
        return self.margin_s / 2 if self.reason == TIME_LIMIT else stop_s

    def waited_s(self, *, since: float) -> float:
        """Return the seconds since `since` (monotonic) or, if that came later, since the request to stop."""
        return time.monotonic() - max(since, self._since)

    def time_left_s(self) -> float | None:
        """Return the seconds until Slurm may kill us; None where it has not said that it will."""
        if not self.reason or self.allocation is None:
            return None
        if self.reason == TIME_LIMIT:
            assert self._end_t is not None
            return self._end_t - LAST_WORDS_S - time.time()
        return self._since + AFTER_SIGTERM_S - time.monotonic()

    def requeue(self) -> bool:
        """Have the job queued again where that is ours to do; return whether it will run again."""
        self.explain()
        if self._shall_requeue and not self.requeued and self.allocation is not None:
            self._asked_for = self.count
            self.requeued = self.allocation.requeue()
        return self.requeued

    def leave_node(self) -> bool:
        """Have the job queued again for any node but this one; return whether it will run again."""
        if self.allocation is not None and not self.reason:
            self._asked_for = self.count
            self.requeued = self.allocation.avoid_node()
        return self.requeued

    def wait_to_be_killed(self) -> None:
        """After a requeue that we asked for, wait until Slurm begins to end the job.

        A job that exits by itself in the time of grace before a preemption counts as completed and never comes back.
        """
        end = time.monotonic() + KILL_S
        while self.requeued and self._asked_for == self.count and time.monotonic() < end:
            time.sleep(0.1)
