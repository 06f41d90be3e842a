"""How many trials go through the model at once on a GPU, by what memory it has."""

from __future__ import annotations

import torch

from band.config import RunConfig, to_dict
from band.sizes import LEAST_TRIALS, Sizes, trials_that_fit
from band.train.trials import Trials

SHARE = 0.9  # of a GPU's memory; the rest is for what the estimate misses
CONTEXT_BYTES = 600 * 2**20  # of it that CUDA, its libraries and its kernels take


def trials_at_once(config: RunConfig, trials: Trials, *, members: int, gpu_bytes: int = 0) -> int:
    """Return how many trials of a step may be on their way through the model at once, 0 for all.

    Args:
        config: of any of the members; what it says of it counts, if it says so.
        trials: the recording.
        members: how many train together.
        gpu_bytes: memory of the GPU; 0: all that the trials' device has. Of a CPU nothing is asked: what a task may
            take there was known when it was packed.

    Meant for what cannot be divided, a run or a search: a population that fails for want of memory is halved.
    """
    own = config.train.trials_at_once
    if own or not (gpu_bytes or trials.device.type == "cuda"):
        return own
    gpu_bytes = gpu_bytes or torch.cuda.get_device_properties(trials.device).total_memory
    free = int(SHARE * gpu_bytes) - CONTEXT_BYTES
    sizes = _sizes(trials, config)
    found = trials_that_fit(to_dict(config), sizes, members=members, free_bytes=free, is_recorded=True)
    if found != 0:
        found = found or LEAST_TRIALS
        print(f"{members} members are too much for {gpu_bytes / 2**30:.1f} GiB: {found} trials at once", flush=True)
    return found


def _sizes(trials: Trials, config: RunConfig) -> Sizes:
    widths = trials.widths
    counts = {
        name: max(sum(len(s.split(name, member)) for s in trials.sessions) for member in range(trials.num_members))
        for name in ("train", "valid", "test")
    }
    return Sizes(
        **counts, bins=widths.num_bins, recon_bins=widths.num_recon_bins,
        neurons=config.arch.readin_dim or widths.num_neurons[0], recon_neurons=max(widths.num_recon_neurons),
        behavior=widths.behavior_dim, external=widths.ext_input_dim,
    )  # fmt: skip
