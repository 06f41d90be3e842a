"""The operators of scan.cpp for GPUs: products by cuBLAS, and all that stands between two of them as one Triton kernel.

The same names, arguments and arithmetic as in scan.cpp. A loop over bins launches a dozen small kernels a bin, which a
captured graph makes cheap (`band.train.captured`).

Axes: G group (member, or member x encoder x direction), T time bin, B trial, H hidden unit, I further input of the
cell. Tensors are (G, T, B, ·) or (G, B, ·), their last stride is 1. A kernel is told of each tensor the distance of its
groups and of its trials, and works on a block of values of one group.
"""
# mypy: ignore-errors

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _lerp(start, end, weight):
    step = end - start
    return tl.where(weight < 0.5, start + weight * step, end - step * (1 - weight))


@triton.jit
def _gates(
    x, x_group, x_row, a, a_group, a_row, zr, zr_group, zr_row, b, b_group, b_row, rows, hidden, inputs,
    SIZE: tl.constexpr,
):  # fmt: skip
    """z, r = sigmoid(zr + x), in place; b = [u, r h] from a = [u, h]."""
    group = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    row, column = at // (inputs + hidden), at % (inputs + hidden)
    unit = column - inputs
    is_in = row < rows
    is_unit = is_in & (unit >= 0)
    x_at = x + group * x_group + row * x_row + unit
    zr_at = zr + group * zr_group + row * zr_row + unit
    z = _sigmoid(tl.load(zr_at, is_unit) + tl.load(x_at, is_unit))
    r = _sigmoid(tl.load(zr_at + hidden, is_unit) + tl.load(x_at + hidden, is_unit))
    before = tl.load(a + group * a_group + row * a_row + column, is_in)
    tl.store(zr_at, z, is_unit)
    tl.store(zr_at + hidden, r, is_unit)
    tl.store(b + group * b_group + row * b_row + column, tl.where(is_unit, r * before, before), is_in)


