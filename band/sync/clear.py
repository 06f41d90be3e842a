"""Freeing room where runs came from: all but their result.json goes, once both ends have been read and agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from band.errors import PublishError
from band.sync.connection import Connection
from band.sync.holding import verified
from band.sync.pull import PullPlan


@dataclass(frozen=True, kw_only=True)
class Clearing:
    """Runs that may go there, and why others may not."""

    runs: Mapping[str, str]  # run: sha256 of its result.json at home, of which every file was read and is right
    kept: Mapping[str, str]


def check_home(plan: PullPlan, runs: Iterable[str]) -> Clearing:
    """Read every file of runs at home, and return which of them are whole and right."""
    good: dict[str, str] = {}
    kept: dict[str, str] = {}
    for run in runs:
        try:
            sha256 = verified(plan.source.sweep, run)
        except (PublishError, OSError) as error:
            kept[run] = str(error)
            continue
        if sha256 == plan.far.runs[run].sha256:
            good[run] = sha256
        else:
            kept[run] = "home has another run of this id"
    return Clearing(runs=good, kept=kept)


def clear(plan: PullPlan, connection: Connection, clearing: Clearing) -> Clearing:
    """Remove all but result.json of these runs there, each read once more before; return what went and what did not.

    What stays says that the run is published, so nobody trains it again, and which files are no longer there.

    Raises:
        RemoteError: the connection broke; what went by then is at home.
    """
    answer = connection.call("clear", path=plan.far.path, runs=dict(clearing.runs))
    gone = {run: clearing.runs[run] for run in answer["cleared"] if run in clearing.runs}
    return Clearing(runs=gone, kept={**clearing.kept, **answer["kept"]})
