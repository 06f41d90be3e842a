"""A recording session as spike times, signals and a table of trials, cut into trials or binned as it runs on.

Axes: n trial, T bin, N neuron, K channel. Times are seconds on the recording's clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from band.data.hdf5 import SPLIT_NAMES
from band.data.importers.binning import Signal, bin_edges, count_spikes, is_observed, resample
from band.errors import ConfigError, DataError, did_you_mean

SPLIT_WORDS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
NO_SPLIT = ("none", "", "nan")  # trials that belong to no split and are left out

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Session:
    """What was recorded.

    Args:
        path: the file.
        spike_times: of each neuron, (spikes,) seconds.
        is_held_out: (N,), neurons that are explained but not encoded.
        observed: of each neuron, intervals (m, 2) in which it was recorded; None: always.
        signals: by name.
        trials: the table, by column, (n,) each; "start_time" and "stop_time" are seconds. None: it has no trials.
    """

    path: Path
    spike_times: Sequence[np.ndarray]
    is_held_out: np.ndarray
    observed: Sequence[np.ndarray] | None = None
    signals: Mapping[str, Signal] = field(default_factory=dict)
    trials: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a session becomes bins."""

    bin_ms: float = 10.0
    align: str = "start_time"  # column of the trials with the time that is bin 0 of the window
    window_ms: tuple[float, float] | None = None  # begin and end around it; None: to the end of each trial
    is_continuous: bool = False  # bin it as it runs on, without regard to trials
    behavior: tuple[str, ...] = ()  # signals, their channels one after the other
    ext_input: tuple[str, ...] = ()
    lag_ms: float = 0.0  # behaviour is read this much later than the counts beside it
    cond: tuple[str, ...] = ()  # columns whose values together are the condition
    keep: tuple[str, ...] = ()  # "COLUMN=VALUE": trials that have it; other trials are left out
    split: str = "split"  # column with train, val or test; trials of none of them are left out
    hold_out: bool = True  # whether held-out neurons are kept from the encoder

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bin_ms) and self.bin_ms > 0):
            raise ConfigError(f"--bin-ms must be above 0, got {self.bin_ms}")
        if not math.isfinite(self.lag_ms):
            raise ConfigError(f"--lag-ms must be a number of ms, got {self.lag_ms}")
        if self.window_ms is not None:
            begin, end = self.window_ms
            bins = (end - begin) / self.bin_ms
            if not (math.isfinite(bins) and bins >= 1 and abs(bins - round(bins)) < 1e-6):
                raise ConfigError(
                    f"--window must be a whole number of bins of {self.bin_ms:g} ms, got {begin:g} to {end:g} ms"
                )


def checked_signal(path: Path, name: str, signal: Signal) -> Signal:
    """Return a signal whose times are known to be one a sample, finite and rising.

    Raises:
        DataError: they are not.
    """
    times, rows = signal.times, len(signal.values)
    if times.shape != (rows,) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise DataError(
            f"{path}: the times of signal {name} must be {rows} finite numbers that rise, one a sample, found "
            f"{times.shape}, {int((np.diff(times) <= 0).sum()) if times.ndim == 1 else 'some'} of them not rising"
        )
    return signal


def split_words(path: Path, column: str, values: np.ndarray) -> np.ndarray:
    """Return the split that each of some words (n,) names, "" for none.

    Raises:
        DataError: a word names no split.
    """
    words = [str(word).strip().lower() for word in values.tolist()]
    unknown = sorted(set(words) - set(SPLIT_WORDS) - set(NO_SPLIT))
    if unknown:
        raise DataError(
            f"{path}: {column} must hold train, val or test for each trial, found {unknown[0]!r}; give the right "
            "column with --split-column"
        )
    return np.array([SPLIT_WORDS.get(word, "") for word in words], dtype="U5")


def bin_session(session: Session, cut: Cut) -> tuple[Arrays, tuple[str, ...]]:
    """Return the arrays of a file by name, and a sentence on each thing decided or left out.

    Raises:
        DataError: the session lacks what was asked for, or nothing is left of it.
    """
    if not len(session.spike_times):
        raise DataError(f"{session.path}: units must hold at least one neuron, found none")
    if cut.is_continuous or session.trials is None:
        return _run_on(session, cut)
    return _trials(session, cut)


def _trials(session: Session, cut: Cut) -> tuple[Arrays, tuple[str, ...]]:
    assert session.trials is not None
    event = _times(session, cut.align)
    kept, split, notes = _chosen(session, cut, event)
    begin_ms, ends_s = (cut.window_ms or (0.0, 0.0))[0], None
    if cut.window_ms is not None:
        num_bins = round((cut.window_ms[1] - cut.window_ms[0]) / cut.bin_ms)
    else:
        stop = _times(session, "stop_time")[kept]
        ends_s = np.where(np.isfinite(stop), stop, -np.inf)  # a trial without an end has no bin before it
        num_bins = int(np.floor(max(0.0, float((ends_s - event[kept]).max())) * 1000 / cut.bin_ms + 1e-6))
        if num_bins < 1:
            raise DataError(f"{session.path}: stop_time must lie a bin or more after {cut.align}; give --window")
    begin = event[kept] + begin_ms / 1000
    edges = bin_edges(begin, num_bins=num_bins, bin_ms=cut.bin_ms)
    pooled = _courses(session, cut, edges)
    if ends_s is not None:
        beyond = edges[:, 1:] > np.rint(ends_s * 1e6)[:, None]
        for key, values in pooled.items():
            values[beyond] = 0.0 if key == "ext_input" else np.nan
    seen = ~np.isnan(pooled["encod_data"]).all(axis=(1, 2))
    if not seen.all():
        notes += (f"{int((~seen).sum())} trials in which no neuron was recorded left out",)
    pooled |= {"inds": np.flatnonzero(kept), "start_ms": edges[:, 0] / 1000}
    if cut.cond:
        pooled["cond"] = _condition(session, cut.cond)[kept]
    own = {name: values[kept] for name, values in session.trials.items() if name not in pooled}
    return _by_split({**own, **pooled}, np.where(seen, split[kept], "")), notes


