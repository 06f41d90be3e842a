"""Which population checkpoints there are, here and at home: known by their digest, chosen by their step.

A checkpoint file is not opened here (that would need torch). The trainer notes each one's digest beside it, and sends
it as an event, which is kept at home; so a file counts exactly if its content is one that the trainer vouched for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.errors import BandError
from band.files import copy_verified, holds, read_lines, sha256_file
from band.node.job import Job
from band.run_dir import CHECKPOINTS, read_events

_FILE = re.compile(r"population\.([0-9]{1,12})\.pt")
SLOTS = 1000  # of an attempt; those of the attempt with claim N begin with SLOTS x N


@dataclass(frozen=True)
class Record:
    """What was reported of a checkpoint."""

    step: int
    runs: frozenset[str]  # its members


class Checkpoints:
    """The checkpoints that an attempt can continue from, and their copies at home."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._records: dict[str, Record] = {}  # by digest
        self._here: dict[Path, str] = {}  # digests of files on this node
        self._home: dict[int, str] = {}  # digests of the slots at home

    def learn(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take note of the checkpoints that events report."""
        for event in events:
            if event.get("event") == "checkpoint":
                with suppress(KeyError, TypeError, ValueError, OverflowError):
                    self._records[str(event["sha256"])] = Record(int(event["step"]), frozenset(event["runs"]))

    def look_at_home(self) -> None:
        """Find what is at home; OSError where that cannot be read."""
        for slot, path in _files(self._job.task.folder.path):
            with suppress(BandError):
                self._home[slot] = sha256_file(path)

    def look_at(self, folder: Path) -> None:
        """Find what a trainer of an earlier attempt left in its folder on this node."""
        with suppress(OSError):
            self.learn(read_lines(folder / CHECKPOINTS)[0])
        for _, path in _files(folder):
            with suppress(BandError, OSError):
                self._here[path] = sha256_file(path)

    def add(self, event: Mapping[str, Any], *, folder: Path, runs: Sequence[str]) -> None:
        """Take a checkpoint event of the trainer that works in `folder` on `runs`, and report it."""
        fields = {"runs": list(runs), **event}
        self._job.reporter.forward(fields)
        self.learn([fields])
        with suppress(KeyError, TypeError, ValueError):
            self._here[folder / f"population.{int(fields['slot'])}.pt"] = str(fields["sha256"])

    def newest_step(self, runs: Iterable[str]) -> int:
        """Return the step of the newest checkpoint that has any of `runs`, -1 if there is none."""
        records = self._ranked(runs, digests=[*self._here.values(), *self._home.values()])
        return self._records[records[0]].step if records else -1

    def covered(self, runs: Sequence[str]) -> list[str]:
        """Return those of `runs` that the newest checkpoint with any of them has; all of them if there is none."""
        ranked = self._ranked(runs, digests=[*self._here.values(), *self._home.values()])
        return [run for run in runs if run in self._records[ranked[0]].runs] if ranked else list(runs)

    def seed(self, folder: Path, *, runs: Sequence[str]) -> int:
        """Copy the two newest checkpoints with all of `runs` into a trainer's folder; return the newer one's step."""
        sources = {digest: path for path, digest in self._here.items()}
        home = {digest: self._job.task.folder.population(slot) for slot, digest in self._home.items()}
        sources = {**home, **sources}
        steps: list[int] = []
        for digest in self._ranked(runs, digests=sources, whole=True):
            target = folder / f"population.{len(steps)}.pt"
            try:
                self._here[target] = copy_verified(sources[digest], target, sha256=digest)
            except (BandError, OSError):
                continue  # damaged since we looked: the next one serves
            steps.append(self._records[digest].step)
            if len(steps) == 2:
                break
        return max(steps, default=-1)

    def mirror(self, parts: Sequence[Sequence[str]]) -> None:
        """Bring the newest checkpoint of each part home, into slots that no part's newest one at home stands in.

        Each attempt has slots of its own: one that hung, has lost its task and wakes up takes the place of no other's.

        Raises:
            OSError: home cannot be written, or the event stream there lacks what tells the copies apart.
        """
        if not self._job.reporter.writer.flush():
            raise OSError("the event stream at home cannot be written")
        for part in parts:
            ranked = self._ranked(part, digests=[*self._here.values(), *self._home.values()], whole=True)
            if ranked and ranked[0] not in self._home.values():
                self._bring_home(ranked[0], slot=self._free_slot(parts))
        self._drop_needless(parts)

    def is_home(self, parts: Sequence[Sequence[str]]) -> bool:
        """Return whether home has the newest checkpoint of each part."""
        everywhere = [*self._here.values(), *self._home.values()]
        newest = [self._ranked(part, digests=everywhere, whole=True)[:1] for part in parts]
        return all(digest in self._home.values() for found in newest for digest in found)

    def clear_home(self) -> None:
        """Remove the copies at home; errors are passed over."""
        for slot in list(self._home):
            self._remove_home(slot)

    def _bring_home(self, digest: str, *, slot: int) -> None:
        source = next(path for path, found in self._here.items() if found == digest)
        target = self._job.task.folder.population(slot)
        try:
            copy_verified(source, target, sha256=digest)
        except (BandError, FileNotFoundError):
            if not holds(source, digest):  # a newer one whose event is on its way has its place, or scratch is gone
                del self._here[source]
            return
        self._home[slot] = digest
        self._job.reporter.report("mirrored", step=self._records[digest].step, slot=slot)

    @property
    def _own(self) -> range:
        first = SLOTS * self._job.claim.number
        return range(first, first + SLOTS)

    def _needed(self, parts: Sequence[Sequence[str]]) -> set[str]:
        newest = [self._ranked(part, digests=self._home.values(), whole=True)[:1] for part in parts]
        return {digest for found in newest for digest in found}

    def _free_slot(self, parts: Sequence[Sequence[str]]) -> int:
        needed = self._needed(parts)
        return next(slot for slot in self._own if self._home.get(slot) not in needed)

    def _drop_needless(self, parts: Sequence[Sequence[str]]) -> None:
        """Remove what earlier attempts brought home, once there are two copies of our own; errors are passed over."""
        needed = self._needed(parts)
        if sum(slot in self._own for slot in self._home) > 1:
            for slot in [slot for slot in self._home if slot not in self._own and self._home[slot] not in needed]:
                self._remove_home(slot)

    def _remove_home(self, slot: int) -> None:
        with suppress(OSError):
            self._job.task.folder.population(slot).unlink(missing_ok=True)
            del self._home[slot]

    def _ranked(self, runs: Iterable[str], *, digests: Iterable[str], whole: bool = False) -> list[str]:
        """Return the known digests, newest first, of checkpoints with any (or, if `whole`, all) of `runs`."""
        wanted = set(runs)
        known = {digest for digest in digests if digest in self._records}
        fit = [
            digest
            for digest in known
            if (wanted <= self._records[digest].runs if whole else wanted & self._records[digest].runs)
        ]
        return sorted(fit, key=lambda digest: (self._records[digest].step, digest), reverse=True)


def _files(folder: Path) -> list[tuple[int, Path]]:
    return [(int(match[1]), path) for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))]


def task_events(job: Job) -> list[list[dict[str, Any]]]:
    """Return the event streams of all attempts at the task, and of who judged them, in the order of their claims.

    Raises:
        OSError: they cannot be read.
    """
    streams = [read_events(path)[0] for path in job.sweep.event_files(job.task.name)]
    return sorted(streams, key=_claim)


def _claim(events: Sequence[Mapping[str, Any]]) -> int:
    return next((event["claim"] for event in events if isinstance(event.get("claim"), int)), 0)
