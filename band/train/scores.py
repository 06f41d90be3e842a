"""Scores of one model on every split of its recording, each under the name of its definition; numpy alone.

Names are paths: `behavior_r2/ridge_lag0/mean` is the mean over channels of R² = 1 - SS(y - p)/SS(y - channel mean) by
the ridge decoder at zero lag. Read-outs are `own` (the model's decoder; empty where it has none), `ridge_lag0` (factors
of a bin to its behaviour) and `ridge_trial` (factors of all bins to the behaviour of all bins). Under the name of an
ablation, `ridge_…_refitted` was fitted on the ablated train factors and `ridge_…_intact` on the intact ones. What was
fitted on the very trials that it is scored on stands under `fitted/`.
Axes: n trial, R or Tb time bin, N' neuron, F factor, K behaviour channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from band.errors import ShapeError
from band.train.decoding import Decoder, fit_decoder

Array = NDArray[Any]
Scores = dict[str, float | None]

MIN_WITHIN_CONDITION_SHARE = 0.1  # of the variance; below it within-condition scores say little
MIN_TRIALS_A_CONDITION = 5


@dataclass(frozen=True)
class Observed:
    """What was recorded on one split."""

    spikes: Array  # (n, R, N') counts; NaN: unobserved
    num_heldin: int  # the first neurons, which the encoder sees
    encod_bins: int  # the first bins, which the encoder sees
    behavior: Array | None = None  # (n, Tb, K); NaN: missing
    cond: Array | None = None  # (n,) condition
    groups: Array | None = None  # (n,) trials that cross-validation keeps together; None: each its own
    is_counts: bool = True  # else `spikes` are values of another kind, which have no bits per spike
    has_classes: bool = False  # behaviour is classes, which have an accuracy and no R²


@dataclass(frozen=True)
class Modelled:
    """Posterior means of one model on the same split."""

    rates: Array  # (n, R, N') expected counts a bin
    factors: Array  # (n, R, F)
    behavior: Array | None = None  # (n, Tb, K) of the model's own decoder; None: it has none


def score_splits(
    observed: Mapping[str, Observed],
    modelled: Mapping[str, Modelled],
    *,
    ablated: Mapping[str, Mapping[str, Modelled]] | None = None,
) -> dict[str, Scores]:
    """Return the scores of every split by name; None stands for a score that does not exist or is not finite.

    Args:
        observed: the recording by split; read-outs are fitted on its "train" alone.
        modelled: the model by split.
        ablated: name of an ablation ("noci") to the same model by split, with its decoder and read-out left intact.

    Raises:
        ShapeError: recording and model differ in trials, bins, neurons or channels.
    """
    for split in observed:
        for model in (modelled[split], *(by_split[split] for by_split in (ablated or {}).values())):
            _check_shapes(split, observed[split], model)
    decoders = _fit_decoders(observed["train"], modelled["train"])
    scores: dict[str, Scores] = {split: {} for split in observed}
    _score_model(scores, observed, modelled, decoders)
    for name, by_split in (ablated or {}).items():
        refitted = {f"{k}_refitted": v for k, v in _fit_decoders(observed["train"], by_split["train"]).items()}
        intact = {f"{k}_intact": v for k, v in decoders.items()}
        _score_model(scores, observed, by_split, refitted | intact, prefix=f"{name}/")
    for split, recording in observed.items():
        scores[split].update(_baseline_scores(recording, train=observed["train"], prefix=_fitted(split)))
    return {split: {name: _finite(value) for name, value in found.items()} for split, found in scores.items()}


def pool_sessions(by_session: Mapping[str, Scores]) -> Scores:
    """Return the mean of each score over the sessions that have it, and each session's own under `session/NAME/`."""
    pooled: Scores = {}
    for name in dict.fromkeys(name for scores in by_session.values() for name in scores):
        values = [v for scores in by_session.values() if (v := scores.get(name)) is not None]
        pooled[name] = sum(values) / len(values) if values else None
    own = {f"session/{session}/{name}": v for session, scores in by_session.items() for name, v in scores.items()}
    return pooled | own


def _fitted(split: str) -> str:
    return "fitted/" if split == "train" else ""


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _check_shapes(split: str, recording: Observed, model: Modelled) -> None:
    """Raise ShapeError where the arrays of a split do not fit together."""
    if model.rates.shape != recording.spikes.shape or model.factors.shape[:2] != recording.spikes.shape[:2]:
        raise ShapeError(
            f"{split}: rates (n, R, N) {model.rates.shape} and factors (n, R, F) {model.factors.shape} do not match "
            f"spikes (n, R, N) {recording.spikes.shape}"
        )
    if recording.behavior is None:
        return
    num_trials, num_bins = recording.spikes.shape[:2]
    if recording.behavior.shape[0] != num_trials or recording.behavior.shape[1] > num_bins:
        raise ShapeError(
            f"{split}: behaviour (n, Tb, K) {recording.behavior.shape} needs n = {num_trials} and Tb <= {num_bins}, "
            f"as spikes (n, R, N) {recording.spikes.shape}"
        )
    if model.behavior is not None and model.behavior.shape != recording.behavior.shape:
        raise ShapeError(
            f"{split}: decoded behaviour (n, Tb, K) {model.behavior.shape} does not match the recorded "
            f"{recording.behavior.shape}"
        )


