"""Neurodata Without Borders, as the Neural Latents Benchmark and DANDI have it: units, trials and signals of a file.

Read with pynwb, an extra of its own: `pip install 'band-sweep[nwb]'`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from band.data.importers.binning import Signal
from band.data.importers.imported import Attributes
from band.data.importers.session import Arrays, Session, checked_signal
from band.errors import ConfigError, DataError, did_you_mean

CREDITS = (
    "identifier", "session_id", "session_description", "session_start_time", "experimenter", "institution", "lab",
    "related_publications", "keywords",
)  # fmt: skip


def nwb_stem_of(path: Path) -> str:
    """Return the name of the recording that a file belongs to: of NLB's, without the part that it is."""
    return re.sub(r"_desc-(train|test)(_[\w+]+)?$", "", path.stem)


def read_nwb(path: Path, *, signals: Sequence[str] = ()) -> tuple[Session, Attributes]:
    """Return the session of an NWB file, and who recorded it.

    Units need `spike_times`; a column `heldout` tells the neurons that NLB holds out, `obs_intervals` when each was
    recorded.

    Args:
        path: the file.
        signals: names of the time series to read, in their units; "PARENT/NAME" where two have the same name.

    Raises:
        ConfigError: pynwb is not installed.
        DataError: the file is no NWB file that pynwb can read, has no units, or not one signal of a name.
    """
    try:
        import pynwb
    except ImportError as error:
        raise ConfigError("reading NWB needs pynwb; install it with: pip install 'band-sweep[nwb]'") from error
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pynwb warns of each name that a later version of the format spells otherwise
        try:
            with pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True) as io:
                file = io.read()
                series = [item for item in file.objects.values() if isinstance(item, pynwb.TimeSeries)]
                return _session(path, file, {name: _signal(path, name, series) for name in signals}), _credits(file)
        except DataError:
            raise
        except Exception as error:  # whatever pynwb, hdmf and h5py make of a damaged file
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise DataError(
                f"{path}: must be a complete NWB file, but reading it failed: {reason}; it may be truncated, damaged "
                "or of another format: copy it again, or name its --format"
            ) from error


def with_test_file(arrays: Arrays, tested: Arrays, *, path: Path) -> Arrays:
    """Return the arrays of NLB's file to train on, with the trials of its test file as the test split.

    There the benchmark keeps held-out neurons, behaviour and conditions to itself: they are missing, as NaN or, of a
    condition, as -1 or "".

    Args:
        arrays: of the file to train on, by name.
        tested: of the test file, by name; it has the neurons that are encoded alone.
        path: the test file, for messages.

    Raises:
        DataError: the file has other neurons, or trials of other splits.
    """
    others = sorted({name.split("_")[0] for name in tested} - {"test"})
    if others or "test_encod_data" in arrays:
        raise DataError(f"{path}: split must be test for each trial, and for none of the other file; import them apart")
    counts, like = tested["test_encod_data"], arrays["train_recon_data"]
    if counts.shape[1:] != arrays["train_encod_data"].shape[1:]:
        raise DataError(
            f"{path}: units must be the {arrays['train_encod_data'].shape[2]} that the other file encodes, in as many "
            f"bins, found {counts.shape[2]} in {counts.shape[1]} bins; import it apart"
        )
    recon = np.full((len(counts), *like.shape[1:]), np.nan, dtype=np.float32)
    recon[..., : counts.shape[2]] = counts
    first = 1 + max(int(values.max()) for name, values in arrays.items() if name.endswith("_inds"))
    found = {**tested, "test_recon_data": recon, "test_inds": tested["test_inds"] + first}
    if "train_behavior" in arrays:
        found["test_behavior"] = np.full((len(counts), *arrays["train_behavior"].shape[1:]), np.nan, dtype=np.float32)
    if "train_cond" in arrays:
        found["test_cond"] = np.full(len(counts), "" if arrays["train_cond"].dtype.kind == "U" else -1)
    return {**arrays, **found}


def _session(path: Path, file: Any, signals: dict[str, Signal]) -> Session:
    units = file.units
    if units is None or "spike_times" not in units.colnames or not len(units):
        raise DataError(
            f"{path}: units must hold spike_times of at least one neuron, found none; it is not spike-sorted"
        )
    count = len(units)
    held_out = (
        np.asarray(units["heldout"].data[:], dtype=bool) if "heldout" in units.colnames else np.zeros(count, bool)
    )
    observed = None
    if "obs_intervals" in units.colnames:
        observed = [np.asarray(units["obs_intervals"][i], dtype=np.float64).reshape(-1, 2) for i in range(count)]
    return Session(
        path=path,
        spike_times=[np.asarray(units["spike_times"][i], dtype=np.float64) for i in range(count)],
        is_held_out=held_out,
        observed=observed,
        signals=signals,
        trials=None if file.trials is None else _table(path, file.trials),
    )


def _table(path: Path, trials: Any) -> dict[str, np.ndarray]:
    """Return the columns that hold one number or text a trial; `id` is left to the order of the rows."""
    columns = {}
    for name in trials.colnames:
        values = trials[name]
        if len(getattr(values, "data", values)) != len(trials) or hasattr(values, "target"):
            continue
        found = np.asarray(values.data[:] if hasattr(values, "data") else values[:])
        if found.dtype.kind in "OS" and all(isinstance(v, (str, bytes)) for v in found.ravel().tolist()):
            found = np.array([v.decode() if isinstance(v, bytes) else v for v in found.ravel().tolist()])
        if found.shape == (len(trials),) and found.dtype.kind in "biufU":
            columns[name] = found
    if not {"start_time", "stop_time"} <= set(columns):
        raise DataError(f"{path}: trials must have start_time and stop_time, found {', '.join(columns) or 'no column'}")
    return columns


def _signal(path: Path, name: str, series: list[Any]) -> Signal:
    matching = [item for item in series if name in (item.name, _full_name(item))]
    if len(matching) != 1:
        names = [_full_name(item) for item in matching or series]
        known = f"choose from {', '.join(names)}" if matching else did_you_mean(name, [item.name for item in series])
        raise DataError(f"{path}: there must be one signal {name!r}, found {len(matching)}; {known}")
    (found,) = matching
    values = np.asarray(found.data[:])
    if values.ndim not in (1, 2) or not len(values) or values.dtype.kind not in "biuf":
        raise DataError(f"{path}: signal {name} must hold numbers (time, channel), found {values.dtype} {values.shape}")
    values = values.astype(np.float64).reshape(len(values), -1) * found.conversion + (found.offset or 0.0)
    if found.timestamps is not None:
        times = np.asarray(found.timestamps[:], dtype=np.float64)
    else:
        times = np.arange(len(values)) / found.rate + found.starting_time
    return checked_signal(path, name, Signal(times=times, values=values))


def _full_name(series: Any) -> str:
    return f"{series.parent.name}/{series.name}" if series.parent is not None else str(series.name)


def _credits(file: Any) -> Attributes:
    """Return who recorded the file and where that is described, as attributes named `source_…`."""
    kept: Attributes = {}
    for name in CREDITS:
        value = getattr(file, name, None)
        if value is not None and len(str(value)):
            kept[f"source_{name}"] = "; ".join(map(str, np.atleast_1d(value).tolist()))
    if file.subject is not None and file.subject.subject_id:
        kept["source_subject"] = f"{file.subject.subject_id} ({file.subject.species or 'species not given'})"
    return kept
