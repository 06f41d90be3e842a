"""`make bench`: step time and peak memory beside the plain implementation, population against one by one.

Every ratio is of two numbers measured in the same run. The table goes to the terminal and, with --write, to RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
MEMBERS = (1, 4, 16)


def run_step(case: str, members: int, what: str, *, threads: int, seconds: float) -> dict[str, float]:
    """Return what one process of `benchmarks.step` prints."""
    command = [sys.executable, "-m", "benchmarks.step", case, str(members), what, str(threads), str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def rows(*, threads: int, seconds: float) -> list[list[str]]:
    """Measure every case and return the lines of the table."""
    table = []
    for case in ("large", "small", "maze"):
        off = run_step(case, 2, "check", threads=threads, seconds=0)["difference"]
        if off > 1e-5:
            sys.exit(f"the reference does not compute what the package computes on {case}: loss off by {off:.1e}")
        plain = run_step(case, 1, "reference", threads=threads, seconds=seconds)
        single = None
        for members in MEMBERS:
            found = run_step(case, members, "ours", threads=threads, seconds=seconds)
            single = single or found
            table.append(
                [
                    case,
                    str(members),
                    f"{plain['median_s'] * 1e3:.0f}",
                    f"{found['median_s'] * 1e3:.0f}",
                    f"{members / found['median_s']:.1f}",
                    f"{plain['median_s'] * members / found['median_s']:.2f}",
                    f"{single['median_s'] * members / found['median_s']:.2f}",
                    f"{plain['peak_bytes'] / 2**20:.0f}",
                    f"{found['peak_bytes'] / 2**20:.0f}",
                ]
            )
            print("  ".join(f"{cell:>12}" for cell in table[-1]), flush=True)
    return table


HEADER = [
    "case", "members", "reference ms", "ours ms", "member-steps/s", "x reference", "x alone", "ref. MiB", "ours MiB",
]  # fmt: skip


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each process")
    parser.add_argument("--seconds", type=float, default=8.0, help="time spent on each number")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    print("  ".join(f"{cell:>12}" for cell in HEADER), flush=True)
    table = rows(threads=arguments.threads, seconds=arguments.seconds)
    print("\n" + LEGEND)
    if arguments.write:
        RESULTS.write_text(_document(table, arguments.threads), encoding="utf-8")
        print(f"written to {RESULTS}")


LEGEND = """\
reference ms: one step of one model of benchmarks/reference.py. ours ms: one step of the whole population.
x reference: member-steps per second against the reference run one by one. x alone: against a population of one.
MiB: peak of the process, libraries included."""


def _document(table: list[list[str]], threads: int) -> str:
    import torch

    from benchmarks.cases import CASES

    lines = [
        "# Measured",
        "",
        "## Training step",
        "",
        f"`python -m benchmarks --threads {threads} --write`, {datetime.date.today()}, {platform.machine()} with"
        f" {os.cpu_count()} cores, torch {torch.__version__}, no GPU: rows for GPUs are not measured.",
        "",
        *(f"- {name}: {case.name}, T {case.bins}, {case.neurons} neurons" for name, case in CASES.items()),
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(row) + " |" for row in table),
        "",
        LEGEND.replace("\n", "  \n"),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
