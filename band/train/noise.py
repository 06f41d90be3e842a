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

from band.config import Arch
from band.model.noise import Noise
from band.model.params import Widths, derived_generator, has_controller


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
        batch_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._seeds = sorted(set(seeds))
        self._seed_of = torch.tensor([self._seeds.index(seed) for seed in seeds])
        self._rates, self._arch, self._widths = rates, arch, widths
        self._batch_size, self._dtype, self._device = batch_size, dtype, device

    def training(self, step: int) -> Noise:
        """Return draws and masks of one training step."""
        arch, widths, trials = self._arch, self._widths, self._batch_size
        bins, recon_bins = widths.num_bins, widths.num_recon_bins
        rates = self._rates
        control = arch.ci_enc_dim * (1 if arch.causal_con else 2) + arch.fac_dim

        def mask(purpose: str, rate: Tensor, *shape: int) -> Tensor | None:
            return self._mask(step, purpose, rate, shape, scaled=True)

        with_controller = has_controller(arch)
        seen = (bins, trials, widths.num_neurons)
        # A member without coordinated dropout sees every count, and every count passes its gradient all the same.
        pass_rate = torch.where(rates.cd > 0, rates.cd_pass, 1.0)
        uses_pass = bool((rates.cd > 0).any() and (pass_rate > 0).any())
        return Noise(
            eps_ic=self._normal("ic", step, (trials, arch.ic_dim)),
            eps_co=self._normal("co", step, (recon_bins, trials, arch.co_dim)) if with_controller else None,
            cd_keep=mask("cd", rates.cd, *seen),
            cd_pass=self._mask(step, "cd_pass", 1 - pass_rate, seen, scaled=False) if uses_pass else None,
            encoder=mask("encoder", rates.dropout, *seen),
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

    def posterior(self, trials: int, *purpose: object) -> Noise:
        """Return the draws of one posterior sample of `trials` trials, without any mask."""
        arch = self._arch
        co = (self._widths.num_recon_bins, trials, arch.co_dim)
        return Noise(
            eps_ic=self._normal("ic", *purpose, shape=(trials, arch.ic_dim)),
            eps_co=self._normal("co", *purpose, shape=co) if has_controller(arch) else None,
        )

    def _normal(self, *purpose: object, shape: tuple[int, ...] | None = None) -> Tensor:
        """Return standard-normal draws, (M, B, D) or (M, B, R, D) with bins before trials in memory."""
        if shape is None:
            *purpose, shape = purpose  # type: ignore[assignment]
        draws = [
            torch.randn(shape, generator=derived_generator(seed, *purpose), dtype=self._dtype) for seed in self._seeds
        ]
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
