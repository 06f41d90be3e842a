"""What commands take for 100 to 100 000 runs: generate, submit, status, logs, report, pull.

`python -m benchmarks.scale --keep FILE`, then `--draw FILE` for the table and figures/scale.png. Submitted is to a
Slurm that lets in 10 000 jobs of a user, 1001 an array, and counts what it is asked; runs are then published as sealed
folders of made-up scores, each task with its event stream.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT

HERE = Path(__file__).parent
COUNTS = (100, 1_000, 10_000, 100_000)
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
TEMPLATE = "#!/bin/bash\n#SBATCH --time=60\n#SBATCH --mem=1G\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taken:
    """What a command took."""

    runs: int
    command: str
    wall_s: float
    cpu_s: float
    peak_bytes: int
    calls: int = 0  # to Slurm


def timed(argv: Sequence[str | Path], *, folder: Path, good: tuple[int, ...] = (0, 4)) -> tuple[float, float, int]:
    """Return seconds on the clock, seconds of processor time with its children, and peak memory of a command."""
    before = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}", "XDG_CONFIG_HOME": str(folder / "config")}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(list(map(str, argv)), cwd=folder, stdout=said, stderr=said, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in good:
        sys.exit(f"{argv} ended with {process.returncode}: {(folder / 'said').read_text()[-2000:]}")
    return time.perf_counter() - before, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


# --- a Slurm that counts ---------------------------------------------------------------------------------------------


def with_slurm(state: Path, argv: list[str]) -> int:
    """Run band-sweep where Slurm is a file; add what it was asked to the file beside it."""
    sys.path.insert(0, str(ROOT / "tests/helpers"))
    from fake_slurm import FakeSlurm

    from band.cli.sweep import dispatch
    from band.slurm import cluster, command, jobs
    from band.sweep import hold, slurm_scheduler

    calls = []

    def counted(name: str, deed: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            calls.append(name if name != "ask" else words[0][0])
            return deed(*words, **options)

        return call

    slurm = FakeSlurm.__new__(FakeSlurm)
    slurm.path, slurm.most, slurm.longest, slurm.cancelled = state, 10_000, 1001, []
    if not state.exists():
        slurm.__init__(state)  # type: ignore[misc]
    ask, queued, accounted = (
        counted("ask", slurm.ask),
        counted("squeue", slurm.queued),
        counted("sacct", slurm.accounted),
    )
    for module in (command, cluster):
        module.ask = ask  # type: ignore[attr-defined]
    for module in (jobs, slurm_scheduler):
        module.queued, module.accounted = queued, accounted  # type: ignore[attr-defined]
    hold.slurm_says_over = lambda attempt: False
    code = dispatch(argv)
    state.with_suffix(".calls").write_text(json.dumps(calls))
    return code


# --- runs that nobody trained ----------------------------------------------------------------------------------------


def publish(sweep_folder: Path) -> None:
    """Publish every run of a sweep, and give each task the event stream and the log of one attempt."""
    from band.files import canonical_json
    from band.run_dir import SweepDir, signed
    from band.sweep.ledger import read_intents
    from band.sweep.manifest import read_manifest

    sweep, manifest = SweepDir(sweep_folder), read_manifest(sweep_folder)
    for folder in (sweep.runs, sweep.events, sweep.logs):
        folder.mkdir(exist_ok=True)
    siblings = _siblings(sweep.path.parent)
    digests = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in siblings}
    for run in manifest.runs:
        config = manifest.run_config(run)
        result = _result(run.id, config, dataset=manifest.datasets[run.dataset])
        target = sweep.run(run.id)
        target.mkdir()
        for path in siblings:
            os.link(path, target / path.name)
        (target / "result.json").write_bytes(signed({**result, "manifest": digests}))
    begun = time.time()
    for intent in read_intents(sweep):
        for number, (task, runs) in enumerate(intent.tasks.items()):
            events: list[dict[str, Any]] = [
                {"event": "claimed", "host": "n1"},
                {"event": "started", "runs": list(runs)},
            ]
            events += [
                {"event": "epoch", "runs": {run: {"epoch": epoch, "max_epochs": 9} for run in runs}}
                for epoch in range(9)
            ]
            events += [{"event": "published", "run": run, "outcome": "ok"} for run in runs]
            lines = [{**event, "t": begun} for event in [*events, {"event": "ended", "code": 0}]]
            attempt = f"j99_{number}-r0"
            sweep.event_file(task, attempt=attempt).write_bytes(b"".join(canonical_json(e) + b"\n" for e in lines))
            sweep.log_file(task, attempt=attempt).write_text("epoch 1\nepoch 2\n")


def _siblings(folder: Path) -> list[Path]:
    """Return the files that every run gets a link to: learning curves and weights."""
    columns = ("epoch", "step", "train_recon", "valid_recon", "valid_bits_per_spike", "valid_behavior_r2", "lr")
    rows = [[e, 2 * e, 900 - e, 910 - e, 0.01 * e, 0.05 * e, 0.004] for e in range(10)]
    curves, weights = folder / "metrics.csv", folder / "model.pt"
    curves.write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]) + "\n")
    weights.write_bytes(b"weights")
    return [curves, weights]


def _sha256(path: Path) -> str:
    from band.files import sha256_file

    return sha256_file(path)


def _result(run: str, config: dict[str, Any], *, dataset: dict[str, Any]) -> dict[str, Any]:
    made_up = int(_digits(run), 16) / 16**8
    scores = {"bits_per_spike": 0.2 + 0.1 * made_up, "behavior_r2/own/mean": 0.5 + 0.2 * made_up}
    return {
        "schema": 1,
        "run_id": run,
        "config": config,
        "dataset": {"path": dataset["path"], "digest": dataset["digest"]},
        "training": {"outcome": "ok", "reason": "", "epochs": 10, "best_epoch": 8, "seconds": 1.5},
        "scores": {"test": scores, "valid": scores, "train": scores},
        "split": {"train": 80, "valid": 20, "test": 20, "how": "stratified"},
        "provenance": {},
    }


def _digits(run: str) -> str:
    import hashlib

    return hashlib.sha256(run.encode()).hexdigest()[:8]


# --- one size --------------------------------------------------------------------------------------------------------


class Size:
    """A sweep of so many runs, in a folder of its own."""

    def __init__(self, count: int, *, folder: Path) -> None:
        self.count, self.folder = count, folder
        self.sweep = folder / "sweeps/many"
        self.taken: list[Taken] = []

    def measure(self) -> list[Taken]:
        """Return what every command took."""
        self._write()
        program = Path(sys.executable)
        self._add("generate", [program.with_name("band-sweep"), "generate", "many.yaml"])
        self._slurm("submit", "--cluster", "fake", "--json")
        self._slurm("status", "--json", label="status, queued")
        timed([program, "-m", "benchmarks.scale", "publish", str(self.sweep)], folder=self.folder)
        state = self.folder / "slurm.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "jobs": {}}))
        self._slurm("status", "--json", label="status, published")
        last = (self.sweep / "manifest.jsonl").read_text().splitlines()[-1]
        self._slurm("logs", json.loads(last)["id"], "--json", label="logs of one run")
        self._slurm("report", "--json", "--no-figures", label="report")
        print(f"{self.count:>7} files {sum(len(names) for _, _, names in os.walk(self.sweep))}", flush=True)
        return self.taken

    def pull(self) -> list[Taken]:
        """Bring the sweep home from an sshd on loopback: the plan, the transfer, and a plan when all is at home."""
        from far_machine import FarMachine, running

        far = FarMachine(self.folder / "far")
        with running(far):
            for name in ("run", "home"):
                (self.folder / name).mkdir(mode=0o700)
            before = dict(os.environ)
            os.environ.update(far.environment(self.folder / "run"))
            command: list[str | Path] = [
                Path(sys.executable).with_name("band-sync"),
                "pull",
                f"far:{self.sweep}",
                "--json",
            ]
            into: list[str | Path] = ["--into", self.folder / "home/many"]
            self._add("pull, plan", [*command, *into, "--dry-run"])
            self._add("pull", [*command, *into])
            self._add("pull, nothing new", [*command, *into])
            timed([command[0], "disconnect", "far"], folder=self.folder, good=(0, 1, 2))
            os.environ.clear()
            os.environ.update(before)
        return self.taken

    def _write(self) -> None:
        program = Path(sys.executable).with_name("band-data")
        timed([program, "simulate", "reach", "reach.h5", "--small"], folder=self.folder)
        rates, seeds = (2, self.count // 20) if self.count < 1000 else (10, self.count // 100)
        listed = [round(1e-3 * (k + 1), 4) for k in range(rates)]
        (self.folder / "many.yaml").write_text(SWEEP.format(rates=listed, seeds=list(range(seeds))))
        (self.folder / "sbatch_templates").mkdir()
        (self.folder / "sbatch_templates/fake.sh").write_text(TEMPLATE)

    def _slurm(self, command: str, *words: str, label: str = "") -> None:
        state = self.folder / "slurm.json"
        argv = [sys.executable, "-m", "benchmarks.scale", "slurm", str(state), command, str(self.sweep), *words]
        self._add(label or command, argv, calls=state.with_suffix(".calls"))

    def _add(self, label: str, argv: Sequence[str | Path], *, calls: Path | None = None) -> None:
        wall, cpu, peak = timed(argv, folder=self.folder)
        count = len(json.loads(calls.read_text())) if calls is not None else 0
        taken = Taken(runs=self.count, command=label, wall_s=wall, cpu_s=cpu, peak_bytes=peak, calls=count)
        self.taken.append(taken)
        print(f"{taken.runs:>7} {label:<20} {wall:8.2f} s {cpu:8.2f} s {peak / 2**20:6.0f} MiB {count:4}", flush=True)


def main() -> None:
    """Measure every size."""
    if sys.argv[1:2] == ["slurm"]:
        sys.exit(with_slurm(Path(sys.argv[2]), sys.argv[3:]))
    if sys.argv[1:2] == ["publish"]:
        return publish(Path(sys.argv[2]))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--most-pulled", type=int, default=10_000, help="runs that are transferred, at the most")
    parser.add_argument("--keep", type=Path, help="file that what was measured is added to, as JSON lines")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="print the table of such a file, and draw it")
    arguments = parser.parse_args()
    if arguments.draw:
        return draw([Taken(**json.loads(line)) for line in arguments.draw.read_text().splitlines()])
    sys.path.insert(0, str(ROOT / "tests/helpers"))
    for count in arguments.runs:
        with tempfile.TemporaryDirectory() as name:
            size = Size(count, folder=Path(name).resolve())
            size.measure()
            if count <= arguments.most_pulled:
                size.pull()
            if arguments.keep:
                with arguments.keep.open("a") as kept:
                    kept.writelines(json.dumps(dataclasses.asdict(taken)) + "\n" for taken in size.taken)
    return None


def draw(taken: Sequence[Taken]) -> None:
    """Print the table, and draw processor seconds and memory by the number of runs."""
    print("| command | runs | wall s | processor s | peak MiB | calls to Slurm |\n|---|---|---|---|---|---|")
    commands = list(dict.fromkeys(each.command for each in taken))
    for each in sorted(taken, key=lambda each: (commands.index(each.command), each.runs)):
        cells = f"{each.wall_s:.2f} | {each.cpu_s:.2f} | {each.peak_bytes / 2**20:.0f} | {each.calls}"
        print(f"| {each.command} | {each.runs} | {cells} |")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained", sharex=True)
    for number, command in enumerate(commands):
        own = sorted((each for each in taken if each.command == command), key=lambda each: each.runs)
        runs, style = [each.runs for each in own], {"color": f"C{number}", "marker": "o", "markersize": 3}
        panels[0].plot(runs, [each.cpu_s for each in own], label=command, **style)
        panels[1].plot(runs, [each.peak_bytes / 2**20 for each in own], **style)
    panels[0].plot(COUNTS, [count * 2e-4 for count in COUNTS], color="0.6", linestyle=":", label="linear")
    panels[0].set(xscale="log", yscale="log", xlabel="runs", ylabel="processor seconds")
    panels[1].set(xscale="log", yscale="log", xlabel="runs", ylabel="peak memory, MiB")
    panels[0].legend(frameon=False, fontsize=7)
    figure.savefig(HERE / "figures/scale.png", dpi=130)


if __name__ == "__main__":
    main()
