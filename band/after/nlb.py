"""The Neural Latents Benchmark: its submission file, and its scores as its own tools define them.

Axes: n trial, T time bin that is seen, R >= T, N neuron that is seen, N' >= N. Names of arrays are the benchmark's.
Source: Pei et al. 2021, Neural Latents Benchmark '21; definitions checked against nlb-tools 0.0.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from band.after.features import smooth
from band.errors import ConfigError, did_you_mean
from band.train.scores import Observed, bits_per_spike, r2

Array = NDArray[Any]

DATASETS = ("mc_maze", "mc_rtt", "area2_bump", "dmfc_rsg", "mc_maze_large", "mc_maze_medium", "mc_maze_small")
SUFFIXES = {5.0: "", 20.0: "_20"}  # by width of a bin in ms
ALPHAS = np.logspace(-4, 0, 9)  # of the ridge regression of velocity
FOLDS = 5  # of neighbouring rows, not of trials
SMALLEST_RATE = 1e-9  # takes the place of a rate of 0
PSTH_SD_MS = 70.0  # the benchmark's smoothing for the maze


@dataclass(frozen=True, kw_only=True)
class Part:
    """Trials of one side of the benchmark, train or eval, in the order of the recording."""

    observed: Observed
    rates: Array  # (n, R, N') expected counts a bin


def group_name(dataset: str, *, bin_ms: float | None) -> str:
    """Return under which name the benchmark looks for a dataset.

    Raises:
        ConfigError: it has no such dataset, or not in bins of that width.
    """
    if dataset not in DATASETS:
        raise ConfigError(
            f"--name must be a dataset of the benchmark, got {dataset!r}; {did_you_mean(dataset, DATASETS)}"
        )
    if bin_ms not in SUFFIXES:
        raise ConfigError(
            f"the benchmark takes bins of 5 or 20 ms, this recording has {bin_ms or 'bins of unknown width'}"
        )
    return dataset + SUFFIXES[bin_ms]


def submission(train: Part, evaluated: Part) -> dict[str, Array]:
    """Return what is submitted: rates of seen and held-out neurons, and of the eval trials' later bins."""
    seen, bins = evaluated.observed.num_heldin, evaluated.observed.encod_bins
    found = {}
    for side, part in (("train", train), ("eval", evaluated)):
        found[f"{side}_rates_heldin"] = part.rates[:, :bins, :seen]
        found[f"{side}_rates_heldout"] = part.rates[:, :bins, seen:]
    if evaluated.rates.shape[1] > bins:
        found["eval_rates_heldin_forward"] = evaluated.rates[:, bins:, :seen]
        found["eval_rates_heldout_forward"] = evaluated.rates[:, bins:, seen:]
    return found


def targets(train: Part, evaluated: Part, *, psth_sd_bins: float) -> dict[str, Any]:
    """Return what a submission is scored against, made of our own trials.

    The PSTH of a condition is the mean over all its trials of their smoothed counts. (The benchmark smooths the
    recording before it is cut into trials; here the ends of a trial are smoothed with what the trial has.)
    """
    one, two = train.observed, evaluated.observed
    seen, bins = two.num_heldin, two.encod_bins
    found: dict[str, Any] = {"eval_spikes_heldout": two.spikes[:, :bins, seen:]}
    if one.behavior is not None and two.behavior is not None:
        found |= {"train_behavior": one.behavior[:, :bins], "eval_behavior": two.behavior[:, :bins]}
    if two.spikes.shape[1] > bins:
        found["eval_spikes_heldin_forward"] = two.spikes[:, bins:, :seen]
        found["eval_spikes_heldout_forward"] = two.spikes[:, bins:, seen:]
    if one.cond is not None and two.cond is not None:
        spikes = np.concatenate([one.spikes, two.spikes])[:, :bins]
        cond = np.concatenate([one.cond, two.cond])
        smoothed = smooth(spikes, sd_bins=psth_sd_bins)
        labels = np.unique(two.cond)
        found["psth"] = np.stack([smoothed[cond == label].mean(axis=0) for label in labels])
        found["eval_cond_idx"] = [np.flatnonzero(two.cond == label) for label in labels]
    return found


