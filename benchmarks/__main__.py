"""`make bench`: what a training step and a sweep take, beside a plain implementation, floors and other ways to run it.

Every ratio is of two numbers measured in the same run. Tables go to the terminal and, with --write, to RESULTS.md with
figures beside it. On a machine that does anything else the numbers mean little.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import cases, measure, sweeps

RESULTS = Path(__file__).with_name("RESULTS.md")
FIGURES = Path(__file__).with_name("figures")
Rows = list[list[str]]
PROCESS = 240 * 2**20  # bytes that torch takes, loaded


class Bench:
    """One run of all benchmarks."""

    def __init__(self, *, threads: int, seconds: float, most: int) -> None:
        self.threads, self.seconds, self.most = threads, seconds, most
        self.plain: dict[str, float] = {}  # seconds of a step of the reference, by case
        self.scaling: dict[str, list[tuple[int, float]]] = {}  # by way: members, member-steps a second
        self.curves: dict[str, list[tuple[float, float]]] = {}

    def reference(self, case: str) -> float:
        """Return a step of the reference, after checking that it computes what the package computes."""
        if case not in self.plain:
            off = measure.step(case, 2, "check", threads=self.threads, seconds=0)["difference"]
            if off > 1e-5:
                sys.exit(f"the reference does not compute what the package computes on {case}: loss off by {off:.1e}")
            found = measure.step(case, 1, "reference", threads=self.threads, seconds=self.seconds)
            self.plain[case], self.plain_bytes = found["median_s"], found["peak_bytes"]
        return self.plain[case]

    def ours(self, case: str, members: int, *, trials_at_once: int = 0, **environment: str) -> dict[str, float]:
        """Measure a step of a population."""
        return measure.step(
            case, members, "ours", threads=self.threads, seconds=self.seconds, trials_at_once=trials_at_once,
            **environment,
        )  # fmt: skip

    def steps(self) -> Rows:
        """One step, and what of it are products, random numbers, memory."""
        rows = []
        for case in ("large", "small", "maze"):
            plain = self.reference(case)
            for members in (1, 4, 16):
                found = self.ours(case, members)
                floor = measure.step(case, members, "floor", threads=self.threads, seconds=0)
                drawn = measure.step(case, members, "noise", threads=self.threads, seconds=1)["median_s"]
                s = found["median_s"]
                rows.append([
                    case, str(members), ms(plain), ms(s), f"{members / s:.1f}", f"{plain * members / s:.2f}",
                    ms(floor["floor_s"]), f"{s / floor['floor_s']:.1f}", f"{floor['flops'] / s / 1e9:.0f}",
                    f"{drawn / s:.0%}", mib(self.plain_bytes), mib(found["peak_bytes"]),
                ])  # fmt: skip
                show(rows[-1])
        return rows

    def members(self) -> Rows:
        """Populations of growing size: in one process, in one process a core, and the reference one by one."""
        case, cores, rows = "small", self.threads, []
        plain = self.reference(case)
        alone = self.ours(case, 1)["median_s"]
        each = measure.each_core(case, cores, "reference", cores=cores, seconds=self.seconds)
        for members in (2**k for k in range(self.most.bit_length())):
            s = self.ours(case, members)["median_s"]
            shares = measure.each_core(case, members, "ours", cores=cores, seconds=self.seconds)
            rates = {"one process": members / s, "one process a core": shares}
            for way, rate in rates.items():
                self.scaling.setdefault(way, []).append((members, rate))
            row = [members / s, members / s * plain, members * alone / s, shares, shares * plain, shares / each]
            rows.append([str(members), ms(s), *(f"{value:.2f}" for value in row)])
            show(rows[-1])
        self.scaling["reference, one by one"] = [(1, 1 / plain), (self.most, 1 / plain)]
        self.scaling["reference, one process a core"] = [(1, each), (self.most, each)]
        return rows

    def lengths(self) -> Rows:
        """Longer trials, and batches of other sizes."""
        rows = []
        for case in ("small", "small-T100", "small-T140", "small-B16", "small-B256"):
            plain = self.reference(case)
            for members in (1, 16):
                found = self.ours(case, members)
                s = found["median_s"]
                rows.append([
                    case, str(members), ms(plain), ms(s), f"{plain * members / s:.2f}", mib(found["peak_bytes"])
                ])  # fmt: skip
                show(rows[-1])
        return rows

    def pieces(self) -> Rows:
        """Fewer trials at once: less memory for more time."""
        rows = []
        for case, members in (("large", 1), ("large", 4), ("small", 16), ("small-T140", 8)):
            batch = cases.CASES[case].batch_size
            whole = 0.0
            for trials in (batch, batch // 2, batch // 4, batch // 8):
                found = self.ours(case, members, trials_at_once=trials)
                whole = whole or found["median_s"]
                predicted = cases.predicted_bytes(case, members, trials_at_once=trials) + PROCESS
                rows.append([
                    case, str(members), str(trials), ms(found["median_s"]), f"{found['median_s'] / whole:.2f}",
                    mib(found["peak_bytes"]), mib(predicted),
                ])  # fmt: skip
                show(rows[-1])
        return rows

    def paths(self) -> Rows:
        """The compiled recurrences beside the plain ones."""
        rows = []
        for case, members in (("large", 1), ("small", 1), ("small", 16), ("maze", 1)):
            compiled, plain = (self.ours(case, members, BAND_KERNELS=path)["median_s"] for path in ("", "plain"))
            rows.append([case, str(members), ms(compiled), ms(plain), f"{plain / compiled:.2f}"])
            show(rows[-1])
        return rows

    def to_loss(self) -> Rows:
        """Seconds until a model is good."""
        command = [sys.executable, "-m", "benchmarks.to_loss", str(self.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=measure.ROOT, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        self.curves, plain = found["curves"], found["seconds"]["reference"]
        rows = []
        for name, words in (("reference", "reference"), ("one", "one model"), ("population", "worst of a population")):
            members = found["members"] if name == "population" else 1
            s = found["seconds"][name]
            cells = [f"{s:.1f}", str(found["epochs"][name]), f"{plain * members / s:.2f}"]
            rows.append([words, str(members), f"{found['loss']:.1f}", *cells])
            show(rows[-1])
        return rows

    def files(self) -> Rows:
        """Files in and out."""
        from benchmarks import files

        return files.rows()

    def starts(self) -> Rows:
        """Commands that do next to nothing."""
        return sweeps.starts()


# Of each table its title, its columns, and what they are.
SECTIONS: dict[str, tuple[str, Sequence[str], str]] = {
    "steps": (
        "Training step",
        (
            "case",
            "members",
            "reference ms",
            "ours ms",
            "member-steps/s",
            "x reference",
            "products ms",
            "x products",
            "GFLOP/s",
            "random numbers",
            "reference MiB",
            "ours MiB",
        ),
        "large: generator 200, batch 256, T 40, 20 neurons; small: generator 64, batch 64, T 40, 20 neurons; "
        "maze: generator 100, batch 64, T 50, 162 neurons. reference: one step of one model of "
        "`benchmarks/reference.py`; ours: one step of the whole population. x reference: member-steps a second "
        "against the reference run one by one. products: all matrix products of the step, each shape timed alone "
        "on this machine (`benchmarks/floor.py`); random numbers: their share of the step. MiB: peak of the "
        "process, libraries included.",
    ),
    "members": (
        "Populations",
        (
            "members",
            "ours ms",
            "member-steps/s",
            "x reference",
            "x alone",
            "in shares",
            "shares x reference",
            "shares x reference in shares",
        ),
        "Case small. In shares: one process a core with one thread and its share of the members, which is how a "
        "sweep runs with `--threads 1`; the last column compares with the reference in one process a core.",
    ),
    "lengths": (
        "Lengths and batches",
        ("case", "members", "reference ms", "ours ms", "x reference", "ours MiB"),
        "Case small with T 100 and 140, and with batches of 16 and 256.",
    ),
    "pieces": (
        "Fewer trials at once",
        ("case", "members", "trials at once", "ms", "x time", "MiB", "predicted MiB"),
        "`train.trials_at_once`: where a step would not fit, trials go through the model in pieces that are computed a "
        "second time on the way back. Predicted: `band/sizes.py`, and 240 MiB for a process that has loaded torch.",
    ),
    "paths": (
        "Compiled and plain recurrences",
        ("case", "members", "compiled ms", "plain ms", "ratio"),
        "BAND_KERNELS=plain is what is used without a compiler. Losses of 100 steps agree to 2e-7 "
        "(`tests/train/test_population.py`).",
    ),
    "to_loss": (
        "Time to a validation loss",
        ("who", "members", "loss", "seconds", "epochs", "x reference"),
        "Simulated Lorenz recording, 320 trials of 40 bins and 20 neurons; the loss (nats a trial) is the best "
        "that all of them reach. The population counts when its worst member has reached it.",
    ),
    "starts": (
        "Start of a command",
        ("command", "seconds", "processor seconds"),
        "Quickest of five.",
    ),
    "files": (
        "Files",
        ("what", "MiB", "seconds", "MiB/s"),
        "A simulated recording of 960 trials of 100 neurons; nothing is cold: the system has the file in memory.",
    ),
}


# Of tables that are drawn as bars: the columns that name a group of them, and a bar in it, and the one that is drawn.
BARS: dict[str, tuple[str, str, str]] = {
    "steps": ("case", "members", "x reference"),
    "lengths": ("case", "members", "x reference"),
    "pieces": ("case", "trials at once", "MiB"),
    "paths": ("case", "members", "ratio"),
    "starts": ("command", "", "seconds"),
    "files": ("what", "", "seconds"),
}


def ms(seconds: float) -> str:
    """Return milliseconds for a table."""
    return f"{seconds * 1e3:.0f}"


def mib(size_bytes: float) -> str:
    """Return mebibytes for a table."""
    return f"{size_bytes / 2**20:.0f}"


def show(row: Sequence[str]) -> None:
    """Print a line of a table."""
    print("  ".join(f"{cell:>14}" for cell in row), flush=True)


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each process")
    parser.add_argument("--seconds", type=float, default=6.0, help="time spent on each number")
    parser.add_argument("--most", type=int, default=64, help="members of the largest population")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="tables")
    parser.add_argument("--write", action="store_true", help="write tables and figures to benchmarks/")
    arguments = parser.parse_args()
    bench = Bench(threads=arguments.threads, seconds=arguments.seconds, most=arguments.most)
    found: dict[str, Rows] = {}
    for name in arguments.only:
        title, header, _ = SECTIONS[name]
        print(f"\n{title}")
        show(header)
        fill: Callable[[], Rows] = getattr(bench, name)
        found[name] = fill()
        if name in ("files", "starts"):
            for row in found[name]:
                show(row)
    if arguments.write:
        from benchmarks import draw

        FIGURES.mkdir(exist_ok=True)
        draw.members(bench.scaling, FIGURES / "members.png")
        draw.to_loss(bench.curves, FIGURES / "to_loss.png")
        for name, rows in found.items():
            if name in BARS:
                draw.bars(rows, SECTIONS[name][1], *BARS[name], FIGURES / f"{name}.png")
        RESULTS.write_text(_document(found, arguments), encoding="utf-8")
        print(f"written to {RESULTS}")


def _document(found: dict[str, Rows], arguments: argparse.Namespace) -> str:
    import torch

    lines = [
        "# Measured",
        "",
        f"`python -m benchmarks --threads {arguments.threads} --seconds {arguments.seconds:g} --most {arguments.most} "
        "--write`, "
        f"{datetime.date.today()}, {platform.machine()} with {os.cpu_count()} cores, torch {torch.__version__}. "
        "GPUs: [GPU.md](GPU.md).",
    ]
    for name, rows in found.items():
        title, header, legend = SECTIONS[name]
        lines += ["", f"## {title}", "", legend, "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", f"![{title}](figures/{name}.png)"]
    lines += ["", "## Many runs", "", "[SCALE.md](SCALE.md): 100 to 100 000 runs."]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
