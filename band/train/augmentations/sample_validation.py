"""Sample validation: a share of the counts that training never sees, and how well they are reconstructed.

Axes: M member, B trial, T time bin and N neuron of the encoders, R, N' those reconstructed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from band.config import RunConfig
from band.model.forward import Batch, Latents
from band.model.params import Params, derived_generator, session_room
from band.model.reconstructions import Reconstruction


class SampleValidation:
    """Which samples are held out: `hyper.sv_rate` of every trial's, the same ones in every epoch, by seed and trial."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        """Take the configurations of the members."""
        self._seeds = [config.seed for config in configs]
        self._rates = torch.tensor([config.hyper.sv_rate for config in configs], dtype=torch.float64)

    def is_active(self) -> bool:
        """Return whether any member holds samples out."""
        return bool((self._rates > 0).any())

    def split(self, batch: Batch, index: Sequence[Tensor]) -> tuple[Batch, Batch]:
        """Return the batch without the held-out samples, and the same with nothing but these to reconstruct.

        Args:
            batch: the trials.
            index: of each session (M, B), their places in the recording.
        """
        encod, recon, held, trained, checked = [], [], [], [], []
        for session, (seen, data, trials) in enumerate(zip(batch.encod, batch.recon, index, strict=True)):
            out = self._held_out(session, trials, seen)
            encod.append(seen * ~out)
            bins, neurons = data.shape[2] - seen.shape[2], data.shape[3] - seen.shape[3]
            out = functional.pad(out, (0, neurons, 0, bins)).to(data.dtype)
            observed = None if batch.recon_observed is None else batch.recon_observed[session]
            trained.append(1 - out if observed is None else observed * (1 - out))
            checked.append(out if observed is None else observed * out)
            recon.append(data * trained[-1])
            held.append(data * checked[-1])
        rest = replace(batch, encod=tuple(encod), recon=tuple(recon), recon_observed=tuple(trained))
        return rest, replace(rest, recon=tuple(held), recon_observed=tuple(checked))

    def scaled(self, batch: Batch) -> Batch:
        """Return what the encoders still see scaled as in dropout: on average as if they saw everything."""
        return replace(batch, encod=tuple(seen / (1 - self._rates).to(seen).view(-1, 1, 1, 1) for seen in batch.encod))

    def _held_out(self, session: int, trials: Tensor, like: Tensor) -> Tensor:
        """Return what is held out, (M, B, T, N), of the trials (M, B)."""
        size, rows, known = like.shape[2] * like.shape[3], [], {}
        for seed, own in zip(self._seeds, trials.tolist(), strict=True):
            for trial in own:
                if (seed, trial) not in known:
                    known[seed, trial] = len(rows)
                    generator = derived_generator(seed, "sample validation", session, trial)
                    rows.append(torch.rand(size, generator=generator))
        place = [[known[seed, trial] for trial in own] for seed, own in zip(self._seeds, trials.tolist(), strict=True)]
        draws = torch.stack(rows).to(like.device)[torch.tensor(place, device=like.device)]
        draws = draws.unflatten(2, like.shape[2:])
        return draws < self._rates.to(draws).view(-1, 1, 1, 1)


@torch.no_grad()
def held_out_recon(params: Params, latents: Latents, batch: Batch, kind: Reconstruction) -> Tensor:
    """Return the reconstruction loss (M,) of a held-out sample, in nats or as the kind defines it; NaN without any.

    Args:
        params: M members.
        latents: of the pass that saw the other samples.
        batch: the held-out samples, as `SampleValidation.split` gives them.
        kind: the reconstruction.
    """
    total = count = torch.zeros_like(batch.weight[:, 0])
    assert batch.recon_observed is not None
    parts = zip(latents.outputs, batch.recon, batch.recon_observed, batch.weight.split(batch.sizes, dim=1), strict=True)
    for session, (outputs, data, observed, weight) in enumerate(parts):
        assert observed is not None
        own = params.room(session_room("recon", session, len(batch.sizes)))
        loss = kind.loss(outputs, data, own, observed=observed)
        constant = kind.constant(data)
        total = total + ((loss if constant is None else loss + constant) * weight).sum(dim=1)
        count = count + (observed.sum(dim=(-2, -1)) * weight).sum(dim=1)
    return torch.where(count > 0, total / count, math.nan)
