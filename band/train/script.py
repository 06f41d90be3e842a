"""A trained run as TorchScript, held to the model that was trained.

Axes: B trial, R time bin.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from band.errors import ConfigError
from band.model.forward import run_model
from band.model.noise import Noise
from band.model.params import session_room
from band.model.reconstructions import behavior_likelihood_of, reconstruction_of
from band.train.causality import claims_of
from band.train.plain import PlainModel, worst_difference
from band.train.run_model import TrainedRun

TRIALS = 16  # compared, of the valid split


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A scripted model and how far it lies from the trained one."""

    module: Any
    streams: bool
    differences: dict[str, float]  # by output, of the largest value


def export(folder: Path, *, session: str | None = None, data: Path | None = None) -> Exported:
    """Return a trained run as a scripted module, compared with the run on trials of its valid split.

    Raises:
        ConfigError: no trained run, no such session, or an option that cannot be exported.
        DataError: the recording cannot be read.
    """
    trained = TrainedRun.open(folder, data=data)
    names = [one.recording.session for one in trained.trials.sessions]
    if (session is None and len(names) > 1) or (session is not None and session not in names):
        raise ConfigError(f"--session must be one of {', '.join(names)}, got {session or 'none'}")
    number = names.index(session) if session is not None else 0
    arch, has_behavior = trained.config.arch, trained.config.hyper.behavior_weight > 0
    plain = PlainModel(
        {name: value[0] for name, value in trained.params.items()},
        arch=arch, widths=trained.trials.widths, session=number, has_behavior=has_behavior,
    )  # fmt: skip
    module = torch.jit.script(plain.eval())
    counts, ext_input, want = _trained_outputs(trained, number)
    with torch.no_grad():
        rates, factors, behavior, inputs = module(counts, ext_input)
        got = {"rates": rates, "factors": factors, "behavior": behavior, "inputs": inputs}
        differences = {name: worst_difference(got[name], value) for name, value in want.items()}
        streams = bool(arch.ic_enc_seq_len) and not claims_of(arch)["factors"]
        if streams:
            differences |= _stream_differences(module, counts, ext_input, want, segment=arch.ic_enc_seq_len)
    return Exported(module=module, streams=streams, differences=differences)


def _trained_outputs(trained: TrainedRun, number: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return counts, external inputs, and what the trained model makes of them."""
    config, trials = trained.config, trained.trials
    index, weight = trials.whole("valid", [0])
    keep = [slice(0, TRIALS if s == number else 0) for s in range(len(index))]
    batch = trials.batch(
        [i[:, k] for i, k in zip(index, keep, strict=True)], [w[:, k] for w, k in zip(weight, keep, strict=True)]
    )
    with torch.no_grad():
        latents = run_model(trained.params, batch, arch=config.arch, widths=trials.widths, noise=Noise())
    kind, likelihood = reconstruction_of(config.arch), behavior_likelihood_of(config.arch)
    own = trained.params.room(session_room("recon", number, len(index)))
    want = {
        "rates": kind.means(kind.split(latents.outputs[number]), own)[0],
        "factors": latents.decoded.factors[0],
    }
    if latents.behavior is not None and config.hyper.behavior_weight > 0:
        own = trained.params.room("behavior_likelihood")
        want["behavior"] = likelihood.means(likelihood.split(latents.behavior), own)[0]
    if latents.decoded.co_means is not None:
        want["inputs"] = latents.decoded.co_means[0]
    counts = batch.encod[number][0].float()
    ext_input = counts.new_zeros(len(counts), trials.widths.num_recon_bins, 0)
    return counts, ext_input if batch.ext_input is None else batch.ext_input[0].float(), want


def _stream_differences(
    module: Any, counts: Tensor, ext_input: Tensor, want: dict[str, Tensor], *, segment: int
) -> dict[str, float]:
    rates, factors, behavior, state = module.begin(counts[:, :segment], ext_input[:, :segment])
    parts = {"rates": [rates], "factors": [factors], "behavior": [behavior]}
    for t in range(segment, counts.shape[1]):
        rates, factors, behavior, state = module.step(counts[:, t], ext_input[:, t], state)
        for name, value in (("rates", rates), ("factors", factors), ("behavior", behavior)):
            parts[name].append(value[:, None])
    bins = counts.shape[1]
    return {
        f"stream_{name}": worst_difference(torch.cat(values, dim=1), want[name][:, :bins])
        for name, values in parts.items()
        if name in want and values[0].shape[-1]
    }


def serialised(module: Any) -> bytes:
    """Return a scripted module as the bytes of its file."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()
