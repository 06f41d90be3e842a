"""What a sweep at home holds of another machine's runs, what it lacks, and how what has come is put in its place."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from band.errors import PublishError
from band.files import fsync_folder, rename_exclusive, sha256_file, sync_file_system
from band.run_dir import RESULT, SweepDir, absent_files, mark_absent, read_result, verify
from band.sync.choice import Choice
from band.sync.far_sweep import FarFile, FarRun
from band.sync.sources import Source


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Files of one run that are to come, and where they belong."""

    run: FarRun
    files: Mapping[str, FarFile]
    target: Path  # its folder at home: runs/ID, or beside, where runs/ID holds something else
    is_new: bool  # whether that folder is not there yet

    @property
    def differs(self) -> bool:
        """Whether the home has another run under this id."""
        return self.target.name != self.run.id


def result_sha256(folder: Path) -> str:
    """Return the sha256 of a run's result.json, "" where there is none."""
    try:
        return hashlib.sha256((folder / RESULT).read_bytes()).hexdigest()
    except OSError:
        return ""


def whole_runs(sweep: SweepDir) -> dict[str, str]:
    """Return {run: sha256 of its result.json} of the runs at home of which every file is there in its size."""
    whole = {}
    with suppress(FileNotFoundError):
        for name in os.listdir(sweep.runs):
            folder = sweep.runs / name
            with suppress(PublishError, OSError):
                if not name.startswith(".") and _has_all(folder):
                    whole[name] = result_sha256(folder)
    return whole


def _has_all(folder: Path) -> bool:
    manifest = read_result(folder)["manifest"]
    return all(_size(folder / name) == entry["size"] for name, entry in manifest.items())


def _size(path: Path) -> int:
    """Return the size of a regular file, -1 where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def compare(sweep: SweepDir, run: FarRun, *, choice: Choice, is_thorough: bool = False) -> Wanted:
    """Return what is still to come of a run; of one that is held nothing.

    Args:
        sweep: the sweep at home.
        run: the run as the other machine has it, with its files.
        choice: which of its files are wanted.
        is_thorough: read what is at home, instead of looking at sizes.
    """
    assert run.files is not None
    folder = sweep.run(run.id)
    if folder.exists() and not _agrees(folder, run, is_thorough=is_thorough):
        folder = sweep.differing_run(run.id, sha256=run.sha256)
    here = {name for name, file in run.files.items() if _size(folder / name) == file.size}
    wanted = {
        name: file
        for name, file in run.files.items()
        if name not in here and name not in run.absent and choice.takes(name)
    }
    return Wanted(run=run, files=wanted, target=folder, is_new=not folder.exists())


def _agrees(folder: Path, run: FarRun, *, is_thorough: bool) -> bool:
    """Return whether what a folder holds of a run is what the other machine has, as far as it holds it."""
    assert run.files is not None
    if result_sha256(folder) != run.sha256:
        return False
    present = {name: file for name, file in run.files.items() if os.path.lexists(folder / name)}
    if any(_size(folder / name) != file.size for name, file in present.items()):
        return False
    return not is_thorough or all(_is(folder / name, file) for name, file in present.items())


def _is(path: Path, file: FarFile) -> bool:
    with suppress(OSError):
        return _size(path) == file.size and sha256_file(path) == file.sha256
    return False


@dataclass
class Settled:
    """What became of runs whose files have come."""

    placed: list[Wanted]
    damaged: dict[str, str]  # run: which file is not what its manifest says; it was thrown away


def has_come(source: Source, wanted: Wanted) -> bool:
    """Return whether all files of a run have come, by their sizes."""
    folder = source.incoming / wanted.run.id
    return all(_size(folder / name) == file.size for name, file in wanted.files.items())


def settle(source: Source, arrived: Iterable[Wanted]) -> Settled:
    """Verify runs that have come, and put those that are right into their places; nothing there is replaced.

    Raises:
        OSError: the disk is full …; what has come stays.
    """
    settled = Settled([], {})
    right = []
    for wanted in arrived:
        problem = _problem(source.incoming / wanted.run.id, wanted)
        if problem:
            settled.damaged[wanted.run.id] = problem
        else:
            right.append(wanted)
    if not right:
        return settled
    source.sweep.runs.mkdir(parents=True, exist_ok=True)
    for wanted in right:
        if wanted.is_new:
            _mark(source.incoming / wanted.run.id, wanted)
    sync_file_system(source.incoming)  # what gets its name now is whole, after a power cut too
    for wanted in right:
        _place(source.incoming / wanted.run.id, wanted)
        settled.placed.append(wanted)
    fsync_folder(source.sweep.runs)
    with suppress(OSError):  # a disk that is full: what has its place now is worth more than a note of where it is from
        for wanted in right:
            source.note(wanted.run.id, sha256=wanted.run.sha256, files=wanted.files)
    return settled


def _problem(folder: Path, wanted: Wanted) -> str:
    """Return which file is not what it should be, having removed it; "" where all are right."""
    for name, file in wanted.files.items():
        if not _is(folder / name, file):
            with suppress(FileNotFoundError):
                (folder / name).unlink()
            return f"{name} is not what the run's manifest says"
    if RESULT in wanted.files:
        try:
            if read_result(folder).get("run_id") != wanted.run.id:
                return f"{RESULT} is that of another run"
        except PublishError as error:
            return str(error)
    return ""


def _mark(folder: Path, wanted: Wanted) -> None:
    assert wanted.run.files is not None
    mark_absent(folder, [name for name in wanted.run.files if _size(folder / name) < 0])


def _place(folder: Path, wanted: Wanted) -> None:
    """Give a new run its name, or a run that is held in part what it lacked."""
    if wanted.is_new:
        wanted.target.parent.mkdir(parents=True, exist_ok=True)
        if not rename_exclusive(folder, wanted.target, flush=False):
            raise PublishError(
                f"{wanted.target} came from elsewhere at this moment; give the same command again: it is compared then"
            )
        return
    for name in wanted.files:
        os.link(folder / name, wanted.target / name)
    fsync_folder(wanted.target)
    _mark(wanted.target, wanted)
    shutil.rmtree(folder)


def finish_placing(source: Source) -> None:
    """Do what is left of runs whose files a pull had linked into their places when it was killed.

    Raises:
        OSError: the disk is full …
    """
    with suppress(FileNotFoundError):
        for folder in list(source.incoming.iterdir()):
            beside = source.sweep.differs.glob(f"{folder.name}.*")
            for target in (source.sweep.runs / folder.name, *beside):
                if all(_is_same(path, target / path.name) for path in folder.iterdir()):
                    mark_absent(target, absent_files(target))
                    shutil.rmtree(folder)
                    break


def _is_same(path: Path, other: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(path.lstat(), other.lstat())
    return False


def verified(sweep: SweepDir, run: str) -> str:
    """Return the sha256 of the result.json of a run of which every file is at home and right.

    Raises:
        PublishError: one is not; names it.
    """
    verify(sweep.run(run))
    if absent_files(sweep.run(run)):
        mark_absent(sweep.run(run), [])
    return result_sha256(sweep.run(run))
