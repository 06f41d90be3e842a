"""Decoders of behaviour beside a model's: ridge, Wiener filter and a small RNN on spikes, factors and inferred inputs.

What is chosen (alpha, width of the smoothing, lag) is chosen by cross-validation over groups of train trials alone.
Axes: n trial, T time bin, F feature, K behaviour channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from band.after.directions import target_direction_accuracy
from band.after.features import filled, smooth, stretch, varying
from band.train.decoding import Decoder, fit_decoder
from band.train.scores import Observed, Scores, behavior_scores, nan_mean

Array = NDArray[Any]

DECODERS = ("ridge", "ridge_trial", "wiener", "rnn")
TRIAL_SMOOTHING_MS = 40.0  # of spikes that whole trials are decoded from
UNKNOWN_BIN_MS = 10.0  # taken where a recording does not say how wide its bins are


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is tried."""

    decoders: Sequence[str] = DECODERS
    smoothing_ms: Sequence[float] = (0.0, 20.0, 40.0, 80.0)  # standard deviations; of spikes alone
    lags_ms: Sequence[float] = tuple(range(-50, 151, 25))  # by which the Wiener filter's newest bin precedes behaviour
    taps: int = 6  # means over so many stretches are what the Wiener filter reads
    tap_ms: float = 25.0  # length of a stretch, at least a bin
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One recording session to decode behaviour from."""

    name: str  # of the session, empty where there is one alone
    observed: Mapping[str, Observed]  # by split
    inputs: Mapping[str, Mapping[str, Array]]  # {"spikes": {split: (n, T, F)}, …}
    own: Mapping[str, Array] | None = None  # behaviour (n, Tb, K) by the model's own decoder
    bin_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    read: str  # what the decoder reads: spikes, factors, controls
    decoder: str
    chosen: dict[str, float]  # what cross-validation chose, and its R² on left-out train trials
    scores: Scores  # on the split that is reported


def decode_case(
    case: Case,
    settings: Settings = Settings(),
    *,
    split: str = "test",
    on_progress: Callable[[str, float], None] = lambda what, share: None,
) -> Iterator[Row]:
    """Yield the scores of each decoder on each input, and of the model's own decoder where it has one."""
    train, test = case.observed["train"], case.observed[split]
    assert train.behavior is not None and test.behavior is not None
    bins = min(train.behavior.shape[1], *(values["train"].shape[1] for values in case.inputs.values()))
    observed = {name: _first_bins(case.observed[name], bins) for name in ("train", split)}
    jobs = [(read, decoder) for read in case.inputs for decoder in settings.decoders]
    for number, (read, decoder) in enumerate(jobs):
        on_progress(f"{decoder} on {read}", number / len(jobs))
        means = nan_mean(case.inputs[read]["train"], axis=(0, 1))
        features = {name: filled(case.inputs[read][name][:, :bins], means=means) for name in ("train", split)}
        bin_ms = case.bin_ms or UNKNOWN_BIN_MS
        job = _Job(features=features, train=observed["train"], split=split, read=read, bin_ms=bin_ms, settings=settings)
        decoded, chosen = _FITS[decoder](job)
        chosen = {name: value for name, value in chosen.items() if np.isfinite(value)}
        yield Row(read=read, decoder=decoder, chosen=chosen, scores=_scores(decoded, observed, split))
    if case.own is not None:
        own = _scores(case.own[split][:, :bins], observed, split)
        yield Row(read="factors", decoder="own", chosen={}, scores=own)


def _first_bins(observed: Observed, bins: int) -> Observed:
    assert observed.behavior is not None
    return replace(observed, behavior=observed.behavior[:, :bins])


