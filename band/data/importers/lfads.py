"""HDF5 files of lfads-torch and BAND-torch: one a session, or one a fold of a session (NAME_cv0.h5, NAME_cv1.h5 …)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cmp_to_key
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from band.data.hdf5 import NUMBERS_BYTES, SPLIT_NAMES, TEXT_BYTES, datasets, is_text, open_hdf5, reading, split_of
from band.data.importers.imported import Imported, text_attributes
from band.errors import DataError

FOLD = re.compile(r"(?P<stem>.+)_cv(?P<fold>\d+)")
WIDTH = re.compile(r"(?<![0-9A-Za-z])0*(\d+(?:\.\d+)?)ms(?![0-9A-Za-z])")
IDENTITY = ("encod_data", "recon_data", "behavior")  # what makes two trials of two fold files the same

Arrays = dict[str, np.ndarray]


def stem_of(path: Path) -> str:
    """Return the name of the recording that a file belongs to: that of the file, without its fold."""
    found = FOLD.fullmatch(path.stem)
    return found["stem"] if found else path.stem


def read_lfads(paths: Sequence[Path], *, name: str, bin_ms: float | None = None) -> Imported:
    """Return one recording of one file, or of the files of its folds.

    Args:
        paths: one file, or all fold files of one recording, in any order.
        name: of the recording.
        bin_ms: width of a bin; None: the file's attribute, else what its name says ("…-10ms.h5").

    Raises:
        DataError: a file cannot be read, or fold files do not hold the same trials in different folds.
    """
    read = [_read(path) for path in sorted(paths, key=_fold_of)]
    arrays, attributes = read[0]
    notes: tuple[str, ...] = ()
    if len(paths) > 1:
        arrays, notes = _join_folds(sorted(paths, key=_fold_of), [found for found, _ in read])
    width = bin_ms if bin_ms is not None else attributes.get("bin_ms")
    if width is None and (said := WIDTH.search(paths[0].stem)):
        width = float(said[1])
        notes += (f"bins of {width:g} ms, as the file's name says",)
    kept = {key: value for key, value in attributes.items() if key != "bin_ms"}
    return Imported(
        name=name, sources=tuple(sorted(paths)), format="lfads", arrays=arrays, bin_ms=width,
        attributes=kept, notes=notes,
    )  # fmt: skip


def is_lfads(path: Path) -> bool:
    """Return whether an HDF5 file has the names of lfads-torch's layout."""
    with open_hdf5(path) as file:
        return "train_encod_data" in file


def _fold_of(path: Path) -> int:
    found = FOLD.fullmatch(path.stem)
    return int(found["fold"]) if found else -1


def _read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    arrays: Arrays = {}
    with open_hdf5(path) as file:
        for name, dataset in datasets(file, path).items():
            with reading(path, name, memory_bytes=TEXT_BYTES if is_text(dataset) else NUMBERS_BYTES):
                values = np.asarray(dataset.asstr()[()] if dataset.dtype.kind == "O" else dataset[()])
                arrays[name.replace("/", ".")] = values.astype(str) if values.dtype.kind in "OS" else values
        attributes = text_attributes(dict(file.attrs))
    if "train_encod_data" not in arrays:
        listed = ", ".join(arrays) or "nothing"
        raise DataError(
            f"{path}: must hold train_encod_data as lfads-torch's files do, found {listed}; name its --format"
        )
    return arrays, attributes


def _join_folds(paths: Sequence[Path], files: Sequence[Arrays]) -> tuple[Arrays, tuple[str, ...]]:
    """Return one set of trials, each once, with the number of the fold file that holds it out."""
    marks = [_marks(found) for found in files]
    _check_same_trials(paths, marks)
    held_out = "test" if all("test_encod_data" in f for f in files) and _differ(marks, "test") else "valid"
    fold = _fold_of_trials(paths, marks, held_out)
    shipped = [mark for split in marks[0].values() for mark in split]
    pooled = _pooled(files[0])
    place, how = _places(marks, pooled.get("inds"))
    rows = np.argsort(place)
    pooled |= {"inds": place, "fold": np.array([fold.get(mark, -1) for mark in shipped])}
    pooled = {key: values[rows] for key, values in pooled.items()}
    arrays: Arrays = {key: values for key, values in files[0].items() if split_of(key) is None}
    is_test = pooled["fold"] < 0  # a test split that all fold files share
    for split, which in (("train", ~is_test), ("test", is_test)):
        if which.any():
            arrays |= {f"{split}_{key}": values[which] for key, values in pooled.items()}
    count = len(files)
    folds = (
        f"{count} fold files hold the same {len(shipped)} trials: each is kept once, and fold is the file that has it "
        f"as {held_out}; data.split=grouped data.group_key=fold data.num_folds={count} trains on these folds"
    )
    return arrays, (folds, how)


