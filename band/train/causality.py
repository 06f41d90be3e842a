"""Whether the past of a model's output depends on the future of its input: change that and see.

Axes: M member, B trial, T time bin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from band.config import Arch, RunConfig
from band.errors import ConfigError
from band.model.forward import Batch, run_model
from band.model.noise import Noise
from band.model.params import Params, session_room
from band.train.run_model import TrainedRun
from band.train.trials import Trials

TRIALS = 8  # looked at, of the valid split


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one output."""

    name: str
    claims: bool  # to be causal, by the configuration
    why: str  # where it does not
    worst: float  # largest change of a bin before the future
    bin: int  # where the future began then


def claims_of(arch: Arch) -> dict[str, str]:
    """Return {output: why it is not causal by design}; empty where it claims to be."""
    whole = "" if arch.ic_enc_seq_len else "its initial condition sees the whole trial (arch.ic_enc_seq_len is 0)"
    if not whole and arch.co_dim and not arch.causal_con:
        whole = "its controller sees the whole trial (arch.causal_con is no)"
    behavior = whole
    if not behavior and arch.behavior_decoder not in ("bin", "causal_lag"):
        behavior = f"its behaviour decoder sees all bins (arch.behavior_decoder is {arch.behavior_decoder})"
    return {"factors": whole, "output_params": whole, "output_behavior_params": behavior}


def check_run(folder: Path, *, data: Path | None = None, bins: Sequence[int] | None = None) -> list[Finding]:
    """Return what of a trained run's output moves before the bin from which its input is changed.

    Raises:
        ConfigError: no trained run, or a bin where no future can begin.
        DataError: the recording cannot be read.
    """
    trained = TrainedRun.open(folder, data=data)
    index, weight = trained.trials.whole("valid", [0])
    batch = trained.trials.batch([i[:, :TRIALS] for i in index], [w[:, :TRIALS] for w in weight])
    return check(trained.params, batch, config=trained.config, trials=trained.trials, bins=bins)


def check(
    params: Params, batch: Batch, *, config: RunConfig, trials: Trials, bins: Sequence[int] | None = None
) -> list[Finding]:
    """Return what of a model's output on a batch moves before the bin from which its input is changed."""
    first, num_bins = max(config.arch.ic_enc_seq_len, 1), trials.widths.num_bins
    bins = list(bins) if bins else sorted({first, (first + num_bins) // 2, num_bins - 1})
    if bad := [t for t in bins if not first <= t < num_bins]:
        raise ConfigError(f"--bins must be from {first} to {num_bins - 1}, got {bad[0]}")
    before = _outputs(params, batch, config, trials)
    moved: dict[str, tuple[float, int]] = dict.fromkeys(before, (0.0, bins[0]))
    for t in bins:
        after = _outputs(params, _with_other_future(batch, t), config, trials)
        for name, value in before.items():
            worst = float((after[name][:, :, :t] - value[:, :, :t]).abs().max())
            moved[name] = max(moved[name], (worst, t))
    reasons = claims_of(config.arch)
    whys = {name: reasons[name.partition(".")[0]] for name in moved}
    return [
        Finding(name=name, claims=not whys[name], why=whys[name], worst=worst, bin=t)
        for name, (worst, t) in sorted(moved.items())
    ]


def _with_other_future(batch: Batch, t: int) -> Batch:
    """Return the batch with other counts and external inputs from bin t on."""

    def changed(values: Tensor) -> Tensor:
        values = values.clone()
        values[:, :, t:] = values[:, :, t:].flip(1) * 2 + 3
        return values

    return dataclasses.replace(
        batch,
        encod=tuple(changed(counts) for counts in batch.encod),
        ext_input=None if batch.ext_input is None else changed(batch.ext_input),
    )


@torch.no_grad()
def _outputs(params: Params, batch: Batch, config: RunConfig, trials: Trials) -> dict[str, Tensor]:
    latents = run_model(params, batch, arch=config.arch, widths=trials.widths, noise=Noise())
    parts = enumerate(latents.outputs)
    found = {session_room("output_params", s, len(latents.outputs)): part for s, part in parts}
    found["factors"] = latents.decoded.factors
    if latents.behavior is not None and config.hyper.behavior_weight > 0:
        found["output_behavior_params"] = latents.behavior
    return found
