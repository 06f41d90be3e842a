"""The trainer process: trains the runs of one task and reports to its supervisor through pipes.

Commands come in on stdin (`checkpoint`, `stop`; its end: the supervisor is gone), events go out as JSON lines.
Exit codes: 0 all runs ended, 1 an exception, 3 the supervisor is gone, 4 stopped with a
checkpoint saved, on command or, a canary, because it has trained for $BAND_CANARY_S seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import queue
import re
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from band.errors import BandError, StageError, VersionMismatch
from band.train.provenance import versions

SUPERVISOR_GONE = 3
LACKS_MEMORY, OF_THE_GPU = "OutOfMemory", "OutOfMemoryError"  # names of failures; a population is halved after either
GPU_IS_FULL = (
    "the GPU's memory does not hold it; less is taken by fewer trials at once (train.trials_at_once), by a smaller "
    "train.batch_size or by fewer members of a search"
)


def main(argv: list[str] | None = None) -> int:
    """Run the trainer; see the module."""
    parser = argparse.ArgumentParser(description="Trains the runs of one task; started by its supervisor.")
    parser.add_argument("--task", type=Path, required=True, help="task.json")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and finished runs")
    parser.add_argument("--data", type=Path, required=True, help="the staged recording")
    parser.add_argument("--runs", required=True, help="ids of the runs to train, separated by commas")
    parser.add_argument("--events-fd", type=int, required=True, help="open file descriptor for events")
    parser.add_argument("--rank", type=int, default=0, help="among those that share a search; -1: as srun says")
    parser.add_argument("--store", default="", help="HOST:PORT at which rank 0 is to be found")
    arguments = parser.parse_args(argv)
    rank = int(os.environ["SLURM_PROCID"]) if arguments.rank < 0 else arguments.rank
    if arguments.store and not rank:
        return 0  # of all that srun started, the one in place of rank 0
    task = json.loads(arguments.task.read_text(encoding="utf-8"))
    # Before torch is imported: its thread pool reads these once.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(task.get("threads", 1))
    keep_freed_memory()
    events = Events(os.open(os.devnull, os.O_WRONLY) if rank else arguments.events_fd)
    commands = listen()
    try:
        check_versions(os.environ.get("BAND_VERSIONS", ""))
        check_source(arguments.data, home=Path(task["dataset"]["path"]))
        from band.train.shards import Launch
        from band.train.task import train_task

        # On another node than rank 0's there is no staged recording.
        data = arguments.data if arguments.data.exists() or not rank else Path(task["dataset"]["path"])
        launch = Launch(tuple(sys.argv[1:] if argv is None else argv), rank, arguments.store)
        return train_task(
            task, work=arguments.work, data=data, runs=arguments.runs.split(","), events=events, commands=commands,
            launch=launch,
        )  # fmt: skip
    except Exception as error:
        text = str(error) if isinstance(error, BandError) else traceback.format_exc()
        print(text, file=sys.stderr, flush=True)
        name = error_name(error)
        message = f"{GPU_IS_FULL}: {error}" if name == OF_THE_GPU else str(error)
        events.send("failed", runs=arguments.runs.split(","), error=name, message=message, traceback=text)
        return 1


def check_versions(submitted: str) -> None:
    """Compare what is installed here with what was there when the sweep was submitted.

    Args:
        submitted: JSON of {"python": version, PACKAGE: version, …}, "" for what was not there; empty: any will do.

    Raises:
        VersionMismatch: something differs; names each.
    """
    found = versions()
    differing = [
        f"{name} is {found.get(name, 'not known')}, not {version}"
        for name, version in json.loads(submitted or "{}").items()
        if version and found.get(name) != version
    ]
    if differing:
        raise VersionMismatch(
            f"on {os.uname().nodename} {sys.executable} has other versions than the sweep was submitted with: "
            f"{'; '.join(differing)}; mend the environment that the template sets up, or submit with --allow-versions"
        )


def check_source(data: Path, *, home: Path) -> None:
    """Refuse to read the shared home's copy of the recording where the attempt has said that it reads another.

    Raises:
        StageError: it would.
    """
    if os.environ.get("BAND_DATA_SOURCE") == "scratch" and home.exists() and os.path.samefile(data, home):
        raise StageError(f"{data} is the recording at home, and this attempt has said that it reads a copy on scratch")


def error_name(error: Exception) -> str:
    """Return the name that a failure goes by: that of its class, or one for all that lack of memory is called.

    Of a GPU's memory, unlike a job's, more cannot be asked for: lack of it has another name.
    """
    is_known = isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error))
    if is_known and re.search("CUDA|HIP", str(error)):
        return OF_THE_GPU
    return LACKS_MEMORY if is_known or isinstance(error, MemoryError) else type(error).__name__


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
