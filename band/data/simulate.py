"""Simulated recordings whose truth is known: Poisson spikes of a Lorenz system, and of reaches with corrections."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from band.errors import ConfigError

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class LorenzTask:
    """The Lorenz benchmark of Pandarinath et al. 2018: each condition an initial state, each trial its spikes anew."""

    num_conditions: int = 65
    trials_per_condition: tuple[int, int, int] = (14, 3, 3)  # train, valid, test
    num_neurons: int = 30
    num_bins: int = 50
    bin_ms: float = 20.0
    mean_rate_hz: float = 10.0  # before modulation
    log_rate_std: float = 0.8  # of a neuron over time and conditions, in nats
    step: float = 0.03  # Lorenz time a bin
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, kw_only=True)
class ReachTask:
    """Reaches to scattered targets with planned dynamics and mid-flight corrections: what BAND is for.

    The planned reach makes most of the neural variance. It differs between the trials of a condition by where the
    target lies, and neurons tell that from preparation to holding: it is what remains of the hand's deviations in the
    control. Slow fluctuations unrelated to behaviour make some variance; corrections in mid-flight, at random times and
    in random directions, make a few per cent of it and most of the behaviour's variance within conditions. Each bin's
    velocity is a sum of that bin's latents.

    Nothing that differs from trial to trial is weakly told by the neurons but the corrections: all trials have the same
    time course, aligned to movement onset, and tracking noise is in the hand alone. So the control asks whether BAND
    gains where there is nothing to bring in.

    Marks by `band.data.ceilings`, over seeds 0 to 4: corrections make 3.0 to 3.2 % of the log rates' variance and 71 to
    74 % of the velocity's variance within conditions, which is 37 to 40 % of it all; the scatter of targets makes 10
    to 12 % of the log rates' variance and, in the control, 13 to 16 % of the velocity's. Deviation R² of velocity:
    ridge on the true latents 0.998, in the control 0.993 to 0.994; a linear smoother of spikes 0.77 to 0.79, in the
    control 0.96 to 0.97.
    """

    num_conditions: int = 8  # directions of the target
    trials_per_condition: tuple[int, int, int] = (48, 13, 14)  # train, valid, test
    num_neurons: int = 100
    num_bins: int = 50
    bin_ms: float = 20.0
    mean_rate_hz: float = 16.0  # before modulation
    log_rate_std: float = 0.8  # of each neuron over time and trials, in nats
    correction_share: float = 0.03  # of the log rates' variance
    fluctuation_share: float = 0.07  # of the log rates' variance; slow, and unrelated to behaviour
    correction_probability: float = 0.6  # of each of two corrections, an early and a late one
    has_corrections: bool = True  # False: the control, equal in everything else
    target_scatter: float = 0.3  # of a condition's targets in x and in y, in distances of the target
    go_bin: int = 8  # movement starts two bins later; trials are aligned to it
    peak_speed: float = 5.0  # dm/s
    tracking_noise: float = 0.05  # dm/s; in the hand alone, in no neuron
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sizes(self)
        if not 0 < self.correction_share + self.fluctuation_share < 1:
            raise ConfigError("correction_share + fluctuation_share must be in (0, 1)")
        if self.target_scatter < 0:
            raise ConfigError(f"target_scatter must be at least 0, got {self.target_scatter}")
        if self.num_bins < self.go_bin + 27:
            raise ConfigError(f"num_bins must be at least go_bin + 27 = {self.go_bin + 27}, got {self.num_bins}")


def small_reach(task: ReachTask) -> ReachTask:
    """Return the task at a size that trains in about a minute: shorter trials, a third as many, of half the neurons.

    They are busier, and more of their variance is told by corrections and fluctuations, so that trials tell as much.
    """
    return replace(
        task,
        trials_per_condition=(16, 4, 5),
        num_neurons=50,
        num_bins=35,
        mean_rate_hz=1.5 * task.mean_rate_hz,
        correction_share=0.05,
        fluctuation_share=0.12,
        go_bin=5,
    )


def simulate_lorenz(task: LorenzTask) -> Arrays:
    """Return the arrays of a file, by name: counts, truth (expected counts a bin), latents (three), cond, inds."""
    random = _generators(task.seed, "states", "loadings", "spikes", "order")
    paths = _lorenz_paths(task, random["states"])
    cond = np.repeat(np.arange(task.num_conditions), sum(task.trials_per_condition))
    latents = paths[cond]
    loadings = random["loadings"].standard_normal((3, task.num_neurons))
    loadings *= task.log_rate_std / np.linalg.norm(loadings, axis=0)
    rates = np.exp(np.log(task.mean_rate_hz * task.bin_ms / 1000) + latents @ loadings)
    arrays = {"latents": latents, "truth": rates, "cond": cond, "recon_data": random["spikes"].poisson(rates)}
    return _shipped(arrays, task.trials_per_condition, random["order"])


def simulate_reach(task: ReachTask) -> Arrays:
    """Return the arrays of a file, by name.

    Beside counts, truth (expected counts a bin) and cond: behavior (hand velocity x, y in dm/s), latents (plan, then
    fluctuations, then the two corrections), correction_onset (two bins, -1 for none), correction (their peak
    velocities, x and y each).
    """
    names = ("trials", "fluctuations", "corrections", "tracking", "loadings", "spikes", "order")
    random = _generators(task.seed, *names)
    cond = np.repeat(np.arange(task.num_conditions), sum(task.trials_per_condition))
    plan, velocity = _planned(task, cond, random["trials"])
    fluctuations = _fluctuations(task, len(cond), random["fluctuations"])
    onsets, peaks, corrections = _corrections(task, len(cond), random["corrections"])
    is_present = float(task.has_corrections)
    shares = (1 - task.fluctuation_share - task.correction_share, task.fluctuation_share, task.correction_share)
    log_rates = np.zeros((len(cond), task.num_bins, task.num_neurons))
    for group, share, scale in zip((plan, fluctuations, corrections), shares, (1.0, 1.0, is_present), strict=True):
        log_rates += scale * _load(group, random["loadings"], task, share)
    base = task.mean_rate_hz * np.exp(0.4 * random["loadings"].standard_normal(task.num_neurons))
    # Saturates, so that no neuron fires at more than e² times its base rate.
    rates = base * task.bin_ms / 1000 * np.exp(2 * np.tanh(log_rates / 2))
    noise = task.tracking_noise * random["tracking"].standard_normal(velocity.shape)
    arrays = {
        "recon_data": random["spikes"].poisson(rates),
        "truth": rates,
        "cond": cond,
        "behavior": velocity + is_present * corrections + noise,
        "latents": np.concatenate([plan, fluctuations, is_present * corrections], axis=-1),
        "correction_onset": np.where(task.has_corrections, onsets, -1),
        "correction": (is_present * peaks).reshape(len(cond), -1),
    }
    return _shipped(arrays, task.trials_per_condition, random["order"])


def _check_sizes(task: LorenzTask | ReachTask) -> None:
    for name in ("num_conditions", "num_neurons", "num_bins", "bin_ms", "mean_rate_hz", "log_rate_std"):
        if not getattr(task, name) > 0:
            raise ConfigError(f"{name} must be above 0, got {getattr(task, name)}")
    if min(task.trials_per_condition) < 1:
        raise ConfigError(f"trials_per_condition must be at least 1 in each split, got {task.trials_per_condition}")
    if task.seed < 0:
        raise ConfigError(f"seed must be at least 0, got {task.seed}")


def _generators(seed: int, *names: str) -> dict[str, np.random.Generator]:
    """Return one generator a purpose, so that a change in one part leaves the draws of the others as they were."""
    return {name: np.random.default_rng([seed, *name.encode()]) for name in names}


def _lorenz_paths(task: LorenzTask, random: np.random.Generator) -> np.ndarray:
    """Return (condition, bin, 3), standardised, after a run-in onto the attractor."""
    fine = 10
    state = random.standard_normal((task.num_conditions, 3)) * (8.0, 8.0, 8.0) + (0.0, 0.0, 25.0)
    path = []
    for at in range((task.num_bins + 100) * fine):
        x, y, z = state.T
        slope = np.stack([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z], axis=-1)
        state = state + task.step / fine * slope
        if at >= 100 * fine and at % fine == 0:
            path.append(state)
    paths = np.stack(path, axis=1)
    return np.asarray((paths - paths.mean(axis=(0, 1))) / paths.std(axis=(0, 1)))


def _bell(phase: np.ndarray) -> np.ndarray:
    """Return the speed of a minimum-jerk movement at `phase` in [0, 1], 1 at its middle and 0 outside."""
    inside = np.clip(phase, 0.0, 1.0)
    return np.asarray(16.0 * inside**2 * (1.0 - inside) ** 2)


def _planned(task: ReachTask, cond: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return latents (trial, bin, 10) of the planned reach and its velocity (trial, bin, 2), which they hold.

    Preparation, velocity, acceleration and holding are the trial's target times a profile each, in two dimensions; a
    ramp and a pulse at movement onset are common to all trials.
    """
    angle = 2 * np.pi * cond / task.num_conditions
    scatter = task.target_scatter * random.standard_normal((len(cond), 1, 2))
    target = np.stack([np.cos(angle), np.sin(angle)], axis=-1)[:, None, :] + scatter
    time = np.arange(task.num_bins) - (task.go_bin + 2.0)
    started = 1 / (1 + np.exp(-time / 1.5))
    speed = _bell(time / 20.0)
    acceleration = 2 * np.gradient(speed) * 20.0 / 5.0
    held = 1 / (1 + np.exp(-(time - 14.0) / 3.0))
    common = np.stack([started, _bell((time + 4.0) / 12.0)], axis=-1)
    directed = [profile[:, None] * target for profile in (1 - started, speed, acceleration, held)]
    latents = np.concatenate([*directed, np.broadcast_to(common, (len(cond), task.num_bins, 2))], axis=-1)
    return latents, task.peak_speed * speed[:, None] * target


