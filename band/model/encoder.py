"""Encoders: spike counts to the posterior of the initial condition and to the controller's input.

Axes: M member, B trial, T time bin, N neuron, H units a direction, G direction of an encoder. Inside, (M, T, B, ·).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from band.config import Arch
from band.model.noise import Noise, dropped
from band.model.params import Params, has_controller
from band.model.recurrent import gru_scan


class _DirectedInput(torch.autograd.Function):
    """Input part of every gate of every direction: one product each over all bins, written side by side.

    The last column of every input is 1 and the last of the weight the bias, which costs no pass over memory then.
    """

    @staticmethod
    def forward(ctx: Any, seen: tuple[Tensor, ...], weight: Tensor, *inputs: Tensor) -> Tensor:
        members, groups, gates, _ = weight.shape
        _, bins, trials, _ = inputs[0].shape
        out = weight.new_empty(members, groups, bins * trials, gates)
        for group, which in enumerate(seen):
            torch.bmm(inputs[int(which)].flatten(1, 2), weight[:, group].transpose(1, 2), out=out[:, group])
        ctx.seen = seen
        ctx.save_for_backward(weight, *inputs)
        return out.view(members * groups, bins, trials, gates)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        weight, *inputs = ctx.saved_tensors
        grad = grad.view(weight.shape[0], weight.shape[1], -1, weight.shape[2])
        d_weight = torch.empty_like(weight)
        d_inputs = [torch.zeros_like(x) if ctx.needs_input_grad[2 + i] else None for i, x in enumerate(inputs)]
        for group, which in enumerate(ctx.seen):
            torch.bmm(grad[:, group].transpose(1, 2), inputs[int(which)].flatten(1, 2), out=d_weight[:, group])
            d_input = d_inputs[int(which)]
            if d_input is not None:
                d_input += torch.bmm(grad[:, group], weight[:, group]).view_as(d_input)
        return None, d_weight, *d_inputs


def encode(params: Params, data: Tensor, *, arch: Arch, noise: Noise) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the posterior of the initial condition and the controller's input.

    Args:
        params: M members.
        data: (M, B, T, N), what the encoders see; N channels where there are read-ins.
        arch: sizes.
        noise: dropout masks, or none.

    Returns:
        mean and log variance (M, B, ic_dim), the variance without its floor; controller input (M, B, T, C), where C is
        ci_enc_dim, twice that where the controller is not causal, 0 in the bins of the initial condition's own segment;
        None where there is no controller.
    """
    data = dropped(data, noise.encoder).transpose(1, 2)
    ends, controller_input = _run_encoders(params, data, arch)
    ic = torch.baddbmm(
        params["ic_linear.bias"][:, None], dropped(ends, noise.ic), params["ic_linear.weight"].transpose(1, 2)
    )
    mean, log_var = ic.split(arch.ic_dim, dim=-1)
    return mean, log_var, controller_input


def _run_encoders(params: Params, data: Tensor, arch: Arch) -> tuple[Tensor, Tensor | None]:
    """Return the last states of the ic encoder (M, B, 2H) and the lagged controller input (M, B, T, C)."""
    segment = arch.ic_enc_seq_len
    ic = [("ic_enc", 0), ("ic_enc", 1)]
    ci = [("ci_enc", 0)] if arch.causal_con else [("ci_enc", 0), ("ci_enc", 1)]
    if not has_controller(arch):
        (ends, _), ci_states = _scan(params, ic, data[:, : segment or None], arch, ends=2), None
    elif segment or arch.ic_enc_dim != arch.ci_enc_dim:
        ends, _ = _scan(params, ic, data[:, : segment or None], arch, ends=2)
        _, ci_states = _scan(params, ci, data[:, segment:], arch, ends=0)
    else:
        ends, ci_states = _scan(params, ic + ci, data, arch, ends=2)
    ends = ends.transpose(1, 2).flatten(2)
    if ci_states is None:
        return ends, None
    return ends, functional.pad(_lagged(ci_states, arch.ci_lag), (0, 0, segment, 0))


def _scan(
    params: Params, groups: list[tuple[str, int]], data: Tensor, arch: Arch, *, ends: int
) -> tuple[Tensor, Tensor]:
    """Run the named (encoder, direction) groups in one recurrence.

    Returns:
        last states (M, E, B, H) of the first `ends` groups, and states (M, G - E, T, B, H) of the others.
    """

    def stacked(kind: str) -> Tensor:
        return torch.stack([params[f"{name}.{kind}"][:, direction] for name, direction in groups], dim=1)

    weight_hh, h0 = stacked("weight_hh"), stacked("h0")
    weight = torch.cat((stacked("weight_ih"), stacked("bias")[..., None]), dim=-1)
    data = functional.pad(data, (0, 1), value=1.0)
    seen = tuple(direction for _, direction in groups)
    x = _DirectedInput.apply(seen, weight, data, data.flip(1))
    first = h0.flatten(0, 1)[:, None].expand(-1, x.shape[2], -1)
    return gru_scan(x, weight_hh=weight_hh.flatten(0, 1), h0=first, clip=arch.cell_clip, members=len(weight), ends=ends)


def _lagged(states: Tensor, lag: int) -> Tensor:
    """Return the controller input (M, B, T, C) from the states (M, G, T, B, H), either direction `lag` bins late."""
    bins = states.shape[2]
    forward = functional.pad(states[:, 0], (0, 0, 0, 0, lag, 0))[:, :bins]
    parts = [forward]
    if states.shape[1] == 2:
        backward = states[:, 1].flip(1)
        parts.append(functional.pad(backward, (0, 0, 0, 0, 0, lag))[:, -bins:])
    return torch.cat(parts, dim=-1).transpose(1, 2)
