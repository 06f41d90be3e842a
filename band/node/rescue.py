"""An attempt that trains nothing: brings home what lies on this node; `python -m band.node.rescue TASK.json …`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from band.attempts import Attempt
from band.errors import BandError
from band.node.course import ALL_PUBLISHED, HOME_UNWRITABLE, INTERRUPTED
from band.node.job import Skip, Timing, read_task, say
from band.node.publish import is_published
from band.node.stop import StopRequest
from band.node.task import run_task
from band.run_dir import EventWriter

REASON = "rescue"
TOLD = ("published", "superseded", "mirrored")  # events that are printed


def rescue_task(task_json: Path, *, timing: Timing | None = None) -> int:
    """Publish the finished runs of a task that lie on this node, and bring their checkpoints home.

    The runs that are not there count as unfinished from then on: the next attempt continues them from what is home.

    Returns:
        0 nothing waits here any more, or what `run_task` returns for a task that could not be looked after.

    Raises:
        OSError: what was not there could not be noted.
        BandError: the task file, or which runs to leave alone, can be read no more.
    """
    names: list[str] = []

    def note(event: Mapping[str, Any]) -> None:
        names.append(event["event"])
        if event["event"] in TOLD:
            say(f"task {task_json.parent.name}: {event['event']} {event.get('run', 'a checkpoint')}")

    with StopRequest() as stop:
        stop.ask(REASON)  # before it has begun: such an attempt salvages, publishes and ends
        code = run_task(task_json, timing=timing, stop=stop, on_event=note)
    if code not in (ALL_PUBLISHED, INTERRUPTED) or "claimed" not in names:
        return code
    task = read_task(task_json)
    skipped = Skip(task).runs
    missing = [run for run in task.run_ids if run not in skipped and not is_published(task.sweep, run)]
    if missing:
        events = EventWriter(task.sweep.event_file(task.name, attempt=f"{REASON}-{Attempt.current().name}"))
        if not (events.write("missing", runs=missing) and events.write("ended", code=0)):
            raise OSError(f"{events.path} cannot be written")
        say(f"task {task.name}: not finished, or not on this node: {', '.join(missing)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Rescue the tasks whose files are the arguments; return the highest exit code."""
    codes = [0]
    for name in sys.argv[1:] if arguments is None else arguments:
        codes.append(_rescue(Path(name)))
    return max(codes)


def _rescue(task_json: Path) -> int:
    try:
        return rescue_task(task_json)
    except (BandError, OSError) as error:
        say(f"error: the sweep's folder cannot be used: {error}")
        return HOME_UNWRITABLE


if __name__ == "__main__":
    raise SystemExit(main())
