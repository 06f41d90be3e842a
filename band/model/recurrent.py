"""Clipped GRU cells over all bins of a population, with a backward pass written out by hand.

Autograd would keep a graph of some thirty nodes a bin; here one node spans the whole recurrence, the gate activations
are written into buffers made once, and the gradient of a weight is one product over all bins.

Axes: G group (member, or member x encoder x direction), T time bin, B trial, H hidden unit, I further input of the
cell. Inside this file tensors are laid out (G, T, B, ·).

The cell applies the reset gate before the recurrent product (as LFADS does, unlike cuDNN):
    z, r = sigmoid(x_zr + [u, h] W_zr);  n = tanh(x_n + [u, r h] W_n);  h' = clip(z h + (1 - z) n)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from band.model.kernels import kernels_for

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


@dataclass(frozen=True)
class CellTape:
    """What one cell writes on its way forward and reads on its way back, over all bins."""

    x: Tensor  # (G, T, B, 3H) input part of the gates, bias included
    a: Tensor  # (G, T, B, I+H) [u, h] before the bin
    b: Tensor  # (G, T, B, I+H) [u, r h]
    zr: Tensor  # (G, T, B, 2H)
    n: Tensor  # (G, T, B, H)
    weight: Tensor  # (G, 3H, I+H)
    clip: float

    @staticmethod
    def make(x: Tensor, weight: Tensor, clip: float, *, a: Tensor | None = None) -> CellTape:
        """Return an empty tape for input part `x` (G, T, B, 3H) and `weight` (G, 3H, I+H); `a` is made if not given."""
        groups, bins, trials, _ = x.shape
        width = weight.shape[2]
        hidden = weight.shape[1] // 3
        a = x.new_empty(groups, bins, trials, width) if a is None else a
        b = x.new_empty(groups, bins, trials, width)
        zr, n = (x.new_empty(groups, bins, trials, k * hidden) for k in (2, 1))
        return CellTape(x, a, b, zr, n, weight, clip)

    @property
    def parts(self) -> list[Tensor]:
        """What a kernel is given of the cell, but for its weight."""
        return [self.x, self.a, self.b, self.zr, self.n]

    @property
    def weight_in(self) -> Tensor:
        """The weight as products on the way forward take it, (G, I+H, 3H)."""
        return self.weight.transpose(1, 2)

    @property
    def hidden(self) -> int:
        """Number of hidden units H."""
        return self.n.shape[-1]

    def forward(self, t: int, out: Tensor) -> None:
        """Write the state after bin t into `out` (G, B, H); `a[:, t]` must hold [u, h]."""
        hidden = self.hidden
        a, b, zr, n, x = self.a[:, t], self.b[:, t], self.zr[:, t], self.n[:, t], self.x[:, t]
        inputs = a.shape[-1] - hidden
        torch.bmm(a, self.weight_in[..., : 2 * hidden], out=zr)
        zr.add_(x[..., : 2 * hidden]).sigmoid_()
        if inputs:
            b[..., :inputs] = a[..., :inputs]
        torch.mul(zr[..., hidden:], a[..., inputs:], out=b[..., inputs:])
        torch.bmm(b, self.weight_in[..., 2 * hidden :], out=n)
        n.add_(x[..., 2 * hidden :]).tanh_()
        torch.lerp(n, a[..., inputs:], zr[..., :hidden], out=out)
        out.clamp_(-self.clip, self.clip)

    def backward(self, t: int, dh: Tensor, dx: Tensor) -> Tensor:
        """Return the gradient (G, B, I+H) of `a[:, t]` from that of the new state; write the gates' into `dx`.

        Args:
            t: time bin.
            dh: (G, B, H), gradient of the state after bin t; used up.
            dx: (G, B, 3H), receives the gradient of `x[:, t]`.
        """
        hidden = self.hidden
        a, zr, n = self.a[:, t], self.zr[:, t], self.n[:, t]
        inputs = a.shape[-1] - hidden
        h, z, r = a[..., inputs:], zr[..., :hidden], zr[..., hidden:]
        kept = dh * z
        _tanh_backward(dh - kept, n, grad_input=dx[..., 2 * hidden :])
        db = torch.bmm(dx[..., 2 * hidden :], self.weight[:, 2 * hidden :])
        _sigmoid_backward(dh.mul_(h - n), z, grad_input=dx[..., :hidden])
        _sigmoid_backward(db[..., inputs:] * h, r, grad_input=dx[..., hidden : 2 * hidden])
        da = torch.bmm(dx[..., : 2 * hidden], self.weight[:, : 2 * hidden])
        da[..., inputs:] += kept.addcmul_(db[..., inputs:], r)
        if inputs:
            da[..., :inputs] += db[..., :inputs]
        return da

    def unclip_(self, t: int, dh: Tensor) -> Tensor:
        """Zero the gradient where the clip acted at bin t."""
        inputs = self.a.shape[-1] - self.hidden
        before = torch.lerp(self.n[:, t], self.a[:, t, :, inputs:], self.zr[:, t, :, : self.hidden])
        return dh.mul_(before.abs() <= self.clip)

    def weight_gradient(self, dx: Tensor) -> Tensor:
        """Return the gradient (G, 3H, I+H) of the weight, one product over all bins, from `dx` (G, T, B, 3H)."""
        hidden = self.hidden
        flat = dx.flatten(1, 2).transpose(1, 2)
        zr = torch.bmm(flat[:, : 2 * hidden], self.a.flatten(1, 2))
        n = torch.bmm(flat[:, 2 * hidden :], self.b.flatten(1, 2))
        return torch.cat((zr, n), dim=1)


def may_have_clipped(states: Tensor, clip: float) -> bool:
    """Return whether a state may have met its bound; on a GPU, which would have to be waited for, always."""
    return states.is_cuda or max(abs(bound.item()) for bound in states.aminmax()) >= clip


class _GruScan(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, h0: Tensor, clip: float, members: int, ends: int
    ) -> tuple[Tensor, Tensor]:
        groups, bins, trials, gates = x.shape
        states = x.new_empty(groups, bins + 1, trials, gates // 3)  # the first of them h0
        states[:, 0] = h0
        tape = CellTape.make(x, weight, clip, a=states[:, :-1])
        kernels = kernels_for(x)
        if kernels is not None:
            kernels.gru_forward(x, states, tape.b, tape.zr, tape.n, tape.weight_in.contiguous(), clip)
        else:
            for t in range(bins):
                tape.forward(t, states[:, t + 1])
        ctx.tape, ctx.kernels, ctx.members, ctx.ends = tape, kernels, members, ends
        ctx.has_clipped = kernels is None and may_have_clipped(states, clip)
        ctx.set_materialize_grads(False)
        by_member = states.unflatten(0, (members, -1))
        return by_member[:, :ends, -1], by_member[:, ends:, 1:]

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, d_ends: Tensor | None, d_states: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        tape = ctx.tape
        dx, dh = torch.empty_like(tape.x), torch.zeros_like(tape.n[:, 0])
        by_member = dh.unflatten(0, (ctx.members, -1))
        if d_ends is not None:
            by_member[:, : ctx.ends] = d_ends
        if ctx.kernels is not None:
            if d_states is not None and d_states.stride(-1) != 1:
                d_states = d_states.contiguous()
            ctx.kernels.gru_backward(
                *tape.parts, tape.weight.contiguous(), tape.clip, d_states, ctx.members, ctx.ends, dx, dh
            )
        else:
            for t in reversed(range(dx.shape[1])):
                if d_states is not None:
                    by_member = dh.unflatten(0, (ctx.members, -1))
                    by_member[:, ctx.ends :] += d_states[:, :, t]
                if ctx.has_clipped:
                    tape.unclip_(t, dh)
                dh = tape.backward(t, dh, dx[:, t])
        return dx, tape.weight_gradient(dx), dh, None, None, None


def gru_scan(
    x: Tensor, *, weight_hh: Tensor, h0: Tensor, clip: float, members: int = 1, ends: int = 0
) -> tuple[Tensor, Tensor]:
    """Run a clipped GRU over every bin.

    Args:
        x: (G, T, B, 3H), input part of the gates z, r, n, bias included.
        weight_hh: (G, 3H, H).
        h0: (G, B, H), state before the first bin.
        clip: bound of every state.
        members: M, by which the groups are G = M G'.
        ends: E, of each member's groups the first so many, of which the last state alone is wanted.

    Returns:
        last states (M, E, B, H) of those, and states (M, G' - E, T, B, H) after every bin of the others.
    """
    found: tuple[Tensor, Tensor] = _GruScan.apply(x, weight_hh, h0, clip, members, ends)
    return found
