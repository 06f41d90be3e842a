"""Numbers from processes of `benchmarks.step`, alone or several at once, one a core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(*words: object, threads: int, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m benchmarks.step` with so many threads."""
    command = [sys.executable, "-m", "benchmarks.step", *map(str, words)]
    count = str(threads)
    given = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=given, cwd=ROOT)


def answer(process: subprocess.Popen[str]) -> dict[str, float]:
    """Return what it prints at its end; its failure is ours."""
    text, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{process.args} ended with {process.returncode}")
    return dict(json.loads(text))


def step(
    case: str, members: int, what: str, *, threads: int, seconds: float, trials_at_once: int = 0, **environment: str
) -> dict[str, float]:
    """Measure one process."""
    return answer(start(case, members, what, threads, seconds, trials_at_once, threads=threads, **environment))


def each_core(case: str, members: int, what: str, *, cores: int, seconds: float) -> float:
    """Return member-steps a second of one process a core, each with one thread and its share of the members."""
    share = max(members // cores, 1)
    running = [start(case, share, what, 1, seconds, threads=1) for _ in range(min(cores, members))]
    return sum(share / answer(process)["median_s"] for process in running)
