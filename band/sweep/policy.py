"""What an attempt that is over died of, and what follows from that; nothing here reads or writes anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from band.errors import ConfigError, did_you_mean
from band.sweep.fold import AttemptFold

CLASSES = (
    "exception",
    "out_of_memory",
    "time_limit",
    "preemption",
    "node_failure",
    "staging",
    "sync",
    "diverged",
    "cancelled",
    "died",  # without a word, and Slurm does not say why
)
UNLIMITED = "unlimited"
MOST_STANDSTILLS = 3  # attempts cut short, one after the other, without a new checkpoint or a published run
MOST_NODE_FAILURES = 2  # of one task on one node, before that node is avoided
MEMORY_FACTOR = 1.5
HOME_UNWRITABLE, INTERRUPTED, ACCOUNTED = 75, 4, (0, 1)  # exit codes of an attempt, as in band/README.md
ASKED, ELSEWHERE = "asked", "another attempt holds the task"  # what an attempt says that others made stop
REHEARSED = "the canary has shown what it takes"  # what one says that stopped by itself; `canary` sends it again
LEFT = (ASKED, ELSEWHERE, REHEARSED)

_BY_ERROR = {
    "OutOfMemory": "out_of_memory",
    "MemoryError": "out_of_memory",
    "OutOfMemoryError": "out_of_memory",  # torch: the device's memory
    "TimeLimit": "time_limit",
    "NoHeadway": "time_limit",
    "Preempted": "preemption",
    "NodeFailure": "node_failure",
    "StageError": "staging",
    "PublishError": "sync",
    "Cancelled": "cancelled",
    "Died": "died",
}
_BY_END = {
    "CANCELLED": "cancelled",
    "OUT_OF_MEMORY": "out_of_memory",
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "PREEMPTED": "preemption",
}
_BY_REASON = {"time limit": "time_limit", "preempt": "preemption"}  # parts of what an interrupted attempt says
_GIVEN_UP = {
    "time_limit": ("TimeLimit", "the time limit ended it; raise --time, then retry it"),
    "preemption": ("Preempted", "a job of higher priority took its place"),
    "node_failure": ("NodeFailure", "its node failed"),
    "died": ("Died", "its job ended without a word"),
    "out_of_memory": ("OutOfMemory", "Slurm ended it for want of memory; raise --mem, then retry it"),
}
DEFAULT_RETRIES: Mapping[str, int | None] = {
    "exception": 0,
    "out_of_memory": 1,  # of one run alone; a population is halved as often as it can be
    "time_limit": None,
    "preemption": None,
    "node_failure": None,
    "staging": 0,
    "died": None,  # but see MOST_STANDSTILLS
}


@dataclass(frozen=True)
class Policy:
    """How often a run is tried again after each class of failure; None: without limit."""

    retries: Mapping[str, int | None] = field(default_factory=lambda: dict(DEFAULT_RETRIES))


def read_policy(*layers: tuple[str, Any]) -> Policy:
    """Return the policy of `policy:` sections, each (where it was read, its value); later ones win.

    Raises:
        ConfigError: a section is no mapping, names no class that is retried, or holds no number of retries.
    """
    retries = dict(DEFAULT_RETRIES)
    for where, section in layers:
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ConfigError(f"{where}: policy must be a mapping of failure to retries, got {section!r}")
        for key, value in section.items():
            if key not in DEFAULT_RETRIES:
                raise ConfigError(
                    f"{where}: policy.{key} is no failure that is tried again; {did_you_mean(key, DEFAULT_RETRIES)}"
                )
            retries[key] = _retries(value, where=f"{where}: policy.{key}")
    return Policy(retries)


def _retries(value: Any, *, where: str) -> int | None:
    if value == UNLIMITED:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ConfigError(f"{where} must be how often to try again, a whole number or {UNLIMITED}, got {value!r}")


def failure_class(error: str) -> str:
    """Return the class of a failed run's `error`; "" for no error."""
    return _BY_ERROR.get(error, "exception") if error else ""


@dataclass(frozen=True, kw_only=True)
class End:
    """How Slurm ended an attempt."""

    state: str = ""  # "OUT_OF_MEMORY", "TIMEOUT" …; "": it does not know
    node: str = ""
    exit_code: int = 0