def evaluate(submitted: Mapping[str, Array], wanted: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the benchmark's scores by its names, `co-bps`, `vel R2`, `psth R2`, `fp-bps`; those that can be had.

    The correlation with produced time of dmfc_rsg is not among them.
    """
    rates = {side: np.concatenate([submitted[f"{side}_rates_{k}"] for k in ("heldin", "heldout")], axis=2).astype(float)
             for side in ("train", "eval")}  # fmt: skip
    found: dict[str, float] = {}
    if np.asarray(wanted["eval_spikes_heldout"]).shape[2]:
        found["co-bps"] = _bits(submitted["eval_rates_heldout"], wanted["eval_spikes_heldout"])
    if "train_behavior" in wanted and np.ndim(wanted["train_behavior"]) == 3:
        masks = {side: wanted.get(f"{side}_decode_mask") for side in ("train", "eval")}
        found["vel R2"] = velocity_r2(
            rates["train"], wanted["train_behavior"], rates["eval"], wanted["eval_behavior"], masks=masks
        )
    if "psth" in wanted:
        found["psth R2"] = psth_r2(
            wanted["psth"], rates["eval"], wanted["eval_cond_idx"], jitter=wanted.get("eval_jitter")
        )
    if "eval_rates_heldin_forward" in submitted and "eval_spikes_heldin_forward" in wanted:
        later = [[source[f"eval_{what}_{k}_forward"] for k in ("heldin", "heldout")]
                 for source, what in ((submitted, "rates"), (wanted, "spikes"))]  # fmt: skip
        found["fp-bps"] = _bits(*(np.concatenate(parts, axis=2) for parts in later))
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def _bits(rates: Array, spikes: Array) -> float:
    rates = np.asarray(rates, float)
    return bits_per_spike(np.where(rates == 0, SMALLEST_RATE, rates), np.asarray(spikes, float))


def velocity_r2(
    train_rates: Array, train_behavior: Array, eval_rates: Array, eval_behavior: Array, *,
    masks: Mapping[str, Array | None] | None = None,
) -> float:  # fmt: skip
    """Return R² of velocity (n, T, K) by ridge on the rates (n, T, N') of the same bin, mean over channels.

    Alpha is that of `ALPHAS` with the best mean R² over five folds of neighbouring rows. Bins whose first channel is
    NaN are left out. `masks` has for "train" and "eval" (n, G) groups of trials with a decoder each, whose mean counts.
    """
    sides = {"train": (train_rates, train_behavior), "eval": (eval_rates, eval_behavior)}
    columns = {side: np.ones((len(x), 1), bool) for side, (x, _) in sides.items()}
    columns |= {side: np.asarray(m, bool) for side, m in (masks or {}).items() if m is not None}
    values = []
    for group in range(columns["train"].shape[1]):
        rows = {side: _rows(x[columns[side][:, group]], y[columns[side][:, group]]) for side, (x, y) in sides.items()}
        values.append(_ridge_r2(*rows["train"], *rows["eval"]))
    return float(np.mean(values))


def _rows(rates: Array, behavior: Array) -> tuple[Array, Array]:
    x = np.asarray(rates, float).reshape(-1, rates.shape[2])
    y = np.asarray(behavior, float).reshape(-1, behavior.shape[2])
    is_observed = ~np.isnan(y[:, 0])
    return x[is_observed], y[is_observed]


def _ridge_r2(x: Array, y: Array, new_x: Array, new_y: Array) -> float:
    folds = np.array_split(np.arange(len(x)), FOLDS)
    scores = np.zeros(len(ALPHAS))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(x)), fold)
        predicted = _ridge(x[rest], y[rest], x[fold], ALPHAS)
        scores += [np.mean(r2(y[fold][None], p[None])) for p in predicted]
    return float(np.mean(r2(new_y[None], _ridge(x, y, new_x, ALPHAS[[scores.argmax()]])[0][None])))


def _ridge(x: Array, y: Array, new: Array, alphas: Array) -> list[Array]:
    """Return predictions (rows, K) by ridge with a free intercept on features as they are, for each alpha."""
    shift, mean = x.mean(axis=0), y.mean(axis=0)
    values, vectors = np.linalg.eigh((x - shift).T @ (x - shift))
    projected, basis = vectors.T @ ((x - shift).T @ (y - mean)), (new - shift) @ vectors
    return [basis @ (projected / (values.clip(min=0) + alpha)[:, None]) + mean for alpha in alphas]


def psth_r2(psth: Array, rates: Array, cond_idx: Sequence[Array], *, jitter: Array | None = None) -> float:
    """Return R² of PSTHs (C, T, N') by the mean rates of each condition's trials, mean over neurons.

    Args:
        psth: true ones; bins whose first neuron is NaN are left out.
        rates: (n, T, N').
        cond_idx: of each condition, its trials among the n; a condition without trials is left out.
        jitter: (n,) bins by which a trial's rates are moved later before the mean; None: none.
    """
    shifts = np.zeros(len(rates), int) if jitter is None else np.asarray(jitter, int)
    true, predicted = [], []
    for course, trials in zip(np.asarray(psth, float), cond_idx, strict=True):
        if not np.size(trials):
            continue
        mean = np.mean([_moved(rates[trial], shifts[trial]) for trial in trials], axis=0)
        is_observed = ~np.isnan(course[:, 0])
        true.append(course[is_observed])
        predicted.append(mean[is_observed])
    return float(np.mean(r2(np.concatenate(true)[None], np.concatenate(predicted)[None])))


def _moved(rates: Array, bins: int) -> Array:
    """Return rates (T, N') moved later by some bins, NaN where nothing is known."""
    moved = np.full(rates.shape, np.nan)
    source = np.arange(len(rates)) - bins
    inside = (source >= 0) & (source < len(rates))
    moved[inside] = rates[source[inside]]
    return moved