def _score_model(
    scores: dict[str, Scores],
    observed: Mapping[str, Observed],
    modelled: Mapping[str, Modelled],
    decoders: Mapping[str, Decoder],
    *,
    prefix: str = "",
) -> None:
    """Add the scores of one model, intact or ablated, to those of every split."""
    for split, recording in observed.items():
        model = modelled[split]
        found = {prefix + name: value for name, value in spike_scores(recording, model.rates).items()}
        if recording.behavior is not None:
            own = model.behavior if model.behavior is not None else np.full(recording.behavior.shape, np.nan)
            found.update(_behavior_scores(recording, own, read_out="own", prefix=prefix))
            for name, decoder in decoders.items():
                decoded = decoder.decode(model.factors)
                found.update(_behavior_scores(recording, decoded, read_out=name, prefix=_fitted(split) + prefix))
                if split == "train" and not name.endswith("_intact"):
                    alphas = {f"{prefix}ridge_alpha/{name}/{k}": float(a) for k, a in enumerate(decoder.ridge.alphas)}
                    found.update(alphas)
        scores[split].update(found)


# Spikes ---------------------------------------------------------------------------------------------------------------


def spike_scores(recording: Observed, rates: Array) -> Scores:
    """Return `bits_per_spike` of what the encoder sees and, where there are any, `co_bps` of held-out neurons in the
    same bins and `fp_bps` of all neurons in later bins (Pei et al. 2021), from rates (n, R, N') in counts a bin.
    """
    heldin, bins = recording.num_heldin, recording.encod_bins
    spikes = recording.spikes
    if not recording.is_counts:
        return {"recon_r2": float(np.mean(r2(spikes[:, :bins, :heldin], rates[:, :bins, :heldin])))}
    scores: Scores = {"bits_per_spike": bits_per_spike(rates[:, :bins, :heldin], spikes[:, :bins, :heldin])}
    if spikes.shape[2] > heldin:
        scores["co_bps"] = bits_per_spike(rates[:, :bins, heldin:], spikes[:, :bins, heldin:])
    if spikes.shape[1] > bins:
        scores["fp_bps"] = bits_per_spike(rates[:, bins:], spikes[:, bins:])
    return scores


