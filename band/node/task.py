"""One attempt at one task: in a Slurm job, or `python -m band.node.task TASK.json`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import band
from band.attempts import Attempt, Claim, ended_here, take
from band.errors import BandError, CodeMismatch
from band.node.allocation import Allocation, is_over
from band.node.course import HOME_UNWRITABLE, SOME_FAILED, Course, patiently
from band.node.job import Job, OnEvent, Reporter, Skip, Task, Timing, read_task, say
from band.node.publish import is_published
from band.node.scratch import find_scratch
from band.node.stop import StopRequest
from band.node.supervise import worker_command
from band.run_dir import code_digest


def slurm_task(task_json: str, *, timing: Timing | None = None) -> None:
    """Make one attempt at a task as the main process of a Slurm job, and end the process with the attempt's code.

    The signals are ours until the process is gone: those who started it (submitit) would requeue on some of them.
    """
    stop = StopRequest(Allocation.current())
    stop.__enter__()
    code = run_task(task_json, timing=timing, stop=stop)
    stop.wait_to_be_killed()
    raise SystemExit(code)


def run_task(
    task_json: Path | str,
    *,
    on_event: OnEvent | None = None,
    trainer: Sequence[str] | None = None,
    timing: Timing | None = None,
    stop: StopRequest | None = None,
) -> int:
    """Make one attempt at the task of a task file.

    Args:
        task_json: tasks/TASK/task.json of a sweep on the shared home.
        on_event: called with every event, those of each epoch too; None: notable ones are printed.
        trainer: command that speaks the trainer's protocol; None: $BAND_TRAINER, or `python -m band.train.worker`.
        timing: None: the usual one.
        stop: who takes the signals, entered already; None: the attempt itself.

    Returns:
        0 all runs published, 1 some run failed, 4 to be continued, 75 home cannot be written, 78 other code or versions
        than were submitted. What a user can mend is printed, not raised.
    """
    if stop is None:
        with StopRequest() as stop:
            return run_task(task_json, on_event=on_event, trainer=trainer, timing=timing, stop=stop)
    command = list(trainer or shlex.split(os.environ.get("BAND_TRAINER", "")) or worker_command())
    try:
        return _attempt(Path(task_json), on_event=on_event, command=command, timing=timing or Timing(), stop=stop)
    except BandError as error:
        say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        say(f"error: the sweep's folder cannot be used: {error}")
        return HOME_UNWRITABLE


def _attempt(
    task_json: Path, *, on_event: OnEvent | None, command: list[str], timing: Timing, stop: StopRequest
) -> int:
    attempt = Attempt.current()
    task, skip, claim = _begin(task_json, attempt=attempt, timing=timing, stop=stop)
    found = find_scratch(task.sweep)
    events = task.sweep.event_file(task.name, attempt=attempt.name)
    reporter = Reporter(events, on_event=on_event, epoch_s=timing.epoch_s)
    job = Job(
        task=task,
        attempt=attempt,
        claim=claim,
        scratch=found.scratch,
        is_volatile=found.is_volatile,
        skip=skip,
        reporter=reporter,
        timing=timing,
    )
    where = {"scratch": str(found.scratch.path), "volatile": found.is_volatile}
    reporter.report("claimed", claim=claim.number, attempt=attempt.name, host=attempt.host, pid=attempt.pid, **where)
    code = SOME_FAILED
    try:
        code = Course(job, command=command, stop=stop, why_home=found.why_home).run()
    finally:
        reporter.report("ended", code=code)
        try:
            claim.release()
        except OSError as error:
            reporter.say(
                f"task {task.name}: the claim could not be given back ({error}); that we have ended tells the rest"
            )
    return code


def _begin(task_json: Path, *, attempt: Attempt, timing: Timing, stop: StopRequest) -> tuple[Task, Skip, Claim]:
    """Read the task and claim it; a job waits a while for a home that is slow, and an attempt that is ending.

    Raises:
        CodeMismatch: this is other code than was submitted.
        BandError, OSError: as `read_task`, `Skip` and `attempts.take`.
    """

    def begin() -> tuple[Task, Skip, Claim]:
        task = read_task(task_json)
        skip = Skip(task)
        _check_code(task, skip=skip, attempt=attempt)
        how = is_over if stop.allocation is not None else ended_here
        return task, skip, take(task.folder.path, attempt=attempt, is_over=how)

    return patiently(begin, timing=timing, stop=stop)


def _check_code(task: Task, *, skip: Skip, attempt: Attempt) -> None:
    """Refuse to run other code than was submitted, and say so in the attempt's stream; nothing else is touched.

    Raises:
        CodeMismatch: this is other code.
    """
    wanted, package = os.environ.get("BAND_CODE", ""), Path(band.__file__).resolve().parent
    if not wanted or code_digest(package) == wanted:
        return
    error = CodeMismatch(
        f"the code in {package} is not what was submitted ({wanted[:12]}…): either the snapshot was changed, or "
        "PYTHONPATH or the environment has another band first; submit again to run the code of now"
    )
    runs = [run for run in task.run_ids if run not in skip.runs and not is_published(task.sweep, run)]
    reporter = Reporter(task.sweep.event_file(task.name, attempt=attempt.name), on_event=None, epoch_s=0.0)
    reporter.report("failed", runs=runs, error=type(error).__name__, message=str(error), traceback="")
    reporter.report("ended", code=error.exit_code)
    raise error


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one attempt at the task whose file is the one argument; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1 or given[0].startswith("-"):
        print("usage: python -m band.node.task SWEEP/tasks/TASK/task.json", file=sys.stderr)
        return 2
    return run_task(Path(given[0]))


if __name__ == "__main__":
    raise SystemExit(main())