def _by_split(pooled: Arrays, split: np.ndarray) -> Arrays:
    names = [name for name in SPLIT_NAMES if name in split]
    return {f"{name}_{key}": values[split == name] for name in names for key, values in pooled.items()}


def _run_on(session: Session, cut: Cut) -> tuple[Arrays, tuple[str, ...]]:
    spikes, observed = np.concatenate(session.spike_times), session.observed
    times = spikes if observed is None else np.concatenate([np.ravel(one) for one in observed])
    times = times[np.isfinite(times)]
    first, last = (float(times.min()), float(times.max())) if len(times) else (0.0, 0.0)
    num_bins = int(np.floor((last - first) * 1000 / cut.bin_ms + 1e-6)) + (observed is None and len(times) > 0)
    if num_bins < 1:
        raise DataError(f"{session.path}: spike_times must span at least a bin of {cut.bin_ms:g} ms, found less")
    edges = bin_edges(np.array([first]), num_bins=num_bins, bin_ms=cut.bin_ms)
    arrays = {key: values[0] for key, values in _courses(session, cut, edges).items()}
    arrays["clock_ms"] = edges[0, :-1] / 1000
    return arrays, (f"runs on for {num_bins} bins: cut it into windows with band-data chop",)


def _courses(session: Session, cut: Cut, edges: np.ndarray) -> Arrays:
    """Return counts, behaviour and inputs in the bins between edges (n, T + 1)."""
    held_out = session.is_held_out.astype(bool) & cut.hold_out
    order = np.concatenate([np.flatnonzero(~held_out), np.flatnonzero(held_out)])
    if held_out.all():
        raise DataError(
            f"{session.path}: heldout must leave a neuron to encode, but all are held out; give --all-units"
        )
    recon = count_spikes([session.spike_times[i] for i in order], edges)
    if session.observed is not None:
        for place, neuron in enumerate(order):
            recon[..., place][~is_observed(session.observed[neuron], edges)] = np.nan
    courses = {"encod_data": recon[..., : int((~held_out).sum())].copy(), "recon_data": recon}
    for key, names, lag in (("behavior", cut.behavior, cut.lag_ms), ("ext_input", cut.ext_input, 0.0)):
        if names:
            parts = [resample(_signal(session, name), edges, lag_ms=lag) for name in names]
            courses[key] = np.concatenate(parts, axis=-1)
    return courses


def _chosen(session: Session, cut: Cut, event: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return which trials are kept (n,), the split of each (n,), and what was left out."""
    assert session.trials is not None
    notes = []
    kept = np.isfinite(event)
    if not kept.all():
        notes.append(f"{int((~kept).sum())} trials without {cut.align} left out")
    for wish in cut.keep:
        column, _, value = wish.partition("=")
        has_it = np.array([str(found) == value for found in _column(session, column).tolist()])
        notes.append(f"{int((kept & ~has_it).sum())} trials without {wish} left out")
        kept &= has_it
    split = np.full(len(event), "train", dtype="U5")
    if cut.split in session.trials:
        split = split_words(session.path, cut.split, session.trials[cut.split])
        if (kept & (split == "")).any():
            notes.append(f"{int((kept & (split == '')).sum())} trials of no split left out")
        kept &= split != ""
    if not kept.any():
        raise DataError(
            f"{session.path}: trials must hold one that is kept, found none; {'; '.join(notes) or 'no trial'}"
        )
    return kept, split, tuple(notes)


def _condition(session: Session, columns: tuple[str, ...]) -> np.ndarray:
    values = [_column(session, name) for name in columns]
    if len(values) == 1:
        return values[0]
    return np.array(["/".join(str(value) for value in row) for row in zip(*(v.tolist() for v in values), strict=True)])


def _column(session: Session, name: str) -> np.ndarray:
    assert session.trials is not None
    if name not in session.trials:
        raise DataError(f"{session.path}: trials have no column {name!r}; {did_you_mean(name, session.trials)}")
    return session.trials[name]


def _times(session: Session, name: str) -> np.ndarray:
    values = _column(session, name)
    if values.dtype.kind not in "biuf":
        raise DataError(f"{session.path}: column {name} of the trials must hold times in seconds, found {values.dtype}")
    return values.astype(np.float64)


def _signal(session: Session, name: str) -> Signal:
    if name not in session.signals:
        known = did_you_mean(name, session.signals) if session.signals else "it has no signals"
        raise DataError(f"{session.path}: there is no signal {name!r}; {known}")
    return session.signals[name]