def bits_per_spike(rates: Array, spikes: Array) -> float:
    """Return the information per spike gained over each neuron's mean count in these very trials.

    Args:
        rates: (n, R, N) expected counts a bin.
        spikes: (n, R, N) counts; NaN is left out.

    Returns:
        Bits per spike, log-likelihoods pooled over all trials, bins and neurons; not finite without a spike.
    """
    counts = np.asarray(spikes, float)
    is_observed = ~np.isnan(counts)
    counts = np.where(is_observed, counts, 0.0)
    num_observed = is_observed.sum(axis=(0, 1))
    num_spikes = counts.sum(axis=(0, 1))  # (N,)
    rates = np.asarray(rates, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Bins without a spike add only the rate: log of a rate of 0 counts only where a spike contradicts it.
        log_terms = (counts[counts > 0] * np.log(rates[counts > 0])).sum()
        model = log_terms - rates[is_observed].sum()
        null_logs = np.where(num_spikes > 0, num_spikes * np.log(num_spikes / num_observed), 0.0).sum()
        return float((model - null_logs + num_spikes.sum()) / num_spikes.sum() / math.log(2))


# Behaviour ------------------------------------------------------------------------------------------------------------


def _fit_decoders(recording: Observed, model: Modelled) -> dict[str, Decoder]:
    """Return the two ridge decoders fitted on one split; none where no behaviour was recorded."""
    if recording.behavior is None or recording.has_classes:
        return {}
    fit = partial(fit_decoder, model.factors, recording.behavior, groups=recording.groups)
    return {"ridge_lag0": fit(), "ridge_trial": fit(is_over_trial=True)}


def _behavior_scores(recording: Observed, decoded: Array, *, read_out: str, prefix: str) -> Scores:
    """Return R² of every kind for one read-out, per channel and mean over channels."""
    assert recording.behavior is not None
    if recording.has_classes:
        return _by_channel(f"{prefix}behavior_accuracy/{read_out}", accuracy(recording.behavior, decoded))
    kinds = {"behavior_r2": r2(recording.behavior, decoded)}
    if recording.cond is not None:
        kinds["within_condition_r2"] = within_condition_r2(recording.behavior, decoded, cond=recording.cond)
        kinds["deviation_r2"] = deviation_r2(recording.behavior, decoded, cond=recording.cond)
    scores: Scores = {}
    for kind, channels in kinds.items():
        scores.update(_by_channel(f"{prefix}{kind}/{read_out}", channels))
    return scores


def _by_channel(name: str, channels: Array) -> Scores:
    return {f"{name}/mean": float(np.mean(channels)), **{f"{name}/{k}": float(v) for k, v in enumerate(channels)}}


def accuracy(behavior: Array, decoded: Array) -> Array:
    """Return (K,) the share of classes (n, Tb, K) that were decoded, NaN left out."""
    return np.asarray(nan_mean(np.where(np.isnan(behavior), np.nan, behavior == decoded), axis=(0, 1)))


def _explained(residual: Array, total: Array) -> Array:
    """Return (K,) 1 - SS(residual)/SS(total) of (n, Tb, K), missing entries left out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 - np.nansum(residual**2, axis=(0, 1)) / np.nansum(total**2, axis=(0, 1)))


def _residual(behavior: Array, decoded: Array) -> Array:
    """Return what is not explained, NaN where behaviour is missing, infinite where only the prediction is."""
    residual = behavior - decoded
    return np.where(np.isnan(residual) & ~np.isnan(behavior), np.inf, residual)


def r2(behavior: Array, decoded: Array) -> Array:
    """Return (K,) R² of each channel, 1 - SS(y - p)/SS(y - m) with m its mean over trials and bins; (n, Tb, K) both.

    Missing behaviour (NaN) is left out; a missing prediction of observed behaviour makes the score not finite.
    """
    return _explained(_residual(behavior, decoded), behavior - nan_mean(behavior, axis=(0, 1)))


def within_condition_r2(behavior: Array, decoded: Array, *, cond: Array) -> Array:
    """Return (K,) 1 - SS(y - p)/SS(y - c) with c the mean course of the trial's condition (n,) in these very trials."""
    return _explained(_residual(behavior, decoded), behavior - condition_means(behavior, cond=cond))


def deviation_r2(behavior: Array, decoded: Array, *, cond: Array) -> Array:
    """Return (K,) R² of true by decoded deviations, each from its own mean course of the trial's condition (n,)."""
    decoded = np.where(np.isnan(behavior), np.nan, decoded)
    true = behavior - condition_means(behavior, cond=cond)
    return _explained(_residual(true, decoded - condition_means(decoded, cond=cond)), true)


def nan_mean(values: Array, *, axis: tuple[int, ...]) -> Array:
    """Return the float64 mean over `axis` of what is not NaN; NaN, without a warning, where nothing is."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(present, values, 0.0).sum(axis=axis, dtype=float) / present.sum(axis=axis))


def condition_means(behavior: Array, *, cond: Array) -> Array:
    """Return (n, Tb, K) with, for each trial, the mean over the trials of its condition (n,)."""
    _, which = np.unique(cond, return_inverse=True)
    means = np.stack([nan_mean(behavior[which == c], axis=(0,)) for c in range(which.max() + 1)])
    return np.asarray(means[which])


def _baseline_scores(recording: Observed, *, train: Observed, prefix: str) -> Scores:
    """Return what within-condition scores are read against: share of variance, trials, the mean course of train."""
    if recording.behavior is None or recording.cond is None or train.cond is None or train.behavior is None:
        return {}
    if recording.has_classes:
        return {}
    behavior = np.asarray(recording.behavior, float)
    within = behavior - condition_means(behavior, cond=recording.cond)
    around = behavior - nan_mean(behavior, axis=(0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.nansum(within**2, axis=(0, 1)) / np.nansum(around**2, axis=(0, 1))
        share = float(np.nansum(within**2) / np.nansum(around**2))
    trials = len(recording.cond) / len(np.unique(recording.cond))
    is_informative = share >= MIN_WITHIN_CONDITION_SHARE and trials >= MIN_TRIALS_A_CONDITION
    baseline = mean_course_of_train(train, cond=recording.cond)
    return {
        "within_condition_share/pooled": share,
        **{f"within_condition_share/{k}": float(v) for k, v in enumerate(shares)},
        "within_condition_trials": trials,
        "within_condition_informative": float(is_informative),
        **_by_channel(f"{prefix}baseline/condition_mean_r2", r2(behavior, baseline)),
        **_by_channel(
            f"{prefix}baseline/condition_mean_within_condition_r2",
            within_condition_r2(behavior, baseline, cond=recording.cond),
        ),
    }


def mean_course_of_train(train: Observed, *, cond: Array) -> Array:
    """Return (n, Tb, K): train's mean course of each trial's condition (n,), its overall mean where train has none."""
    assert train.behavior is not None and train.cond is not None
    overall = nan_mean(train.behavior, axis=(0,))
    courses = {c: nan_mean(train.behavior[train.cond == c], axis=(0,)) for c in np.unique(train.cond)}
    return np.stack([courses.get(c, overall) for c in np.asarray(cond)])
