"""What linear decoders can reach on a simulated reach recording: the marks a model is to be read against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from band.data.simulate import ReachTask, simulate_reach

SMOOTHING_BINS = 3.0  # standard deviation of the Gaussian that spikes are smoothed with
PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)  # of the ridge, chosen on valid
MANY_TRIALS = (200, 30, 30)  # of each condition, for what takes many trials to learn
NUM_PLANNED = 10  # the first latents of a simulated reach


@dataclass(frozen=True)
class Ceilings:
    """Marks of a simulated reach recording, on its test split.

    Args:
        latents: deviation R² of velocity by ridge on the true latents.
        smoother: the same from the spikes of whole trials by a linear decoder that knows condition and loadings and has
            learnt from many more trials: about what the spikes tell at all.
        spikes: the same from smoothed spikes, bin by bin, learnt from the recording itself.
        plan_neural_share: share of the log rates' variance that the plan makes within conditions.
        correction_neural_share: share of the log rates' variance that corrections make.
        correction_deviation_share: share of the velocity's variance within conditions that corrections make.
        within_share: share of the velocity's variance that lies within conditions.
    """

    latents: float
    smoother: float
    spikes: float
    plan_neural_share: float
    correction_neural_share: float
    correction_deviation_share: float
    within_share: float


def ceilings(task: ReachTask) -> Ceilings:
    """Return the marks of the recording that `simulate_reach` makes of a task."""
    reach, control = simulate_reach(task), simulate_reach(replace(task, has_corrections=False))
    velocity = _split(reach, "behavior")
    spikes = {split: _smooth(counts) for split, counts in _split(reach, "recon_data").items()}
    log_rates = np.log(reach["train_truth"].astype(np.float64))
    neural = _power(log_rates - log_rates.mean(axis=(0, 1)))
    latents = reach["train_latents"][..., :NUM_PLANNED].astype(np.float64)
    planned = _from_own_mean(latents, reach["train_cond"]) @ _loadings(reach)[:NUM_PLANNED]
    within = _from_own_mean(velocity["train"], reach["train_cond"])
    uncorrected = _from_own_mean(control["train_behavior"], reach["train_cond"])
    return Ceilings(
        latents=_decode(_split(reach, "latents"), velocity, reach),
        smoother=_smoother(simulate_reach(replace(task, trials_per_condition=MANY_TRIALS))),
        spikes=_decode(spikes, velocity, reach),
        plan_neural_share=_power(planned) / neural,
        correction_neural_share=_power(log_rates - np.log(control["train_truth"])) / neural,
        correction_deviation_share=1 - _power(uncorrected) / _power(within),
        within_share=_power(within) / _power(velocity["train"] - velocity["train"].mean(axis=(0, 1))),
    )


def _loadings(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (latent, neuron), how log rates follow the latents, by least squares."""
    latents, rates = (arrays[f"train_{key}"].astype(np.float64) for key in ("latents", "truth"))
    centred, log_rates = latents - latents.mean(axis=(0, 1)), np.log(rates)
    flat = centred.reshape(-1, centred.shape[-1])
    return np.asarray(np.linalg.lstsq(flat, log_rates.reshape(len(flat), -1), rcond=None)[0])


def _smoother(many: Mapping[str, np.ndarray]) -> float:
    """Return deviation R² by ridge from whole trials to whole trials, condition means of both taken off."""
    projected = {split: counts @ _loadings(many).T for split, counts in _split(many, "recon_data").items()}
    inputs, targets = (_deviations(values, many) for values in (projected, _split(many, "behavior")))
    return _decode(_flat(inputs), _flat(targets), many)


def _flat(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return each split's trials as one bin that holds the values of all."""
    return {split: x.reshape(len(x), 1, -1) for split, x in values.items()}


def deviation_r2(true: np.ndarray, predicted: np.ndarray, cond: np.ndarray) -> float:
    """Return how well deviations from a trial's condition mean are predicted: 1 all, 0 none.

    Args:
        true: (trial, bin, channel).
        predicted: the same.
        cond: (trial,), labels.
    """
    deviations = _from_own_mean(true, cond)
    return 1 - _power(deviations - _from_own_mean(predicted, cond)) / _power(deviations)


def _power(values: np.ndarray) -> float:
    return float((values.astype(np.float64) ** 2).sum())


def _split(arrays: Mapping[str, np.ndarray], key: str) -> dict[str, np.ndarray]:
    return {split: arrays[f"{split}_{key}"].astype(np.float64) for split in ("train", "valid", "test")}


def _from_own_mean(values: np.ndarray, cond: np.ndarray) -> np.ndarray:
    deviations = np.array(values, dtype=np.float64)
    for label in np.unique(cond):
        deviations[cond == label] -= deviations[cond == label].mean(axis=0)
    return deviations


def _deviations(values: dict[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return each split's values less the mean of their condition in train."""
    labels = np.unique(arrays["train_cond"])
    means = np.stack([values["train"][arrays["train_cond"] == label].mean(axis=0) for label in labels])
    return {split: x - means[np.searchsorted(labels, arrays[f"{split}_cond"])] for split, x in values.items()}


def _smooth(counts: np.ndarray) -> np.ndarray:
    """Return counts (trial, bin, neuron) smoothed over bins, with the weights that fall outside made up for."""
    bins = np.arange(counts.shape[1])
    weights = np.exp(-0.5 * ((bins[:, None] - bins[None]) / SMOOTHING_BINS) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("st,btn->bsn", weights, counts))


def _decode(inputs: dict[str, np.ndarray], targets: dict[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> float:
    return deviation_r2(targets["test"], _ridge(inputs, targets, arrays), arrays["test_cond"])


def _ridge(
    inputs: dict[str, np.ndarray], targets: dict[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the prediction of the test targets, bin by bin, with the penalty that does best on valid."""
    centre, spread = inputs["train"].mean(axis=(0, 1)), inputs["train"].std(axis=(0, 1)) + 1e-12
    standard = {split: (values - centre) / spread for split, values in inputs.items()}
    design = standard["train"].reshape(-1, standard["train"].shape[-1])
    wanted = targets["train"].reshape(-1, targets["train"].shape[-1])
    gram, cross = design.T @ design, design.T @ (wanted - wanted.mean(axis=0))
    best, chosen = -np.inf, np.zeros_like(cross)
    for penalty in PENALTIES:
        weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), cross)
        score = deviation_r2(targets["valid"], standard["valid"] @ weights, arrays["valid_cond"])
        if score > best:
            best, chosen = score, weights
    return np.asarray(standard["test"] @ chosen + wanted.mean(axis=0))
