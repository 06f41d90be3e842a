"""All random numbers of one pass, drawn beforehand: the model itself draws nothing.

Axes: M member, B trial (of all sessions, one after the other), T/R time bin, N neuron or channel of the encoders.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Draws and masks of a pass; None leaves that part out, so that `Noise()` gives posterior means.

    Masks hold 0 or 1 / (1 - rate) and are multiplied in. `cd_keep` holds 0 and 1: 1 where the encoder sees the count.
    """

    eps_ic: Tensor | None = None  # (M, B, ic_dim), standard draws of the posterior
    eps_co: Tensor | None = None  # (M, B, R, co_dim), standard draws of the posterior
    kl_ic: Tensor | None = None  # (M, B, ic_dim), one more draw, where the prior's divergence is estimated from it
    kl_co: Tensor | None = None  # (M, B, R, co_dim)
    cd_keep: tuple[Tensor, ...] | None = None  # of each session (M, B, T, N), coordinated dropout
    cd_pass: tuple[Tensor, ...] | None = None  # of each session (M, B, T, N), 1 where a seen count passes gradient
    encoder: Tensor | None = None  # (M, B, T, N)
    ic: Tensor | None = None  # (M, B, 2 ic_enc_dim)
    ext_input: Tensor | None = None  # (M, B, R, E)
    controller: Tensor | None = None  # (M, B, R, C + fac_dim)
    gen_init: Tensor | None = None  # (M, B, gen_dim)
    generator: Tensor | None = None  # (M, B, R, gen_dim)
    behavior: Tensor | None = None  # (M, B, R, fac_dim)


def dropped(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the values times the mask, or as they are where there is none."""
    return values if mask is None else values * mask
