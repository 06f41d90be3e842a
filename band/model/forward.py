"""One pass of LFADS/BAND for a population: data and noise in, latents, rates, behaviour and losses out.

Axes: M member, B trial, T time bin of the encoder, R reconstructed bin, N neuron, N' reconstructed neuron, F factor,
K behaviour channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from band.config import Arch
from band.errors import ShapeError
from band.model import losses
from band.model.behavior import behavior_decoder_of
from band.model.decoder import Decoded, decode
from band.model.encoder import encode
from band.model.noise import Noise, dropped
from band.model.params import Params, Widths, session_room
from band.model.pieces import in_pieces
from band.model.priors import prior_of
from band.model.reconstructions import behavior_likelihood_of, reconstruction_of

# Of the noise, what encoders and decoder take; the rest is of read-ins, read-outs and losses.
DRAWN = ("eps_ic", "eps_co", "encoder", "ic", "ext_input", "controller", "gen_init", "generator")
DECODED = tuple(field.name for field in fields(Decoded))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Trials that every member sees in one pass; NaN never stands in here: `observed` masks do.

    Sessions have their own neurons, so their counts come in a tuple; all else has the trials of all sessions, B, one
    session after the other.
    """

    encod: tuple[Tensor, ...]  # of each session (M, B, T, N), counts the encoders see
    recon: tuple[Tensor, ...]  # of each session (M, B, R, N'), counts to reconstruct, 0 where unobserved
    weight: Tensor  # (M, B), 0 for padding
    ext_input: Tensor | None = None  # (M, B, <= R, E)
    behavior: Tensor | None = None  # (M, B, R, K), 0 where unobserved
    recon_observed: tuple[Tensor | None, ...] | None = None  # of each session (M, B, R, N'), None: all
    behavior_observed: Tensor | None = None  # (M, B, R, K)
    recon_constant: Tensor | None = None  # (M, B), see Reconstruction.constant

    @property
    def sizes(self) -> list[int]:
        """Trials of each session."""
        return [counts.shape[1] for counts in self.encod]


@dataclass(frozen=True, kw_only=True)
class Latents:
    """What a pass computes."""

    ic_mean: Tensor  # (M, B, ic_dim)
    ic_log_var: Tensor  # (M, B, ic_dim), without its floor
    decoded: Decoded
    outputs: tuple[Tensor, ...]  # of each session (M, B, R, P N'), see Reconstruction; log rates, for Poisson
    behavior: Tensor | None  # (M, B, R, P K), see Reconstruction; the behaviour itself, for squared error


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Weights of the loss terms, each (M,), ramps not yet applied."""

    behavior_weight: Tensor
    kl_ic_scale: Tensor
    kl_co_scale: Tensor
    kl_ic_target: Tensor
    kl_co_target: Tensor
    l2: dict[str, Tensor]  # by room: ic_enc, ci_enc, gen, con
    loss_scale: float = 1.0
    recon_reduce_mean: bool = False
    kl_co_reduce: str = "sum"
    kl_target: str = "free"


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Terms of the loss, each (M,)."""

    loss: Tensor
    recon: Tensor
    behavior: Tensor
    kl_ic: Tensor  # nats, as they are: neither scaled nor ramped, target not taken off
    kl_co: Tensor
    l2: Tensor


def run_model(
    params: Params,
    batch: Batch,
    *,
    arch: Arch,
    widths: Widths,
    noise: Noise,
    co_off: bool = False,
    trials_at_once: int = 0,
) -> Latents:
    """Return latents, read-outs and decoded behaviour.

    Args:
        params: M members.
        batch: the trials.
        arch: sizes.
        widths: of the recording.
        noise: draws and masks.
        co_off: feed zeros instead of the inferred inputs to the generator.
        trials_at_once: go through encoders and decoder with so many trials at once, which keeps nothing of them for the
            way back but has it begin with the way forward once more; 0: with all trials, once. Equal to rounding.

    Raises:
        ShapeError: the batch does not have the bins and neurons of `widths`.
    """
    seen = read_in(params, batch.encod, arch=arch, widths=widths, noise=noise)
    by_trial = [seen, batch.ext_input, *(getattr(noise, name) for name in DRAWN)]
    views = [view for _, view in params.items()]
    unrolled = partial(_unrolled, params, arch=arch, num_bins=widths.num_recon_bins, co_off=co_off)
    if 0 < trials_at_once < seen.shape[1]:
        found = in_pieces(unrolled, by_trial, views, trials_at_once=trials_at_once)
    else:
        found = unrolled(*by_trial, *views)
    ic_mean, ic_log_var, *values = found
    decoded = Decoded(**dict(zip(DECODED, values, strict=True)))
    outputs, behavior = read_out(params, decoded.factors, batch.sizes, arch=arch, widths=widths, noise=noise)
    return Latents(ic_mean=ic_mean, ic_log_var=ic_log_var, decoded=decoded, outputs=outputs, behavior=behavior)


