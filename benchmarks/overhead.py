"""What submitting costs beside training: 200 runs of 0.1 s on eight slots of a real Slurm cluster on this machine.

`python -m benchmarks.overhead`: a raw job array, submitit's `map_array`, eight tasks that a person has packed by hand,
and `band-sweep submit`, one after the other on one cluster; every ratio is of two numbers of the same run.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from slurm_lab.lab import Lab  # noqa: E402

RUNS, SLOTS = 200, 8
TEMPLATE = """#!/bin/bash
#SBATCH --time=5
#SBATCH --mem=2G
#SBATCH --cpus-per-task=1
export BAND_SCRATCH=/disk/scratch/band
export BAND_TRAINER="{python} -m benchmarks.trivial_trainer"
export PYTHONPATH="$PYTHONPATH:{root}"
"""
SWEEP = """name: overhead
datasets: [recording.h5]
base: {{train.max_epochs: 1, train.batch_size: 16}}
grid: {{hyper.behavior_weight: [0.0, 0.1]}}
seeds: {seeds}
"""
SUBMITIT = """
import sys, time, submitit
executor = submitit.SlurmExecutor(folder="logs")
executor.update_parameters(time=5, mem="2GB", cpus_per_task=1, array_parallelism=8, use_srun=False)
jobs = executor.map_array(time.sleep, [0.1] * int(sys.argv[1]))
print(jobs[0].job_id.partition("_")[0])
"""


def write_recording(path: Path) -> None:
    """Write a small recording; nobody trains on it."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["bin_ms"] = 10.0
        for split, count in (("train", 40), ("valid", 10), ("test", 10)):
            spikes = random.poisson(1.0, (count, 20, 8)).astype(np.float32)
            file[f"{split}_encod_data"] = file[f"{split}_recon_data"] = spikes
            file[f"{split}_behavior"] = random.standard_normal((count, 20, 2)).astype(np.float32)


def timed(lab: Lab, start: Callable[[], object], *, files: Path) -> tuple[float, int]:
    """Return the seconds from the call until no job is left in the queue, and the files that came to be."""
    begun = time.monotonic()
    start()
    lab.wait_for(lambda: not lab.run(["squeue", "--noheader"], check=True).stdout, timeout_s=600)
    return time.monotonic() - begun, sum(path.is_file() for path in files.rglob("*"))


def fresh(lab: Lab, name: str) -> Path:
    """Return a new folder on the shared home."""
    folder = lab.home / name
    (folder / "logs").mkdir(parents=True)
    return folder


def raw_array(lab: Lab, *, tasks: int, runs_each: int) -> tuple[float, int]:
    """Time a plain job array whose tasks sleep for each of their runs and write a line for it."""
    folder = fresh(lab, f"raw{tasks}")
    loop = f"for run in $(seq {runs_each}); do sleep 0.1; echo ok > result.$SLURM_ARRAY_TASK_ID.$run; done"
    options = [f"--array=0-{tasks - 1}%{SLOTS}", "--mem=2G", "--cpus-per-task=1", "--output=logs/%A_%a.out"]
    return timed(lab, lambda: lab.run(["sbatch", *options, "--wrap", loop], cwd=folder, check=True), files=folder)


def submitit_array(lab: Lab) -> tuple[float, int]:
    """Time submitit's own way of mapping a function over arguments."""
    folder = fresh(lab, "submitit")
    (folder / "submit.py").write_text(SUBMITIT)
    command = [sys.executable, "submit.py", str(RUNS)]
    return timed(lab, lambda: lab.run(command, cwd=folder, check=True, timeout_s=120), files=folder)


def prepare(lab: Lab, *, runs: int) -> tuple[Path, Callable[..., float]]:
    """Generate a sweep in a folder on the shared home; return that, and a call that times a command there."""
    folder = fresh(lab, "band")
    write_recording(folder / "recording.h5")
    (folder / "overhead.yaml").write_text(SWEEP.format(seeds=runs // 2))
    (folder / "sbatch_templates").mkdir()
    (folder / "sbatch_templates/lab.sh").write_text(TEMPLATE.format(python=sys.executable, root=ROOT))

    def band(*arguments: str) -> float:
        begun = time.monotonic()
        done = lab.run([sys.executable, "-m", "band.cli.sweep", *arguments], cwd=folder, timeout_s=120)
        if done.returncode not in (0, 4):
            raise SystemExit(f"band-sweep {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return time.monotonic() - begun

    band("generate", "overhead.yaml")
    return folder, band


def band_sweep(lab: Lab, *, options: list[str]) -> dict[str, float]:
    """Time `band-sweep submit` until every run is published and the queue is empty."""
    folder, band = prepare(lab, runs=RUNS)
    runs = folder / "sweeps/overhead/runs"
    begun = time.monotonic()
    submit_s = band("submit", "overhead", "--cluster", "lab", *options)
    status_s = [band("status", "overhead") for _ in range(3)]
    squeue_s = [clocked(lambda: lab.run(["squeue", "--me"], check=True)) for _ in range(3)]
    lab.wait_for(lambda: runs.is_dir() and len(list(runs.glob("[!.]*"))) == RUNS, timeout_s=600)
    published_s = time.monotonic() - begun
    lab.wait_for(lambda: not lab.run(["squeue", "--noheader"], check=True).stdout, timeout_s=600)
    return {
        "submit_s": submit_s,
        "published_s": published_s,
        "all_s": time.monotonic() - begun,
        "status_s": statistics.median(status_s),
        "squeue_s": statistics.median(squeue_s),
        "files": sum(path.is_file() for path in (folder / "sweeps").rglob("*") if "code" not in path.parts),
    }


def large(folder: Path, *, runs: int = 2500, longest: int = 1001, most: int = 500) -> dict[str, float]:
    """Time a sweep of one run a task, unattended, where neither an array nor the queue can hold it."""
    settings = {"MaxArraySize": longest}
    with Lab(folder / "large", nodes=2, cpus=SLOTS // 2, settings=settings) as lab:
        lab.set_limits(max_submit=most)
        project, band = prepare(lab, runs=runs)
        begun = time.monotonic()
        band("submit", "overhead", "--cluster", "lab", "--pack", "1")
        submit_s = time.monotonic() - begun
        published = project / "sweeps/overhead/runs"
        lab.wait_for(lambda: time.sleep(1) or not lab.run(["squeue", "--noheader"], check=True).stdout, timeout_s=3600)
        return {
            "runs": runs,
            "published": len(list(published.glob("[!.]*"))),
            "submit_s": submit_s,
            "all_s": time.monotonic() - begun,
            "arrays": len(list((project / "sweeps/overhead/submissions").glob("*/array.*[0-9].sh"))),
            "status_s": band("status", "overhead"),
        }


def clocked(call: Callable[[], object]) -> float:
    """Return how long a call takes in seconds."""
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def main() -> None:
    """Run all four, or with `large` the one that no queue can hold, and print what was found."""
    if sys.argv[1:] == ["large"]:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(large(Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder) / "lab", nodes=2, cpus=SLOTS // 2) as lab:
        found: dict[str, object] = {}
        for name, measure in (
            ("packed", lambda: raw_array(lab, tasks=SLOTS, runs_each=RUNS // SLOTS)),
            ("band", lambda: band_sweep(lab, options=sys.argv[1:])),
            ("raw", lambda: raw_array(lab, tasks=RUNS, runs_each=1)),
            ("submitit", lambda: submitit_array(lab)),
        ):
            found[name] = measure()
            print(name, json.dumps(found[name]), flush=True)


if __name__ == "__main__":
    main()
