"""Scores of an old run computed anew: as they are, with inputs switched off, and by condition or epoch.

Axes: n trial, R or Tb time bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from band.after.infer import Progress
from band.errors import ConfigError, DataError
from band.model.params import Params
from band.train.export import posteriors
from band.train.outputs import (
    Posterior,
    compute_posterior,
    modelled_splits,
    observed_split,
    score_member,
)
from band.train.run_model import Model
from band.train.scores import Modelled, Observed, Scores, pool_sessions, score_splits
from band.train.trials import SessionTrials, Trials


def score(
    model: Model, trials: Trials, *, on_progress: Progress = lambda what, share: None
) -> tuple[dict[str, Scores], list[Posterior]]:
    """Return the scores of every split, as they were computed at the end of training, and the posterior behind them."""
    posterior, ablated = posteriors(model.params, trials, 0, config=model.config, on_progress=on_progress)
    return score_member(posterior, ablated, trials, 0, config=model.config), posterior


def ablate(
    model: Model, trials: Trials, *, channels: Sequence[int] = (), on_progress: Progress = lambda what, share: None
) -> dict[str, Scores]:
    """Return the scores of every split with each ablation, `noci/…`, `all_inputs_off/…` and `channelK_off/…`.

    A channel is switched off by setting the weights to zero by which the generator feels it. Read-outs of factors are
    scored as fitted on intact (`…_intact`) and on ablated (`…_refitted`) factors.

    Raises:
        ConfigError: the controller has no such channel.
    """
    cut = {c: without_channels(model.params, [c], co_dim=model.config.arch.co_dim) for c in channels}
    posterior, ablated = posteriors(model.params, trials, 0, config=model.config, on_progress=on_progress)
    for channel, params in cut.items():
        ablated[f"channel{channel}_off"] = compute_posterior(
            params, trials, 0, config=model.config,
            on_progress=lambda share, c=channel: on_progress(f"without channel {c}", share),
        )  # fmt: skip
    return score_member(posterior, ablated, trials, 0, config=model.config)


def breakdown(
    model: Model, trials: Trials, posterior: list[Posterior], *, by: str, split: str = "test"
) -> dict[str, Scores]:
    """Return the scores of each condition or epoch on one split; read-outs are fitted on the whole of train.

    Args:
        model: the run.
        trials: its recording.
        posterior: the member, by session.
        by: key of the recording with a label a trial (n,), or a bin (n, R): "cond", "epoch" or another.
        split: "train", "valid" or "test".

    Returns:
        {label: scores}, of several sessions the mean over those that have the label.

    Raises:
        DataError: the recording has no such labels.
    """
    each: dict[str, dict[str, Scores]] = {}
    for number, session in enumerate(trials.sessions):
        name = session.recording.session
        for label, scores in _session_breakdown(model, trials, posterior[number], number, by=by, split=split).items():
            each.setdefault(label, {})[name] = scores
    if len(trials.sessions) == 1:
        return {label: next(iter(found.values())) for label, found in each.items()}
    return {label: pool_sessions(found) for label, found in each.items()}


def _session_breakdown(
    model: Model, trials: Trials, posterior: Posterior, number: int, *, by: str, split: str
) -> dict[str, Scores]:
    session = trials.sessions[number]
    observed = {name: observed_split(session, name, 0, model.config) for name in ("train", split)}
    modelled = modelled_splits(posterior, session, 0, model.config)
    labels = labels_of(session, by, split)
    parts = {_text(label): labels == label for label in np.unique(labels)}
    kept = {name: _where(observed[split], modelled[split], mask) for name, mask in parts.items()}
    found = score_splits(
        {"train": observed["train"], **{f"={name}": part[0] for name, part in kept.items()}},
        {"train": modelled["train"], **{f"={name}": part[1] for name, part in kept.items()}},
    )
    return {name.removeprefix("="): scores for name, scores in found.items() if name != "train"}


def _text(label: object) -> str:
    number = isinstance(label, (float, np.floating)) and float(label).is_integer()
    return str(int(label)) if number else str(label)  # type: ignore[call-overload]


def labels_of(session: SessionTrials, by: str, split: str) -> np.ndarray:
    """Return the labels (n,) or (n, R) of a split's trials.

    Raises:
        DataError: the recording has none under that key.
    """
    recording = session.recording
    if by not in recording.arrays:
        known = ", ".join(key for key, values in recording.arrays.items() if values.ndim <= 2)
        raise DataError(
            f"{recording.path}: has no {by!r}, a label a trial or bin, to break scores down by; has {known}"
        )
    labels = np.asarray(recording.arrays[by])[session.split(split, 0)]
    if labels.ndim == 3 and labels.shape[2] == 1:
        labels = labels[..., 0]
    if labels.ndim > 2 or (labels.ndim == 2 and labels.shape[1] not in (1, recording.arrays["recon_data"].shape[1])):
        raise DataError(f"{recording.path}: {by} must be a label a trial (n,) or a bin (n, R), found {labels.shape}")
    return np.asarray(labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels)


def _where(observed: Observed, modelled: Modelled, mask: np.ndarray) -> tuple[Observed, Modelled]:
    """Return the trials that have a label, and of these only the bins that have it as observed."""
    trials = mask if mask.ndim == 1 else mask.any(axis=1)
    bins = np.ones((trials.sum(), observed.spikes.shape[1]), bool) if mask.ndim == 1 else mask[trials]

    def chosen(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[trials]

    def masked(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.where(bins[:, : values.shape[1], None], values[trials], np.nan)

    spikes = masked(observed.spikes)
    assert spikes is not None
    part = replace(
        observed, spikes=spikes, behavior=masked(observed.behavior), cond=chosen(observed.cond),
        groups=chosen(observed.groups),
    )  # fmt: skip
    return part, Modelled(modelled.rates[trials], modelled.factors[trials], chosen(modelled.behavior))


def without_channels(params: Params, channels: list[int], *, co_dim: int) -> Params:
    """Return a copy of a model whose generator does not feel some inferred inputs, as if they were zero.

    Raises:
        ConfigError: the controller has no such output.
    """
    if wrong := [c for c in channels if not 0 <= c < co_dim]:
        raise ConfigError(f"channel must be in 0 … {co_dim - 1}, the controller's outputs, got {wrong[0]}")
    copy = params.select([0])
    copy["gen.weight_ih"][..., channels] = 0.0
    return copy
