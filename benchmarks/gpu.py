"""What a training step takes on a GPU: `python -m benchmarks.gpu`; with --write the tables go to GPU.md.

Everything is measured in one process, one after the other, on a GPU that should do nothing else.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from band.config import Hyper, RunConfig, TrainConfig
from band.train.calibration import rates
from band.train.loop import Loop, train_population
from band.train.population import COLUMNS, Population
from band.train.start import start_population
from band.train.trials import Trials
from benchmarks.cases import CASES, make_problem, predicted_bytes
from benchmarks.floor import Product, flops, products
from benchmarks.step import measure, ours, reference

RESULTS = Path(__file__).with_name("GPU.md")
FIGURE = Path(__file__).with_name("figures") / "members_gpu.png"


def captured_s(work: Callable[[], object], *, repeats: int) -> float:
    """Return the seconds that one of `repeats` calls takes when all are captured in one graph and replayed."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            work()
    times = []
    for _ in range(7):
        torch.cuda.synchronize()
        before = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - before)
    return statistics.median(times[2:]) / repeats


def product_s(product: Product) -> float:
    """Return the seconds of one product of this shape."""
    a = torch.randn(product.batch, product.rows, product.inner, device="cuda")
    b = torch.randn(product.batch, product.inner, product.columns, device="cuda")
    out = torch.empty(product.batch, product.rows, product.columns, device="cuda")
    return captured_s(lambda: torch.bmm(a, b, out=out), repeats=20)


def launch_s() -> float:
    """Return how long each kernel of a captured chain takes that does next to nothing."""
    x = torch.zeros(1, device="cuda")
    return captured_s(lambda: x.add_(1), repeats=1000)


