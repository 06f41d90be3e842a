"""Decoder: initial condition and controller input to generator states, factors and inferred inputs.

Axes: M member, B trial, R time bin, G generator unit, F factor, C width of the controller input. Inside, (M, R, B, ·).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from band.config import Arch
from band.model.kernels import kernels_for
from band.model.noise import Noise, dropped
from band.model.params import Params, has_controller
from band.model.recurrent import CellTape, gru_scan, may_have_clipped


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What the decoder computes, in the order (M, B, R, ·); the controller's parts are None where there is none."""

    gen_init: Tensor  # (M, B, G)
    gen_states: Tensor  # (M, B, R, G), carries no gradient where there is a controller
    gen_inputs: Tensor  # (M, B, R, co_dim + E), carries no gradient
    factors: Tensor  # (M, B, R, F)
    con_states: Tensor | None = None  # (M, B, R, con_dim), carries no gradient
    co_means: Tensor | None = None  # (M, B, R, co_dim)
    co_log_vars: Tensor | None = None  # (M, B, R, co_dim)


@dataclass(frozen=True)
class _Loop:
    """Fixed inputs of the recurrence, (M, R, B, ·)."""

    clip: float
    eps: Tensor | None  # (M, R, B, co_dim)
    factor_mask: Tensor | None  # (M, R, B, F), dropout of the factors on their way to the controller
    gen_mask: Tensor | None  # (M, R, B, G)
    co_off: bool  # inferred inputs set to zero on their way to the generator
    push: Tensor | None = None  # (M, R, co_dim), added to the inferred inputs of every trial

    def options(self, dtype: torch.dtype) -> tuple[Any, ...]:
        """Return what a kernel is told of them."""
        values = [None if v is None else v.to(dtype) for v in (self.eps, self.factor_mask, self.gen_mask, self.push)]
        rows = [v if v is None or v.stride(-1) == 1 else v.contiguous() for v in values]
        return (*rows, self.co_off, self.clip)


