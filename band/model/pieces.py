"""A pass in pieces of trials, each computed a second time on the way back, so that only one keeps its activations.

Known as activation (or gradient) checkpointing: Chen et al. 2016, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Values = Sequence[Tensor | None]


class _Recomputed(torch.autograd.Function):
    """A function of tensors whose activations are not kept: the way back begins with the way forward once more."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Values], *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.function = function
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        return tuple(function(*inputs))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        wanted = ctx.needs_input_grad[1:]
        inputs = [None if x is None else x.detach() for x in ctx.saved_tensors]
        leaves = [x.requires_grad_() for x, is_wanted in zip(inputs, wanted, strict=True) if is_wanted]
        with torch.enable_grad():
            outputs = ctx.function(*inputs)
        pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
        ends = [out for out, _ in pairs if out.requires_grad]
        their_grads = [grad for out, grad in pairs if out.requires_grad]
        found = iter(
            torch.autograd.grad(ends, leaves, their_grads, allow_unused=True) if ends else [None] * len(leaves)
        )
        return None, *(next(found) if is_wanted else None for is_wanted in wanted)


def in_pieces(
    function: Callable[..., Values], by_trial: Values, whole: Sequence[Tensor], *, trials_at_once: int
) -> list[Tensor | None]:
    """Return what a function does with all trials, from pieces of them; of each only inputs and outputs are kept.

    Args:
        function: of by_trial and whole; called here, and on the way back once more.
        by_trial: tensors (M, B, ...), of which a piece is some trials, or None.
        whole: tensors that every piece takes as they are, such as parameters.
        trials_at_once: trials of a piece.

    Returns:
        outputs (M, B, ...) of the pieces, one after the other, None where the function returns None.
    """
    trials = next(values.shape[1] for values in by_trial if values is not None)
    parts = []
    for start in range(0, trials, trials_at_once):
        piece = [None if values is None else values[:, start : start + trials_at_once] for values in by_trial]
        parts.append(_Recomputed.apply(function, *piece, *whole))
    return [None if pieces[0] is None else torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True)]