def kernels(step: Callable[[], None]) -> Counter[str]:
    """Return by name how many microseconds the kernels of a step take, and under "" how many there are."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
    counter: Counter[str] = Counter()
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            counter[event.name[:60]] += event.device_time_total
            counter[""] += 1
    return counter


class Bench:
    """One run of the benchmarks on a GPU."""

    def __init__(self, seconds: float, *, is_verbose: bool) -> None:
        self.seconds, self.is_verbose = seconds, is_verbose
        self.plain: dict[str, float] = {}

    def reference(self, case: str) -> float:
        """Return the seconds of a step of one model of the reference."""
        if case not in self.plain:
            self.plain[case] = measure(reference(case, 1, "cuda"), seconds=self.seconds)["median_s"]
        return self.plain[case]

    def ours(
        self, case: str, members: int, *, trials_at_once: int = 0, **environment: str
    ) -> tuple[float, float, Counter[str]]:
        """Return seconds of a step, GPU bytes at its peak, and its kernels."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        os.environ.update(environment)
        try:
            step = ours(case, members, "cuda", trials_at_once=trials_at_once)
            seconds = measure(step, seconds=self.seconds)["median_s"]
            peak = torch.cuda.max_memory_reserved()
            names = kernels(step)
        finally:
            for name in environment:
                del os.environ[name]
        if self.is_verbose:
            total = sum(count for name, count in names.items() if name)
            print(f"    {case} x{members} {environment}: {names['']} kernels, busy {total / 1e3:.2f} ms", flush=True)
            for name, count in names.most_common(14):
                print(f"      {count / 1e3:8.3f} ms  {name}")
        return seconds, peak, names

    def members(self, case: str, most: int) -> list[list[str]]:
        """Populations of growing size against the reference one by one, product floor and launch floor."""
        rows, plain, chain = [], self.reference(case), launch_s()
        for members in (2**k for k in range(most.bit_length())):
            seconds, peak, names = self.ours(case, members)
            needed = products(CASES[case], members)
            floor = sum(p.times * product_s(p) for p in needed)
            noise = self.noise(case, members)
            rows.append([
                case, str(members), ms(plain), ms(seconds), f"{members / seconds:.0f}",
                f"{plain * members / seconds:.1f}", ms(floor), f"{seconds / floor:.2f}",
                f"{flops(needed) / seconds / 1e12:.2f}", str(names[""]), ms(names[""] * chain),
                f"{noise / seconds:.0%}", f"{peak / 2**20:.0f}",
            ])  # fmt: skip
            print("  ".join(f"{cell:>9}" for cell in rows[-1]), flush=True)
        return rows

    def noise(self, case: str, members: int) -> float:
        """Return the seconds that the random numbers of a step take."""
        problem = make_problem(CASES[case], range(members), device="cuda")
        step = torch.zeros((), dtype=torch.int64, device="cuda")
        return captured_s(lambda: problem.noise.training(step), repeats=1)

    def pieces(self) -> list[list[str]]:
        """Fewer trials at once: less memory for more time."""
        rows = []
        for case, members in (("small", 64), ("small-B256", 32), ("small-T140", 32), ("large", 32)):
            batch, whole = CASES[case].batch_size, 0.0
            for trials in (batch, batch // 2, batch // 4, batch // 8):
                seconds, peak, names = self.ours(case, members, trials_at_once=trials)
                whole = whole or seconds
                predicted = predicted_bytes(case, members, trials_at_once=trials)
                rows.append([
                    case, str(members), str(trials), ms(seconds), f"{seconds / whole:.2f}", f"{peak / 2**20:.0f}",
                    f"{predicted / 2**20:.0f}", str(names[""]),
                ])  # fmt: skip
                print("  ".join(f"{cell:>9}" for cell in rows[-1]), flush=True)
        return rows

    def paths(self) -> list[list[str]]:
        """The ways to run a step beside each other."""
        rows = []
        for case, members in (("small", 1), ("small", 32), ("large", 16)):
            for words, environment in (
                ("ATen, launched one by one", {"BAND_KERNELS": "plain", "BAND_GRAPHS": "off"}),
                ("ATen, captured", {"BAND_KERNELS": "plain"}),
                ("Triton, launched one by one", {"BAND_GRAPHS": "off"}),
                ("Triton, captured", {}),
            ):
                seconds, _, names = self.ours(case, members, **environment)
                rows.append([case, str(members), words, ms(seconds), str(names[""])])
                print("  ".join(f"{cell:>9}" for cell in rows[-1]), flush=True)
        return rows

    def loop(self, recording: Path) -> list[list[str]]:
        """The trainer's own loop on a recording, its batches taken and its members looked after."""
        config = RunConfig(hyper=Hyper(behavior_weight=1.0), train=TrainConfig(max_epochs=10_000))
        rows = []
        for members, rate in rates(config, recording, device=torch.device("cuda"), most=64, seconds=self.seconds):
            rows.append([str(members), ms(members / rate), f"{rate:.0f}"])
            print("  ".join(f"{cell:>9}" for cell in rows[-1]), flush=True)
        return rows

    def scores(self, recording: Path, epochs: int) -> list[list[str]]:
        """What TF32 does to scores: eight seeds of LFADS and BAND trained with either precision, as one population."""
        best: dict[str, torch.Tensor] = {}
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            best[precision], seconds = best_scores(recording, epochs)
            print(f"{precision}: {seconds:.1f} s", flush=True)
        torch.set_float32_matmul_precision("highest")
        rows = []
        for m, model in enumerate(("LFADS", "BAND")):
            for s, score in enumerate(SCORES):
                highest, high = (best[precision][m, :, s] for precision in ("highest", "high"))
                if bool(highest.isnan().any()):
                    continue
                off = high - highest
                error = float(off.std()) / len(off) ** 0.5
                rows.append([
                    model, score, f"{highest.mean():.4f}", f"{high.mean():.4f}", f"{off.mean():+.4f} ± {error:.4f}",
                    f"{highest.std():.4f}",
                ])  # fmt: skip
                print("  ".join(f"{cell:>9}" for cell in rows[-1]), flush=True)
        return rows

    def precision(self) -> list[list[str]]:
        """Products in float32 and in TF32."""
        rows = []
        for case, members in (("small", 32), ("large", 1), ("large", 16)):
            highest = self.ours(case, members)[0]
            torch.set_float32_matmul_precision("high")
            high = self.ours(case, members)[0]
            torch.set_float32_matmul_precision("highest")
            rows.append([case, str(members), ms(highest), ms(high), f"{highest / high:.2f}"])
            print("  ".join(f"{cell:>9}" for cell in rows[-1]), flush=True)
        return rows


def best_scores(recording: Path, epochs: int) -> tuple[torch.Tensor, float]:
    """Return the scores (2, seeds, len(SCORES)) at each member's best epoch, LFADS first, and the seconds it took."""
    device = torch.device("cuda")
    train = TrainConfig(max_epochs=epochs, stop_patience=0)
    configs = {
        f"{weight}-{seed}": RunConfig(hyper=Hyper(behavior_weight=weight, kl_increase_epoch=50), train=train, seed=seed)
        for weight in (0.0, 1.0)
        for seed in range(8)
    }
    trials = Trials.load(recording, list(configs.values()), device=device)
    places = {run: place for place, run in enumerate(configs)}
    loop = Loop(start_population(list(configs.items()), trials, places, device=device), trials, places=places)
    found = {}

    def on_ended(population: Population, ended: list[int]) -> None:
        for p in ended:
            member = population.members[p]
            row = dict(zip(COLUMNS, member.history[member.schedule.best_epoch], strict=True))
            found[member.run_id] = [row[name] for name in SCORES]

    start = time.perf_counter()
    train_population(loop, on_epoch=lambda _: None, on_ended=on_ended, after_step=lambda _: False)
    seconds = time.perf_counter() - start
    return torch.tensor([found[run] for run in configs]).view(2, 8, -1), seconds


SCORES = ("valid_recon", "valid_bits_per_spike", "valid_behavior_r2")
MEMBERS = (
    "case", "members", "reference ms", "ours ms", "member-steps/s", "x reference", "products ms", "x products",
    "TFLOP/s", "kernels", "launches ms", "random numbers", "MiB",
)  # fmt: skip
LEGENDS = {
    "members": "Cases as in [RESULTS.md](RESULTS.md). reference: one eager step of one model of "
    "`benchmarks/reference.py` on this GPU; ours: one step of the whole population, a captured graph, waited for. "
    "products: all matrix products of the step, each shape timed alone in a captured chain; launches: as many kernels "
    "as the step has, at the least that one of a chain takes; random numbers: their share of the step; "
    "MiB: most GPU memory that was reserved.",
    "lengths": "Case small with batches of 16 and 256, and with T 100 and 140.",
    "paths": "BAND_KERNELS=plain is ATen, BAND_GRAPHS=off launches kernels one by one. How long launches take depends "
    "on the host, and varied by a factor of two between calls.",
    "pieces": "`train.trials_at_once`, as in RESULTS.md; predicted: `band/sizes.py`, without what CUDA and libraries "
    "take. Pieces are captured too: kernels of one after the other.",
    "precision": "`train.matmul_precision`, as torch names it: float32 products in float32, or of TF32 parts.",
    "to_loss": "As in RESULTS.md: seconds until the validation loss that all of them reach; the population counts when "
    "its worst member has reached it.",
    "loop": "What a training does: as above, and batches are taken, epochs shuffled (here every two steps), members "
    "looked after.",
    "scores": "Eight seeds of LFADS and of BAND, trained as one population with either precision; on valid, at the "
    "best epoch.",
}
SECTIONS = ("members", "lengths", "paths", "pieces", "precision", "to_loss", "loop", "scores")
LENGTHS = ("small-B16", "small-B256", "small-T100", "small-T140")


def ms(seconds: float) -> str:
    """Return milliseconds for a table."""
    return f"{seconds * 1e3:.2f}"


def table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each number")
    parser.add_argument("--most", type=int, default=64, help="members of the largest population")
    parser.add_argument("--recording", type=Path, help="train on it too: the loop's own speed, and scores under TF32")
    parser.add_argument("--epochs", type=int, default=200, help="of the trainings whose scores are compared")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=None, help="tables")
    parser.add_argument("--verbose", action="store_true", help="say which kernels take how long")
    parser.add_argument("--write", type=Path, nargs="?", const=RESULTS, help="write tables and a figure there")
    arguments = parser.parse_args()
    bench = Bench(arguments.seconds, is_verbose=arguments.verbose)
    wanted = arguments.only or SECTIONS
    lines = [
        "# Measured on a GPU",
        "",
        f"`python -m benchmarks.gpu --seconds {arguments.seconds:g} --most {arguments.most} --write`, "
        f"{datetime.date.today()}, {torch.cuda.get_device_name()}, {os.cpu_count()} cores ({platform.machine()}), "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}; a kernel of a captured chain takes "
        f"{launch_s() * 1e6:.2f} microseconds at least.",
    ]
    scaling: dict[str, list[list[str]]] = {}
    if "members" in wanted:
        for case in ("small", "maze", "large"):
            scaling[case] = bench.members(case, arguments.most if case != "large" else min(32, arguments.most))
        lines += [
            "",
            "## Populations",
            "",
            LEGENDS["members"],
            *table(MEMBERS, [row for rows in scaling.values() for row in rows]),
        ]
        lines += ["", "![member-steps a second by members](figures/members_gpu.png)"]
    if "lengths" in wanted:
        rows = []
        for case in LENGTHS:
            for members in (1, 32):
                plain = bench.reference(case)
                seconds, peak, _ = bench.ours(case, members)
                ratio = plain * members / seconds
                rows.append([case, str(members), ms(plain), ms(seconds), f"{ratio:.1f}", f"{peak / 2**20:.0f}"])
                print("  ".join(f"{cell:>9}" for cell in rows[-1]), flush=True)
        lines += ["", "## Lengths and batches", "", LEGENDS["lengths"]]
        lines += table(("case", "members", "reference ms", "ours ms", "x reference", "MiB"), rows)
    if "paths" in wanted:
        lines += [
            "",
            "## Paths",
            "",
            LEGENDS["paths"],
            *table(("case", "members", "path", "ms", "kernels"), bench.paths()),
        ]
    if "pieces" in wanted:
        header = ("case", "members", "trials at once", "ms", "x time", "MiB", "predicted MiB", "kernels")
        lines += ["", "## Fewer trials at once", "", LEGENDS["pieces"], *table(header, bench.pieces())]
    if "precision" in wanted:
        lines += ["", "## Precision of products", "", LEGENDS["precision"]]
        lines += table(("case", "members", "highest ms", "high (TF32) ms", "ratio"), bench.precision())
    if "to_loss" in wanted:
        command = [sys.executable, "-m", "benchmarks.to_loss", "4", "cuda"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        plain, count = found["seconds"]["reference"], {"reference": 1, "one": 1, "population": found["members"]}
        rows = [
            [who, str(members), f"{found['loss']:.1f}", f"{found['seconds'][who]:.2f}", str(found["epochs"][who]),
             f"{plain * members / found['seconds'][who]:.1f}"]
            for who, members in count.items()
        ]  # fmt: skip
        print(rows, flush=True)
        lines += ["", "## Time to a validation loss", "", LEGENDS["to_loss"]]
        lines += table(("who", "members", "loss", "seconds", "epochs", "x reference"), rows)
    if "loop" in wanted and arguments.recording:
        lines += ["", f"## The trainer's loop on {arguments.recording.name}", "", LEGENDS["loop"]]
        lines += table(("members", "step ms", "member-steps/s"), bench.loop(arguments.recording))
    if "scores" in wanted and arguments.recording:
        lines += [
            "",
            f"## Scores under TF32, {arguments.epochs} epochs of {arguments.recording.name}",
            "",
            LEGENDS["scores"],
        ]
        header = ("model", "score", "highest", "high (TF32)", "difference, 8 seeds", "spread of seeds")
        lines += table(header, bench.scores(arguments.recording, arguments.epochs))
    if arguments.write:
        arguments.write.write_text("\n".join([*lines, ""]), encoding="utf-8")
        if scaling:
            draw(scaling, bench.plain, arguments.write.parent / "figures" / FIGURE.name)


def draw(scaling: dict[str, list[list[str]]], plain: dict[str, float], path: Path) -> None:
    """Draw member-steps a second by members."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    path.parent.mkdir(exist_ok=True)
    figure, axes = plt.subplots(figsize=(4.4, 3.2), layout="constrained")
    for (case, rows), colour in zip(scaling.items(), ("#0072B2", "#009E73", "#D55E00"), strict=True):
        members = [int(row[1]) for row in rows]
        axes.plot(members, [float(row[4]) for row in rows], "-o", color=colour, markersize=3, label=case)
        axes.plot([1, members[-1]], [1 / plain[case]] * 2, "--", color=colour, label=f"{case}, reference one by one")
    axes.set(xscale="log", yscale="log", xlabel="members", ylabel="member-steps a second")
    axes.set_xticks(members := [2**k for k in range(7)], [str(m) for m in members])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
