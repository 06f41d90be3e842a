"""A search whose members are shared by the processes of one Slurm job, on one node and on two; the real trainer."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from slurm_lab.lab import Lab
from test_slurm_proofs import Cluster, events
from tiny import write_recording

from band.run_dir import SweepDir, verify

SWEEP = """base:
  data: {path: one.h5}
  arch: {gen_dim: 12, fac_dim: 6, con_dim: 6, co_dim: 2, ic_enc_dim: 8, ci_enc_dim: 8, ic_dim: 5}
  hyper: {kl_increase_epoch: 2}
  train: {batch_size: 8, max_epochs: 12, posterior_samples: 3, checkpoint_s: 1}
pbt:
  members: 5
  every_epochs: 2
  stop_generations: 0
  space: {lr: {low: 2e-3, high: 2e-2, change: 0.3}, cd_rate: {draw: uniform, low: 0.01, high: 0.7}}
pair: {behavior_weight: [0.5]}
"""


def prepared(lab: Lab, text: str = SWEEP) -> Cluster:
    cluster = Cluster(lab)
    write_recording(cluster.folder / "one.h5")
    (cluster.folder / "search.yaml").write_text(text)
    return cluster


def trained(cluster: Cluster, name: str, *options: str, sets: tuple[str, ...] = ()) -> SweepDir:
    """Return the sweep of that name, generated, submitted and ended."""
    given = [word for text in sets for word in ("--set", text)]
    cluster.band_sweep("generate", "search.yaml", "--name", name, *given)
    cluster.band_sweep("submit", name, "--cluster", "lab", *options)
    cluster.wait_for_queue(timeout_s=240)
    assert cluster.status(name, code=0)["counts"] == {"published": 2}, log_of(cluster.sweep(name))
    return cluster.sweep(name)


def log_of(sweep: SweepDir) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(sweep.logs.glob("*")))


def content(folder: Path) -> tuple[bytes, bytes, dict[str, torch.Tensor]]:
    model = torch.load(folder / "model.pt", weights_only=True)["params"]
    return (folder / "lineage.csv").read_bytes(), (folder / "metrics.csv").read_bytes(), model


def test_shared_on_one_node_and_on_two_a_search_comes_to_what_it_comes_to_alone(slurm_lab: Lab) -> None:
    cluster = prepared(slurm_lab)
    across = ("--sbatch", "nodes=2", "--sbatch", "ntasks=2")
    sweeps = [
        trained(cluster, "alone"),
        trained(cluster, "node", "--cpus-per-task", "2", sets=("pbt.shards=2",)),
        trained(cluster, "nodes", *across, sets=("pbt.shards=2",)),
    ]
    runs = sorted(folder.name for folder in sweeps[0].runs.glob("[!.]*"))
    assert len(runs) == 2
    for run in runs:
        alone, *shared = (content(sweep.run(run)) for sweep in sweeps)
        assert all(verify(sweep.run(run))["run_id"] == run for sweep in sweeps)
        for lineage, metrics, model in shared:
            assert (lineage, metrics) == alone[:2]
            assert all(torch.equal(value, alone[2][name]) for name, value in model.items())
    for sweep, wanted in ((sweeps[1], [1, 2]), (sweeps[2], [2])):
        logs = [path.read_text() for path in sweep.logs.glob("*.log")]
        hosts = [set(re.findall(r"rank \d of 2 on (c\d) trains", log)) for log in logs]
        assert len(hosts) == 2 and all(len(found) in wanted for found in hosts), "where processes were"
    assert not slurm_lab.pids(command="band.train")


def test_a_job_of_several_processes_is_for_a_search_that_is_shared_by_as_many(slurm_lab: Lab) -> None:
    cluster = prepared(slurm_lab)
    cluster.band_sweep("generate", "search.yaml")
    for option in ("ntasks=2", "nodes=2"):
        command = ["submit", "search", "--cluster", "lab", "--sbatch", option]
        band_sweep = [sys.executable, "-m", "band.cli.sweep"]
        done = slurm_lab.run([*band_sweep, *command], cwd=cluster.folder, timeout_s=60)
        assert done.returncode == 1 and "as many as pbt.shards of a search, which is 1; found 2" in done.stderr


@pytest.mark.parametrize("whose", ["trainer", "other"])
def test_a_process_that_is_killed_ends_the_others_and_the_search_goes_on(slurm_lab: Lab, whose: str) -> None:
    cluster = prepared(slurm_lab, SWEEP.replace("max_epochs: 12", "max_epochs: 120").replace("[0.5]", "[0.5, 1]"))
    cluster.band_sweep("generate", "search.yaml", "--limit", "1", "--set", "pbt.shards=2")
    across = ("--sbatch", "nodes=2", "--sbatch", "ntasks=2")
    cluster.band_sweep("submit", "search", "--cluster", "lab", *across)
    sweep = cluster.sweep("search")
    slurm_lab.wait_for(lambda: events(sweep, "checkpoint"), timeout_s=120, what="a checkpoint")
    ranks = slurm_lab.pids(command="band.train.worker")
    others = [pid for pid in ranks if "--rank=-1" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
    mine = [pid for pid in ranks if pid not in others]
    os.kill((mine if whose == "trainer" else others)[0], signal.SIGKILL)
    cluster.wait_for_queue(timeout_s=300)
    assert cluster.status("search", code=0)["counts"] == {"published": 1}, log_of(sweep)
    (again,) = events(sweep, "restarted")
    assert again["error"] == ("SIGKILL" if whose == "trainer" else "RankLost")
    assert not slurm_lab.pids(command="band.train"), "no process of the search is left on any node"
