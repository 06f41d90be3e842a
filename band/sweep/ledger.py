"""The ledger of a sweep: what a user asked for, one numbered folder each, written once and never changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from band.attempts import Claim
from band.errors import BandError, ClaimError, SweepError
from band.files import canonical_json, create_exclusive, read_json_object
from band.run_dir import SweepDir, check_name

SCHEMA = 1
INTENT = "intent.json"
RECEIPT = "receipt.json"
CANARY, CANARY_S = "canary", "canary_s"  # in a request's options: the tasks that go ahead, and for how long they train


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One request: to submit runs in tasks, to cancel runs, or to retry them."""

    number: str  # of its folder under submissions/
    action: str  # "submit", "cancel", "retry"
    t: float  # unix seconds
    runs: tuple[str, ...] = ()
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # submit: {task: run ids}
    failures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # retry: {run id: attempts that are forgiven}
    options: Mapping[str, Any] = field(default_factory=dict)  # submit: what the scheduler was asked for
    scheduler: str = "local"  # submit: who runs the tasks, "local" or "slurm"


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What all requests of a sweep come to."""

    tasks: Mapping[str, tuple[str, ...]]  # {task: run ids}, every task that was ever submitted
    cancelled: frozenset[str]
    forgiven: Mapping[str, frozenset[str]]  # {run id: attempts whose failures no longer count}


def record(
    sweep: SweepDir,
    action: str,
    *,
    runs: Iterable[str] = (),
    tasks: Mapping[str, Iterable[str]] | None = None,
    failures: Mapping[str, Iterable[str]] | None = None,
    options: Mapping[str, Any] | None = None,
    scheduler: str = "local",
    claim: Claim | None = None,
) -> Intent:
    """Write a request into a new numbered folder and return it; two at once get different numbers.

    Args:
        claim: the hold on the sweep's submissions that what is requested was concluded under; None: it needs none.

    Raises:
        ClaimError: another process has taken that over, and may have requested the same.
        OSError: the sweep folder cannot be written.
    """
    intent = Intent(
        number=_new_folder(sweep.submissions).name,
        action=action,
        t=time.time(),
        runs=tuple(runs),
        tasks={task: tuple(members) for task, members in (tasks or {}).items()},
        failures={run: tuple(attempts) for run, attempts in (failures or {}).items()},
        options=dict(options or {}),
        scheduler=scheduler,
    )
    values: dict[str, Any] = {"schema": SCHEMA, "action": action, "t": intent.t, "scheduler": scheduler}
    values |= {"runs": intent.runs, "tasks": intent.tasks, "failures": intent.failures, "options": intent.options}
    if claim is not None:
        check_hold(sweep, claim)
    create_exclusive(sweep.submission(intent.number) / INTENT, canonical_json(values) + b"\n")
    return intent


def check_hold(sweep: SweepDir, claim: Claim) -> None:
    """Check that no other process has taken the submissions over since.

    Raises:
        ClaimError: one has.
    """
    if not claim.still_mine():
        raise ClaimError(f"{sweep.name} has been taken over by another process; nothing more is sent by this one")


def new_task(sweep: SweepDir) -> str:
    """Take the next free task number and return it; its folder is there then."""
    return _new_folder(sweep.tasks).name


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(name) for name in os.listdir(parent) if name.isdecimal()), default=0)
    while True:
        number += 1
        folder = parent / f"{number:04d}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue


def request_numbers(sweep: SweepDir) -> set[str]:
    """Return the numbers of the requests that are complete, without reading them."""
    try:
        names = [name for name in os.listdir(sweep.submissions) if name.isdecimal()]
    except FileNotFoundError:
        return set()
    return {name for name in names if (sweep.submission(name) / INTENT).exists()}


def read_intents(sweep: SweepDir) -> list[Intent]:
    """Return all requests, oldest first; folders in which none was completed are passed over.

    Raises:
        SweepError: an intent file is damaged; names it.
    """
    numbers = sorted(request_numbers(sweep), key=int)
    return [_read_intent(sweep.submission(number) / INTENT, number=number) for number in numbers]


def _read_intent(path: Path, *, number: str) -> Intent:
    try:
        values = read_json_object(path)
    except BandError as error:
        raise SweepError(str(error)) from None
    try:
        return Intent(
            number=number,
            action=_words([values["action"]])[0],
            t=float(values["t"]),
            runs=_words(values["runs"]),
            tasks={check_name(task, what="task"): _words(runs) for task, runs in values["tasks"].items()},
            failures={run: _words(attempts) for run, attempts in values["failures"].items()},
            options=dict(values["options"].items()),
            scheduler=_words([values["scheduler"]])[0],
        )
    except (SweepError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SweepError(f"{path} is not a request that band wrote ({error!r}); restore it or delete it") from None


def _words(values: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{str(values)[:80]} is no list of texts")
    return tuple(values)


def fold_intents(intents: Iterable[Intent]) -> Ledger:
    """Return what requests, oldest first, come to: the last that names a run decides."""
    tasks: dict[str, tuple[str, ...]] = {}
    cancelled: set[str] = set()
    forgiven: dict[str, frozenset[str]] = {}
    for intent in intents:
        tasks.update(intent.tasks)
        if intent.action == "cancel":
            cancelled.update(intent.runs)
        elif intent.action == "retry":
            cancelled.difference_update(intent.runs)
        for run, attempts in intent.failures.items():
            forgiven[run] = forgiven.get(run, frozenset()) | frozenset(attempts)
    return Ledger(tasks=tasks, cancelled=frozenset(cancelled), forgiven=forgiven)


def read_ledger(sweep: SweepDir) -> Ledger:
    """Return what all requests of a sweep come to.

    Raises:
        SweepError: an intent file is damaged; names it.
    """
    return fold_intents(read_intents(sweep))
