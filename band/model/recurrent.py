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
    w_zr: Tensor  # (G, I+H, 2H)
    w_n: Tensor  # (G, I+H, H)
    clip: float

    @staticmethod
    def make(x: Tensor, weight: Tensor, clip: float) -> CellTape:
        """Return an empty tape for input part `x` (G, T, B, 3H) and `weight` (G, 3H, I+H)."""
        groups, bins, trials, _ = x.shape
        width = weight.shape[2]
        hidden = weight.shape[1] // 3
        a, b = (x.new_empty(groups, bins, trials, width) for _ in range(2))
        zr, n = (x.new_empty(groups, bins, trials, k * hidden) for k in (2, 1))
        w_zr, w_n = weight.transpose(1, 2).split((2 * hidden, hidden), dim=2)
        return CellTape(x, a, b, zr, n, w_zr, w_n, clip)

    @property
    def hidden(self) -> int:
        """Number of hidden units H."""
        return self.n.shape[-1]

    def forward(self, t: int, out: Tensor) -> None:
        """Write the state after bin t into `out` (G, B, H); `a[:, t]` must hold [u, h]."""
        hidden = self.hidden
        a, b, zr, n, x = self.a[:, t], self.b[:, t], self.zr[:, t], self.n[:, t], self.x[:, t]
        inputs = a.shape[-1] - hidden
        torch.bmm(a, self.w_zr, out=zr)
        zr.add_(x[..., : 2 * hidden]).sigmoid_()
        if inputs:
            b[..., :inputs] = a[..., :inputs]
        torch.mul(zr[..., hidden:], a[..., inputs:], out=b[..., inputs:])
        torch.bmm(b, self.w_n, out=n)
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
        db = torch.bmm(dx[..., 2 * hidden :], self.w_n.transpose(1, 2))
        _sigmoid_backward(dh.mul_(h - n), z, grad_input=dx[..., :hidden])
        _sigmoid_backward(db[..., inputs:] * h, r, grad_input=dx[..., hidden : 2 * hidden])
        da = torch.bmm(dx[..., : 2 * hidden], self.w_zr.transpose(1, 2))
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


class _GruScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, h0: Tensor, clip: float) -> Tensor:
        tape = CellTape.make(x, weight, clip)
        bins = x.shape[1]
        states = tape.a.new_empty(x.shape[0], bins, x.shape[2], tape.hidden)
        tape.a[:, 0] = h0
        for t in range(bins):
            out = tape.a[:, t + 1] if t + 1 < bins else states[:, -1]
            tape.forward(t, out)
        states[:, :-1] = tape.a[:, 1:]
        ctx.tape, ctx.has_clipped = tape, bool(states.abs().amax() >= clip)
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        tape = ctx.tape
        dx = torch.empty_like(tape.x)
        dh = torch.zeros_like(tape.n[:, 0])
        for t in reversed(range(dx.shape[1])):
            dh = dh + grad[:, t]
            if ctx.has_clipped:
                tape.unclip_(t, dh)
            dh = tape.backward(t, dh, dx[:, t])
        return dx, tape.weight_gradient(dx), dh, None


def gru_scan(x: Tensor, *, weight_hh: Tensor, h0: Tensor, clip: float) -> Tensor:
    """Return the states of a clipped GRU after every bin.

    Args:
        x: (G, T, B, 3H), input part of the gates z, r, n, bias included.
        weight_hh: (G, 3H, H).
        h0: (G, B, H), state before the first bin.
        clip: bound of every state.

    Returns:
        (G, T, B, H).
    """
    states: Tensor = _GruScan.apply(x, weight_hh, h0, clip)
    return states
