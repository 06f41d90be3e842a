"""The trainer process: trains the runs of one task and reports to its supervisor through pipes.

Commands come in on stdin (`checkpoint`, `stop`; its end: the supervisor is gone), events go out as JSON lines.
Exit codes: 0 all runs ended, 1 an exception, 3 the supervisor is gone, 4 stopped on command with a checkpoint saved.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import queue
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from band.errors import BandError

SUPERVISOR_GONE = 3


def main(argv: list[str] | None = None) -> int:
    """Run the trainer; see the module."""
    parser = argparse.ArgumentParser(description="Trains the runs of one task; started by its supervisor.")
    parser.add_argument("--task", type=Path, required=True, help="task.json")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and finished runs")
    parser.add_argument("--data", type=Path, required=True, help="the staged recording")
    parser.add_argument("--runs", required=True, help="ids of the runs to train, separated by commas")
    parser.add_argument("--events-fd", type=int, required=True, help="open file descriptor for events")
    arguments = parser.parse_args(argv)
    task = json.loads(arguments.task.read_text(encoding="utf-8"))
    # Before torch is imported: its thread pool reads these once.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(task.get("threads", 1))
    keep_freed_memory()
    events = Events(arguments.events_fd)
    commands = listen()
    try:
        from band.train.session import train_task

        return train_task(
            task, work=arguments.work, data=arguments.data, runs=arguments.runs.split(","), events=events,
            commands=commands,
        )  # fmt: skip
    except Exception as error:
        text = str(error) if isinstance(error, BandError) else traceback.format_exc()
        print(text, file=sys.stderr, flush=True)
        events.send(
            "failed", runs=arguments.runs.split(","), error=type(error).__name__, message=str(error), traceback=text
        )
        return 1


class Events:
    """Writes events to the supervisor, one JSON object a line."""

    def __init__(self, descriptor: int) -> None:
        # Left open until the process ends: its end of file tells the supervisor that no event will follow.
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", closefd=False)

    def send(self, event: str, **fields: Any) -> None:
        """Write one event; a supervisor that is gone ends the process."""
        try:
            self._file.write(json.dumps({"t": time.time(), "event": event, **fields}) + "\n")
            self._file.flush()
        except BrokenPipeError:
            os._exit(SUPERVISOR_GONE)


def listen() -> queue.SimpleQueue[str]:
    """Return a queue that fills with the commands read from stdin; the end of stdin ends the process at once."""
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(line.strip())
        os._exit(SUPERVISOR_GONE)

    threading.Thread(target=read, daemon=True).start()
    return commands


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks: handing them back costs a page fault for each page of the next buffer."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: a supervisor may close the pipes as soon as events end, which would read as its death
