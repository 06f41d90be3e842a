"""Random numbers of a population's passes, from generators that depend on (seed, step, purpose) alone.

Members of equal seed share their draws, so an LFADS/BAND pair sees the same masks and noise; nothing depends on which
members train together, or on what was drawn before. Masks come from 16-bit integers, four to a 64-bit draw: a rate is
met to 1/65536.

Axes: M member, S distinct seed, B trial, T/R time bin. Memory is laid out bins before trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from band.config import Arch
from band.model.noise import Noise
from band.model.params import Widths, derived_generator, encoder_width, has_controller, session_room
from band.model.priors import prior_of
from band.model.priors.base import Prior


@dataclass(frozen=True)
class Rates:
    """Dropout rates of M members, (M,) each, on the CPU."""

    dropout: Tensor
    behavior_dropout: Tensor
    cd: Tensor
    cd_pass: Tensor


class NoiseSource:
    """Draws the noise of every pass of M members."""

    def __init__(
        self,
        seeds: Sequence[int],
        rates: Rates,
        *,
        arch: Arch,
        widths: Widths,
        batch_sizes: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._seeds = sorted(set(seeds))
        self._seed_of = torch.tensor([self._seeds.index(seed) for seed in seeds])
        self._rates, self._arch, self._widths = rates, arch, widths
        self._batch_sizes, self._dtype, self._device = batch_sizes, dtype, device
        self._priors = {room: prior_of(arch, room) for room in (("ic", "co") if has_controller(arch) else ("ic",))}

    def training(self, step: int) -> Noise:
        """Return draws and masks of one training step."""
        arch, widths, trials = self._arch, self._widths, sum(self._batch_sizes)
        bins, recon_bins = widths.num_bins, widths.num_recon_bins
        rates = self._rates
        control = arch.ci_enc_dim * (1 if arch.causal_con else 2) + arch.fac_dim

        def mask(purpose: str, rate: Tensor, *shape: int) -> Tensor | None:
            return self._mask(step, purpose, rate, shape, scaled=True)

        with_controller = has_controller(arch)
        cd_keep, cd_pass = self._coordinated(step)
        return Noise(
            **self._draws(trials, step),
            cd_keep=cd_keep,
            cd_pass=cd_pass,
            encoder=mask("encoder", rates.dropout, bins, trials, encoder_width(arch, widths)),
            ic=mask("ic_enc", rates.dropout, trials, 2 * arch.ic_enc_dim),
            ext_input=mask("ext_input", rates.dropout, recon_bins, trials, widths.ext_input_dim)
            if widths.ext_input_dim
            else None,
            controller=mask("controller", rates.dropout, recon_bins, trials, control) if with_controller else None,
            gen_init=mask("gen_init", rates.dropout, trials, arch.gen_dim) if with_controller else None,
            generator=mask("generator", rates.dropout, recon_bins, trials, arch.gen_dim),
            behavior=mask("behavior", rates.behavior_dropout, recon_bins, trials, arch.fac_dim)
            if widths.behavior_dim
            else None,
        )

    def _coordinated(self, step: int) -> tuple[tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """Return the masks of coordinated dropout by session; the initial condition's own segment is seen whole."""
        rates, widths, segment = self._rates, self._widths, self._arch.ic_enc_seq_len
        if not bool((rates.cd > 0).any()):
            return None, None
        # A member without coordinated dropout sees every count, and every count passes its gradient all the same.
        pass_rate = torch.where(rates.cd > 0, rates.cd_pass, 1.0)
        uses_pass = bool((pass_rate > 0).any()) or segment > 0

        def masks(purpose: str, rate: Tensor, *, scaled: bool) -> tuple[Tensor, ...]:
            found = []
            for session, (trials, neurons) in enumerate(zip(self._batch_sizes, widths.num_neurons, strict=True)):
                name = session_room(purpose, session, widths.num_sessions)
                shape = (widths.num_bins - segment, trials, neurons)
                mask = self._mask(step, name, rate, shape, scaled=scaled)
                if mask is None:
                    mask = torch.ones(len(rate), trials, shape[0], neurons, dtype=self._dtype, device=self._device)
                found.append(functional.pad(mask, (0, 0, segment, 0), value=1.0) if segment else mask)
            return tuple(found)

        keep = masks("cd", rates.cd, scaled=True)
        return keep, masks("cd_pass", 1 - pass_rate, scaled=False) if uses_pass else None

    def posterior(self, trials: int, *purpose: object) -> Noise:
        """Return the draws of one posterior sample of `trials` trials, without any mask."""
        return Noise(**self._draws(trials, *purpose))

    def _draws(self, trials: int, *purpose: object) -> dict[str, Tensor]:
        """Return the posterior's draws, and one more of each where the prior's divergence is estimated from it."""
        arch = self._arch
        shapes = {"ic": (trials, arch.ic_dim), "co": (self._widths.num_recon_bins, trials, arch.co_dim)}
        found = {}
        for room, prior in self._priors.items():
            found[f"eps_{room}"] = self._draw(room, purpose, shapes[room], prior)
            if prior.needs_draw:
                found[f"kl_{room}"] = self._draw(f"kl_{room}", purpose, shapes[room], prior)
        return found

    def _draw(self, name: str, purpose: tuple[object, ...], shape: tuple[int, ...], prior: Prior) -> Tensor:
        """Return draws, (M, B, D) or (M, B, R, D) with bins before trials in memory."""
        draws = [prior.draw(shape, derived_generator(seed, name, *purpose), self._dtype) for seed in self._seeds]
        values = torch.stack(draws)[self._seed_of].to(self._device)
        return values.transpose(1, 2) if values.dim() == 4 else values

    def _mask(self, step: int, purpose: str, rate: Tensor, shape: tuple[int, ...], *, scaled: bool) -> Tensor | None:
        """Return a mask that is 0 at `rate` (M,), else 1 or, scaled, 1 / (1 - rate); None where no rate is above 0."""
        if not bool((rate > 0).any()):
            return None
        size = torch.Size(shape).numel()
        draws = torch.empty(len(self._seeds), -(-size // 4), dtype=torch.int64)
        for row, seed in zip(draws, self._seeds, strict=True):
            row.random_(-(2**63), None, generator=derived_generator(seed, purpose, step))
        bits = draws.view(torch.int16)[:, :size].to(self._device)
        wide = (-1, *(1,) * len(shape))
        threshold = (rate * 65536).round().sub(32768).to(torch.int32).view(wide).to(self._device)
        kept = bits.unflatten(1, shape)[self._seed_of] >= threshold
        keep = (1 / (1 - rate) if scaled else torch.ones_like(rate)).to(self._device, self._dtype).view(wide)
        values = kept * keep
        return values.transpose(1, 2) if values.dim() == 4 else values
