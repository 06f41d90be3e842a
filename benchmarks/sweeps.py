"""The sweep side: what commands take to start, and what generate, plan and status take for many runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import ROOT

STARTS = ("band-sweep --help", "band-sweep submit --help", "band-sweep status no_such_sweep", "band-train --help",
          "band-data --help", "band-sync --help")  # fmt: skip
SWEEP = """\
base:
  data: {{path: reach.h5}}
  arch: {{gen_dim: 16, ic_enc_dim: 16, ci_enc_dim: 16, con_dim: 16, ic_dim: 8, fac_dim: 3}}
grid:
  hyper.behavior_weight: [0, 1]
  hyper.lr: {rates}
  hyper.dropout_rate: [0.05, 0.1, 0.2, 0.3, 0.4]
seeds: {seeds}
"""


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


def sizes(counts: tuple[int, ...] = (100, 1_000, 10_000, 100_000)) -> list[list[str]]:
    """Return a row a number of runs: seconds, memory and files of generate, a plan, and status."""
    table = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run("band-data simulate reach reach.h5 --small", folder=folder)
            rates, seeds = (2, count // 20) if count < 1000 else (10, count // 100)
            listed = [round(1e-3 * (k + 1), 4) for k in range(rates)]
            (folder / "many.yaml").write_text(SWEEP.format(rates=listed, seeds=list(range(seeds))))
            made = run("band-sweep generate many.yaml", folder=folder)
            plan = run("band-sweep submit many --cluster local --dry-run", folder=folder)
            status = run("band-sweep status many --json", folder=folder)
            files = sum(len(names) for _, _, names in os.walk(folder / "sweeps"))
        cells = [f"{taken[0]:.2f}" for taken in (made, plan, status)]
        peak = max(taken[2] for taken in (made, plan, status))
        table.append([str(count), *cells, f"{peak / 2**20:.0f}", str(files)])
        print("  ".join(f"{cell:>12}" for cell in table[-1]), flush=True)
    return table
