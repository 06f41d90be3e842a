"""Posterior means and spreads of one member: encoded once, decoded many times, in chunks that fit the memory.

Axes: B trial, R time bin, N' neuron, F factor, K behaviour channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from band.config import RunConfig
from band.data.splits import Split
from band.model.decoder import decode
from band.model.encoder import encode
from band.model.forward import Batch, read_out
from band.model.noise import Noise
from band.model.params import Params, has_controller
from band.train.noise import NoiseSource, Rates
from band.train.scores import Modelled, Observed, score_splits
from band.train.trials import Trials

CHUNK = 256  # trials decoded at once
SPLITS = ("train", "valid", "test")
SPREADS = ("output_params", "factors", "output_behavior_params", "gen_inputs")
BY_LEVEL = {
    "scores": (),
    "factors": (
        "output_params", "factors", "output_behavior_params", "gen_inputs", "co_means", "co_stds", "ic_mean", "ic_std",
        *(f"{name}_spread" for name in SPREADS),
    ),
    "full": ("gen_states", "gen_init", "con_states"),
}  # fmt: skip
INPUTS = ("encod_data", "recon_data", "behavior", "ext_input", "cond", "truth")


@dataclass(frozen=True)
class Posterior:
    """Arrays of one member over the trials of all its splits, under lfads-torch's names, first axis the trial.

    `output_params` are expected counts a bin. NAME_spread is the standard deviation over posterior draws.
    """

    arrays: dict[str, np.ndarray]
    index: np.ndarray  # pooled trial of each row


def compute_posterior(
    params: Params,
    trials: Trials,
    place: int,
    *,
    config: RunConfig,
    co_off: bool = False,
    ext_off: bool = False,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Posterior:
    """Return posterior means and spreads over `config.train.posterior_samples` draws.

    Args:
        params: the one member.
        trials: the recording.
        place: position of the member's splits in it.
        config: the member.
        co_off: feed zeros instead of inferred inputs to the generator.
        ext_off: feed zeros instead of external inputs as well.
        on_progress: called with the share done.
    """
    split = trials.splits[place]
    index = np.concatenate([getattr(split, name) for name in SPLITS])
    parts = []
    for start in range(0, len(index), CHUNK):
        chunk = torch.from_numpy(index[start : start + CHUNK])[None].to(trials.encod.device)
        batch = trials.batch(chunk, torch.ones_like(chunk, dtype=trials.encod.dtype))
        parts.append(_chunk_posterior(params, batch, trials, config, start, co_off=co_off, ext_off=ext_off))
        on_progress(min(1.0, (start + CHUNK) / len(index)))
    return Posterior({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, index)


def _noise_source(config: RunConfig, trials: Trials) -> NoiseSource:
    none = torch.zeros(1)
    return NoiseSource(
        [config.seed], Rates(none, none, none, none), arch=config.arch, widths=trials.widths,
        batch_size=1, dtype=trials.encod.dtype, device=trials.encod.device,
    )  # fmt: skip


@torch.no_grad()
def _chunk_posterior(
    params: Params, batch: Batch, trials: Trials, config: RunConfig, start: int, *, co_off: bool, ext_off: bool
) -> dict[str, np.ndarray]:
    """Return means and spreads over draws for the trials of one chunk."""
    arch, widths = config.arch, trials.widths
    mean, log_var, controller_input = encode(params, batch.encod, arch=arch, noise=Noise())
    std = (log_var.exp() + arch.ic_post_var_min).sqrt()
    ext_input = None if batch.ext_input is None else batch.ext_input * (not ext_off)
    source = _noise_source(config, trials)
    totals: dict[str, Tensor] = {}
    count = config.train.posterior_samples
    for sample in range(count):
        noise = source.posterior(mean.shape[1], "posterior", start, sample)
        assert noise.eps_ic is not None
        decoded = decode(
            params, torch.addcmul(mean, std, noise.eps_ic), controller_input, ext_input,
            arch=arch, num_bins=widths.num_recon_bins, noise=noise, co_off=co_off,
        )  # fmt: skip
        log_rates, behavior = read_out(params, decoded.factors, widths=widths, noise=Noise())
        drawn: dict[str, Tensor | None] = {
            "output_params": log_rates.exp(),
            "factors": decoded.factors,
            "output_behavior_params": behavior if config.hyper.behavior_weight > 0 else None,
            "gen_inputs": decoded.gen_inputs if has_controller(arch) or ext_input is not None else None,
            "gen_states": decoded.gen_states,
            "gen_init": decoded.gen_init,
            "con_states": decoded.con_states,
            "co_means": decoded.co_means,
            "co_stds": None if decoded.co_log_vars is None else (0.5 * decoded.co_log_vars).exp(),
        }
        _accumulate(totals, drawn)
    found = {name: value / count for name, value in totals.items()}
    for name in SPREADS:
        if name in found:
            found[f"{name}_spread"] = (found[f"{name}_spread"] - found[name].square()).clamp(min=0).sqrt()
    found |= {"ic_mean": mean.double(), "ic_std": std.double()}
    return {name: value[0].float().cpu().numpy() for name, value in found.items()}


def _accumulate(totals: dict[str, Tensor], drawn: dict[str, Tensor | None]) -> None:
    """Add a draw to the running sums, in double precision, squares included where a spread is wanted."""
    for name, value in drawn.items():
        if value is None:
            continue
        wide = value.double()
        totals[name] = totals[name] + wide if name in totals else wide
        if name in SPREADS:
            key = f"{name}_spread"
            totals[key] = totals[key] + wide.square() if key in totals else wide.square()


def _rows(posterior: Posterior, split: Split) -> dict[str, slice]:
    """Return where each split's trials stand in the posterior."""
    ends = np.cumsum([0, *(len(getattr(split, name)) for name in SPLITS)])
    return {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(SPLITS)}


