"""Which scheduler has which task of a sweep, and all of them as one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from band.run_dir import SweepDir
from band.sweep.fold import AttemptFold
from band.sweep.local import LocalScheduler
from band.sweep.slurm_scheduler import SlurmScheduler
from band.sweep.status import TaskState


@dataclass(frozen=True)
class Schedulers:
    """This machine's queue and Slurm; each knows which tasks are its own, by the newest request that names them."""

    local: LocalScheduler
    slurm: SlurmScheduler

    @property
    def trouble(self) -> str:
        """Why Slurm did not say what it has, "" where it did or was not asked."""
        return self.slurm.trouble

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        """Return what either has of the tasks now."""
        at_slurm = self.slurm.task_states(tasks)
        here = self.local.task_states([task for task in tasks if task not in at_slurm])
        return {**here, **at_slurm}

    def endings(self, tasks: Mapping[str, Sequence[AttemptFold]]) -> Mapping[str, TaskState]:
        """Return what became of tasks at Slurm; what an attempt on this machine did not say nobody knows."""
        return self.slurm.endings(tasks)


def scheduler_for(sweep: SweepDir) -> Schedulers:
    """Return whoever has the tasks of a sweep, as one."""
    return Schedulers(LocalScheduler(sweep), SlurmScheduler(sweep))
