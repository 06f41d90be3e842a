"""Rules a recording must keep, each broken one a DataError naming file, key, rule, finding and remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from band.data.hdf5 import BLOCK_BYTES
from band.errors import DataError

RANKS = {"encod_data": 3, "recon_data": 3, "behavior": 3, "ext_input": 3, "truth": 3, "cond": 1, "inds": 1}
REQUIRED = ("encod_data", "recon_data")
MAY_MISS = ("encod_data", "recon_data", "behavior", "truth")  # keys in which NaN marks a sample that is missing

Layout = dict[str, dict[str, "Spec"]]  # split -> key -> what the file declares


@dataclass(frozen=True)
class Spec:
    """What the file declares about one array of one split."""

    shape: tuple[int, ...]
    is_text: bool


@dataclass(frozen=True)
class Support:
    """Where a likelihood is defined."""

    rule: str
    holds: Callable[[np.ndarray], np.ndarray]
    remedy: str


SUPPORTS = {
    "poisson": Support(
        "non-negative whole counts",
        lambda x: (x >= 0) & (x == np.floor(x)) & np.isfinite(x),
        "give spike counts a bin, not rates, smoothed or scaled ones",
    ),
    "gamma": Support("values above 0", lambda x: (x > 0) & np.isfinite(x), "with zeros choose zero_inflated_gamma"),
    "zero_inflated_gamma": Support(
        "values of at least 0", lambda x: (x >= 0) & np.isfinite(x), "with negative values choose gaussian"
    ),
    "gaussian": Support("finite values", np.isfinite, "mark missing samples with NaN"),
    "mse": Support("finite values", np.isfinite, "mark missing samples with NaN"),
}


def check_layout(layout: Layout, *, path: Path) -> None:
    """Check what the file declares, before any of it is read.

    Raises:
        DataError: a missing key, a wrong rank or type, an empty split, or arrays that differ in trials, bins or
            channels where they must agree.
    """
    if "train" not in layout:
        found = ", ".join(sorted(layout)) or "no name with such a prefix"
        raise DataError(
            f"{path}: must hold train_encod_data and train_recon_data (and valid_, test_ alike), found {found}; "
            "write it in the layout of lfads-torch, see datasets/README.md"
        )
    for split, specs in layout.items():
        _check_keys(split, specs, layout, path)
        for key, spec in specs.items():
            _check_one(f"{split}_{key}", key, spec, path)
        _check_trials(split, specs, path)
        _check_bins(split, specs, path)
    _check_across_splits(layout, path)


MASK = "set data.missing=mask where NaN stands for what was not observed"


def check_support(
    values: np.ndarray,
    *,
    path: Path,
    where: Callable[[int], str],
    likelihood: str = "poisson",
    missing: str = "auto",
) -> None:
    """Check that `values` (trial, bin, neuron) lie in the support of `likelihood`.

    Args:
        values: the reconstruction target, pooled.
        path: the file, for the message.
        where: gives "train_recon_data trial 3" for a pooled trial.
        likelihood: a key of SUPPORTS.
        missing: "mask" lets NaN pass.

    Raises:
        DataError: a value lies outside.
    """
    support = SUPPORTS[likelihood]
    holds = _or_missing(support.holds, missing)
    _check_each(values, holds, f"{support.rule} ({likelihood})", f"{support.remedy}; {MASK}", path, where)


def check_finite(values: np.ndarray, *, path: Path, where: Callable[[int], str], missing: str = "auto") -> None:
    """Check that every value of a numeric array is finite; `missing`="mask" lets NaN pass.

    Raises:
        DataError: infinity was found, or NaN where none may be.
    """
    remedy = f"interpolate the missing samples, or leave these trials out; {MASK}"
    _check_each(values, _or_missing(np.isfinite, missing), "finite values", remedy, path, where)


def _or_missing(holds: Callable[[np.ndarray], np.ndarray], missing: str) -> Callable[[np.ndarray], np.ndarray]:
    return holds if missing != "mask" else lambda values: holds(values) | np.isnan(values)


def check_observed(values: np.ndarray, *, path: Path, where: Callable[[int], str]) -> None:
    """Check that every trial of the encoded counts has one that is not missing.

    Raises:
        DataError: a trial is missing as a whole.
    """
    for start, block in in_blocks(values):
        empty = np.isnan(block).reshape(len(block), -1).all(axis=1)
        if empty.any():
            place = where(start + int(np.argmax(empty)))
            raise DataError(
                f"{path}: {place.split()[0]} must hold a count that is not missing in each trial, found NaN alone in "
                f"{place} ({int(empty.sum())} such trials or more); leave such trials out"
            )


def in_blocks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first trial, trials) in blocks that fit memory, whatever the array's size."""
    step = max(1, BLOCK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield start, values[start : start + step]


def _check_each(
    values: np.ndarray,
    holds: Callable[[np.ndarray], np.ndarray],
    rule: str,
    remedy: str,
    path: Path,
    where: Callable[[int], str],
) -> None:
    broken, first, example = 0, -1, ""
    for start, block in in_blocks(values):
        wrong = ~holds(block)
        if not wrong.any():
            continue
        if first < 0:
            at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            first = start + int(at[0])
            rest = "".join(f", {name} {i}" for name, i in zip(("bin", "channel"), at[1:], strict=False))
            example = f"{float(block[at])!r} at {where(first)}{rest}"
        broken += int(wrong.sum())
    if broken:
        raise DataError(
            f"{path}: {where(first).split()[0]} must hold {rule}, found {example} ({broken} in all); {remedy}"
        )


def _check_keys(split: str, specs: dict[str, Spec], layout: Layout, path: Path) -> None:
    for key in REQUIRED:
        if key not in specs:
            remedy = f"add it (the same counts as {split}_{REQUIRED[0]} if no neuron is held out)"
            raise DataError(f"{path}: {split}_{key} is missing, found {_names(split, specs)}; {remedy}")
    for other, theirs in layout.items():
        for key in RANKS:
            if key in theirs and key not in specs:
                raise DataError(
                    f"{path}: {split}_{key} is missing although there is {other}_{key}; "
                    "give it in every split or in none"
                )


def _check_one(name: str, key: str, spec: Spec, path: Path) -> None:
    if not spec.shape or spec.shape[0] == 0:
        raise DataError(
            f"{path}: {name} must hold at least one trial, found shape {spec.shape}; leave an empty split out"
        )
    rank = RANKS.get(key)
    if rank is None:
        return
    shape = spec.shape[:1] if rank == 1 and spec.shape[1:] == (1,) else spec.shape
    if len(shape) != rank or 0 in shape:
        axes = "(trial, time bin, channel)" if rank == 3 else "(trial,)"
        raise DataError(f"{path}: {name} must be {axes} without an empty axis, found shape {spec.shape}")
    if spec.is_text and key != "cond":
        raise DataError(f"{path}: {name} must hold numbers, found text")


def _check_trials(split: str, specs: dict[str, Spec], path: Path) -> None:
    num_trials = specs["encod_data"].shape[0]
    for key in RANKS:
        if key in specs and specs[key].shape[0] != num_trials:
            raise DataError(
                f"{path}: {split}_{key} must have the {num_trials} trials of {split}_encod_data, "
                f"found {specs[key].shape[0]}; export both from the same trials"
            )


def _check_bins(split: str, specs: dict[str, Spec], path: Path) -> None:
    _, bins, neurons = specs["encod_data"].shape
    _, recon_bins, recon_neurons = specs["recon_data"].shape
    for what, least, found in (("time bins", bins, recon_bins), ("neurons", neurons, recon_neurons)):
        if found < least:
            raise DataError(
                f"{path}: {split}_recon_data must have at least the {least} {what} of {split}_encod_data, "
                f"found {found}; what is encoded must be reconstructed too, held-out bins and neurons come after"
            )
    for key in ("behavior", "ext_input"):
        if key in specs and specs[key].shape[1] not in (bins, recon_bins):
            rule = f"{bins}" if bins == recon_bins else f"{bins} or {recon_bins}"
            raise DataError(
                f"{path}: {split}_{key} must have {rule} time bins as the counts have, found {specs[key].shape[1]}; "
                "resample it to the bins of the counts"
            )
    if "truth" in specs and specs["truth"].shape != specs["recon_data"].shape:
        raise DataError(
            f"{path}: {split}_truth must have the shape {specs['recon_data'].shape} of {split}_recon_data, "
            f"found {specs['truth'].shape}"
        )


def _check_across_splits(layout: Layout, path: Path) -> None:
    for split, specs in layout.items():
        for key in RANKS:
            if key in specs and specs[key].shape[1:] != layout["train"][key].shape[1:]:
                raise DataError(
                    f"{path}: {split}_{key} must have the bins and channels {layout['train'][key].shape[1:]} of "
                    f"train_{key}, found {specs[key].shape[1:]}"
                )


def _names(split: str, specs: dict[str, Spec]) -> str:
    return ", ".join(f"{split}_{key}" for key in sorted(specs)) or "nothing"
