"""Arrays of a small benchmark, from a frozen stream of numbers, so that its own tools can be given the very same."""

from __future__ import annotations

from typing import Any

import numpy as np

SEEN, HELD_OUT, BINS, LATER = 6, 3, 15, 4
TRIALS = {"train": 24, "eval": 16}


def benchmark(*, with_masks: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (submitted, wanted): rates of a model that is half right, and what they are scored against."""
    rng = np.random.RandomState(7)  # whose stream numpy never changes
    loadings = rng.normal(0, 0.5, (2, SEEN + HELD_OUT))
    submitted: dict[str, np.ndarray] = {}
    wanted: dict[str, Any] = {}
    for side, trials in TRIALS.items():
        cond = np.arange(trials) % 4
        phase = cond[:, None] * np.pi / 2 + np.arange(BINS + LATER) / 4
        latent = np.stack([np.sin(phase), np.cos(phase)], axis=2) + rng.normal(0, 0.2, (trials, BINS + LATER, 2))
        rates = np.exp(latent @ loadings - 0.7)
        counts = rng.poisson(rates).astype(float)
        guess = rates * np.exp(rng.normal(0, 0.2, rates.shape))
        guess[0, 0, 0] = guess[0, 0, -1] = 0.0
        for name, neurons in (("heldin", slice(0, SEEN)), ("heldout", slice(SEEN, None))):
            submitted[f"{side}_rates_{name}"] = guess[:, :BINS, neurons]
            submitted[f"{side}_rates_{name}_forward"] = guess[:, BINS:, neurons]
            wanted[f"{side}_spikes_{name}"] = counts[:, :BINS, neurons]
            wanted[f"{side}_spikes_{name}_forward"] = counts[:, BINS:, neurons]
        velocity = latent[:, :BINS] + rng.normal(0, 0.3, (trials, BINS, 2))
        velocity[1, :3] = np.nan
        wanted[f"{side}_behavior"] = velocity
        if with_masks:
            wanted[f"{side}_decode_mask"] = np.stack([cond < 2, cond >= 2], axis=1)
    wanted["eval_spikes_heldout"][2, 4, 1] = np.nan
    wanted["psth"] = np.stack([rates[cond == c][:, :BINS].mean(axis=0) for c in range(4)])
    wanted["psth"][1, -2:] = np.nan
    wanted["eval_cond_idx"] = [np.flatnonzero(cond == c) if c != 3 else np.zeros(0, int) for c in range(4)]
    if with_masks:
        wanted["eval_jitter"] = np.where(cond == 2, 2, 0)
        wanted["psth"][2, :2] = np.nan
    return submitted, wanted