def _unrolled(
    params: Params, seen: Tensor, ext_input: Tensor | None, *rest: Tensor | None,
    arch: Arch, num_bins: int, co_off: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Return mean and log variance of the initial condition (M, B, ic_dim) and each of DECODED, all from tensors.

    Args:
        params: says which view is which.
        seen: (M, B, T, ·), see `read_in`.
        ext_input: (M, B, <= R, E) or None.
        rest: each of DRAWN, then the views of the parameters.
        arch: sizes.
        num_bins: R.
        co_off: as in `run_model`.
    """
    noise = Noise(**dict(zip(DRAWN, rest, strict=False)))
    params = params.replaced(rest[len(DRAWN) :])
    ic_mean, ic_log_var, controller_input = encode(params, seen, arch=arch, noise=noise)
    ic = ic_mean
    if noise.eps_ic is not None:
        ic = torch.addcmul(ic_mean, (ic_log_var.exp() + arch.ic_post_var_min).sqrt(), noise.eps_ic)
    decoded = decode(params, ic, controller_input, ext_input, arch=arch, num_bins=num_bins, noise=noise, co_off=co_off)
    return ic_mean, ic_log_var, *(getattr(decoded, name) for name in DECODED)


def read_in(params: Params, encod: tuple[Tensor, ...], *, arch: Arch, widths: Widths, noise: Noise) -> Tensor:
    """Return what the encoders see, (M, B, T, N or readin_dim): sessions one after the other, each by its own map.

    Raises:
        ShapeError: the counts do not have the bins and neurons of `widths`.
    """
    parts = []
    for session, counts in enumerate(encod):
        expected = (widths.num_bins, widths.num_neurons[session])
        if counts.shape[2:] != expected:
            raise ShapeError(f"encod (M, B, T, N) {tuple(counts.shape)} does not have (T, N) {expected} of the model")
        seen = counts if noise.cd_keep is None else counts * noise.cd_keep[session]
        if arch.readin_dim:
            seen = _linear(params, session_room("readin", session, len(encod)), seen)
        parts.append(seen)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def read_out(
    params: Params, factors: Tensor, sizes: Sequence[int], *, arch: Arch, widths: Widths, noise: Noise
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Return the read-out of each session, and decoded behaviour (M, B, R, P K) or None, from factors (M, B, R, F)."""
    parts = factors.split(list(sizes), dim=1) if len(sizes) > 1 else (factors,)
    outputs = tuple(_linear(params, session_room("readout", s, len(sizes)), part) for s, part in enumerate(parts))
    if not widths.behavior_dim:
        return outputs, None
    decoder = behavior_decoder_of(arch)
    return outputs, decoder.decode(dropped(factors, noise.behavior), params.room("behavior"))


def _linear(params: Params, room: str, values: Tensor) -> Tensor:
    """Return (M, B, T, ·) mapped by the weight and bias of a room; in memory bins stand before trials."""
    by_bin = values.transpose(1, 2)
    flat = torch.baddbmm(
        params[f"{room}.bias"][:, None], by_bin.flatten(1, 2), params[f"{room}.weight"].transpose(1, 2)
    )
    return flat.unflatten(1, by_bin.shape[1:3]).transpose(1, 2)


def compute_losses(
    params: Params,
    latents: Latents,
    batch: Batch,
    *,
    arch: Arch,
    scales: Scales,
    kl_ramp: Tensor,
    l2_ramp: Tensor,
    noise: Noise,
) -> Losses:
    """Return every term of the loss and their weighted sum, (M,) each."""
    sizes = batch.sizes
    recon = _reconstruction(params, latents, batch, arch, scales, noise)
    behavior = _behavior_loss(params, latents, batch, arch, scales)
    recon, behavior = (losses.session_mean(term, batch.weight, sizes=sizes) for term in (recon, behavior))
    kl_ic, kl_co = _divergences(params, latents, batch, arch, scales.kl_co_reduce, noise)
    kl = scales.kl_ic_scale * _beyond(kl_ic, scales.kl_ic_target, scales.kl_target)
    kl = kl + scales.kl_co_scale * _beyond(kl_co, scales.kl_co_target, scales.kl_target)
    l2 = losses.recurrent_l2(params, scales=scales.l2)
    for penalty in _penalties(params, arch, len(sizes)):
        l2 = l2 + penalty
    total = recon + scales.behavior_weight * behavior + kl_ramp * kl + l2_ramp * l2
    return Losses(loss=scales.loss_scale * total, recon=recon, behavior=behavior, kl_ic=kl_ic, kl_co=kl_co, l2=l2)


def _beyond(kl: Tensor, target: Tensor, rule: str) -> Tensor:
    """Return what a divergence (M,) costs: how far it lies above its target, or how far from it."""
    return (kl - target).abs() if rule == "absolute" else (kl - target).clamp(min=0)


def _reconstruction(params: Params, latents: Latents, batch: Batch, arch: Arch, scales: Scales, noise: Noise) -> Tensor:
    """Return the reconstruction loss (M, B) of each trial of all sessions."""
    kind, sizes = reconstruction_of(arch), batch.sizes
    constants = None if batch.recon_constant is None else batch.recon_constant.split(sizes, dim=1)
    parts = []
    for session, (outputs, data) in enumerate(zip(latents.outputs, batch.recon, strict=True)):
        observed = None if batch.recon_observed is None else batch.recon_observed[session]
        own = params.room(session_room("recon", session, len(sizes)))
        loss = kind.loss(outputs, data, own, gate=_gradient_gate(noise, data, session), observed=observed)
        if constants is not None:
            loss = loss + constants[session]
        parts.append(loss / _count(data, observed) if scales.recon_reduce_mean else loss)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _count(data: Tensor, observed: Tensor | None) -> Tensor | int:
    """Return over how many values of each trial a mean is: all of (M, B, R, N'), or those observed, (M, B)."""
    if observed is None:
        return data[0, 0].numel()
    return observed.expand_as(data).sum(dim=(-2, -1)).clamp(min=1)


def _penalties(params: Params, arch: Arch, num_sessions: int) -> list[Tensor]:
    """Return the penalties, (M,) each, on what reconstructions train beside the read-out."""
    kind = reconstruction_of(arch)
    found = [kind.penalty(params.room(session_room("recon", session, num_sessions))) for session in range(num_sessions)]
    return [penalty for penalty in found if penalty is not None]


def _behavior_loss(params: Params, latents: Latents, batch: Batch, arch: Arch, scales: Scales) -> Tensor:
    """Return the behaviour loss (M, B) of each trial, 0 where there is none."""
    if latents.behavior is None or batch.behavior is None:
        return torch.zeros_like(batch.weight)
    observed = batch.behavior_observed
    kind = behavior_likelihood_of(arch)
    loss = kind.loss(latents.behavior, batch.behavior, params.room("behavior_likelihood"), observed=observed)
    constant = kind.constant(batch.behavior)
    loss = loss if constant is None else loss + constant
    return loss / _count(batch.behavior, observed) if scales.recon_reduce_mean else loss


def _gradient_gate(noise: Noise, recon: Tensor, session: int) -> Tensor | None:
    """Return 1 where a count passes gradient: where the encoder did not see it, or it may pass all the same."""
    if noise.cd_keep is None:
        return None
    seen = noise.cd_keep[session] > 0
    hidden = ~seen if noise.cd_pass is None else ~seen | (noise.cd_pass[session] > 0)
    gate = hidden.to(recon.dtype)
    bins, neurons = recon.shape[2] - gate.shape[2], recon.shape[3] - gate.shape[3]
    return functional.pad(gate, (0, neurons, 0, bins), value=1.0) if bins or neurons else gate


def _divergences(
    params: Params, latents: Latents, batch: Batch, arch: Arch, reduce: str, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return the divergences (M,) of the initial condition and of the inferred inputs, in nats a trial."""
    log_var = latents.ic_log_var
    if arch.ic_post_var_min:
        log_var = (log_var.exp() + arch.ic_post_var_min).log()
    kl_ic = prior_of(arch, "ic").divergence(params.room("ic_prior"), latents.ic_mean, log_var, noise.kl_ic)
    decoded = latents.decoded
    if decoded.co_means is None or decoded.co_log_vars is None:
        return losses.weighted_mean(kl_ic, batch.weight), kl_ic.new_zeros(kl_ic.shape[0])
    by_bin = prior_of(arch, "co").divergence(
        params.room("co_prior"), decoded.co_means, decoded.co_log_vars, noise.kl_co
    )
    kl_co = by_bin.sum(dim=2) if reduce == "sum" else by_bin.mean(dim=2)
    return losses.weighted_mean(kl_ic, batch.weight), losses.weighted_mean(kl_co, batch.weight)
