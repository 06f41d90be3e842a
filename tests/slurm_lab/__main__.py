"""A shell on a lab of one's own: `make slurm-lab`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
from far_machine import SSHD, FarMachine, running

from slurm_lab.configuration import GPUS_PER_NODE
from slurm_lab.lab import Lab, LabError

PROMPT = r"slurm-lab:\w\$ "
ROOT = Path(__file__).resolve().parents[2]
HOST = "informatics"  # what ssh calls the login node, as docs/results-home.md does


@contextlib.contextmanager
def login_node(lab: Lab) -> Iterator[str]:
    """Have ssh reach the lab, and yield the line that lets another terminal do so."""
    if not SSHD:
        yield "needs an sshd: sudo scripts/ssh_packages.sh --install"
        return
    inside = lab.login_command([])
    node = FarMachine(lab.plan.root / "ssh", home=lab.home, environment=lab.environment, inside=inside)
    node.write_client_config(f"Host {HOST}", "HostName 127.0.0.1", f"Port {node.port}")
    with running(node):
        yield f"export PATH={node.folder}/client:$PATH"


def welcome(lab: Lab, *, seconds: float, by_ssh: str) -> str:
    """Return what to know about a lab."""
    plan = lab.plan
    each = f"{plan.cpus} CPUs, {plan.memory_mb} MB, {GPUS_PER_NODE} GPUs that are only device files"
    return f"""
  A Slurm cluster, up in {seconds:.1f} s; leaving this shell ends it and deletes its folder.

  nodes        {", ".join(plan.node_names)}: {each};
               give --gres=none where a template asks for one that computes
  partitions   normal; preemptible and graceful, whose jobs are requeued when urgent wants their nodes
  home         {lab.home}, the same everywhere; ~/band-venv in it is the environment of this project
  by ssh       in another terminal, as from a laptop, `ssh {HOST}` comes here after
               {by_ssh}
  scratch      /disk/scratch on each node; from here {plan.scratch("*")}
  logs         {plan.root}/log
  first        git clone {ROOT} project && cd project && source ~/band-venv/bin/activate
  or try       sinfo; srun -N2 hostname; sbatch --gres=gpu:1 --wrap 'env | grep CUDA'; squeue; sacct
"""


def main() -> int:
    """Run a shell on a lab; return its exit status."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for what runs in the shell
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # delete the folder all the same
    with tempfile.TemporaryDirectory(prefix="slurm-lab-") as folder:
        start = time.monotonic()
        with Lab(Path(folder)) as lab:
            (lab.home / "band-venv").symlink_to(Path(sys.executable).parents[1])
            with login_node(lab) as by_ssh:
                print(welcome(lab, seconds=time.monotonic() - start, by_ssh=by_ssh), flush=True)
                rc = lab.plan.root / "etc/bashrc"
                rc.write_text(f"PS1='{PROMPT}'\n")
                shell = lab.login_command(["bash", "--rcfile", rc])
                environment = {**lab.environment, "TERM": os.environ.get("TERM", "dumb")}
                code = subprocess.run(shell, env=environment).returncode
                return 0 if sys.stdin.isatty() else code  # of a person's shell it is that of whatever came last


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except LabError as error:
        raise SystemExit(f"error: {error}") from None
