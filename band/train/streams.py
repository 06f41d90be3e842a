"""Counter-based random numbers: number i of a stream is a hash of the stream's key and of i, and of nothing else.

A key is a number a member; no state is kept, so a stream is the same on every device, in any order, and inside a
captured graph, whose step is a tensor. The hash is SplitMix64 (Steele, Lea and Flood 2014).

Axes: M member; S any key.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from band.model.kernels import kernels_for

WEYL = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: what lies between the hash's inputs for i and i + 1


def signed(number: int) -> int:
    """Return an unsigned 64-bit number as the signed one of the same bits, as tensors hold it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def stream_keys(keys: Tensor, counter: Tensor | int) -> Tensor:
    """Return the keys (S,) of the streams number `counter` below the streams of `keys` (S,)."""
    return _mixed(keys + torch.as_tensor(counter) * signed(WEYL))


def random_bits(keys: Tensor, count: int) -> Tensor:
    """Return the first `count` numbers (S, count) of 64 random bits of the streams of `keys` (S,)."""
    return _mixed(torch.arange(1, count + 1, device=keys.device) * signed(WEYL) + keys[:, None])


def random_normals(keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return `count` standard normal numbers (S, count) of the streams of `keys` (S,), two of each 64 bits.

    Source: Box and Muller 1958.
    """
    bits = random_bits(keys, -(-count // 2))
    low, high = (bits & 0xFFFFFFFF).double(), ((bits >> 32) & 0xFFFFFFFF).double()
    radius = ((high + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = low * (2 * math.pi * 2.0**-32)
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(1)[:, :count].to(dtype)


def random_mask(keys: Tensor, rates: Tensor, kept: Tensor, count: int) -> Tensor:
    """Return a mask (M, count): 0 at the rate of the member, else what it has in `kept`.

    Args:
        keys: (M,) of the members' streams.
        rates: (M,), met to 1/65536.
        kept: (M,), of the data type that is wanted.
        count: number of values.
    """
    thresholds = (rates * 65536).round().sub(32768).to(torch.int32)
    kernels = kernels_for(kept)
    if kernels is not None:
        values = kept.new_empty(len(keys), count)
        kernels.mask(keys, thresholds, kept, values)
        return values
    bits = random_bits(keys, -(-count // 4)).view(torch.int16)[:, :count]
    return (bits >= thresholds[:, None]) * kept[:, None]


def _mixed(values: Tensor) -> Tensor:
    """Return the hash of 64-bit numbers, used up."""
    values ^= (values >> 30) & ((1 << 34) - 1)  # a shift of a signed number brings in copies of its sign
    values *= signed(0xBF58476D1CE4E5B9)
    values ^= (values >> 27) & ((1 << 37) - 1)
    values *= signed(0x94D049BB133111EB)
    values ^= (values >> 31) & ((1 << 33) - 1)
    return values