def _fluctuations(task: ReachTask, count: int, random: np.random.Generator) -> np.ndarray:
    """Return (trial, bin, 4) Ornstein-Uhlenbeck paths with a time constant of 200 ms."""
    decay = np.exp(-task.bin_ms / 200.0)
    noise = random.standard_normal((count, task.num_bins, 4))
    paths = np.empty_like(noise)
    paths[:, 0] = noise[:, 0]
    for at in range(1, task.num_bins):
        paths[:, at] = decay * paths[:, at - 1] + np.sqrt(1 - decay**2) * noise[:, at]
    return paths


def _corrections(task: ReachTask, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return onsets (trial, 2) in bins, peak velocities (trial, 2, x and y) and what they add (trial, bin, 2)."""
    windows = np.array([[4, 11], [13, 20]]) + task.go_bin + 1
    onsets = windows[:, 0] + random.integers(0, windows[:, 1] - windows[:, 0], size=(count, 2))
    is_there = random.random((count, 2)) < task.correction_probability
    angles = 2 * np.pi * random.random((count, 2))
    sizes = task.peak_speed * (0.5 + 0.5 * random.random((count, 2))) * is_there
    peaks = sizes[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    phase = (np.arange(task.num_bins)[None, :, None] - onsets[:, None, :]) / 14.0
    return np.where(is_there, onsets, -1), peaks, np.einsum("btc,bck->btk", _bell(phase), peaks)


def _load(group: np.ndarray, random: np.random.Generator, task: ReachTask, share: float) -> np.ndarray:
    """Return what a group of latents adds to the log rates, scaled to its share of their variance."""
    centred = group - group.mean(axis=(0, 1))
    loaded = centred @ random.standard_normal((group.shape[-1], task.num_neurons))
    return np.asarray(loaded * task.log_rate_std * np.sqrt(share) / loaded.std(axis=(0, 1)))


def _shipped(arrays: Arrays, per_condition: tuple[int, int, int], random: np.random.Generator) -> Arrays:
    """Return the arrays cut into train, valid and test, with each condition's share in each, in a drawn order.

    "inds" is the order in which the trials would have been recorded.
    """
    total = sum(per_condition)
    count = len(arrays["cond"])
    part = np.tile(np.repeat([0, 1, 2], per_condition), count // total)
    inds = random.permutation(count)
    named: Arrays = {}
    for number, split in enumerate(("train", "valid", "test")):
        chosen = np.flatnonzero(part == number)
        chosen = chosen[np.argsort(inds[chosen])]
        for key, values in {**arrays, "encod_data": arrays["recon_data"], "inds": inds}.items():
            dtype = np.int64 if key in ("cond", "inds", "correction_onset") else np.float32
            named[f"{split}_{key}"] = values[chosen].astype(dtype)
    return named