@triton.jit
def _mix(
    x, x_group, x_row, a, a_group, a_row, zr, zr_group, zr_row, n, n_group, n_row, out, out_group, out_row,
    next_a, next_group, next_row, mask, mask_group, mask_row, seen, seen_group, seen_row, rows, hidden, inputs,
    clip: tl.constexpr, HAS_NEXT: tl.constexpr, HAS_MASK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """n = tanh(n + x), in place; out = clip(z h + (1 - z) n), into the next bin's [u, h] and, masked, into seen too."""
    group = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    row, unit = at // hidden, at % hidden
    is_in = row < rows
    n_at = n + group * n_group + row * n_row + unit
    total = tl.load(n_at, is_in) + tl.load(x + group * x_group + row * x_row + 2 * hidden + unit, is_in)
    new = 2 * _sigmoid(2 * total) - 1
    h = tl.load(a + group * a_group + row * a_row + inputs + unit, is_in)
    z = tl.load(zr + group * zr_group + row * zr_row + unit, is_in)
    state, bound = _lerp(new, h, z), new * 0 + clip  # of the values' own type; what is not a number stays so
    state = tl.where(state > bound, bound, tl.where(state < -bound, -bound, state))
    tl.store(n_at, new, is_in)
    tl.store(out + group * out_group + row * out_row + unit, state, is_in)
    if HAS_NEXT:
        tl.store(next_a + group * next_group + row * next_row + inputs + unit, state, is_in)
    if HAS_MASK:
        kept = tl.load(mask + group * mask_group + row * mask_row + unit, is_in)
        tl.store(seen + group * seen_group + row * seen_row + unit, state * kept, is_in)


@triton.jit
def _mix_back(
    a, a_group, a_row, zr, zr_group, zr_row, n, n_group, n_row, da, da_group, da_row, dx, dx_group, dx_row,
    more, more_member, more_group, more_row, mask, mask_group, mask_row, rows, hidden, inputs, each, ends,
    clip: tl.constexpr, HAS_MORE: tl.constexpr, HAS_MASK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """From the state's gradient, which stands in da and of which `more` is a part, to those of n, z and, in da, h."""
    group = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    row, unit = at // hidden, at % hidden
    is_in = row < rows
    da_at = da + group * da_group + row * da_row + inputs + unit
    grad = tl.load(da_at, is_in)
    if HAS_MORE:
        place = group % each
        more_at = more + group // each * more_member + (place - ends) * more_group + row * more_row + unit
        part = tl.load(more_at, is_in & (place >= ends), other=0.0)
        if HAS_MASK:
            part *= tl.load(mask + group * mask_group + row * mask_row + unit, is_in)
        grad += part
    h = tl.load(a + group * a_group + row * a_row + inputs + unit, is_in)
    z = tl.load(zr + group * zr_group + row * zr_row + unit, is_in)
    new = tl.load(n + group * n_group + row * n_row + unit, is_in)
    grad = tl.where(tl.abs(_lerp(new, h, z)) <= new * 0 + clip, grad, 0.0)
    kept = grad * z
    dx_at = dx + group * dx_group + row * dx_row + unit
    tl.store(da_at, kept, is_in)
    tl.store(dx_at + 2 * hidden, (grad - kept) * (1 - new * new), is_in)
    tl.store(dx_at, grad * (h - new) * (1 - z) * z, is_in)


@triton.jit
def _gates_back(
    a, a_group, a_row, zr, zr_group, zr_row, db, db_group, db_row, da, da_group, da_row, dx, dx_group, dx_row,
    rows, hidden, inputs, SIZE: tl.constexpr,
):  # fmt: skip
    """From the gradient of b = [u, r h] to that of r, and on to da, that of [u, h], which lacks the gates' part yet."""
    group = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    row, column = at // (inputs + hidden), at % (inputs + hidden)
    unit = column - inputs
    is_in = row < rows
    is_unit = is_in & (unit >= 0)
    grad = tl.load(db + group * db_group + row * db_row + column, is_in)
    h = tl.load(a + group * a_group + row * a_row + column, is_unit)
    r = tl.load(zr + group * zr_group + row * zr_row + hidden + unit, is_unit)
    da_at = da + group * da_group + row * da_row + column
    before = tl.load(da_at, is_unit)
    tl.store(da_at, tl.where(is_unit, before + grad * r, grad), is_in)
    tl.store(dx + group * dx_group + row * dx_row + hidden + unit, grad * h * (1 - r) * r, is_unit)


@triton.jit
def _sample(
    co, co_group, co_row, std, std_group, std_row, out, out_group, out_row, eps, eps_group, eps_row,
    push, push_group, rows, width, IS_OFF: tl.constexpr, HAS_EPS: tl.constexpr, HAS_PUSH: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Inferred input and its spread from mean and log variance."""
    group = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    row, unit = at // width, at % width
    is_in = row < rows
    co_at = co + group * co_group + row * co_row + unit
    spread = tl.exp(0.5 * tl.load(co_at + width, is_in))
    tl.store(std + group * std_group + row * std_row + unit, spread, is_in)
    value = tl.load(co_at, is_in)
    if IS_OFF:
        value = value * 0
    elif HAS_EPS:
        value += spread * tl.load(eps + group * eps_group + row * eps_row + unit, is_in)
    if HAS_PUSH:
        value += tl.load(push + group * push_group + unit, is_in)
    tl.store(out + group * out_group + row * out_row + unit, value, is_in)


@triton.jit
def _sample_back(
    du, du_group, du_row, std, std_group, std_row, d_co, d_co_group, d_co_row, eps, eps_group, eps_row, rows, width,
    HAS_EPS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Adds the gradient of the inferred input to that of its mean and log variance."""
    group = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    row, unit = at // width, at % width
    is_in = row < rows
    grad = tl.load(du + group * du_group + row * du_row + unit, is_in)
    d_co_at = d_co + group * d_co_group + row * d_co_row + unit
    tl.store(d_co_at, tl.load(d_co_at, is_in) + grad, is_in)
    if HAS_EPS:
        noise = tl.load(eps + group * eps_group + row * eps_row + unit, is_in)
        spread = tl.load(std + group * std_group + row * std_row + unit, is_in)
        tl.store(d_co_at + width, tl.load(d_co_at + width, is_in) + 0.5 * (grad * spread) * noise, is_in)


@triton.jit
def _masked(
    values, values_group, values_row, mask, mask_group, mask_row, out, out_group, out_row, rows, width,
    HAS_MASK: tl.constexpr, ADDS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Values, times a mask where there is one, into `out` or added to it."""
    group = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    row, unit = at // width, at % width
    is_in = row < rows
    value = tl.load(values + group * values_group + row * values_row + unit, is_in)
    if HAS_MASK:
        value *= tl.load(mask + group * mask_group + row * mask_row + unit, is_in)
    out_at = out + group * out_group + row * out_row + unit
    if ADDS:
        value += tl.load(out_at, is_in)
    tl.store(out_at, value, is_in)


@triton.jit
def _mask(keys, thresholds, kept, out, count, SIZE: tl.constexpr):
    """0 where 16 bits of the member's stream are below its threshold, else what it has in `kept`; as in streams.py."""
    member = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    draw = (at // 4 + 1).to(tl.uint64) * 0x9E3779B97F4A7C15 + tl.load(keys + member).to(tl.uint64)
    draw = (draw ^ (draw >> 30)) * 0xBF58476D1CE4E5B9
    draw = (draw ^ (draw >> 27)) * 0x94D049BB133111EB
    draw = draw ^ (draw >> 31)
    bits = ((draw >> (at % 4 * 16).to(tl.uint64)) & 0xFFFF).to(tl.int32)
    bits = tl.where(bits < 32768, bits, bits - 65536)
    value = tl.load(kept + member)
    tl.store(out + member * count + at, tl.where(bits >= tl.load(thresholds + member), value, value * 0), at < count)


def _of(values: Tensor | None) -> tuple:
    """Return what a kernel is told of (G, B, ·): the tensor, the distance of its groups, that of its trials."""
    return (None, 0, 0) if values is None else (values, values.stride(0), values.stride(1))


def _grid(values: Tensor, width: int) -> tuple[int, int]:
    return triton.cdiv(values.shape[1] * width, BLOCK), values.shape[0]


def _bin(values: Tensor | None, t: int) -> Tensor | None:
    return None if values is None else values[:, t]


@dataclass(frozen=True)
class _Cell:
    """One cell of a scan; `weight` is (G, I+H, 3H) on the way forward and (G, 3H, I+H) on the way back."""

    x: Tensor
    a: Tensor
    b: Tensor
    zr: Tensor
    n: Tensor
    weight: Tensor
    clip: float

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Trials, hidden units, further inputs."""
        return self.n.shape[2], self.n.shape[3], self.a.shape[3] - self.n.shape[3]

    def forward(
        self, t: int, out: Tensor, *, following: Tensor | None = None, mask: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Write the states after bin t into `out`, into the [u, h] of the following bin and, masked, into `seen`."""
        rows, hidden, inputs = self.sizes
        x, a, b, zr, n = self.x[:, t], self.a[:, t], self.b[:, t], self.zr[:, t], self.n[:, t]
        torch.bmm(a, self.weight[..., : 2 * hidden], out=zr)
        _gates[_grid(a, inputs + hidden)](*_of(x), *_of(a), *_of(zr), *_of(b), rows, hidden, inputs, SIZE=BLOCK)
        torch.bmm(b, self.weight[..., 2 * hidden :], out=n)
        _mix[_grid(a, hidden)](
            *_of(x), *_of(a), *_of(zr), *_of(n), *_of(out), *_of(following), *_of(mask), *_of(seen),
            rows, hidden, inputs, self.clip, HAS_NEXT=following is not None, HAS_MASK=mask is not None, SIZE=BLOCK,
        )  # fmt: skip

    def backward(
        self, t: int, da: Tensor, db: Tensor, dx: Tensor, *, more: Tensor | None = None,
        more_strides: tuple[int, int, int] = (0, 0, 0), each: int = 1, ends: int = 0, mask: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Turn the gradient of the states after bin t, in the last columns of `da`, into that of [u, h] before it.

        `more` is added to it first, times `mask`; `db` is room of the same size; that of x is written into `dx`.
        """
        rows, hidden, inputs = self.sizes
        a, zr, n = self.a[:, t], self.zr[:, t], self.n[:, t]
        _mix_back[_grid(a, hidden)](
            *_of(a), *_of(zr), *_of(n), *_of(da), *_of(dx), more, *more_strides, *_of(mask),
            rows, hidden, inputs, each, ends, self.clip,
            HAS_MORE=more is not None, HAS_MASK=mask is not None, SIZE=BLOCK,
        )  # fmt: skip
        torch.bmm(dx[..., 2 * hidden :], self.weight[:, 2 * hidden :], out=db)
        _gates_back[_grid(a, inputs + hidden)](
            *_of(a), *_of(zr), *_of(db), *_of(da), *_of(dx), rows, hidden, inputs, SIZE=BLOCK
        )
        da.baddbmm_(dx[..., : 2 * hidden], self.weight[:, : 2 * hidden])


def mask(keys: Tensor, thresholds: Tensor, kept: Tensor, out: Tensor) -> None:
    """Fill a mask (M, n), see scan.cpp."""
    count = out.shape[1]
    _mask[(triton.cdiv(count, 4 * BLOCK), len(keys))](keys, thresholds, kept, out, count, SIZE=4 * BLOCK)


def gru_forward(
    x: Tensor, states: Tensor, b: Tensor, zr: Tensor, n: Tensor, weight: Tensor, clip: float
) -> None:  # fmt: skip
    """Run a GRU, see scan.cpp."""
    cell = _Cell(x, states[:, :-1], b, zr, n, weight, clip)
    for t in range(x.shape[1]):
        cell.forward(t, states[:, t + 1])


def gru_backward(
    x: Tensor, a: Tensor, b: Tensor, zr: Tensor, n: Tensor, weight: Tensor, clip: float, grad: Tensor | None,
    members: int, ends: int, dx: Tensor, dh: Tensor,
) -> None:  # fmt: skip
    """Run its way back, see scan.cpp."""
    cell = _Cell(x, a, b, zr, n, weight, clip)
    room = torch.empty_like(dh)
    strides = (0, 0, 0) if grad is None else (grad.stride(0), grad.stride(1), grad.stride(3))
    for t in reversed(range(x.shape[1])):
        more = None if grad is None else grad[:, :, t]
        cell.backward(
            t, dh, room, dx[:, t], more=more, more_strides=strides, each=x.shape[0] // members, ends=ends
        )  # fmt: skip


def controlled_forward(
    tapes: list[Tensor], outputs: list[Tensor], eps: Tensor | None, factor_mask: Tensor | None,
    gen_mask: Tensor | None, push: Tensor | None, co_off: bool, clip: float, starts: list[Tensor],
    weights: list[Tensor],
) -> None:  # fmt: skip
    """Run controller, inferred inputs, generator and factors over all bins, see scan.cpp."""
    con, gen = _Cell(*tapes[:5], weights[0], clip), _Cell(*tapes[5:], weights[1], clip)
    con_states, gen_states, seen, factors, co, stds = outputs
    (c0, g0, f0), (co_weight, co_bias, fac_weight) = starts, weights[2:]
    bins, fac_dim, co_dim = co.shape[1], factors.shape[3], stds.shape[3]
    rows = co.shape[2]
    con.a[:, 0, :, fac_dim:], gen.a[:, 0, :, co_dim:] = c0, g0
    con.a[:, 0, :, :fac_dim] = f0 if factor_mask is None else f0 * factor_mask[:, 0]
    co.copy_(co_bias[:, None])
    pushed = [(None, 0) if push is None else (push[:, t], push.stride(0)) for t in range(bins)]
    for t in range(bins):
        is_last = t + 1 == bins
        con.forward(t, con_states[:, t], following=None if is_last else con.a[:, t + 1])
        co[:, t].baddbmm_(con_states[:, t], co_weight)
        _sample[_grid(co[:, t], co_dim)](
            *_of(co[:, t]), *_of(stds[:, t]), *_of(gen.a[:, t]), *_of(_bin(eps, t)), *pushed[t],
            rows, co_dim, IS_OFF=co_off, HAS_EPS=eps is not None, HAS_PUSH=push is not None, SIZE=BLOCK,
        )  # fmt: skip
        gen.forward(
            t, gen_states[:, t], following=None if is_last else gen.a[:, t + 1], mask=_bin(gen_mask, t),
            seen=None if gen_mask is None else seen[:, t],
        )  # fmt: skip
        torch.bmm(seen[:, t], fac_weight, out=factors[:, t])
        if not is_last:
            _masked[_grid(factors[:, t], fac_dim)](
                *_of(factors[:, t]), *_of(_bin(factor_mask, t + 1)), *_of(con.a[:, t + 1]), rows, fac_dim,
                HAS_MASK=factor_mask is not None, ADDS=False, SIZE=BLOCK,
            )  # fmt: skip


def controlled_backward(
    tapes: list[Tensor], outputs: list[Tensor], eps: Tensor | None, factor_mask: Tensor | None,
    gen_mask: Tensor | None, push: Tensor | None, co_off: bool, clip: float, weights: list[Tensor],
    d_factors: Tensor, d_co: Tensor, d_inputs: list[Tensor], d_starts: list[Tensor],
) -> None:  # fmt: skip
    """Run their way back, see scan.cpp."""
    con, gen = _Cell(*tapes[:5], weights[0], clip), _Cell(*tapes[5:], weights[1], clip)
    stds, (co_weight, fac_weight) = outputs[5], weights[2:]
    (con_dx, gen_dx), (dc0, dg0, df0) = d_inputs, d_starts
    fac_dim, co_dim, rows = d_factors.shape[3], stds.shape[3], d_co.shape[2]
    dc, dg = (torch.zeros_like(cell.a[:, 0], memory_format=torch.contiguous_format) for cell in (con, gen))
    con_room, gen_room, d_seen = torch.empty_like(dc), torch.empty_like(dg), torch.empty_like(gen.n[:, 0])
    for t in reversed(range(d_co.shape[1])):
        torch.bmm(d_factors[:, t], fac_weight, out=d_seen)
        gen.backward(
            t, dg, gen_room, gen_dx[:, t], more=d_seen, more_strides=(d_seen.stride(0), 0, d_seen.stride(1)),
            mask=_bin(gen_mask, t),
        )  # fmt: skip
        if not co_off:
            _sample_back[_grid(d_co[:, t], co_dim)](
                *_of(dg), *_of(stds[:, t]), *_of(d_co[:, t]), *_of(_bin(eps, t)), rows, co_dim,
                HAS_EPS=eps is not None, SIZE=BLOCK,
            )  # fmt: skip
        dc[..., fac_dim:].baddbmm_(d_co[:, t], co_weight)
        con.backward(t, dc, con_room, con_dx[:, t])
        _masked[_grid(d_factors[:, t], fac_dim)](
            *_of(dc), *_of(_bin(factor_mask, t)), *_of(d_factors[:, t - 1] if t else df0), rows, fac_dim,
            HAS_MASK=factor_mask is not None, ADDS=t > 0, SIZE=BLOCK,
        )  # fmt: skip
    dc0.copy_(dc[..., fac_dim:])
    dg0.copy_(dg[..., co_dim:])