class _ControlledScan(torch.autograd.Function):
    """Controller, inferred inputs, generator and factors over all bins as one node of the graph."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        loop: _Loop,
        con_x: Tensor,
        gen_x: Tensor,
        g0: Tensor,
        c0: Tensor,
        f0: Tensor,
        con_weight: Tensor,
        gen_weight: Tensor,
        co_weight: Tensor,
        co_bias: Tensor,
        fac_weight: Tensor,
    ) -> tuple[Tensor, ...]:
        con, gen = CellTape.make(con_x, con_weight, loop.clip), CellTape.make(gen_x, gen_weight, loop.clip)
        members, bins, trials, _ = con_x.shape
        fac_dim, co_dim = fac_weight.shape[1], co_weight.shape[1] // 2

        def empty(width: int) -> Tensor:
            return con_x.new_empty(members, bins, trials, width)

        gen_states, con_states, factors, co = (empty(k) for k in (gen.hidden, con.hidden, fac_dim, 2 * co_dim))
        seen = gen_states if loop.gen_mask is None else empty(gen.hidden)
        stds = torch.empty_like(co[..., :co_dim])
        ctx.loop, ctx.con, ctx.gen, ctx.co_dim, ctx.fac_dim = loop, con, gen, co_dim, fac_dim
        ctx.kernels = kernels_for(con_x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(con_states, seen, stds, co_weight, fac_weight)
        controls = gen.a[..., :co_dim]
        ctx.mark_non_differentiable(gen_states, con_states, controls)
        if ctx.kernels is not None:
            outputs = [con_states, gen_states, seen, factors, co, stds]
            weights = [w.transpose(1, 2).contiguous() for w in (con_weight, gen_weight, co_weight)]
            weights += [co_bias, fac_weight.transpose(1, 2).contiguous()]
            ctx.kernels.controlled_forward(
                [*con.parts, *gen.parts], outputs, *loop.options(con_x.dtype), [c0, g0, f0], weights
            )
            return factors, co, gen_states, con_states, controls
        co_weight_t, fac_weight_t, g, c, f = co_weight.transpose(1, 2), fac_weight.transpose(1, 2), g0, c0, f0
        for t in range(bins):
            a = con.a[:, t]
            a[..., fac_dim:] = c
            if loop.factor_mask is None:
                a[..., :fac_dim] = f
            else:
                torch.mul(f, loop.factor_mask[:, t], out=a[..., :fac_dim])
            con.forward(t, c := con_states[:, t])
            torch.baddbmm(co_bias, c, co_weight_t, out=co[:, t])
            a = gen.a[:, t]
            _sample(co[:, t], loop, t, stds[:, t], a[..., :co_dim])
            a[..., co_dim:] = g
            gen.forward(t, g := gen_states[:, t])
            if loop.gen_mask is not None:
                torch.mul(g, loop.gen_mask[:, t], out=seen[:, t])
            torch.bmm(seen[:, t], fac_weight_t, out=(f := factors[:, t]))
        ctx.clipped = tuple(may_have_clipped(states, loop.clip) for states in (con_states, gen_states))
        return factors, co, gen_states, con_states, controls

    @staticmethod
    def backward(ctx: Any, d_factors: Tensor, d_co: Tensor, *_: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        loop, con, gen, co_dim, fac_dim = ctx.loop, ctx.con, ctx.gen, ctx.co_dim, ctx.fac_dim
        con_states, seen, stds, co_weight, fac_weight = ctx.saved_tensors
        d_con_x, d_gen_x = torch.empty_like(con.x), torch.empty_like(gen.x)
        d_factors = _own(d_factors, (*con.x.shape[:3], fac_dim), like=con.x)
        d_co = _own(d_co, (*con.x.shape[:3], 2 * co_dim), like=con.x)
        dg, dc = torch.zeros_like(gen.n[:, 0]), torch.zeros_like(con.n[:, 0])
        df: Tensor | None = None
        if ctx.kernels is not None:
            df = d_factors.new_empty(d_factors[:, 0].shape)
            outputs = [con_states, con_states, seen, d_factors, d_co, stds]  # states are not read on the way back
            ctx.kernels.controlled_backward(
                [*con.parts, *gen.parts], outputs, *loop.options(con.x.dtype),
                [con.weight.contiguous(), gen.weight.contiguous(), co_weight.contiguous(), fac_weight.contiguous()],
                d_factors, d_co, [d_con_x, d_gen_x], [dc, dg, df],
            )  # fmt: skip
        else:
            for t in reversed(range(con.x.shape[1])):
                if df is not None:
                    d_factors[:, t] += df
                d_seen = torch.bmm(d_factors[:, t], fac_weight)
                dg = dg + (d_seen if loop.gen_mask is None else d_seen.mul_(loop.gen_mask[:, t]))
                if ctx.clipped[1]:
                    gen.unclip_(t, dg)
                da = gen.backward(t, dg, d_gen_x[:, t])
                dg = da[..., co_dim:]
                _unsample(da[..., :co_dim], loop, t, stds[:, t], d_co[:, t])
                dc = torch.baddbmm(dc, d_co[:, t], co_weight)
                if ctx.clipped[0]:
                    con.unclip_(t, dc)
                da = con.backward(t, dc, d_con_x[:, t])
                dc = da[..., fac_dim:]
                df = dropped(da[..., :fac_dim], None if loop.factor_mask is None else loop.factor_mask[:, t])
        flat_co = d_co.flatten(1, 2)
        d_co_weight = torch.bmm(flat_co.transpose(1, 2), con_states.flatten(1, 2))
        d_fac_weight = torch.bmm(d_factors.flatten(1, 2).transpose(1, 2), seen.flatten(1, 2))
        weights = (con.weight_gradient(d_con_x), gen.weight_gradient(d_gen_x), d_co_weight)
        return None, d_con_x, d_gen_x, dg, dc, df, *weights, flat_co.sum(dim=1, keepdim=True), d_fac_weight


def _own(grad: Tensor | None, shape: tuple[int, ...], *, like: Tensor) -> Tensor:
    """Return a gradient that may be written to, zeros where there is none."""
    return like.new_zeros(shape) if grad is None else grad.clone(memory_format=torch.contiguous_format)


def _sample(co: Tensor, loop: _Loop, t: int, std: Tensor, out: Tensor) -> None:
    """Write the inferred input of bin t into `out` and its spread into `std` from `co` (M, B, 2 co_dim)."""
    mean, log_var = co.chunk(2, dim=-1)
    torch.mul(log_var, 0.5, out=std)
    std.exp_()
    if loop.co_off:
        out.zero_()
    elif loop.eps is None:
        out.copy_(mean)
    else:
        torch.addcmul(mean, std, loop.eps[:, t], out=out)
    if loop.push is not None:
        out.add_(loop.push[:, t, None])


def _unsample(du: Tensor, loop: _Loop, t: int, std: Tensor, d_co: Tensor) -> None:
    """Add the gradient of the inferred input of bin t to that of its mean and log variance."""
    if loop.co_off:
        return
    co_dim = du.shape[-1]
    d_co[..., :co_dim] += du
    if loop.eps is not None:
        d_co[..., co_dim:].addcmul_(du * std, loop.eps[:, t], value=0.5)


def decode(
    params: Params,
    ic: Tensor,
    controller_input: Tensor | None,
    ext_input: Tensor | None,
    *,
    arch: Arch,
    num_bins: int,
    noise: Noise,
    co_off: bool = False,
    push: Tensor | None = None,
) -> Decoded:
    """Return states, factors and inferred inputs unrolled from the initial condition.

    Args:
        params: M members.
        ic: (M, B, ic_dim), initial condition, drawn or mean.
        controller_input: (M, B, T, C), from `encode`; bins after T get zeros.
        ext_input: (M, B, <= R, E) external inputs, or None; bins after its end get zeros.
        arch: sizes.
        num_bins: R.
        noise: draws and masks.
        co_off: feed zeros instead of the inferred inputs to the generator.
        push: (M, R, co_dim), added to the inferred inputs: a perturbation, whose transient response can be seen.
    """
    gen_init = torch.baddbmm(params["ic_to_g0.bias"][:, None], ic, params["ic_to_g0.weight"].transpose(1, 2))
    fac_weight = functional.normalize(params["fac_linear.weight"], dim=2)
    gen_x = _generator_input(params, ext_input, gen_init, arch, num_bins, noise)
    gen_weight = torch.cat((params["gen.weight_ih"][..., : arch.co_dim], params["gen.weight_hh"]), dim=2)
    if controller_input is None:
        return _uncontrolled(gen_x, gen_weight, gen_init, fac_weight, ext_input, arch, num_bins, noise)
    assert has_controller(arch)
    con_x, con_weight, factor_mask = _controller_input(params, controller_input, arch, num_bins, noise)
    f0 = torch.bmm(dropped(gen_init, noise.gen_init), fac_weight.transpose(1, 2))
    c0 = params["con.h0"][:, None].expand(-1, gen_init.shape[1], -1)
    loop = _Loop(arch.cell_clip, _by_bin(noise.eps_co), factor_mask, _by_bin(noise.generator), co_off, push)
    factors, co, gen_states, con_states, controls = _ControlledScan.apply(
        loop, con_x, gen_x, gen_init, c0, f0, con_weight, gen_weight,
        params["co_linear.weight"], params["co_linear.bias"][:, None], fac_weight,
    )  # fmt: skip
    means, log_vars = co.transpose(1, 2).chunk(2, dim=-1)
    controls = controls.transpose(1, 2)
    return Decoded(
        gen_init=gen_init,
        gen_states=gen_states.transpose(1, 2),
        gen_inputs=controls if ext_input is None else torch.cat((controls, _padded(ext_input, num_bins)), dim=-1),
        factors=factors.transpose(1, 2),
        con_states=con_states.transpose(1, 2),
        co_means=means,
        co_log_vars=log_vars,
    )


def _uncontrolled(
    gen_x: Tensor,
    gen_weight: Tensor,
    gen_init: Tensor,
    fac_weight: Tensor,
    ext_input: Tensor | None,
    arch: Arch,
    num_bins: int,
    noise: Noise,
) -> Decoded:
    """Return what the generator does by itself: no bin waits for a factor, so the factors are one product."""
    _, states = gru_scan(gen_x, weight_hh=gen_weight, h0=gen_init, clip=arch.cell_clip, members=len(gen_x))
    states = states[:, 0]
    seen = dropped(states, _by_bin(noise.generator)).flatten(1, 2)
    factors = torch.bmm(seen, fac_weight.transpose(1, 2)).unflatten(1, (num_bins, -1)).transpose(1, 2)
    if ext_input is None:
        ext_input = states.new_zeros(states.shape[0], states.shape[2], num_bins, 0)
    inputs = _padded(ext_input, num_bins)
    return Decoded(gen_init=gen_init, gen_states=states.transpose(1, 2), gen_inputs=inputs, factors=factors)


def _by_bin(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.transpose(1, 2)


def _padded(values: Tensor, num_bins: int) -> Tensor:
    """Return (M, B, ·, E) with zeros appended up to `num_bins` bins."""
    return functional.pad(values, (0, 0, 0, num_bins - values.shape[2]))


def _generator_input(
    params: Params, ext_input: Tensor | None, gen_init: Tensor, arch: Arch, num_bins: int, noise: Noise
) -> Tensor:
    """Return what external inputs and biases add to the generator's gates, (M, R, B, 3G)."""
    bias = params["gen.bias"][:, None]
    members, trials, _ = gen_init.shape
    if ext_input is None:
        return bias[:, None].expand(members, num_bins, trials, -1)
    flat = dropped(_padded(ext_input, num_bins), noise.ext_input).transpose(1, 2).flatten(1, 2)
    weight = params["gen.weight_ih"][..., arch.co_dim :].transpose(1, 2)
    return torch.baddbmm(bias, flat, weight).unflatten(1, (num_bins, trials))


def _controller_input(
    params: Params, controller_input: Tensor, arch: Arch, num_bins: int, noise: Noise
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the encoders' part of the controller's gates (M, R, B, 3H), its recurrent weight, the factors' mask.

    A causal controller has the columns of the backward encoder, which it never sees, among its weights.
    """
    width = controller_input.shape[-1]
    mask = noise.controller
    seen = _padded(controller_input, num_bins)
    seen = dropped(seen, None if mask is None else mask[..., :width]).transpose(1, 2)
    weight_ih = params["con.weight_ih"]
    flat = torch.baddbmm(params["con.bias"][:, None], seen.flatten(1, 2), weight_ih[..., :width].transpose(1, 2))
    weight = torch.cat((weight_ih[..., 2 * arch.ci_enc_dim :], params["con.weight_hh"]), dim=2)
    factor_mask = None if mask is None else mask[..., width:].transpose(1, 2)
    return flat.unflatten(1, seen.shape[1:3]), weight, factor_mask
