"""What a look at a recording should tell before anything is trained on it, as plain values and as lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from band.config import DataConfig
from band.data.continuity import find_joins
from band.data.hdf5 import SPLIT_NAMES
from band.data.overlap import overlapping_windows, same_trials
from band.data.recording import Recording, check_values, open_recording
from band.data.splits import make_split
from band.errors import DataError

NEARLY_SAME = 0.9  # correlation of two channels' counts, bin by bin
MAX_BINS = 50_000  # looked at for correlations
BARS = "▁▂▃▄▅▆▇█"


def inspect(path: Path, *, bin_ms: float | None = None) -> dict[str, Any]:
    """Return what can be told of a recording, in values that JSON can hold.

    Args:
        path: the file.
        bin_ms: width of a time bin; None takes the file's own, and without one rates are per bin.

    Raises:
        DataError: the file cannot be read, or its arrays do not fit together; bad values are only reported.
    """
    recording = open_recording(path, bin_ms=bin_ms, likelihood=None)
    arrays = recording.arrays
    keys = [key for key in arrays if key != "inds" or recording.has_inds]
    return {
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "bin_ms": recording.bin_ms,
        "trials": {s: int((recording.origin_split == s).sum()) for s in SPLIT_NAMES if s in recording.origin_split},
        "arrays": {key: {"shape": list(arrays[key].shape[1:]), "nan": _num_nan(arrays[key])} for key in keys},
        "left_out": list(recording.left_out),
        "channels": _channels(recording),
        "behavior": _behavior(arrays.get("behavior")),
        "conditions": _conditions(recording),
        "neighbours": _neighbours(recording),
        "default_split": _default_split(recording),
        "problems": _problems(recording),
    }


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the inspection as (label, text) lines that fit one screen."""
    width = found["bin_ms"]
    num_bins = found["arrays"]["encod_data"]["shape"][0]
    length = f" of {width:g} ms = {num_bins * width / 1000:g} s" if width else ", width unknown (--bin-ms gives it)"
    rows = [
        ("file", f"{found['path']}  ({found['size_bytes'] / 2**20:.1f} MiB)"),
        ("trials", ", ".join(f"{split} {count}" for split, count in found["trials"].items())),
        ("bins", f"{num_bins}{length}"),
        ("arrays", "  ".join(_array_text(key, entry) for key, entry in found["arrays"].items())),
    ]
    if found["left_out"]:
        rows.append(("left out", f"{_some(found['left_out'])}: not one array a trial in every split"))
    rows += _channel_lines(found["channels"])
    rows += [(f"behavior {i}", _behavior_text(entry)) for i, entry in enumerate(found["behavior"][:6])]
    if len(found["behavior"]) > 6:
        rows.append(("", f"and {len(found['behavior']) - 6} channels more"))
    rows += [("conditions", _condition_text(found["conditions"])), ("neighbours", found["neighbours"]["text"])]
    if found["default_split"]:
        rows.append(("split", found["default_split"]))
    rows += [("problem", text) for text in found["problems"]] or [("problems", "none found")]
    return rows


def _num_nan(values: np.ndarray) -> int:
    return int(np.isnan(values).sum()) if values.dtype.kind == "f" else 0


