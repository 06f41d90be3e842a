"""Which scheduler has which task of a sweep, and all of them as one."""

from __future__ import annotations

from band.run_dir import SweepDir
from band.sweep.local import LocalScheduler
from band.sweep.status import Scheduler


def scheduler_for(sweep: SweepDir) -> Scheduler:
    """Return whoever has the tasks of a sweep, each asked for its own."""
    return LocalScheduler(sweep)