def score_member(
    posterior: Posterior, ablated: dict[str, Posterior], trials: Trials, place: int
) -> dict[str, dict[str, float | None]]:
    """Return the scores of one member on every split, see `band.train.scores`."""
    arrays, split = trials.recording.arrays, trials.splits[place]
    widths = trials.widths

    def part(key: str, chosen: np.ndarray) -> np.ndarray | None:
        return np.asarray(arrays[key])[chosen] if key in arrays else None

    observed = {}
    for name in SPLITS:
        chosen = getattr(split, name)
        observed[name] = Observed(
            spikes=np.asarray(arrays["recon_data"])[chosen],
            num_heldin=widths.num_neurons,
            encod_bins=widths.num_bins,
            behavior=part("behavior", chosen),
            cond=part("cond", chosen),
            groups=None if split.groups is None else split.groups[chosen],
        )

    def modelled(source: Posterior) -> dict[str, Modelled]:
        rows = _rows(source, split)
        own = source.arrays.get("output_behavior_params")
        return {
            name: Modelled(
                rates=source.arrays["output_params"][rows[name]],
                factors=source.arrays["factors"][rows[name]],
                behavior=None if own is None else own[rows[name]],
            )
            for name in SPLITS
        }

    return score_splits(
        observed, modelled(posterior), ablated={name: modelled(source) for name, source in ablated.items()}
    )


def write_outputs(path: Path, posterior: Posterior, trials: Trials, place: int, *, level: str) -> None:
    """Write `outputs.h5`: posterior arrays, the input they belong to and the trials' indices, by split.

    Args:
        path: new file.
        posterior: the member.
        trials: the recording.
        place: position of the member's splits in it.
        level: "factors" or "full".
    """
    wanted = BY_LEVEL["factors"] + (BY_LEVEL["full"] if level == "full" else ())
    split = trials.splits[place]
    arrays = trials.recording.arrays
    same = trials.recon is trials.encod
    with h5py.File(path, "w") as file:
        if trials.recording.bin_ms is not None:
            file.attrs["bin_ms"] = trials.recording.bin_ms
        for name, rows in _rows(posterior, split).items():
            chosen = posterior.index[rows]
            file[f"{name}_inds"] = np.asarray(arrays["inds"])[chosen]
            for key in wanted:
                if key in posterior.arrays:
                    file[f"{name}_{key}"] = posterior.arrays[key][rows]
            for key in INPUTS:
                if key in arrays and not (key == "encod_data" and same):
                    # Counts and conditions repeat themselves: deflate makes them a tenth.
                    file.create_dataset(f"{name}_{key}", data=np.asarray(arrays[key])[chosen], compression="gzip")
