"""What a real cluster says of itself, what it hides, and what others have been seen to say."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_lab.lab import Lab

from band.slurm import cluster
from band.slurm.cluster import expected_start, limits, nodes, partitions
from band.slurm.command import SlurmError
from band.slurm.jobs import queued
from band.slurm.share import own_use

NEWER = (
    "NodeName=gpu07 Arch=x86_64 CoresPerSocket=32  CPUAlloc=48 CPUEfctv=124 CPUTot=128 CPULoad=40.1 "
    "AvailableFeatures=a100,ib ActiveFeatures=a100,ib Gres=gpu:a100:4(S:0-1),gpu:a100_1g.5gb:2(S:0) GresDrain=N/A "
    "GresUsed=gpu:a100:3(IDX:0,2-3),gpu:a100_1g.5gb:0(IDX:N/A) NodeAddr=gpu07 NodeHostName=gpu07 Version=24.11.5 "
    "OS=Linux 5.14.0 #1 SMP RealMemory=515000 AllocMem=1 State=MIXED+DRAIN+MAINTENANCE ThreadsPerCore=2 "
    "Partitions=gpu,gpu-long BootTime=1 CfgTRES=cpu=124,mem=515000M,billing=124,gres/gpu=6 "
    "AllocTRES=cpu=48,gres/gpu=3 Reason=fan noise=high [root@1]\n"
)


@pytest.fixture
def quality(lab: Lab) -> Iterator[None]:
    """The lab's quality of service with limits of its own, which are taken back afterwards."""
    change = ["sacctmgr", "--immediate", "modify", "qos", "normal", "set"]
    lab.run([*change, "MaxSubmitJobsPerUser=7", "MaxJobsPerUser=3", "MaxWall=2:00:00"], check=True)
    yield
    lab.run([*change, "MaxSubmitJobsPerUser=-1", "MaxJobsPerUser=-1", "MaxWall=-1"], check=True)


def test_limits_of_the_cluster_are_those_of_its_configuration(lab: Lab) -> None:
    found = limits()
    assert (found.cluster, found.version[:3], found.has_accounting, found.job_requeue) == ("lab", "22.", True, True)
    assert (found.max_array_size, found.max_job_count, found.max_wall_s) == (1001, 10_000, 24 * 3600)
    assert (found.max_submit_jobs, found.max_jobs) == (None, None), "nobody has set one"
    assert found.partition == "normal" and {p.name for p in found.partitions or ()} >= {"normal", "urgent"}
    assert [p.name for p in found.partitions or () if p.is_default] == ["normal"]
    assert [(node.name, node.cpus, node.gpus, node.gpus_taken) for node in found.nodes or ()] == [
        ("c1", 4, 2, 0),
        ("c2", 4, 2, 0),
    ]


def test_the_smallest_of_ones_own_limits_counts(lab: Lab, quality: None) -> None:
    found = limits("normal")
    assert (found.max_submit_jobs, found.max_jobs, found.max_wall_s) == (7, 3, 7200)
    lab.set_limits(max_submit=5)
    found = limits("normal", account="root", qos="normal")
    assert (found.max_submit_jobs, found.max_jobs) == (5, 3)
    assert limits("normal", account="somebody_elses").max_submit_jobs is None


def test_what_is_refused_counts_as_hidden(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.set_limits(max_submit=5)
    real = shutil.which("scontrol")
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\ncase "$*" in *node*|*partition*) echo "Access/permission denied" >&2; exit 1;; esac\n'
        f'exec {real} "$@"\n'
    )
    (tmp_path / "sacctmgr").write_text('#!/bin/sh\necho "sacctmgr: error: Access/permission denied" >&2\nexit 1\n')
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = limits("normal")
    assert found.max_array_size == 1001 and found.partition == "normal"
    assert (found.max_submit_jobs, found.max_wall_s, found.partitions, found.nodes) == (None, None, None, None)


def test_what_is_taken_of_a_node_is_seen_also_where_no_accounts_of_it_are_kept(lab_without_accounting: Lab) -> None:
    lab = lab_without_accounting
    options = ("--output=/dev/null", "--nodelist=c1")
    lab.sbatch(*options, "--gres=gpu:1", "--cpus-per-task=2", wrap="sleep 100")
    lab.sbatch(*options, "--gpus=1", "--array=0-5%1", wrap="sleep 100")
    lab.wait_for(lambda: own_use().jobs == 2)
    found = {node.name: node for node in nodes() or ()}
    assert (found["c1"].cpus_taken, found["c1"].gpus, found["c1"].gpus_taken) == (3, 2, 2)
    assert (found["c2"].cpus_taken, found["c2"].gpus_taken, found["c2"].is_up) == (0, 0, True)
    use = own_use()
    assert (use.cpus, use.gpus) == (3, 2)
    assert len([job for job in queued() if job.state in ("RUNNING", "PENDING")]) == 7, "each task is one"
    assert limits().has_accounting is False


def test_a_node_that_is_drained_says_why(lab: Lab) -> None:
    lab.run(["scontrol", "update", "nodename=c2", "state=drain", "reason=fan is loud"], check=True)
    try:
        (drained,) = [node for node in nodes() or () if not node.is_up]
        assert drained.name == "c2" and drained.reason == "fan is loud"
    finally:
        lab.run(["scontrol", "update", "nodename=c2", "state=resume"], check=True)


def test_a_node_of_a_newer_slurm_is_read_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "run", lambda argv, **_: NEWER)
    (node,) = nodes() or ()
    assert (node.name, node.cpus, node.cpus_taken, node.memory_bytes) == ("gpu07", 124, 48, 515_000 << 20)
    assert (node.gpus, node.gpus_taken, node.features, node.partitions) == (6, 3, "a100,ib", ("gpu", "gpu-long"))
    assert not node.is_up and node.reason == "fan noise=high"


def test_a_partition_without_a_limit_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "PartitionName=long AllowGroups=ALL Default=NO QoS=N/A MaxTime=UNLIMITED State=UP TotalCPUs=8 TotalNodes=2"
    monkeypatch.setattr(cluster, "run", lambda argv, **_: f"{line}\n")
    (found,) = partitions() or ()
    assert (found.max_wall_s, found.qos, found.is_default, found.total_cpus) == (None, "", False, 8)


def test_an_expected_start_is_now_on_an_idle_cluster_and_later_on_a_full_one(lab: Lab) -> None:
    script = lab.home / "job.sh"
    script.write_text("#!/bin/bash\n#SBATCH --array=0-3 --mem=50\ntrue\n")
    start = expected_start(script)
    assert start is not None and abs(start.t - time.time()) < 60
    assert start.nodes in ("c1", "c2") and (start.partition, start.cpus) == ("normal", 1)
    lab.sbatch("--exclusive", "--nodes=2", "--time=30", "--output=/dev/null", wrap="sleep 100")
    lab.wait_for(lambda: own_use().jobs == 1)
    start = expected_start(script)
    assert start is not None and 25 * 60 < start.t - time.time() < 35 * 60
    with pytest.raises(SlurmError, match="node configuration is not available") as caught:
        expected_start(script, "--gres=gpu:9")
    assert caught.value.kind == "refused"
    assert [job.state for job in queued() if job.state == "PENDING"] == [], "asking queues nothing"
