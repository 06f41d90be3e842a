"""A task as a job of submitit's local executor, and the files that submitit leaves."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band import owners
from band.run_dir import SweepDir

FOLDER = "submitit"
NO_TIMEOUT_MIN = 10 * 365 * 24 * 60  # submitit ends a local job at its timeout; a task has none
LAST_WORDS = 4000  # characters of what a job printed that are kept


@dataclass
class Job:
    """A started job: submitit's controller process, which watches the supervisor."""

    job: Any

    def is_over(self) -> bool:
        """Return whether submitit's controller has ended; the supervisor may have outlived it."""
        return bool(self.job.done())

    def clean_up(self) -> str:
        """Remove the job's files; return the end of what it printed."""
        paths = self.job.paths
        last_words = ""
        with suppress(OSError):
            last_words = paths.stderr.read_text(errors="replace")[-LAST_WORDS:]
        for path in (paths.submitted_pickle, paths.result_pickle, paths.stdout, paths.stderr):
            with suppress(OSError):
                os.unlink(path)
        return last_words


def start_job(sweep: SweepDir, *, submission: str, task: str, gpu: int | None) -> Job:
    """Start one task: a constant call of `node.task.run_task` with the path of its folder's task file."""
    import submitit

    from band.node.task import run_task

    class Checked(submitit.LocalExecutor):
        @property
        def _submitit_command_str(self) -> str:
            return shlex.join([sys.executable, "-u", "-m", "band.node.call", str(self.folder)])

    folder = sweep.submission(submission) / FOLDER
    owners.make_private(folder)
    executor = Checked(folder=folder)
    gpus = () if gpu is None else (gpu,)
    executor.update_parameters(timeout_min=NO_TIMEOUT_MIN, gpus_per_node=len(gpus), visible_gpus=gpus)
    return Job(executor.submit(run_task, str(sweep.task(task).task_json)))


def sweep_up(sweep: SweepDir) -> None:
    """Remove what submitit left of jobs that are over, in every submission; folders go when they are empty."""
    for folder in sweep.submissions.glob(f"[0-9]*/{FOLDER}"):
        for path in folder.iterdir():
            pid = path.name.partition("_")[0]
            if not (pid.isdecimal() and _is_job(int(pid))):
                with suppress(OSError):
                    path.unlink()
        with suppress(OSError):
            folder.rmdir()


def _is_job(pid: int) -> bool:
    """Return whether a process of that id runs submitit; its controller gives a job its name."""
    try:
        return b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
