"""A shell on a lab of one's own: `make slurm-lab`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slurm_lab.configuration import GPUS_PER_NODE
from slurm_lab.lab import Lab, LabError

PROMPT = r"slurm-lab:\w\$ "


def welcome(lab: Lab, *, seconds: float) -> str:
    """Return what to know about a lab."""
    plan = lab.plan
    each = f"{plan.cpus} CPUs, {plan.memory_mb} MB, {GPUS_PER_NODE} GPUs that are only device files"
    return f"""
  A Slurm cluster, up in {seconds:.1f} s; leaving this shell ends it and deletes its folder.

  nodes        {", ".join(plan.node_names)}: {each}
  partitions   normal; preemptible and graceful, whose jobs are requeued when urgent wants their nodes
  home         {lab.home}, the same everywhere
  scratch      /disk/scratch on each node; from here {plan.scratch("*")}
  logs         {plan.root}/log
  try          sinfo; srun -N2 hostname; sbatch --gres=gpu:1 --wrap 'env | grep CUDA'; squeue; sacct
"""


def main() -> int:
    """Run a shell on a lab; return its exit status."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for what runs in the shell
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # delete the folder all the same
    with tempfile.TemporaryDirectory(prefix="slurm-lab-") as folder:
        start = time.monotonic()
        with Lab(Path(folder)) as lab:
            print(welcome(lab, seconds=time.monotonic() - start), flush=True)
            rc = lab.plan.root / "etc/bashrc"
            rc.write_text(f"PS1='{PROMPT}'\n")
            shell = lab.login_command(["bash", "--rcfile", rc])
            environment = {**lab.environment, "TERM": os.environ.get("TERM", "dumb")}
            return subprocess.run(shell, env=environment).returncode


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except LabError as error:
        raise SystemExit(f"error: {error}") from None
