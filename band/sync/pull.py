"""Bringing home what is new and done of a sweep: one listing, one rsync, each run verified while others still come."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from band.errors import SweepError
from band.files import canonical_json, write_atomic
from band.run_dir import SweepDir, read_result
from band.sweep.manifest import Manifest, manifest_text, parse_manifest
from band.sweep.printed import PULLED_TASKS, job_of, task_of
from band.sweep.status import published_runs
from band.sync.choice import Choice
from band.sync.connection import Connection, Place
from band.sync.far_sweep import FarRun, FarSweep, look
from band.sync.holding import Settled, Wanted, compare, finish_placing, has_come, settle, whole_runs
from band.sync.merge import are_related, merge
from band.sync.rsync import CHANGING, Transfer, in_order, move, no_room
from band.sync.sources import Source, read_sources, remember

LOOK_AHEAD = 64  # runs, in rsync's order, that are looked at for having come
TRIES = 2  # of a run that did not come as its manifest says


@dataclass(frozen=True, kw_only=True)
class PullPlan:
    """What a pull is to bring."""

    source: Source
    far: FarSweep
    manifest: Manifest  # at home, with what the other machine adds
    wanted: tuple[Wanted, ...]
    held: int  # runs of the choice that are at home as far as they are wanted
    waiting: frozenset[str]  # of the choice: neither published there nor at home
    logs: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that are to come, part of which may have come already."""
        return sum(file.size for wanted in self.wanted for file in wanted.files.values())


@dataclass
class Pulled:
    """What a pull has brought."""

    new: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)  # were here in part
    beside: dict[str, Path] = field(default_factory=dict)  # run: where it is, for home has another of its id
    damaged: dict[str, str] = field(default_factory=dict)  # run: why it could not be taken
    num_bytes: int = 0
    num_logs: int = 0
    trouble: str = ""  # what rsync could not move, in its words

    def add(self, settled: Settled) -> None:
        """Count what has been put in its place."""
        for wanted in settled.placed:
            if wanted.differs:
                self.beside[wanted.run.id] = wanted.target
            else:
                (self.new if wanted.is_new else self.completed).append(wanted.run.id)
            self.num_bytes += sum(file.size for file in wanted.files.values())


def make_plan(source: Source, connection: Connection, *, choice: Choice, is_thorough: bool = False) -> PullPlan:
    """Return what is to come from a source; nothing is written.

    Raises:
        BandError: there is no such sweep, or a name or parameter is not one of it.
        RemoteError: the connection broke.
    """
    sweep = source.sweep
    text = _manifest_at_home(sweep)
    known = {} if is_thorough else whole_runs(sweep)
    sha256 = hashlib.sha256(text.encode()).hexdigest() if text else ""
    far = look(connection, source.place.path, known=known, manifest=sha256, has_logs="logs" in choice.parts)
    manifest = _merged(source, text, far)
    chosen = [run.id for run in choice.runs(manifest)]
    runs = [far.runs[run] for run in chosen if run in far.runs]
    compared = [compare(sweep, run, choice=choice, is_thorough=is_thorough) for run in _open(runs, choice=choice)]
    wanted = sorted((each for each in compared if each.files), key=lambda each: os.fsencode(each.run.id))
    return PullPlan(
        source=Source(sweep=sweep, place=Place(source.place.host, far.path)),
        far=far,
        manifest=manifest,
        wanted=tuple(wanted),
        held=len([run for run in runs if run.files is None]) + len(compared) - len(wanted),
        waiting=_waiting(sweep, chosen, far=far, manifest=manifest),
        logs=tuple(in_order(_logs_of(sweep, chosen, far=far, choice=choice))),
    )


def _logs_of(sweep: SweepDir, chosen: Iterable[str], *, far: FarSweep, choice: Choice) -> list[str]:
    """Return the logs of the chosen runs; where all are chosen, those of their closing jobs too."""
    if not choice.is_of_some:
        return list(far.logs)
    runs = {run for run in chosen if "done" in choice.states or choice.has_outcome(_outcome(sweep, far, run))}
    tasks = {task for task, own in far.tasks.items() if runs.intersection(own)}
    logs = [name for name in far.logs if task_of(name)[0] in tasks]
    jobs = {job_of(task_of(name)[1]) for name in logs} - {""}
    return logs + [name for name in far.logs if name.removesuffix(".out") in jobs]


def _outcome(sweep: SweepDir, far: FarSweep, run: str) -> str:
    """Return how a published run ended, "" where it is not published; one that is whole at home was not told of."""
    found = far.runs.get(run)
    if found is None or found.files is not None:
        return found.outcome if found else ""
    return str(read_result(sweep.run(run))["training"]["outcome"])


def _open(runs: Iterable[FarRun], *, choice: Choice) -> list[FarRun]:
    return [run for run in runs if run.files is not None and choice.has_outcome(run.outcome)]


def _waiting(sweep: SweepDir, chosen: Iterable[str], *, far: FarSweep, manifest: Manifest) -> frozenset[str]:
    here = published_runs(sweep)
    active = {run.id for run in manifest.active()}
    return frozenset(run for run in chosen if run in active and run not in far.runs and run not in here)


def _manifest_at_home(sweep: SweepDir) -> str:
    try:
        return sweep.manifest.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _merged(source: Source, text: str, far: FarSweep) -> Manifest:
    sweep = source.sweep
    home = parse_manifest(text, path=sweep.manifest) if text else None
    if far.manifest is None:
        if home is None:
            raise SweepError(f"{far.path} sent no manifest")
        return home
    other = parse_manifest(far.manifest, path=Path(far.path, "manifest.jsonl"))
    if home is None:
        return other
    if not read_sources(sweep) and not are_related(home, other):
        raise SweepError(f"{sweep.path} is another sweep (no run and no recording in common); give --into FOLDER")
    return merge(home, other)


