"""A push on the controller's output at a chosen bin, and what of it is left: the transient response.

Axes: n trial, R time bin, F factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from band.after.infer import Progress, writing
from band.errors import ConfigError
from band.model.params import has_controller
from band.train.outputs import Pass, Posterior, chunks, pooled_index, rows_by_split
from band.train.run_model import Model
from band.train.trials import Trials

KEPT = ("output_params", "factors", "output_behavior_params", "gen_inputs")


@dataclass(frozen=True, kw_only=True)
class Push:
    """What is added to the inferred inputs of every trial."""

    channel: int  # of the controller's output
    at_bin: int  # the first bin that feels it
    size: float  # in units of the inferred input
    num_bins: int = 1  # for how many bins


def push_tensor(push: Push, trials: Trials, model: Model) -> torch.Tensor:
    """Return (1, R, co_dim), zero but where the push acts.

    Raises:
        ConfigError: the model has no controller, or no such channel or bin.
    """
    arch, num_bins = model.config.arch, trials.widths.num_recon_bins
    if not has_controller(arch):
        raise ConfigError(f"{model.folder}: has no controller (arch.co_dim 0), so there is nothing to push")
    if not 0 <= push.channel < arch.co_dim:
        raise ConfigError(f"channel must be in 0 … {arch.co_dim - 1}, the controller's outputs, got {push.channel}")
    if not (push.at_bin >= 0 and push.num_bins >= 1 and push.at_bin + push.num_bins <= num_bins):
        raise ConfigError(
            f"the push must lie in the model's {num_bins} bins, got {push.num_bins} from bin {push.at_bin} on"
        )
    values = torch.zeros(1, num_bins, arch.co_dim, dtype=trials.dtype, device=trials.device)
    values[:, push.at_bin : push.at_bin + push.num_bins, push.channel] = push.size
    return values


def perturb(
    model: Model, trials: Trials, push: Push, *, on_progress: Progress = lambda what, share: None
) -> list[tuple[Posterior, Posterior]]:
    """Return for each session its posterior means without and with the push, by the same draws."""
    passes = [Pass(model.params, trials, model.config, push=p) for p in (None, push_tensor(push, trials, model))]
    found = []
    for number, session in enumerate(trials.sessions):
        index, done = pooled_index(session, 0), 0
        both: tuple[list[dict[str, np.ndarray]], ...] = ([], [])
        for chunk, purpose in chunks(index, session=number, num_sessions=len(trials.sessions)):
            for parts, pass_ in zip(both, passes, strict=True):
                parts.append(pass_.chunk(number, chunk, purpose=purpose))
            done += len(chunk)
            on_progress("posterior", (number + done / len(index)) / len(trials.sessions))
        joined = ({name: np.concatenate([p[name] for p in parts]) for name in parts[0]} for parts in both)
        intact, pushed = (Posterior({k: v for k, v in arrays.items() if k in KEPT}, index) for arrays in joined)
        found.append((intact, pushed))
    return found


def write_perturbed(
    path: Path, found: list[tuple[Posterior, Posterior]], trials: Trials, push: Push, *, replace_file: bool = False
) -> None:
    """Write `SPLIT_NAME` without and `SPLIT_pushed_NAME` with the push, and the push as attributes.

    Raises:
        DataError: the file is there already, or cannot be written.
    """
    with writing(path, replace_file=replace_file) as temporary, h5py.File(temporary, "w") as file:
        if trials.sessions[0].recording.bin_ms is not None:
            file.attrs["bin_ms"] = trials.sessions[0].recording.bin_ms
        file.attrs.update(
            {"channel": push.channel, "at_bin": push.at_bin, "size": push.size, "num_bins": push.num_bins}
        )
        for session, (intact, pushed) in zip(trials.sessions, found, strict=True):
            group = file.create_group(session.recording.session) if session.recording.session else file
            for split, rows in rows_by_split(session, 0).items():
                group[f"{split}_inds"] = np.asarray(session.recording.arrays["inds"])[intact.index[rows]]
                for name, values in intact.arrays.items():
                    group[f"{split}_{name}"] = values[rows]
                    group[f"{split}_pushed_{name}"] = pushed.arrays[name][rows]


def transient(found: list[tuple[Posterior, Posterior]], push: Push) -> dict[str, Any]:
    """Return how the factors answer: the distance of pushed from unpushed factors, its peak, and when half is left.

    `distance` is the mean over all trials of the Euclidean distance in a bin, a list over bins; `half_bins` counts
    the bins from the peak to the first that has at most half of it, None where the trial ends before.
    """
    apart = [np.linalg.norm(pushed.arrays["factors"] - intact.arrays["factors"], axis=2) for intact, pushed in found]
    distance = np.concatenate(apart).mean(axis=0)
    peak = int(distance.argmax())
    below = np.flatnonzero(distance[peak:] <= distance[peak] / 2)
    controls = np.concatenate([intact.arrays["gen_inputs"][..., push.channel].ravel() for intact, _ in found])
    return {
        "peak": float(distance[peak]),
        "peak_bin": peak,
        "half_bins": int(below[0]) if len(below) else None,
        "distance": [float(value) for value in distance],
        "size_in_sd": float(push.size / controls.std()) if controls.std() > 0 else None,
    }
