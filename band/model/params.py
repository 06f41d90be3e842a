"""Parameters of a population: one flat row a member, with named views, so that every optimiser step is a few passes.

Axes: M member, P all parameters of one member; D direction of a bidirectional encoder (forward, backward).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from band.config import Arch


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Sizes that come from the recording, equal within a population."""

    num_bins: int  # T, bins the encoders see
    num_recon_bins: int  # R >= T, bins that are reconstructed
    num_neurons: int  # N, neurons the encoders see
    num_recon_neurons: int  # N' >= N, neurons that are reconstructed
    behavior_dim: int = 0  # K
    ext_input_dim: int = 0  # E


def has_controller(arch: Arch) -> bool:
    """Return whether the model infers inputs."""
    return arch.co_dim > 0


def parameter_shapes(arch: Arch, widths: Widths) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of one member, by name, in the order of the flat row.

    Gates of a recurrent cell stand in the order update z, reset r, candidate n along the 3H axis.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def encoder(name: str, hidden: int) -> None:
        shapes[f"{name}.h0"] = (2, hidden)
        shapes[f"{name}.weight_ih"] = (2, 3 * hidden, widths.num_neurons)
        shapes[f"{name}.weight_hh"] = (2, 3 * hidden, hidden)
        shapes[f"{name}.bias"] = (2, 3 * hidden)

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    def cell(name: str, columns: int, hidden: int) -> None:
        shapes[f"{name}.weight_ih"] = (3 * hidden, columns)
        shapes[f"{name}.weight_hh"] = (3 * hidden, hidden)
        shapes[f"{name}.bias"] = (3 * hidden,)

    encoder("ic_enc", arch.ic_enc_dim)
    linear("ic_linear", 2 * arch.ic_dim, 2 * arch.ic_enc_dim)
    shapes["ic_prior.mean"] = (arch.ic_dim,)
    if has_controller(arch):
        encoder("ci_enc", arch.ci_enc_dim)
        shapes["con.h0"] = (arch.con_dim,)
        cell("con", 2 * arch.ci_enc_dim + arch.fac_dim, arch.con_dim)
        linear("co_linear", 2 * arch.co_dim, arch.con_dim)
        shapes["co_prior.mean"] = (arch.co_dim,)
    linear("ic_to_g0", arch.gen_dim, arch.ic_dim)
    cell("gen", arch.co_dim + widths.ext_input_dim, arch.gen_dim)
    linear("fac_linear", arch.fac_dim, arch.gen_dim, bias=False)
    linear("readout", widths.num_recon_neurons, arch.fac_dim)
    if widths.behavior_dim:
        bins = widths.num_recon_bins
        linear("behavior", bins * widths.behavior_dim, bins * arch.fac_dim)
    return shapes


class Params:
    """The parameters of M members as one (M, P) tensor and, by name, views (M, ...) that share its memory."""

    def __init__(self, flat: Tensor, shapes: dict[str, tuple[int, ...]], *, requires_grad: bool = False) -> None:
        self.flat = flat
        self.shapes = shapes
        self._views: dict[str, Tensor] = {}
        start = 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            view = flat[:, start : start + size].view(len(flat), *shape).detach()
            self._views[name] = view.requires_grad_(requires_grad)
            start += size
        assert start == flat.shape[1], "flat row does not match its shapes"

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __contains__(self, name: str) -> bool:
        return name in self._views

    def items(self) -> list[tuple[str, Tensor]]:
        """Return (name, view (M, ...)) of every parameter."""
        return list(self._views.items())

    def gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient (M, P) of the sum of `loss` (M,); 0 for a parameter that it does not depend on."""
        parts = torch.autograd.grad(loss.sum(), list(self._views.values()), materialize_grads=True)
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def select(self, members: Sequence[int], *, requires_grad: bool = False) -> Params:
        """Return a copy that holds only the members at these positions."""
        index = torch.as_tensor(members, dtype=torch.int64, device=self.flat.device)
        return Params(self.flat.detach()[index], self.shapes, requires_grad=requires_grad)


def count_parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return P, the number of parameters of one member."""
    return sum(math.prod(shape) for shape in shapes.values())


def derived_generator(seed: int, *purpose: object) -> torch.Generator:
    """Return a CPU generator that depends on the seed and the purpose alone, never on what was drawn before."""
    text = "/".join(str(part) for part in (seed, *purpose))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(number)


def _initial_scale(name: str, shapes: dict[str, tuple[int, ...]]) -> float:
    """Return the standard deviation of a weight's start: one over the root of its fan-in, as in lfads-torch."""
    room, _, kind = name.rpartition(".")
    fan_in = shapes[name][-1]
    if room in ("ic_enc", "ci_enc"):  # the encoders count both their inputs and their own state
        fan_in = shapes[f"{room}.weight_ih"][-1] + shapes[f"{room}.weight_hh"][-1]
    return 1 / math.sqrt(fan_in) if fan_in and kind.startswith("weight") else 0.0


def initial_params(
    arch: Arch, widths: Widths, seeds: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Params:
    """Return the start of M members; members of equal seed start equal.

    Weights are normal with variance 1 / fan-in, gate biases start at 1, all else at 0.
    Source: the initialisers of lfads-torch (Sedler and Pandarinath 2023).
    """
    shapes = parameter_shapes(arch, widths)
    rows = {seed: _initial_row(shapes, seed) for seed in set(seeds)}
    flat = torch.stack([rows[seed] for seed in seeds]).to(device=device, dtype=dtype)
    return Params(flat, shapes, requires_grad=True)


def _initial_row(shapes: dict[str, tuple[int, ...]], seed: int) -> Tensor:
    parts = []
    for name, shape in shapes.items():
        scale = _initial_scale(name, shapes)
        if scale:
            value = torch.randn(shape, generator=derived_generator(seed, "init", name), dtype=torch.float64) * scale
        else:
            value = torch.zeros(shape, dtype=torch.float64)
        if name in ("ic_enc.bias", "ci_enc.bias", "con.bias", "gen.bias"):
            value[..., : shape[-1] // 3 * 2] = 1.0
        parts.append(value.flatten())
    return torch.cat(parts)
