"""The journal of a Slurm submission: what was sent to Slurm, step by step, one line before and one after each deed.

Written only by who holds the claim on `submissions/`; readers take any moment's content as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from band.errors import SweepError
from band.files import append_line, read_lines
from band.run_dir import SweepDir, check_name
from band.sweep.ledger import Intent

JOURNAL = "journal.jsonl"
DEAD = ("refused", "cancelled", "vanished")  # nothing of the array is at Slurm, or will ever be
STEPS = ("intent", "queued", "closing", "closing_refused", "released", "closed", *DEAD)


@dataclass(frozen=True, kw_only=True)
class Array:
    """One call of sbatch: element i of the Slurm array runs `tasks[i]`."""

    submission: str
    number: int  # counted from 1 in its submission
    token: str  # the job's name at Slurm
    tasks: tuple[str, ...]
    script: str  # file name beside the journal
    t: float  # unix seconds, shortly before sbatch was called
    throttle: int = 0  # tasks of it that may run at once, as it was sent; 0: any
    steps: Mapping[str, float] = field(default_factory=dict)  # {step: when it was last noted}, in that order
    job_id: str = ""  # the array's own
    closing_job_id: str = ""
    is_final: bool = False  # refused, and would be again: what the submission has not sent, it never will
    message: str = ""  # of the last step

    @property
    def step(self) -> str:
        """The last step that was noted."""
        return list(self.steps)[-1]

    @property
    def is_dead(self) -> bool:
        """Whether nothing of it is at Slurm, or will ever be: its tasks are planned again."""
        return any(step in self.steps for step in DEAD)

    @property
    def is_unknown(self) -> bool:
        """Whether nobody has noted what came of calling sbatch."""
        return not self.job_id and not self.is_dead

    @property
    def is_held(self) -> bool:
        """Whether it is at Slurm and has not been released."""
        return bool(self.job_id) and "released" not in self.steps and not self.is_dead

    @property
    def is_sent(self) -> bool:
        """Whether it was released; its tasks may be waiting, running or over."""
        return "released" in self.steps

    @property
    def is_closed(self) -> bool:
        """Whether its closing work is done, or there is none to do."""
        return "closed" in self.steps or self.is_dead

    def index_of(self, task: str) -> int:
        """Return the task's index in the Slurm array."""
        return self.tasks.index(task)


def append(sweep: SweepDir, submission: str, *, array: int, step: str, **fields: Any) -> None:
    """Note a step of an array; the caller holds the claim on `submissions/`.

    Raises:
        OSError: the journal cannot be written.
    """
    assert step in STEPS, step
    line = {"t": time.time(), "array": array, "step": step, **fields}
    append_line(sweep.submission(submission) / JOURNAL, line)


def read_journal(sweep: SweepDir, submission: str) -> list[Array]:
    """Return the arrays of one submission in the order of their numbers; none where nothing was sent yet.

    Raises:
        SweepError: a line is not what band writes; names the file.
    """
    path = sweep.submission(submission) / JOURNAL
    lines: dict[int, list[dict[str, Any]]] = {}
    try:
        for line in read_lines(path)[0]:
            lines.setdefault(int(line["array"]), []).append(line)
        return [_fold(submission, lines[number]) for number in sorted(lines)]
    except FileNotFoundError:
        return []
    except (SweepError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise SweepError(f"{path} is not a journal that band wrote ({error!r}); restore it") from None


def read_journals(sweep: SweepDir) -> list[Array]:
    """Return all arrays of a sweep, oldest submission first.

    Raises:
        SweepError: a line is not what band writes; names the file.
    """
    numbers: list[str] = []
    with suppress(FileNotFoundError):
        numbers = sorted((name for name in os.listdir(sweep.submissions) if name.isdecimal()), key=int)
    return [array for number in numbers for array in read_journal(sweep, number)]


def _fold(submission: str, lines: Sequence[Mapping[str, Any]]) -> Array:
    first = lines[0]
    steps: dict[str, float] = {}
    values: dict[str, str] = {}
    for line in lines:
        step = str(line["step"])
        steps.pop(step, None)
        steps[step] = float(line["t"])
        if step == "queued":
            values["job_id"] = str(line["job_id"])
        elif step == "closing":
            values["closing_job_id"] = str(line["job_id"])
    return Array(
        submission=submission,
        number=int(first["array"]),
        token=str(first["token"]),
        tasks=tuple(check_name(task, what="task") for task in first["tasks"]),
        script=check_name(first["script"], what="script"),
        t=float(first["t"]),
        throttle=int(first.get("throttle", 0)),
        steps=steps,
        is_final=any(line.get("is_final") for line in lines),
        message=str(lines[-1].get("message", "")),
        **values,
    )


def latest_array(arrays: Iterable[Array], task: str) -> Array | None:
    """Return the last of these arrays that holds the task and is not dead; None: it is planned."""
    found = [array for array in arrays if task in array.tasks and not array.is_dead]
    return found[-1] if found else None


def standing(intents: Iterable[Intent], arrays: Iterable[Array]) -> dict[str, Array | None]:
    """Return where each task of Slurm's stands: its array in the newest submission that names it, None if planned.

    Args:
        intents: all requests, oldest first.
        arrays: all arrays, oldest first.

    Returns:
        {task: array or None}; left out are tasks whose newest submission is not one to Slurm, or was refused for good
        before it came to them.
    """
    sent: dict[tuple[str, str], Array] = {}
    refused: set[str] = set()
    for array in arrays:
        if array.is_final:
            refused.add(array.submission)
        if not array.is_dead:
            sent |= {(array.submission, task): array for task in array.tasks}
    places = {}
    for task, intent in sorted(_newest(intents).items()):
        place = sent.get((intent.number, task))
        if intent.scheduler == "slurm" and (place is not None or intent.number not in refused):
            places[task] = place
    return places


def planned_tasks(intents: Sequence[Intent], arrays: Iterable[Array]) -> list[tuple[Intent, list[str]]]:
    """Return the submissions that have tasks yet to be sent, oldest first, with those tasks."""
    newest = _newest(intents)
    places = standing(intents, arrays)
    found = []
    for intent in intents:
        tasks = [t for t in intent.tasks if newest.get(t) is intent and t in places and places[t] is None]
        if tasks:
            found.append((intent, tasks))
    return found


def _newest(intents: Iterable[Intent]) -> dict[str, Intent]:
    newest: dict[str, Intent] = {}
    for intent in intents:
        if intent.action == "submit":
            newest |= dict.fromkeys(intent.tasks, intent)
    return newest
