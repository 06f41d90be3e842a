"""What is handed to sbatch: scripts written by submitit's executor, and the pickled calls that array tasks read."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band import owners
from band.errors import SweepError
from band.run_dir import SweepDir
from band.sweep.ledger import CANARY, CANARY_S, Intent

if TYPE_CHECKING:
    from submitit.slurm.slurm import SlurmExecutor

FOLDER = "submitit"  # in a submission's folder: the pickled calls, gone when the array is over
CLOSING = "closing"
CLOSING_MIN, CLOSING_MEM = 30, "1G"
WARNING_S = 90  # before the time limit, at which Slurm sends SIGUSR2
# What says where and for whom a job runs: the closing job has it in common with its array.
SHARED = ("account", "clusters", "nice", "partition", "qos", "reservation", "wckey")

Send = Callable[[str], str]  # a script's text -> the id of the job that it became


def executor(sweep: SweepDir, intent: Intent, *, send: Send) -> SlurmExecutor:
    """Return an executor of submitit's whose arrays, of one task too, are sent by `send`, and nothing else."""
    from submitit.core.utils import DelayedSubmission
    from submitit.slurm.slurm import SlurmExecutor

    class HeldArrays(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2  # no srun is needed

        @property
        def _submitit_command_str(self) -> str:
            # exec: no shell stands between Slurm's signals and the supervisor.
            return f"exec python3 -u -m band.node.call {shlex.quote(str(self.folder))}"

        def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[Any]:
            text = self._make_submission_file_text(self._submitit_command_str, uid="")
            _write_calls(self.folder, delayed_submissions, job_id=send(text))
            return []  # submitit's own jobs would ask sacct

    return HeldArrays(sweep.submission(intent.number) / FOLDER)


def send_array(sweep: SweepDir, intent: Intent, *, tasks: Sequence[str], number: int, token: str, send: Send) -> None:
    """Have submitit write the script of an array, send it, and write the calls of its tasks.

    Raises:
        SlurmError: what `send` raises.
        OSError: a call cannot be written.
    """
    from band.node.task import slurm_task

    held = executor(sweep, intent, send=send)
    held.update_parameters(**_array_parameters(sweep, intent, tasks=tasks, number=number, token=token))
    held.map_array(slurm_task, [str(sweep.task(task).task_json) for task in tasks])


def array_text(sweep: SweepDir, intent: Intent, *, tasks: Sequence[str], number: int, token: str) -> str:
    """Return the very script that `send_array` would send."""
    held = executor(sweep, intent, send=_refuse)
    held.update_parameters(**_array_parameters(sweep, intent, tasks=tasks, number=number, token=token))
    return held._make_submission_file_text(held._submitit_command_str, uid="")


def closing_text(sweep: SweepDir, intent: Intent, *, number: int, token: str, job_id: str) -> str:
    """Return the script of the closing job of an array, which starts when every task of that is over."""
    held = executor(sweep, intent, send=_refuse)
    options = {name: value for name, value in intent.options["sbatch"].items() if name in SHARED}
    own = {
        **_own_parameters(sweep, intent, name=f"{token}-{CLOSING}"),
        "output": _pattern(sweep.logs / f"{CLOSING}.{intent.number}.{number}.out"),
        "dependency": f"afterany:{job_id}",
        "kill-on-invalid-dep": "no",
        "mem": CLOSING_MEM,
    }
    setup = _setup(sweep, intent, exports={})
    held.update_parameters(**_parameters({**options, **own}, setup=setup, time_min=CLOSING_MIN))
    arguments = (str(sweep.path), intent.number, str(number))
    return held._make_submission_file_text(f"exec python3 -u -m band.sweep.closing {shlex.join(arguments)}", uid="")


def write_calls(sweep: SweepDir, intent: Intent, *, tasks: Sequence[str], job_id: str) -> None:
    """Write the pickled call of each task of an array that is at Slurm under `job_id`.

    Raises:
        OSError: one cannot be written.
    """
    from submitit.core.utils import DelayedSubmission

    from band.node.task import slurm_task

    calls = [DelayedSubmission(slurm_task, str(sweep.task(task).task_json)) for task in tasks]
    _write_calls(sweep.submission(intent.number) / FOLDER, calls, job_id=job_id)


def _write_calls(folder: Path, calls: Sequence[Any], *, job_id: str) -> None:
    from submitit.core.utils import JobPaths

    owners.make_private(folder)
    for index, call in enumerate(calls):
        path = JobPaths(folder, f"{job_id}_{index}").submitted_pickle
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        call.dump(temporary)
        os.replace(temporary, path)


def _refuse(text: str) -> str:
    raise AssertionError("an executor for writing scripts sends none")


def _array_parameters(
    sweep: SweepDir, intent: Intent, *, tasks: Sequence[str], number: int, token: str
) -> dict[str, Any]:
    options = intent.options
    throttle = f"%{options['max_parallel']}" if options["max_parallel"] else ""
    time_s = int(options["time_s"] or 0)  # 0: no limit
    warning_s = min(WARNING_S, time_s // 4) if time_s else WARNING_S
    own = {
        **_own_parameters(sweep, intent, name=token),
        "array": f"0-{len(tasks) - 1}{throttle}",
        "output": _pattern(sweep.logs) + "/%A_%a.out",
        "hold": True,
        "requeue": True,
        "signal": f"B:USR2@{warning_s}",  # B: to the supervisor alone; of a preemption too where the site sends it
    }
    exports = {
        "BAND_VERSIONS": "" if options["allow_versions"] else json.dumps(options["versions"], sort_keys=True),
        "BAND_TIME_LIMIT_S": str(time_s or ""),
        "BAND_TASKS": f"{intent.number}/{number}",
    }
    if set(tasks) <= set(options.get(CANARY) or ()):
        exports["BAND_CANARY_S"] = str(options.get(CANARY_S, ""))
    setup = _setup(sweep, intent, exports=exports)
    return _parameters({**options["sbatch"], **own}, setup=setup, time_min=-(-time_s // 60))


def _own_parameters(sweep: SweepDir, intent: Intent, *, name: str) -> dict[str, Any]:
    chdir = str(sweep.code / intent.options["code"])
    return {"job-name": name, "comment": name, "chdir": chdir, "open-mode": "append"}


def _parameters(options: Mapping[str, Any], *, setup: list[str], time_min: int) -> dict[str, Any]:
    """Return what submitit's executor is given; it would ask for one node and a time of its own.

    Raises:
        SweepError: a value would end its line in the script, and begin another.
    """
    additional = {"time": time_min, **options}
    for name, value in additional.items():
        if not str(value).isprintable():
            raise SweepError(f"--{name}={str(value)!r} cannot stand in a script; give the sweep's folder another name")
    return {
        "job_name": additional.pop("job-name"),  # under its own name, or submitit adds a second one
        "additional_parameters": additional,
        "setup": setup,
        "stderr_to_stdout": True,
        "use_srun": False,
        "wckey": None,
    }


def _setup(sweep: SweepDir, intent: Intent, *, exports: Mapping[str, str]) -> list[str]:
    """Return the lines before the command: this Python unless the set-up brings another, set-up, our exports."""
    code = sweep.code / intent.options["code"]
    values = {"BAND_CODE": intent.options["code"], "BAND_SUBMIT_T": f"{time.time():.0f}", **exports}
    exported = (f"export {name}={shlex.quote(value)}" for name, value in values.items())
    return [
        "trap '' USR2  # until the supervisor takes it",
        *surroundings(code, setup=intent.options["setup"]),
        *exported,
    ]


def surroundings(code: Path, *, setup: Sequence[str]) -> list[str]:
    """Return the lines that every job begins with.

    Args:
        code: the folder that holds the package.
        setup: what the template and the user's configuration have a job run; `python3` is what it brings, else ours.
    """
    return [
        f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        *setup,
        f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
    ]


def _pattern(path: Path) -> str:
    """Return a path as sbatch takes it for a file name pattern."""
    return str(path).replace("%", "%%")
