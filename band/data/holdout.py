"""Neurons and bins that are hidden from the encoders and predicted all the same: what co-bps and fp-bps are about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from band.config import DataConfig
from band.data.recording import Recording
from band.errors import DataError


def hold_out(recording: Recording, config: DataConfig) -> Recording:
    """Return the recording with `data.heldout_share` of the neurons and the last `data.forward_bins` bins hidden.

    Neurons stand in the order: seen, held out here (drawn by `data.heldout_seed`), held out by the file. `neurons` of
    the result tells the file's column of each.

    Raises:
        DataError: nothing would be left to see.
    """
    if not config.heldout_share and not config.forward_bins:
        return recording
    arrays = dict(recording.arrays)
    _, bins, seen = arrays["encod_data"].shape
    count = round(config.heldout_share * seen)
    if config.heldout_share and not 0 < count < seen:
        raise DataError(
            f"{recording.path}: data.heldout_share={config.heldout_share:g} must leave some of the {seen} neurons and "
            f"hide at least one, but hides {count}"
        )
    if config.forward_bins >= bins:
        raise DataError(f"{recording.path}: data.forward_bins must be below the {bins} bins, got {config.forward_bins}")
    hidden = np.sort(np.random.default_rng(config.heldout_seed).permutation(seen)[:count])
    kept = np.setdiff1d(np.arange(seen), hidden)
    order = np.concatenate([kept, hidden, np.arange(seen, arrays["recon_data"].shape[2])])
    arrays["encod_data"] = arrays["encod_data"][:, : bins - config.forward_bins][:, :, kept]
    for key in ("recon_data", "truth"):
        if key in arrays:
            arrays[key] = arrays[key][:, :, order]
    return replace(recording, arrays=arrays, neurons=order)
