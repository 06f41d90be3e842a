"""A recording: the trials of every shipped split of one HDF5 file, pooled, checked, and never written to."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from band.data.checks import (
    MAY_MISS,
    RANKS,
    Layout,
    Spec,
    check_finite,
    check_layout,
    check_observed,
    check_support,
    in_blocks,
)
from band.data.hdf5 import SPLIT_NAMES, TEXT_BYTES, blocks, datasets, open_hdf5, read_texts, reading, split_of
from band.data.overlap import check_no_shared_trials
from band.errors import DataError

RESIDENT_BYTES = 4 * 2**30  # arrays beyond this in sum are mapped from scratch instead of held in memory


@dataclass(frozen=True)
class Recording:
    """The trials of a file, pooled over its splits in the order train, valid, test.

    Args:
        path: the file they came from.
        bin_ms: width of a time bin in milliseconds, None where nobody gave it.
        arrays: by key without its split's prefix, first axis the n pooled trials: "encod_data" (n, T, N) and
            "recon_data" (n, R, N') counts, and where the file has them "behavior" (n, T or R, K), "ext_input",
            "truth" (n, R, N') expected counts a bin, "cond" (n,), any other array a trial, and always "inds" (n,).
            Numbers are float32 where a trial has many; NaN marks missing counts and behaviour. Read-only. A chopped
            recording (`band.data.chop`) has "segment" (n,) and "window_start" (n,), which tell what overlaps.
        origin_split: (n,), the split the file ships the trial in.
        origin_index: (n,), its place within that split.
        has_inds: whether "inds" is the file's own; else it is the trial's place in the pool.
        left_out: names in the file that are no array a trial in every split, and were left alone.
        session: name of the group of the file that holds this session; empty where the file holds one alone.
        neurons: (N',), the file's column of each reconstructed neuron where they were put in another order, else None.
    """

    path: Path
    bin_ms: float | None
    arrays: dict[str, np.ndarray]
    origin_split: np.ndarray
    origin_index: np.ndarray
    has_inds: bool = False
    left_out: tuple[str, ...] = ()
    session: str = ""
    neurons: np.ndarray | None = None

    @property
    def num_trials(self) -> int:
        """Number of pooled trials."""
        return len(self.origin_split)

    def where(self, key: str, trial: int) -> str:
        """Return a pooled trial's place in the file, such as "valid_behavior trial 3"."""
        return f"{self.origin_split[trial]}_{key} trial {self.origin_index[trial]}"


def open_recording(
    path: str | os.PathLike[str],
    *,
    bin_ms: float | None = None,
    likelihood: str | None = "poisson",
    missing: str = "auto",
    resident_bytes: int = RESIDENT_BYTES,
) -> Recording:
    """Return the checked trials of an HDF5 file that holds one recording session; see `open_sessions`.

    Raises:
        DataError: as of `open_sessions`, or the file holds several sessions.
    """
    sessions = open_sessions(path, bin_ms=bin_ms, likelihood=likelihood, missing=missing, resident_bytes=resident_bytes)
    if len(sessions) > 1:
        names = ", ".join(recording.session for recording in sessions)
        raise DataError(f"{path}: must hold one recording session, found {len(sessions)} ({names})")
    return sessions[0]


def open_sessions(
    path: str | os.PathLike[str],
    *,
    bin_ms: float | None = None,
    likelihood: str | None = "poisson",
    missing: str = "auto",
    resident_bytes: int = RESIDENT_BYTES,
) -> tuple[Recording, ...]:
    """Return the checked trials of every recording session of an HDF5 file in the layout of lfads-torch.

    A file of several sessions has that layout in a group each, such as `day1/train_encod_data`; they come by name.

    Args:
        path: the file; opened for reading only.
        bin_ms: width of a time bin; None takes the file's attribute `bin_ms`, where it has one.
        likelihood: whose support the reconstructed data must lie in, a key of `checks.SUPPORTS`; None: values
            are not looked at, as an inspection of a file that may be bad needs it.
        missing: whether NaN in counts and behaviour stands for what was not observed ("mask"), or is refused; "auto"
            refuses it unless the file's attribute `missing` is "mask".
        resident_bytes: above this size in sum, arrays are memory-mapped from an unnamed file on scratch
            ($BAND_SCRATCH), which vanishes with the process however it ends.

    Raises:
        DataError: the file cannot be read, or breaks a rule of `checks`.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        width = bin_ms if bin_ms is not None else file_bin_ms(file, path)
        with reading(path, "its attributes", memory_bytes=TEXT_BYTES):
            missing = "mask" if str(file.attrs.get("missing", "")) == "mask" else missing
        sessions = _by_session(datasets(file, path))
        each = resident_bytes // len(sessions)
        recordings = tuple(
            _read_session(path / name if name else path, name, found, width, resident_bytes=each)
            for name, found in sessions.items()
        )
    if likelihood is not None:
        for recording in recordings:
            check_values(recording, likelihood=likelihood, missing=missing)
    return recordings


def _by_session(found: dict[str, h5py.Dataset]) -> dict[str, dict[str, h5py.Dataset]]:
    """Return the arrays of each session under their names in its group; of one without a name, all of the file."""
    groups = sorted({name.rpartition("/")[0] for name in found if name.endswith("/train_encod_data")})
    if not groups or "train_encod_data" in found:
        return {"": found}
    return {
        group: {name[len(group) + 1 :]: array for name, array in found.items() if name.startswith(f"{group}/")}
        for group in groups
    }


def _read_session(
    path: Path, session: str, found: dict[str, h5py.Dataset], width: float | None, *, resident_bytes: int
) -> Recording:
    layout, left_out = _layout(found)
    if not layout and "encod_data" in found:
        raise DataError(f"{path}: must hold trials, but runs on; cut it into windows with band-data chop")
    check_layout(layout, path=path)
    on_disk = _pooled_bytes(layout) > resident_bytes
    arrays = {key: _pool(found, key, layout, path, on_disk=on_disk) for key in layout["train"]}
    counts = {split: specs["encod_data"].shape[0] for split, specs in layout.items()}
    has_inds = "inds" in arrays
    if not has_inds:
        arrays["inds"] = _frozen(np.arange(sum(counts.values())))
    return Recording(
        path=path,
        bin_ms=width,
        arrays=arrays,
        origin_split=np.repeat(list(counts), list(counts.values())),
        origin_index=np.concatenate([np.arange(count) for count in counts.values()]),
        has_inds=has_inds,
        left_out=left_out,
        session=session,
    )


def check_values(recording: Recording, *, likelihood: str = "poisson", missing: str = "auto") -> None:
    """Check the values of a recording: finite, in the likelihood's support, no trial in two shipped splits.

    What is encoded must be counts where counts are reconstructed; for other likelihoods any finite value will do.

    Args:
        recording: the recording.
        likelihood: a key of `checks.SUPPORTS`.
        missing: "mask" lets NaN stand in counts and behaviour, for what was not observed.

    Raises:
        DataError: a rule is broken.
    """
    for key, values in recording.arrays.items():
        where = lambda trial, key=key: recording.where(key, trial)  # noqa: E731
        if key == "recon_data" or (key == "encod_data" and likelihood == "poisson"):
            check_support(values, path=recording.path, where=where, likelihood=likelihood, missing=missing)
        elif key in RANKS and values.dtype.kind == "f":
            may_miss = missing if key in MAY_MISS else "auto"
            check_finite(values, path=recording.path, where=where, missing=may_miss)
        if key == "encod_data":
            check_observed(values, path=recording.path, where=where)
    if not any(np.nan_to_num(block).any() for _, block in in_blocks(recording.arrays["recon_data"])):
        raise DataError(f"{recording.path}: recon_data must hold at least one count above 0, found none in any trial")
    shipped = {split: np.flatnonzero(recording.origin_split == split) for split in SPLIT_NAMES}
    check_no_shared_trials(
        recording.arrays, shipped, path=recording.path, where=recording.where, has_inds=recording.has_inds
    )


def _layout(found: dict[str, h5py.Dataset]) -> tuple[Layout, tuple[str, ...]]:
    """Return what each split declares, and the names that are no array a trial in every split."""
    every: Layout = {}
    for split in SPLIT_NAMES:
        for name, dataset in found.items():
            if (named := split_of(name)) and named[0] == split:
                is_text = h5py.check_string_dtype(dataset.dtype) is not None or dataset.dtype.kind in "SU"
                every.setdefault(split, {})[named[1]] = Spec(dataset.shape, is_text)
    kept = {
        split: {k: s for k, s in specs.items() if k in RANKS or _is_whole(k, every)} for split, specs in every.items()
    }
    names = {f"{split}_{key}" for split, specs in kept.items() for key in specs}
    return kept, tuple(name for name in found if name not in names)


def _is_whole(key: str, layout: Layout) -> bool:
    """Return whether a foreign key is one array a trial, alike in every split."""
    trials = {split: specs["encod_data"].shape[:1] for split, specs in layout.items() if "encod_data" in specs}
    alike = all(key in specs and specs[key].shape[:1] == trials.get(split) for split, specs in layout.items())
    return alike and len({specs[key].shape[1:] for specs in layout.values()}) == 1


def _pooled_bytes(layout: Layout) -> int:
    return sum(4 * math.prod(spec.shape) for specs in layout.values() for spec in specs.values())


def _pool(found: dict[str, h5py.Dataset], key: str, layout: Layout, path: Path, *, on_disk: bool) -> np.ndarray:
    """Return one key of all splits as one read-only array."""
    parts = [found[f"{split}_{key}"] for split in layout]
    if layout["train"][key].is_text:
        with reading(path, f"a split of {key}", memory_bytes=TEXT_BYTES):
            return _frozen(np.concatenate([_texts(part) for part in parts]))
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    shape = shape[:1] if RANKS.get(key) == 1 else shape
    kinds = {part.dtype.kind for part in parts}
    has_fractions = RANKS.get(key) == 3 or "f" in kinds
    dtype = np.dtype((np.float64 if len(shape) == 1 else np.float32) if has_fractions else np.int64)
    pooled = _scratch_array(shape, dtype) if on_disk and len(shape) > 1 else np.empty(shape, dtype)
    start = 0
    for split, part in zip(layout, parts, strict=True):
        with reading(path, f"{split}_{key}"), np.errstate(over="ignore"):  # beyond float32 is infinite, and found so
            for block in blocks(part):
                rows = slice(start + block.start, start + block.stop)
                pooled[rows] = part[block].reshape(pooled[rows].shape)
        start += part.shape[0]
    return _frozen(pooled)


def _texts(dataset: h5py.Dataset) -> np.ndarray:
    texts = [text.decode(errors="replace") for text in read_texts(dataset)]
    return np.array(texts).reshape(dataset.shape[0])


def _scratch_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    folder = Path(os.environ.get("BAND_SCRATCH") or tempfile.gettempdir())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * dtype.itemsize)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        size = math.prod(shape) * dtype.itemsize
        raise DataError(
            f"{folder}: must have room to map {size:,} bytes of the recording, but {error.strerror}; "
            "set BAND_SCRATCH to a folder with room"
        ) from error


def _frozen(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


def file_bin_ms(file: h5py.File, path: Path) -> float | None:
    """Return the width of a time bin that the file gives in its attribute `bin_ms`, None where it gives none.

    Raises:
        DataError: it is no number above 0.
    """
    with reading(path, "its attributes", memory_bytes=TEXT_BYTES):
        given = file.attrs.get("bin_ms")
    if given is None:
        return None
    try:
        width = float(given)
    except (TypeError, ValueError):
        width = math.nan
    if not (math.isfinite(width) and width > 0):
        raise DataError(f"{path}: attribute bin_ms must be a number above 0, found {given!r}; set data.bin_ms")
    return width
