"""Random numbers of a population's passes: each depends on (seed, purpose, step) and its place alone.

Members of equal seed share their draws, so an LFADS/BAND pair sees the same masks and noise; nothing depends on which
members train together, on what was drawn before, or on the device.

Axes: M member, B trial, T/R time bin. Memory is laid out bins before trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from band.config import Arch
from band.model.noise import Noise
from band.model.params import Widths, derived_generator, derived_number, encoder_width, has_controller, session_room
from band.model.priors import prior_of
from band.model.priors.base import Prior
from band.train.streams import random_mask, random_normals, signed, stream_keys


@dataclass(frozen=True)
class Rates:
    """Dropout rates of M members, (M,) each, on the CPU."""

    dropout: Tensor
    behavior_dropout: Tensor
    cd: Tensor
    cd_pass: Tensor


class NoiseSource:
    """Draws the noise of every pass of M members.

    A step or a number of a pass may be a tensor without axes: then the draws can be part of a captured graph.
    """

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
        self._seeds, self._rates, self._arch, self._widths = list(seeds), rates, arch, widths
        self._batch_sizes, self._dtype, self._device = batch_sizes, dtype, device
        self._priors = {room: prior_of(arch, room) for room in (("ic", "co") if has_controller(arch) else ("ic",))}
        self._keys: dict[str, Tensor] = {}
        self._masks: dict[str, tuple[Tensor, Tensor] | None] = {}

    @property
    def is_of_tensors(self) -> bool:
        """Whether every draw is made on the device; a prior of its own kind draws on the CPU."""
        return all(type(prior).draw is Prior.draw for prior in self._priors.values())

    def training(self, step: int | Tensor) -> Noise:
        """Return draws and masks of one training step."""
        arch, widths, trials = self._arch, self._widths, sum(self._batch_sizes)
        bins, recon_bins = widths.num_bins, widths.num_recon_bins
        rates, keys = self._rates, self._keys_of("step", step)
        control = arch.ci_enc_dim * (1 if arch.causal_con else 2) + arch.fac_dim

        def mask(purpose: str, rate: Tensor, *shape: int) -> Tensor | None:
            return self._mask(keys, purpose, rate, shape, scaled=True)

        with_controller = has_controller(arch)
        cd_keep, cd_pass = self._coordinated(keys)
        return Noise(
            **self._draws(trials, "step", step),
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

    def _coordinated(self, keys: Tensor) -> tuple[tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
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
                mask = self._mask(keys, name, rate, shape, scaled=scaled)
                if mask is None:
                    mask = torch.ones(len(rate), trials, shape[0], neurons, dtype=self._dtype, device=self._device)
                found.append(functional.pad(mask, (0, 0, segment, 0), value=1.0) if segment else mask)
            return tuple(found)

        keep = masks("cd", rates.cd, scaled=True)
        return keep, masks("cd_pass", 1 - pass_rate, scaled=False) if uses_pass else None

    def posterior(self, trials: int, purpose: str, number: int | Tensor = 0) -> Noise:
        """Return the draws of posterior sample `number` of `trials` trials, without any mask."""
        return Noise(**self._draws(trials, purpose, number))

    def _draws(self, trials: int, purpose: str, number: int | Tensor) -> dict[str, Tensor]:
        """Return the posterior's draws, and one more of each where the prior's divergence is estimated from it."""
        arch, keys = self._arch, self._keys_of(purpose, number)
        shapes = {"ic": (trials, arch.ic_dim), "co": (self._widths.num_recon_bins, trials, arch.co_dim)}

        def draw(name: str, shape: tuple[int, ...], prior: Prior) -> Tensor:
            """Return draws, (M, B, D) or (M, B, R, D) with bins before trials in memory."""
            if type(prior).draw is Prior.draw:
                values = random_normals(_stream(keys, name), math.prod(shape), self._dtype).unflatten(1, shape)
            else:
                draws = {
                    seed: prior.draw(shape, derived_generator(seed, name, purpose, int(number)), self._dtype)
                    for seed in set(self._seeds)
                }
                values = torch.stack([draws[seed] for seed in self._seeds]).to(self._device)
            return values.transpose(1, 2) if values.dim() == 4 else values

        found = {}
        for room, prior in self._priors.items():
            found[f"eps_{room}"] = draw(room, shapes[room], prior)
            if prior.needs_draw:
                found[f"kl_{room}"] = draw(f"kl_{room}", shapes[room], prior)
        return found

    def _mask(self, keys: Tensor, purpose: str, rate: Tensor, shape: tuple[int, ...], *, scaled: bool) -> Tensor | None:
        """Return a mask that is 0 at `rate` (M,), else 1 or, scaled, 1 / (1 - rate); None where no rate is above 0."""
        if purpose not in self._masks:
            kept = 1 / (1 - rate) if scaled else torch.ones_like(rate)
            none = not bool((rate > 0).any())
            self._masks[purpose] = None if none else (rate.to(self._device), kept.to(self._device, self._dtype))
        held = self._masks[purpose]
        if held is None:
            return None
        values = random_mask(_stream(keys, purpose), *held, math.prod(shape)).unflatten(1, shape)
        return values.transpose(1, 2) if values.dim() == 4 else values

    def _keys_of(self, purpose: str, number: int | Tensor) -> Tensor:
        """Return a key (M,) of each member for a pass: training step `number`, say."""
        if purpose not in self._keys:
            numbers = [signed(derived_number(seed, purpose)) for seed in self._seeds]
            self._keys[purpose] = torch.tensor(numbers, device=self._device)
        return stream_keys(self._keys[purpose], number)


def _stream(keys: Tensor, name: str) -> Tensor:
    """Return the keys of one of the streams of a pass."""
    return keys ^ signed(derived_number(0, name))
