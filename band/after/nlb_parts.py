"""A run's trials as the benchmark's two sides, and files of the benchmark read and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from band.after.infer import writing
from band.after.nlb import Part
from band.data.hdf5 import open_hdf5
from band.errors import ConfigError, DataError
from band.train.outputs import SPLITS, Posterior, observed_split, rows_by_split
from band.train.run_model import Model
from band.train.scores import Observed
from band.train.trials import Trials


def part_of(model: Model, trials: Trials, posterior: list[Posterior], *, splits: Sequence[str]) -> Part:
    """Return the trials of some splits in the order of the recording.

    Raises:
        ConfigError: no such split, or the run has several sessions, which the benchmark's files have no place for.
    """
    if len(trials.sessions) > 1:
        raise ConfigError(f"{model.folder}: has {len(trials.sessions)} recording sessions, the benchmark takes one")
    if unknown := [name for name in splits if name not in SPLITS]:
        raise ConfigError(f"splits must be of {', '.join(SPLITS)}, got {unknown[0]!r}")
    session, source = trials.sessions[0], posterior[0]
    rows = rows_by_split(session, 0)
    chosen = np.concatenate([np.arange(rows[name].start, rows[name].stop) for name in splits])
    order = source.index[chosen].argsort()
    observed = [observed_split(session, name, 0, model.config) for name in splits]
    return Part(observed=_joined(observed, order), rates=source.arrays["output_params"][chosen[order]])


def _joined(parts: list[Observed], order: np.ndarray) -> Observed:
    """Return the trials of several splits as one, in the given order."""
    arrays = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts])[order]
        for f in fields(Observed)
        if isinstance(getattr(parts[0], f.name), np.ndarray)
    }
    return replace(parts[0], **arrays)


def write_submission(path: Path, group: str, arrays: dict[str, np.ndarray], *, replace_file: bool = False) -> None:
    """Write a submission file of one dataset.

    Raises:
        DataError: the file is there already, or cannot be written.
    """
    with writing(path, replace_file=replace_file) as temporary, h5py.File(temporary, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(f"{group}/{name}", data=values, compression="gzip")


def read_targets(path: Path, group: str) -> dict[str, Any]:
    """Return what the benchmark's file of targets has for one dataset.

    Raises:
        DataError: the file cannot be read, or lacks the dataset.
    """
    with open_hdf5(path) as file:
        if group not in file or "eval_spikes_heldout" not in file[group]:
            raise DataError(f"{path}: has no targets of {group}; it has {', '.join(file)}")
        return {name: item[()] for name, item in file[group].items() if hasattr(item, "shape")}
