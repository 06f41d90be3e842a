"""What of a machine's or a cluster's GPUs is one's own, in a few words; asked seldom."""

from __future__ import annotations

import shutil
import subprocess
import time

from band.slurm.command import SlurmError
from band.sweep.status import Survey

ASK_S = 60.0  # between two questions …
ASK_COSTS = 50  # … and at least so many times what the last one took
TIMEOUT_S = 15.0


class Machine:
    """GPUs and one's share: of the cluster where the sweep has jobs, else of this machine."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.words = ""
        self._next_ask = 0.0

    def look(self, survey: Survey) -> bool:
        """Ask if it is time to; return whether there are other words now."""
        begun, before = time.monotonic(), self.words
        if begun < self._next_ask:
            return False
        self.words = at_slurm() if any(state.job for state in survey.scheduled.values()) else here()
        now = time.monotonic()
        self._next_ask = now + max(ASK_S, ASK_COSTS * (now - begun))
        return self.words != before


def at_slurm() -> str:
    """Return what one's running jobs have taken of the cluster's GPUs, or CPUs, and one's standing in fair-share."""
    from band.slurm.cluster import nodes
    from band.slurm.share import own_use, shares

    try:
        use, everywhere = own_use(timeout_s=TIMEOUT_S), nodes(timeout_s=TIMEOUT_S) or ()
    except SlurmError:
        return ""
    kinds = (
        ("GPUs", use.gpus, sum(node.gpus for node in everywhere)),
        ("CPUs", use.cpus, sum(node.cpus for node in everywhere)),
    )
    taken = [f"{own} of {total} {kind} ({own / total:.0%})" for kind, own, total in kinds if total]
    words = ["yours: " + ", ".join(taken)] if taken else []
    for share in shares(timeout_s=TIMEOUT_S)[:1]:
        words.append(f"{share.account}: {share.share:.0%} promised, {share.usage:.0%} used")
    return "; ".join(words)


def here() -> str:
    """Return how busy this machine's GPUs are, "" where there are none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
        rows = [[float(cell) for cell in line.split(",")] for line in done.stdout.splitlines()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    shown = [f"{busy:.0f} % busy, {used / total:.0%} of memory" for busy, used, total in rows if total]
    return "GPUs: " + "; ".join(shown[:4]) if shown else ""