def _scores(decoded: Array, observed: Mapping[str, Observed], split: str) -> Scores:
    train, test = observed["train"], observed[split]
    assert train.behavior is not None
    found: Scores = {}
    for name, value in behavior_scores(test, decoded, read_out="", prefix="").items():
        kind, _, channel = name.partition("//")
        found[f"{kind}/{channel}"] = value if value is not None and np.isfinite(value) else None
    if test.cond is not None and train.cond is not None and train.behavior.shape[2] >= 2:
        accuracy = target_direction_accuracy(decoded, cond=test.cond, train=train.behavior, train_cond=train.cond)
        found["target_direction_accuracy"] = accuracy if np.isfinite(accuracy) else None
    return found


Features = Mapping[str, Array]
Found = tuple[Array, dict[str, float]]  # decoded behaviour of the reported split, and what was chosen


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One decoder on one input."""

    features: Features  # by split
    train: Observed
    split: str  # that is reported
    read: str
    bin_ms: float
    settings: Settings

    @property
    def behavior(self) -> Array:
        """What train's decoders are fitted to."""
        assert self.train.behavior is not None
        return self.train.behavior

    def smoothed(self, width_ms: float) -> Features:
        """Return the features smoothed by a Gaussian of that standard deviation."""
        return {name: smooth(values, sd_bins=width_ms / self.bin_ms) for name, values in self.features.items()}


def _best_ridge(job: _Job, tried: Iterable[tuple[dict[str, float], Features]]) -> Found:
    """Return what the best of the tried features gives, by R² on left-out groups of train trials."""
    total = np.nansum((job.behavior - nan_mean(job.behavior, axis=(0, 1))) ** 2, axis=(0, 1))
    best: tuple[float, dict[str, float], Decoder, Features] | None = None
    for chosen, seen in tried:
        decoder = fit_decoder(seen["train"], job.behavior, groups=job.train.groups)
        with np.errstate(divide="ignore", invalid="ignore"):
            left_out = float(nan_mean(1 - decoder.ridge.left_out / total, axis=(0,)))
        if best is None or left_out > best[0]:
            best = left_out, chosen, decoder, seen
    assert best is not None
    left_out, chosen, decoder, seen = best
    return decoder.decode(seen[job.split]), {**chosen, "alpha": _alpha(decoder), "cv_r2": left_out}


def _alpha(decoder: Decoder) -> float:
    """Return the geometric mean over channels of the chosen alphas."""
    return float(np.exp(nan_mean(np.log(decoder.ridge.alphas), axis=(0,))))


def _ridge(job: _Job) -> Found:
    if job.read != "spikes":
        return _best_ridge(job, [({}, job.features)])
    return _best_ridge(job, (({"smoothing_ms": width}, job.smoothed(width)) for width in job.settings.smoothing_ms))


def _wiener(job: _Job) -> Found:
    taps, width = job.settings.taps, max(1, round(job.settings.tap_ms / job.bin_ms))

    def at(lag: int) -> Features:
        return {name: stretch(values, lag=lag, taps=taps, width=width) for name, values in job.features.items()}

    lags = dict.fromkeys(round(lag / job.bin_ms) for lag in job.settings.lags_ms)
    return _best_ridge(job, (({"lag_ms": lag * job.bin_ms}, at(lag)) for lag in lags))


def _ridge_trial(job: _Job) -> Found:
    seen = job.smoothed(TRIAL_SMOOTHING_MS) if job.read == "spikes" else job.features
    seen = {name: varying(values, like=seen["train"]) for name, values in seen.items()}
    decoder = fit_decoder(seen["train"], job.behavior, groups=job.train.groups, is_over_trial=True)
    return decoder.decode(seen[job.split]), {"alpha": _alpha(decoder)}


def _rnn(job: _Job) -> Found:
    from band.after.rnn import RnnSettings, fit_rnn

    settings = RnnSettings(seed=job.settings.seed)
    decoder = fit_rnn(job.features["train"], job.behavior, groups=job.train.groups, settings=settings)
    return decoder.decode(job.features[job.split]), {"epochs": float(decoder.epochs)}


_FITS: Mapping[str, Callable[[_Job], Found]] = {
    "ridge": _ridge, "ridge_trial": _ridge_trial, "wiener": _wiener, "rnn": _rnn,
}  # fmt: skip