def ending_class(fold: AttemptFold | None, end: End) -> str:
    """Return why an attempt that is over did not finish its task, "" where it said how each of its runs ended.

    What the attempt itself said last stands above Slurm's word: a supervisor that outlived its trainer has dealt with
    the lack of memory that Slurm still reports of the whole job.
    """
    if HOME_UNWRITABLE in (end.exit_code, fold.code if fold else None):
        return "sync"
    if fold is not None and (fold.code in ACCOUNTED or fold.interruption in LEFT):
        return ""
    if end.state in _BY_END:
        return _BY_END[end.state]
    if fold is None or fold.code != INTERRUPTED:
        return "died"
    return next((kind for part, kind in _BY_REASON.items() if part in fold.interruption), "preemption")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task that is over at Slurm, and all that is known of how it came to that."""

    open_runs: Sequence[str]  # neither published, failed, cancelled nor retired
    failures: Mapping[str, str]  # {run: error} of those that count as failed now
    attempts: Sequence[AttemptFold]  # that tried to train it, oldest first
    ends: Mapping[str, End]  # how Slurm ended them, by name of attempt, where it is known
    end: End  # of the task's last job
    job: str = ""  # of the attempts named "jJOB-r…": "123_4"; "" outside Slurm
    populations: Sequence[Sequence[str]] = ()  # as the task was packed; none: all runs are one


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to do about a task that is over."""

    kind: str = ""  # class of its ending, "" where every run of it is accounted for
    again: tuple[str, ...] = ()  # runs to be trained on; none: the task is left alone
    forgiven: tuple[str, ...] = ()  # those of `again` that had failed
    failed: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # given up now: {run: (error, message)}
    cancelled: tuple[str, ...] = ()
    unsynced: tuple[str, ...] = ()  # perhaps finished, on a node that could not write home
    parts: tuple[tuple[str, ...], ...] = ()  # populations to go on in, where one is halved
    memory_factor: float = 1.0
    exclude: tuple[str, ...] = ()  # nodes


def judge(case: Case, policy: Policy) -> Verdict:
    """Return what follows from how a task ended; the same case gives the same verdict."""
    last = _last(case)
    kind = ending_class(last, case.end)
    forgiven = tuple(run for run, error in case.failures.items() if _may_retry(case, run, error=error, policy=policy))
    if kind == "sync":
        return Verdict(kind=kind, unsynced=tuple(case.open_runs))
    if kind == "cancelled":
        return Verdict(kind=kind, cancelled=tuple(case.open_runs))
    if not case.open_runs or (last is not None and last.interruption in (ELSEWHERE, REHEARSED)):
        return _again(case, forgiven, kind="", forgiven=forgiven)
    parts: tuple[tuple[str, ...], ...] = ()
    failed: dict[str, tuple[str, str]] = {}
    if kind == "out_of_memory":
        parts, failed = _less_at_once(case, last=last, policy=policy)
    elif last is None or last.interruption != ASKED:
        failed = _cut_short(case, kind=kind or "died", policy=policy)
    runs = [run for run in case.open_runs if run not in failed] + list(forgiven)
    return _again(case, runs, kind=kind, forgiven=forgiven, failed=failed, parts=parts)


def _again(case: Case, runs: Iterable[str], **fields: Any) -> Verdict:
    runs = tuple(runs)
    return Verdict(again=runs, memory_factor=_memory_factor(case, runs), exclude=bad_nodes(case), **fields)


def _last(case: Case) -> AttemptFold | None:
    """Return the last attempt that the task's last job made, None if it never came to speak."""
    if not case.attempts:
        return None
    last = case.attempts[-1]
    return last if not case.job or last.attempt.startswith(f"j{case.job}-") else None


def endings(case: Case) -> list[tuple[AttemptFold, str, str]]:
    """Return (attempt, class of its ending, node) of all attempts but those of which nobody knows how they ended.

    An attempt that said nothing, and of which Slurm has no word, was cut short by what ended its node, unless the
    task's last job is known to be its own.
    """
    last = _last(case)
    found = []
    for fold in case.attempts:
        end = case.end if fold is last else case.ends.get(fold.attempt)
        if end is not None or fold.code is not None:
            kind = ending_class(fold, end or End())
            found.append((fold, kind, (end.node if end else "") or fold.host))
    return found


def bad_nodes(case: Case) -> tuple[str, ...]:
    """Return the nodes that failed under the task twice."""
    nodes = [node for _, kind, node in endings(case) if kind == "node_failure" and node]
    return tuple(sorted({node for node in nodes if nodes.count(node) >= MOST_NODE_FAILURES}))