def _channels(recording: Recording) -> dict[str, Any]:
    counts = np.nan_to_num(recording.arrays["recon_data"])
    per_s = 1000 / recording.bin_ms if recording.bin_ms else 1.0
    rates = counts.mean(axis=(0, 1), dtype=np.float64) * per_s
    in_train = counts[recording.origin_split == "train"].any(axis=(0, 1))
    flat = counts.reshape(-1, counts.shape[-1])
    flat = flat[:: max(1, len(flat) // MAX_BINS)]
    same, near = _alike(flat)
    return {
        "unit": "Hz" if recording.bin_ms else "counts/bin",
        "num_encoded": int(recording.arrays["encod_data"].shape[-1]),
        "mean_rates": [round(float(rate), 6) for rate in rates],
        "silent": [int(i) for i in np.flatnonzero(rates == 0)],
        "silent_in_train": [int(i) for i in np.flatnonzero(~in_train & (rates > 0))],
        "duplicates": same,
        "near_duplicates": near,
        "largest_count": float(counts.max()),
    }


def _alike(flat: np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
    """Return pairs of channels with the same counts, and of those that nearly have."""
    centred = flat - flat.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(centred, axis=0)
    active = np.flatnonzero(norms > 0)
    unit = centred[:, active] / norms[active]
    pairs = np.argwhere(np.triu(unit.T @ unit, k=1) > NEARLY_SAME)
    named = [[int(active[i]), int(active[j])] for i, j in pairs]
    same = [pair for pair in named if np.array_equal(flat[:, pair[0]], flat[:, pair[1]])]
    return same, [pair for pair in named if pair not in same]


def _behavior(values: np.ndarray | None) -> list[dict[str, float | int | None]]:
    if values is None:
        return []
    found: list[dict[str, float | int | None]] = []
    with np.errstate(invalid="ignore"):  # a damaged file can hold signalling NaN
        wide = values.astype(np.float64)
    for channel in np.moveaxis(wide, -1, 0):
        finite = channel[np.isfinite(channel)]
        stats = (
            {"min": finite.min(), "max": finite.max(), "mean": finite.mean(), "std": finite.std()}
            if len(finite)
            else {}
        )
        entry: dict[str, float | int | None] = {name: round(float(value), 6) for name, value in stats.items()}
        found.append({**entry, "nan": int(channel.size - finite.size)})
    return found


def _conditions(recording: Recording) -> dict[str, dict[str, int]]:
    cond = recording.arrays.get("cond")
    if cond is None:
        return {}
    splits = list(dict.fromkeys(recording.origin_split.tolist()))
    return {
        str(label): {split: int(((cond == label) & (recording.origin_split == split)).sum()) for split in splits}
        for label in np.unique(cond)
    }


def _neighbours(recording: Recording) -> dict[str, Any]:
    """Return whether trials of different splits are the same, overlap, or follow each other, and one sentence on it."""
    splits = recording.origin_split
    shared = [[i, j] for i, j in same_trials(recording.arrays) if splits[i] != splits[j]]
    windows = overlapping_windows(recording.arrays)
    crossing = [window for window in windows if splits[window[0]] != splits[window[1]]]
    joins = find_joins(recording.arrays, splits)
    adjoining = int((splits[joins.order][1:] != splits[joins.order][:-1]).sum()) if joins.is_continuous else 0
    if shared:
        text = f"{len(shared)} trials stand in two splits: they are no test of each other"
    elif crossing:
        longest = max(window[2] for window in crossing)
        text = f"{len(crossing)} windows overlap one of another split (by up to {longest} bins): cut again by blocks"
    elif joins.is_continuous:
        text = f"one continuous recording: trials run on into the next (gain {joins.gain:.1f} nats a join)"
        text += f"; splits adjoin at {adjoining} places" if adjoining else ""
    elif windows:
        text = f"{len(windows)} windows overlap within a split, none across"
    else:
        text = "no trial is shared, overlaps another or runs on into the next"
    return {
        "shared": shared,
        "overlaps": len(windows),
        "overlaps_across_splits": len(crossing),
        "is_continuous": joins.is_continuous,
        "gain_nats": round(joins.gain, 3),
        "adjoining_places": adjoining,
        "text": text,
    }


def _default_split(recording: Recording) -> str:
    try:
        split = make_split(recording, DataConfig())
    except DataError:
        return ""
    return f"{len(split.train)} / {len(split.valid)} / {len(split.test)} trials train / valid / test: {split.how}"


def _problems(recording: Recording) -> list[str]:
    try:
        check_values(recording, missing="mask")
    except DataError as error:
        return [str(error).removeprefix(f"{recording.path}: ")]
    return []


def _array_text(key: str, entry: dict[str, Any]) -> str:
    shape = "×".join(str(size) for size in entry["shape"]) or "1"
    return f"{key} {shape}" + (f" ({entry['nan']} NaN: data.missing)" if entry["nan"] else "")


def _channel_lines(channels: dict[str, Any]) -> list[tuple[str, str]]:
    rates = np.array(channels["mean_rates"])
    low, median, high = np.quantile(rates, [0.0, 0.5, 1.0])
    held_out = len(rates) - channels["num_encoded"]
    count = f"{len(rates)}" + (f" ({held_out} held out)" if held_out else "")
    text = f"{count}, mean {rates.mean():.3g} {channels['unit']}, median {median:.3g}, from {low:.3g} to {high:.3g}"
    rows = [("neurons", f"{text}, at most {channels['largest_count']:g} in a bin")]
    rows.append(("rates", f"{_histogram(rates)}  neurons by mean rate, 0 to {high:.3g} {channels['unit']}"))
    for name, label in (("silent", "silent"), ("silent_in_train", "silent in train")):
        if channels[name]:
            rows.append((label, f"{len(channels[name])}: {_some(channels[name])}"))
    for name, label in (("duplicates", "duplicate"), ("near_duplicates", "nearly the same")):
        if channels[name]:
            rows.append((label, _some([f"{i}={j}" for i, j in channels[name]])))
    return rows


def _histogram(values: np.ndarray) -> str:
    counts, _ = np.histogram(values, bins=24, range=(0.0, max(float(values.max()), 1e-12)))
    heights = np.ceil(counts / counts.max() * len(BARS)).astype(int)
    return "".join(BARS[height - 1] if height else " " for height in heights)


def _behavior_text(entry: dict[str, Any]) -> str:
    if "min" not in entry:
        return f"no finite value, {entry['nan']} NaN"
    text = f"{entry['min']:.4g} to {entry['max']:.4g}, mean {entry['mean']:.3g}, sd {entry['std']:.3g}"
    return f"{text}, {entry['nan']} NaN" if entry["nan"] else text


def _condition_text(conditions: dict[str, dict[str, int]]) -> str:
    if not conditions:
        return "none given (no cond)"
    splits = list(next(iter(conditions.values())))
    ranges = []
    for split in splits:
        counts = [entry[split] for entry in conditions.values()]
        ranges.append(f"{split} {min(counts)}" + (f"–{max(counts)}" if max(counts) > min(counts) else ""))
    return f"{len(conditions)} ({_some(list(conditions))}); trials of each: {', '.join(ranges)}"


def _some(values: list[Any]) -> str:
    text = ", ".join(str(value) for value in values[:12])
    return f"{text} and {len(values) - 12} more" if len(values) > 12 else text