def write_sweep(plan: PullPlan) -> None:
    """Have the home know the sweep and its source; what was written there before stays, with what it lacked.

    Raises:
        OSError: the folder cannot be written.
    """
    sweep, far = plan.source.sweep, plan.far
    sweep.path.mkdir(parents=True, exist_ok=True)
    text = _manifest_at_home(sweep)
    if far.manifest is not None:
        new = manifest_text(plan.manifest) if text else far.manifest
        if new != text:
            write_atomic(sweep.manifest, new.encode())
        if far.sweep_yaml is not None and not sweep.sweep_yaml.exists():
            write_atomic(sweep.sweep_yaml, far.sweep_yaml.encode())
    remember(plan.source)


def fetch(
    plan: PullPlan, connection: Connection, *, lock: int, bwlimit: str = "", show: Callable[[int], None]
) -> Pulled:
    """Bring home what a plan wants, and return what has come. Interrupted or broken off, the next call goes on.

    Args:
        plan: what to bring; `write_sweep` was called.
        connection: to its machine.
        lock: what `sources.alone` yields.
        bwlimit: bytes a second, as `rsync.check_rate` returns it.
        show: told now and again how many bytes are here.

    Raises:
        RemoteError: the connection broke.
        BandError: the disk is full …
    """
    pulled = Pulled(damaged=dict(plan.far.bad))
    try:
        finish_placing(plan.source)
        left: Sequence[Wanted] = plan.wanted
        for _ in range(TRIES):
            if left:
                left = _Fetch(plan, pulled=pulled, left=left, show=show).run(connection, lock=lock, bwlimit=bwlimit)
        for wanted in left:
            why = f"did not come: {pulled.trouble or 'it changed while it was read'}"
            pulled.damaged.setdefault(wanted.run.id, why)
        if plan.logs:
            _fetch_logs(plan, connection, pulled=pulled, lock=lock, bwlimit=bwlimit)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(str(error)) from None
        raise
    return pulled


class _Fetch:
    """One call of rsync for many runs, of which those that are complete are put in their places meanwhile."""

    def __init__(self, plan: PullPlan, *, pulled: Pulled, left: Sequence[Wanted], show: Callable[[int], None]) -> None:
        self._source, self._plan, self._pulled, self._show = plan.source, plan, pulled, show
        self._left = list(left)
        self._damaged: dict[str, Wanted] = {}

    def run(self, connection: Connection, *, lock: int, bwlimit: str) -> list[Wanted]:
        """Return the runs that did not come as they should; each is named in `damaged`."""
        self._source.incoming.mkdir(parents=True, exist_ok=True)
        self._settle(self._left)  # a pull that was killed may have had all of some
        _drop_too_long(self._source, self._left)
        names = [f"{wanted.run.id}/{name}" for wanted in self._left for name in in_order(wanted.files)]
        transfer = Transfer(source=f"{self._plan.far.path}/runs", target=str(self._source.incoming), names=tuple(names))
        try:
            self._pulled.trouble = move(connection, transfer, lock=lock, bwlimit=bwlimit, look=self._look)
        finally:
            self._settle(self._left)
        return [*self._damaged.values(), *self._left]

    def _look(self, moved: int) -> None:
        self._settle(self._left[:LOOK_AHEAD])
        first = self._left[:2]
        partial = sum(_arrived(self._source, wanted) for wanted in first)
        self._show(self._pulled.num_bytes + partial)

    def _settle(self, candidates: Sequence[Wanted]) -> None:
        """Put in their places those of the candidates that have come."""
        arrived = [wanted for wanted in candidates if has_come(self._source, wanted)]
        if not arrived:
            return
        settled = settle(self._source, arrived)
        self._pulled.add(settled)
        for wanted in arrived:
            if wanted.run.id in settled.damaged:
                self._damaged[wanted.run.id] = wanted
        done = {id(wanted) for wanted in arrived}
        self._left = [wanted for wanted in self._left if id(wanted) not in done]
        for run, why in settled.damaged.items():
            self._pulled.damaged[run] = why
        for wanted in settled.placed:
            self._pulled.damaged.pop(wanted.run.id, None)


def _drop_too_long(source: Source, left: Iterable[Wanted]) -> None:
    """Remove what came of an earlier run of the same id: rsync would take what is long enough for complete."""
    for wanted in left:
        for name, file in wanted.files.items():
            path = source.incoming / wanted.run.id / name
            if os.path.lexists(path) and (path.is_symlink() or path.stat().st_size > file.size):
                path.unlink()


def _arrived(source: Source, wanted: Wanted) -> int:
    sizes = [source.incoming / wanted.run.id / name for name in wanted.files]
    return sum(path.stat().st_size for path in sizes if path.exists())


def _fetch_logs(plan: PullPlan, connection: Connection, *, pulled: Pulled, lock: int, bwlimit: str) -> None:
    """Bring logs into a folder of their source; what grew is continued, what is longer here stays."""
    plan.source.logs.mkdir(parents=True, exist_ok=True)
    transfer = Transfer(source=f"{plan.far.path}/logs", target=str(plan.source.logs), names=plan.logs, options=CHANGING)
    pulled.trouble = move(connection, transfer, lock=lock, bwlimit=bwlimit, look=lambda moved: None) or pulled.trouble
    pulled.num_logs = len(plan.logs)
    tasks = {task: list(runs) for task, runs in plan.far.tasks.items()}
    write_atomic(plan.source.folder / PULLED_TASKS, canonical_json({"schema": 1, "tasks": tasks}) + b"\n")
