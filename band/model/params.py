"""Parameters of a population: one flat row a member, with named views, so that every optimiser step is a few passes.

Axes: M member, P all parameters of one member; D direction of a bidirectional encoder (forward, backward).
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from band.config import Arch
from band.model.behavior import behavior_decoder_of
from band.model.priors import prior_of
from band.model.reconstructions import behavior_likelihood_of, reconstruction_of


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Sizes that come from the recording, equal within a population; neurons of each of its sessions."""

    num_bins: int  # T, bins the encoders see
    num_recon_bins: int  # R >= T, bins that are reconstructed
    num_neurons: tuple[int, ...]  # N, neurons the encoders see
    num_recon_neurons: tuple[int, ...]  # N' >= N, neurons that are reconstructed
    behavior_dim: int = 0  # K
    ext_input_dim: int = 0  # E

    @property
    def num_sessions(self) -> int:
        """Number of recording sessions in one model."""
        return len(self.num_neurons)


def encoder_width(arch: Arch, widths: Widths) -> int:
    """Return the number of channels that the encoders see: neurons, or what the read-ins make of them."""
    return arch.readin_dim or widths.num_neurons[0]


def session_room(room: str, session: int, num_sessions: int) -> str:
    """Return the name under which a session has its own read-in, read-out or reconstruction."""
    return room if num_sessions == 1 else f"{room}.{session}"


def has_controller(arch: Arch) -> bool:
    """Return whether the model infers inputs."""
    return arch.co_dim > 0


def parameter_shapes(arch: Arch, widths: Widths) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of one member, by name, in the order of the flat row.

    Gates of a recurrent cell stand in the order update z, reset r, candidate n along the 3H axis.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    seen = encoder_width(arch, widths)

    def encoder(name: str, hidden: int) -> None:
        shapes[f"{name}.h0"] = (2, hidden)
        shapes[f"{name}.weight_ih"] = (2, 3 * hidden, seen)
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

    if arch.readin_dim:
        for session, neurons in enumerate(widths.num_neurons):
            linear(session_room("readin", session, widths.num_sessions), seen, neurons)
    encoder("ic_enc", arch.ic_enc_dim)
    linear("ic_linear", 2 * arch.ic_dim, 2 * arch.ic_enc_dim)
    for name in prior_of(arch, "ic").starts():
        shapes[f"ic_prior.{name}"] = (arch.ic_dim,)
    if has_controller(arch):
        encoder("ci_enc", arch.ci_enc_dim)
        shapes["con.h0"] = (arch.con_dim,)
        cell("con", 2 * arch.ci_enc_dim + arch.fac_dim, arch.con_dim)
        linear("co_linear", 2 * arch.co_dim, arch.con_dim)
        for name in prior_of(arch, "co").starts():
            shapes[f"co_prior.{name}"] = (arch.co_dim,)
    linear("ic_to_g0", arch.gen_dim, arch.ic_dim)
    cell("gen", arch.co_dim + widths.ext_input_dim, arch.gen_dim)
    linear("fac_linear", arch.fac_dim, arch.gen_dim, bias=False)
    reconstruction = reconstruction_of(arch)
    for session, neurons in enumerate(widths.num_recon_neurons):
        linear(session_room("readout", session, widths.num_sessions), reconstruction.num_params * neurons, arch.fac_dim)
        for name, (before, _) in reconstruction.starts().items():
            shapes[f"{session_room('recon', session, widths.num_sessions)}.{name}"] = (*before, neurons)
    if widths.behavior_dim:
        likelihood = behavior_likelihood_of(arch)
        channels = likelihood.num_params * widths.behavior_dim
        for name, shape in behavior_decoder_of(arch).shapes(widths.num_recon_bins, channels).items():
            shapes[f"behavior.{name}"] = shape
        for name, (before, _) in likelihood.starts().items():
            shapes[f"behavior_likelihood.{name}"] = (*before, widths.behavior_dim)
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

    def room(self, name: str) -> dict[str, Tensor]:
        """Return {parameter: view (M, ...)} of one room, such as "ic_prior"."""
        return {key.rpartition(".")[2]: view for key, view in self._views.items() if key.rpartition(".")[0] == name}

    def items(self) -> list[tuple[str, Tensor]]:
        """Return (name, view (M, ...)) of every parameter."""
        return list(self._views.items())

    def replaced(self, views: Sequence[Tensor]) -> Params:
        """Return the same with other tensors in the place of the views, in the order of `items`."""
        other = copy.copy(self)
        other._views = dict(zip(self._views, views, strict=True))
        return other

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


def derived_number(seed: int, *purpose: object) -> int:
    """Return 64 bits that depend on the seed and the purpose alone, as an unsigned number."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def derived_generator(seed: int, *purpose: object) -> torch.Generator:
    """Return a CPU generator that depends on the seed and the purpose alone, never on what was drawn before."""
    return torch.Generator().manual_seed(derived_number(seed, *purpose))


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

    Weights are normal with variance 1 / fan-in, gate biases start at 1, priors and reconstructions where they say, all
    else at 0. Source: the initialisers of lfads-torch (Sedler and Pandarinath 2023).
    """
    shapes = parameter_shapes(arch, widths)
    constants = _constants(arch, widths)
    rows = {seed: _initial_row(shapes, constants, seed) for seed in set(seeds)}
    flat = torch.stack([rows[seed] for seed in seeds]).to(device=device, dtype=dtype)
    return Params(flat, shapes, requires_grad=True)


def _constants(arch: Arch, widths: Widths) -> dict[str, float]:
    """Return where the parameters of priors and reconstructions start."""
    found = {f"{room}_prior.{k}": value for room in ("ic", "co") for k, value in prior_of(arch, room).starts().items()}
    for session in range(widths.num_sessions):
        room = session_room("recon", session, widths.num_sessions)
        found |= {f"{room}.{name}": value for name, (_, value) in reconstruction_of(arch).starts().items()}
    own = behavior_likelihood_of(arch).starts().items()
    return found | {f"behavior_likelihood.{name}": value for name, (_, value) in own}


def _initial_row(shapes: dict[str, tuple[int, ...]], constants: dict[str, float], seed: int) -> Tensor:
    parts = []
    for name, shape in shapes.items():
        scale = _initial_scale(name, shapes)
        if scale:
            value = torch.randn(shape, generator=derived_generator(seed, "init", name), dtype=torch.float64) * scale
        else:
            value = torch.full(shape, constants.get(name, 0.0), dtype=torch.float64)
        if name in ("ic_enc.bias", "ci_enc.bias", "con.bias", "gen.bias"):
            value[..., : shape[-1] // 3 * 2] = 1.0
        parts.append(value.flatten())
    return torch.cat(parts)
