"""What `band-sweep cluster` says of a real Slurm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from slurm_lab.lab import Lab

MAIN = Path(__file__).parents[2]


def cluster(lab: Lab, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "band.cli.sweep", "cluster", *arguments]
    done = subprocess.run(command, env=lab.environment, cwd=MAIN, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_is_free_and_what_is_ones_own(slurm_lab: Lab) -> None:
    job = slurm_lab.sbatch("--gres=gpu:1", "--nodelist=c1", "--cpus-per-task=2", wrap="sleep 100")
    slurm_lab.sbatch("--begin=now+1hour", wrap="true")
    slurm_lab.wait_for_job(job, "RUNNING")
    text = cluster(slurm_lab)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["normal*"][1] == "UP" and " ".join(rows["normal*"][4:]) == "2 of 2 3 of 4 6 of 8"
    assert "1 of 2" in " ".join(rows["c1"]) and "2 of 2" in " ".join(rows["c2"])
    assert "your jobs: 1 running on 2 CPUs and 1 GPU, 1 waiting" in text
    assert "1 BeginTime: its time has not come" in text and max(map(len, text.splitlines())) <= 100
    values = json.loads(cluster(slurm_lab, "--json"))
    assert values["use"] == {"jobs": 1, "cpus": 2, "gpus": 1}
    assert {node["name"]: node["gpus_taken"] for node in values["nodes"]} == {"c1": 1, "c2": 0}
    assert values["limits"]["has_accounting"] is True
    assert "there is no partition 'gpu'; there are" in cluster(slurm_lab, "gpu", code=1)


def test_without_accounts_there_is_no_share_and_without_an_answer_an_error(slurm_lab_without_accounting: Lab) -> None:
    text = cluster(slurm_lab_without_accounting)
    assert "no accounts are kept" in text and "your share" not in text
    slurm_lab_without_accounting.stop_controller()
    assert "cannot reach the controller" in cluster(slurm_lab_without_accounting, code=3)