def _pooled(found: Arrays) -> Arrays:
    splits = [name for name in SPLIT_NAMES if f"{name}_encod_data" in found]
    keys = [split[1] for name in found if (split := split_of(name)) and split[0] == splits[0]]
    whole = [key for key in keys if all(f"{name}_{key}" in found for name in splits)]
    return {key: np.concatenate([found[f"{name}_{key}"] for name in splits]) for key in whole}


def _marks(found: Arrays) -> dict[str, list[str]]:
    """Return a fingerprint of every trial of every split; copies of one trial are numbered."""
    marks: dict[str, list[str]] = {}
    seen: dict[str, int] = {}
    for split in SPLIT_NAMES:
        parts = [found[f"{split}_{key}"] for key in IDENTITY if f"{split}_{key}" in found]
        if not parts:
            continue
        marks[split] = []
        for trial in range(len(parts[0])):
            content = hashlib.sha256(
                b"".join(np.ascontiguousarray(part[trial]).tobytes() for part in parts)
            ).hexdigest()
            seen[content] = seen.get(content, -1) + 1
            marks[split].append(f"{content}.{seen[content]}")
    return marks


def _check_same_trials(paths: Sequence[Path], marks: Sequence[dict[str, list[str]]]) -> None:
    first = {mark for split in marks[0].values() for mark in split}
    for path, found in zip(paths[1:], marks[1:], strict=True):
        own = {mark for split in found.values() for mark in split}
        if own != first:
            raise DataError(
                f"{path}: encod_data must hold the {len(first)} trials of {paths[0].name}, in other folds, but "
                f"{len(own - first)} of its {len(own)} trials are not among them; they are different recordings: give "
                "them names without _cv, or import them one by one"
            )


def _differ(marks: Sequence[dict[str, list[str]]], split: str) -> bool:
    return any(set(found[split]) != set(marks[0][split]) for found in marks[1:])


def _fold_of_trials(paths: Sequence[Path], marks: Sequence[dict[str, list[str]]], held_out: str) -> dict[str, int]:
    fold: dict[str, int] = {}
    for number, found in enumerate(marks):
        for mark in found.get(held_out, []):
            if mark in fold:
                raise DataError(
                    f"{paths[number]}: {held_out}_encod_data must hold out trials that no other fold file holds out, "
                    f"but shares one with {paths[fold[mark]].name}; they are no folds: import them one by one"
                )
            fold[mark] = number
    rest = {mark for split, listed in marks[0].items() if split != "test" or held_out == "test" for mark in listed}
    if rest - set(fold):
        raise DataError(
            f"{paths[0]}: each trial must be held out by one fold file, but {len(rest - set(fold))} of {len(rest)} are "
            f"in none of {', '.join(path.name for path in paths)}; give all fold files, or import one alone"
        )
    return fold


def _places(marks: Sequence[dict[str, list[str]]], inds: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Return each shipped trial's place in the order of recording, and how that is known.

    Of three folds or more, any two trials stand in the same split of one of them, and tell which came first.
    """
    shipped = [mark for split in marks[0].values() for mark in split]
    if inds is not None and len(np.unique(inds)) == len(shipped):
        return inds.astype(np.int64), "the order of recording is that of the files' own inds"
    splits = [{mark: at for at, mark in enumerate(split)} for found in marks for split in found.values()]

    def compare(one: str, other: str) -> int:
        return next((at[one] - at[other] for at in splits if one in at and other in at), 0)

    order = sorted(shipped, key=cmp_to_key(compare))
    place = {mark: at for at, mark in enumerate(order)}
    is_told = all(compare(a, b) for a, b in pairwise(order))
    is_told &= all(place[a] < place[b] for split in splits for a, b in pairwise(split))
    if is_told:
        return np.array([place[mark] for mark in shipped]), "inds is the order of recording, as the folds tell it"
    how = "inds is the order of the first fold file: the folds are shuffled, so that of recording cannot be told"
    return np.arange(len(shipped)), how