def num_standstills(attempts: Sequence[AttemptFold]) -> int:
    """Return how many of the last attempts brought neither a checkpoint beyond those before nor a published run."""
    count, best = 0, -1
    for fold in attempts:
        moved = fold.checkpoint_step > best or "published" in fold.phases.values()
        best = max(best, fold.checkpoint_step)
        count = 0 if moved else count + 1
    return count


def _cut_short(case: Case, *, kind: str, policy: Policy) -> dict[str, tuple[str, str]]:
    """Return the open runs that are given up, though their task was only cut short."""
    silent = 0 if _last(case) else 1  # a job that did not come to make an attempt
    standstills = num_standstills(case.attempts) + silent
    if kind == "time_limit" and standstills >= MOST_STANDSTILLS:
        message = (
            f"the time limit ended {standstills} attempts in a row before they came to a new checkpoint; "
            "raise --time, then retry it"
        )
        return dict.fromkeys(case.open_runs, ("NoHeadway", message))
    if kind == "died" and (silent or standstills >= MOST_STANDSTILLS):
        # Where not even the supervisor could start, another job would not fare better.
        return dict.fromkeys(case.open_runs, _died(case, times=1 if silent else standstills))
    limit = policy.retries[kind]
    times = sum(found == kind for _, found, _ in endings(case)) + (silent if kind == "died" else 0)
    return dict.fromkeys(case.open_runs, _GIVEN_UP[kind]) if limit is not None and times > limit else {}


def _died(case: Case, *, times: int) -> tuple[str, str]:
    what = f"Slurm says {case.end.state or 'nothing'}, exit code {case.end.exit_code}"
    where = f" on {case.end.node}" if case.end.node else ""
    how_often = "" if times == 1 else f"{times} times in a row "
    return "Died", f"its job {case.job} ended{where} {how_often}without a word of the supervisor's ({what})"


def _less_at_once(
    case: Case, *, last: AttemptFold | None, policy: Policy
) -> tuple[tuple[tuple[str, ...], ...], dict[str, tuple[str, str]]]:
    """Return the populations to go on in after the whole step was killed for memory, and the runs to give up."""
    known = next((fold.parts for fold in reversed(case.attempts) if fold.parts), [])
    parts = [part for part in ([run for run in part if run in case.open_runs] for part in known) if part]
    population = [run for run in (last.population if last else []) if run in case.open_runs]
    population = population or _first_population(case, parts=parts)
    if len(population) > 1:
        middle = (len(population) + 1) // 2
        rest = [[run for run in part if run not in population] for part in parts]
        halves = [population[:middle], population[middle:]]
        return tuple(tuple(part) for part in [*halves, *rest] if part), {}
    limit = policy.retries["out_of_memory"]
    if limit is None or _lacks_of_memory(case, population[0]) <= limit:
        return (), {}
    return (), {population[0]: _GIVEN_UP["out_of_memory"]}


def _first_population(case: Case, *, parts: list[list[str]]) -> list[str]:
    """Return what the task's next attempt would train first: an attempt died before it had begun with it."""
    divided = {run for part in parts for run in part}
    packed = [[run for run in population if run in case.open_runs] for population in case.populations]
    packed = [[run for run in population if run not in divided] for population in packed or [list(case.open_runs)]]
    return next(population for population in [*packed, *parts] if population)


def _lacks_of_memory(case: Case, run: str) -> int:
    """Return how often a run ended for want of memory though it was trained alone."""
    count = 0
    for fold, kind, _ in endings(case):
        failure = fold.failures.get(run, {}).get("error", "")
        alone = fold.population == [run]
        count += failure_class(failure) == "out_of_memory" or (kind == "out_of_memory" and alone)
    return count


def _memory_factor(case: Case, runs: Iterable[str]) -> float:
    """Return how much more memory than asked for at first the neediest of `runs` gets."""
    return float(MEMORY_FACTOR ** max((_lacks_of_memory(case, run) for run in runs), default=0))


def _may_retry(case: Case, run: str, *, error: str, policy: Policy) -> bool:
    """Return whether a run that an attempt gave up is tried again."""
    kind = failure_class(error)
    limit = policy.retries.get(kind, 0)
    if error == "OutOfMemoryError":
        limit = 0  # of the device's memory more cannot be asked for
    times = sum(failure_class(fold.failures.get(run, {}).get("error", "")) == kind for fold in case.attempts)
    if kind == "out_of_memory":
        times = _lacks_of_memory(case, run)
    return limit is None or times <= limit
