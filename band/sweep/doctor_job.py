"""The doctor's small job: its script, sending it, waiting for it, and never leaving it behind."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from band.errors import BandError
from band.files import read_json_object
from band.node.probe import SCRIPT
from band.slurm import jobs
from band.slurm.command import SlurmError, run
from band.slurm.options import Value, directives
from band.slurm.units import memory_bytes, time_s
from band.sweep.doctor_findings import HOME_UNWRITABLE, NO_ENVIRONMENT, Ended
from band.sweep.slurm_script import surroundings

OWN = "doctor"  # origin of what no user has asked for
LIMIT = "15"  # minutes
MOST_CPUS = "2"  # the fewest of which some can be missing
MOST_MEMORY = "2G"  # importing torch needs one of them
SHOWN_LATE_S = 60.0  # how long NFS may hide a file that another machine has written
LAST_WORDS = 600  # characters
POLL_S = (0.3, 5.0)  # the first wait between two looks and the longest
GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task")
CHECK_PYTHON = "import sys; print(sys.executable, sys.version); sys.exit(sys.version_info < (3, 10))"
LEFT_OUT = ("mem-per-cpu", "mem-per-gpu", "exclusive", "mail-type", "mail-user")


def smallest(options: Mapping[str, Value]) -> dict[str, Value]:
    """Return a cluster's options cut down to a job that starts soon: at most two CPUs and one GPU, for minutes."""
    small = {name: value for name, value in options.items() if name not in LEFT_OUT}
    small["mem"] = _least(options.get("mem"), MOST_MEMORY, size=memory_bytes)
    small["time"] = _least(options.get("time"), LIMIT, size=time_s)
    if "cpus-per-task" in small:
        small["cpus-per-task"] = _least(small["cpus-per-task"], MOST_CPUS, size=int)
    for name, value in small.items():
        if name == "gres" or name in GPU_OPTIONS:
            items = re.sub(r"\([^)]*\)", "", value.value).split(",")  # "(S:0,1)" names sockets
            items = [_one_gpu(item) if name != "gres" or _is_gpu(item) else item for item in items]
            small[name] = Value(",".join(items), value.origin)
    return small


def _least(asked: Value | None, most: str, *, size: Callable[[str], int | None]) -> Value:
    """Return what was asked for, or `most` where that is less or nothing (0: all there is) was asked for."""
    least = size(most) or 0
    return asked if asked is not None and 0 < (size(asked.value) or 0) < least else Value(most, OWN)


def _is_gpu(item: str) -> bool:
    return re.match(r"(?:gres[/:])?gpu(?![\w-])", item.strip()) is not None


def _one_gpu(item: str) -> str:
    """Return a request for GPUs, "gpu:a100:4" or "4", with 1 in the place of their number."""
    kind = re.sub(r"(?:^|[:=])\d+$", "", item.strip())
    return f"{kind}:1" if kind else "1"


def script(folder: Path, *, token: str, options: Mapping[str, Value], setup: Sequence[str], code: Path) -> str:
    """Return the script of both jobs; its argument says which.

    Args:
        folder: on the shared home, for what the job has to say.
        token: the job's name.
        options: of sbatch.
        setup: the template's own lines.
        code: the folder that holds the package to run.
    """
    own = {"job-name": token, "output": "/dev/null", "chdir": str(folder), "requeue": ""}
    # Slurm's own output is not at home: where home cannot be written, the job would not start and not tell why.
    return "\n".join(
        [
            "#!/bin/bash",
            *directives({**options, **{name: Value(value, OWN) for name, value in own.items()}}),
            'if [ "$1" = again ] && [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then exit 0; fi',
            f'BAND_DOCTOR_FOLDER={shlex.quote(str(folder))} BAND_DOCTOR_PART="$1"',
            "set --",  # what the set-up sources would take our argument for its own
            f'true >"$BAND_DOCTOR_FOLDER/$BAND_DOCTOR_PART.out" || exit {HOME_UNWRITABLE}',
            'exec >"$BAND_DOCTOR_FOLDER/$BAND_DOCTOR_PART.out" 2>&1',
            *surroundings(code, setup=setup),
            f'python3 -c "{CHECK_PYTHON}" || exit {NO_ENVIRONMENT}',
            'exec python3 -u -m band.node.probe "$BAND_DOCTOR_FOLDER" "$BAND_DOCTOR_PART"',
            "",
        ]
    )


