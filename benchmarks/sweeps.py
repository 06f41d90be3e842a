"""The sweep side: what commands take to start; for many runs see `benchmarks.scale`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import ROOT

STARTS = ("band-sweep --help", "band-sweep submit --help", "band-sweep status no_such_sweep", "band-train --help",
          "band-data --help", "band-sync --help")  # fmt: skip


def run(command: str, *, folder: Path) -> tuple[float, float, int]:
    """Return seconds on the clock, seconds of processor time and peak memory of a command."""
    program, *arguments = command.split()
    words = [str(Path(sys.executable).with_name(program)), *arguments]
    before = time.perf_counter()
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 4) and "no_such" not in command:  # 4: not all runs are published
        sys.exit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - before, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def starts() -> list[list[str]]:
    """Return a row a command: the quickest of five starts."""
    table = []
    for command in STARTS:
        tries = [run(command, folder=ROOT) for _ in range(5)]
        table.append([f"`{command}`", f"{min(t[0] for t in tries):.2f}", f"{min(t[1] for t in tries):.2f}"])
    return table
