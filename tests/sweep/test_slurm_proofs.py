"""What a user does on a cluster, from a sweep file to results, with the real trainer on real Slurm."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

from slurm_lab.lab import Lab
from tiny import write_recording

from band.run_dir import SweepDir, read_events, verify

ROOT = Path(__file__).parents[2]
TEMPLATE = """#!/bin/bash
#SBATCH --time=10
#SBATCH --mem=2G
#SBATCH --cpus-per-task=1
export BAND_SCRATCH=/disk/scratch/band
"""
SWEEP = """datasets: [one.h5, two.h5]
base:
  arch: {gen_dim: 12, fac_dim: 6, con_dim: 6, co_dim: 2, ic_enc_dim: 8, ci_enc_dim: 8, ic_dim: 5}
  hyper: {kl_increase_epoch: 2}
  train: {batch_size: 8, max_epochs: 4, posterior_samples: 3, stop_patience: 0}
pair: {behavior_weight: [0.5]}
seeds: 10
"""


class Cluster:
    """A user's folder on the shared home of a lab, and the commands typed there."""

    def __init__(self, lab: Lab, *, template: str = TEMPLATE) -> None:
        self.lab = lab
        self.folder = lab.home / "project"
        (self.folder / "sbatch_templates").mkdir(parents=True)
        (self.folder / "sbatch_templates/lab.sh").write_text(template)

    def band_sweep(self, *arguments: str, code: int = 0, timeout_s: float = 60) -> str:
        """Run `band-sweep`, check its exit code and return what it printed."""
        command = [sys.executable, "-m", "band.cli.sweep", *arguments]
        done = self.lab.run(command, cwd=self.folder, timeout_s=timeout_s)
        assert done.returncode == code, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def status(self, name: str, *, code: int) -> dict:
        """Return what `status --json` says."""
        return dict(json.loads(self.band_sweep("status", name, "--json", code=code)))

    def wait_for_queue(self, *, timeout_s: float) -> None:
        """Wait until Slurm has nothing left to do."""
        self.lab.wait_for(
            lambda: not self.lab.run(["squeue", "--noheader"], check=True).stdout, timeout_s=timeout_s, what="the queue"
        )

    def sweep(self, name: str) -> SweepDir:
        """Return a sweep's folder."""
        return SweepDir(self.folder / "sweeps" / name)


def events(sweep: SweepDir, name: str) -> list[dict]:
    """Return the events of one name of all streams."""
    return [
        event
        for path in sorted(sweep.events.glob("*.jsonl"))
        for event in read_events(path)[0]
        if event["event"] == name
    ]


def test_forty_runs_of_the_real_trainer_come_home_and_every_recording_is_copied_once_a_node(slurm_lab: Lab) -> None:
    cluster = Cluster(slurm_lab)
    for number, name in enumerate(("one", "two")):
        write_recording(cluster.folder / f"{name}.h5", seed=number)
    (cluster.folder / "forty.yaml").write_text(SWEEP)
    cluster.band_sweep("generate", "forty.yaml")
    cluster.band_sweep("submit", "forty", "--cluster", "lab", "--pack", "4")
    cluster.wait_for_queue(timeout_s=240)
    assert cluster.status("forty", code=0)["counts"] == {"published": 40}
    sweep = cluster.sweep("forty")
    published = [folder for folder in sweep.runs.iterdir() if not folder.name.startswith(".")]
    assert len(published) == 40 and all(verify(folder)["run_id"] == folder.name for folder in published)
    staged = events(sweep, "staged")
    tasks = list(sweep.tasks.iterdir())
    assert len(staged) == len(tasks) >= 10 and {event["source"] for event in staged} == {"scratch"}
    hosts = {event["attempt"]: event["host"] for event in events(sweep, "claimed")}
    assert set(hosts.values()) == {"c1", "c2"}
    copies = Counter()
    for path in sorted(sweep.events.glob("*.jsonl")):
        stream = read_events(path)[0]
        host = next((event["host"] for event in stream if event["event"] == "claimed"), "")
        copies.update((host, event["path"]) for event in stream if event["event"] == "staged" and event["copied"])
    kept = {
        (node, f"/disk/scratch/{path.relative_to(slurm_lab.nodes[node].scratch)}")
        for node in slurm_lab.nodes
        for path in slurm_lab.nodes[node].scratch.glob("band/data/*/recording.h5")
    }
    assert set(copies) == kept and set(copies.values()) == {1}, "a copy was made twice, or by nobody"
    for node in slurm_lab.nodes.values():
        assert not [path for path in node.scratch.glob("band/work/**/*") if path.is_file()], "nothing is left there"
    finished = [
        path for path in sweep.path.rglob("*") if path.is_file() and "code" not in path.relative_to(sweep.path).parts
    ]
    of_tasks = [path for path in finished if path.relative_to(sweep.path).parts[0] in ("tasks", "events", "logs")]
    assert len(of_tasks) <= 4 * len(tasks) + 2, sorted(map(str, of_tasks))  # + the closing job's own words


def test_what_is_edited_after_submit_changes_nothing_in_queued_jobs(slurm_lab: Lab) -> None:
    cluster = Cluster(slurm_lab)
    checkout = cluster.folder  # submitted from the checkout's own root, which shadows what is installed
    shutil.copytree(ROOT / "band", checkout / "band", ignore=shutil.ignore_patterns("__pycache__"))
    write_recording(checkout / "one.h5")
    (checkout / "edited.yaml").write_text(
        SWEEP.replace("[one.h5, two.h5]", "[one.h5]").replace("seeds: 10", "seeds: 1")
    )
    cluster.band_sweep("generate", "edited.yaml")
    slurm_lab.run(["scontrol", "update", "PartitionName=normal", "State=DOWN"], check=True)
    try:
        cluster.band_sweep("submit", "edited", "--cluster", "lab")
        (checkout / "band/train/worker.py").write_text("raise SystemExit('edited code ran')\n")
        (checkout / "band/node/task.py").write_text("raise SystemExit('edited code ran')\n")
        (checkout / "edited.yaml").write_text("seeds: 99\n")
        (checkout / "sweeps/edited/sweep.yaml").write_text("seeds: 99\n")
    finally:
        slurm_lab.run(["scontrol", "update", "PartitionName=normal", "State=UP"], check=True)
    cluster.wait_for_queue(timeout_s=120)
    published = [folder for folder in cluster.sweep("edited").runs.iterdir() if not folder.name.startswith(".")]
    assert len(published) == 2 and all(verify(folder)["training"]["epochs"] == 4 for folder in published)