class SmallJob:
    """A job that was sent, until it is over or cancelled."""

    def __init__(self, job_id: str, *, part: str, folder: Path, deadline: float) -> None:
        self.job_id = job_id
        self.shown: dict[str, str] = {}  # what Slurm last said of it
        self._part = part
        self._folder = folder
        self._deadline = deadline  # by time.monotonic()

    @property
    def state(self) -> str:
        """Slurm's word."""
        return self.shown.get("JobState", "")

    @property
    def reason(self) -> str:
        """Why it waits, in Slurm's word."""
        return self.shown.get("Reason", "").replace("None", "")

    @property
    def is_over(self) -> bool:
        """Whether it has ended; the second job requeues itself, and is over when it waits for another start."""
        is_again = self._part == "again" and self.state == "PENDING" and self.shown.get("Restarts", "0") != "0"
        return jobs.is_over(self.state) or is_again

    def wait(self, *, say: Callable[[str], None]) -> bool:
        """Wait until it is over; return whether that was before the deadline."""
        pause_s, said = POLL_S[0], ""
        while True:
            with suppress(SlurmError):  # a controller that is slow is asked again
                self.shown = jobs.show(self.job_id) or self.shown
            if self.is_over:
                return True
            if time.monotonic() > self._deadline:
                return False
            words = f"job {self.job_id}: {self.state}" + (f" ({self.reason})" if self.reason else "")
            if words != said:
                say(words)
                said = words
            time.sleep(pause_s)
            pause_s = min(1.2 * pause_s, POLL_S[1])

    def ended(self) -> Ended:
        """Return how it ended."""
        code, _, number = self.shown.get("ExitCode", "").partition(":")
        return Ended(
            job_id=self.job_id,
            state=self.state,
            exit_code=int(code or 0) or (128 + int(number or 0) if number not in ("", "0") else 0),
            node=self.shown.get("BatchHost", ""),
            submit_t=jobs.unix_time(self.shown.get("SubmitTime", "")),
            start_t=jobs.unix_time(self.shown.get("StartTime", "")),
            end_t=jobs.unix_time(self.shown.get("EndTime", "")),
            restarts=int(self.shown.get("Restarts", "0")),
            words=self._words(),
        )

    def facts(self) -> dict[str, Any]:
        """Return what it wrote down; empty if it did not get that far."""
        path = self._folder / f"{self._part}.json"
        deadline = time.monotonic() + (SHOWN_LATE_S if self.ended().exit_code == 0 else 0.0)
        while not _is_shown(path) and time.monotonic() < deadline:
            time.sleep(POLL_S[0])
        with suppress(BandError, FileNotFoundError):
            return read_json_object(path)
        return {}

    def _words(self) -> str:
        with suppress(OSError):
            words = (self._folder / f"{self._part}.out").read_text(errors="replace").strip()
            return "; ".join(line.strip() for line in words[-LAST_WORDS:].splitlines()[-3:])
        return ""


def _is_shown(path: Path) -> bool:
    return path.name in os.listdir(path.parent)  # NFS brings a listing up to date sooner than a name it did not find


def send(folder: Path, part: str, *, deadline: float, options: Sequence[str] = ()) -> SmallJob:
    """Send the script in `folder`.

    Raises:
        SlurmError: sbatch refuses it, or does not answer; it may then have been queued all the same.
    """
    answer = run(["sbatch", "--parsable", *options, str(folder / SCRIPT), part])
    return SmallJob(answer.strip().partition(";")[0], part=part, folder=folder, deadline=deadline)


def cancel(token: str) -> None:
    """Cancel whatever is left of the jobs of that name, as far as Slurm answers."""
    with suppress(SlurmError):
        run(["scancel", f"--name={token}"])
