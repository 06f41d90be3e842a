"""Names of lfads-torch and BAND-torch for our parameters: a state dict of theirs to one member of ours, and back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from band.config import Arch
from band.errors import DataError
from band.model.params import Params, has_controller

_LINEAR = {
    "ic_linear": "encoder.ic_linear",
    "ic_to_g0": "decoder.ic_to_g0",
    "fac_linear": "decoder.rnn.cell.fac_linear",
    "co_linear": "decoder.rnn.cell.co_linear",
    "behavior": "behavior_readout.layers.2",
}
_BY_SESSION = ("readin", "readout", "recon")
_CELLS = {"con": "decoder.rnn.cell.con_cell", "gen": "decoder.rnn.cell.gen_cell"}
_ENCODERS = ("ic_enc", "ci_enc")


def their_names(name: str) -> list[str]:
    """Return the names in lfads-torch that make up our parameter `name`; two for the directions of an encoder."""
    room, _, kind = name.rpartition(".")
    kind = "bias_ih" if kind == "bias" and room in (*_CELLS, *_ENCODERS) else kind
    if room in _ENCODERS:
        if kind == "h0":
            return [f"encoder.{room}_h0"]
        return [f"encoder.{room}.{direction}_gru.cell.{kind}" for direction in ("fwd", "bwd")]
    if name == "con.h0":
        return ["decoder.con_h0"]
    if room in _CELLS:
        return [f"{_CELLS[room]}.{kind}"]
    if room in _BY_SESSION:
        return [f"{room}.0.{kind}"]
    return [f"{_LINEAR.get(room, room)}.{kind}"]


_DECODER = re.compile(r"behavior_readout\.(?:0\.)?layers\.[12]\.(weight|bias)")  # in a list or not, with dropout or not
_UNTRAINED = re.compile(r".*\.bias_hh|(ic|co)_prior\.logvar|decoder\.con_h0|valid_recon_smth\..*")


def standard_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of any version of theirs under the names that `their_names` gives."""
    return {_DECODER.sub(r"behavior_readout.layers.2.\1", name): value for name, value in state.items()}


def left_over(state: Mapping[str, Tensor], names: list[str]) -> list[str]:
    """Return the names in a state dict that none of our parameters `names` is made of, and that mean something."""
    used = {key for name in names for key in their_names(name)}
    return [key for key in state if key not in used and not _UNTRAINED.fullmatch(key)]


def untrained(state: Mapping[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Return what a state dict of theirs has beside what `to_lfads_torch` gives: all that is fixed."""
    like = next(iter(state.values()))
    found = {key.replace("bias_ih", "bias_hh"): torch.zeros_like(state[key]) for key in state if "bias_ih" in key}
    for room, variance, size in (("ic", arch.ic_prior_var, arch.ic_dim), ("co", arch.co_prior_var, arch.co_dim)):
        if f"{room}_prior.mean" in state:
            found[f"{room}_prior.logvar"] = like.new_full((size,), math.log(variance))
    return found if has_controller(arch) else {**found, "decoder.con_h0": like.new_zeros(1, arch.con_dim)}


def row_from_lfads_torch(state: Mapping[str, Tensor], shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> Tensor:
    """Return the flat row (P,) of one member from a state dict in lfads-torch's names.

    A hidden bias, which lfads-torch keeps but does not train, is added to the input bias: the cell sees their sum.

    Raises:
        DataError: a parameter is missing or has another shape.
    """
    parts = []
    for name, shape in shapes.items():
        found = []
        for key in their_names(name):
            if key not in state:
                raise DataError(f"the state dict has no {key}, which {name} is made of")
            value = state[key].to(dtype)
            hidden = key.replace("bias_ih", "bias_hh")
            found.append(value + state[hidden].to(dtype) if hidden != key and hidden in state else value)
        value = torch.stack(found) if len(found) == 2 else found[0]
        if value.numel() != torch.Size(shape).numel():
            raise DataError(f"{', '.join(their_names(name))} has shape {tuple(value.shape)}, {name} needs {shape}")
        parts.append(value.reshape(-1))
    return torch.cat(parts)


def to_lfads_torch(params: Params, member: int) -> dict[str, Tensor]:
    """Return one member's parameters under lfads-torch's names and shapes."""
    state: dict[str, Tensor] = {}
    for name, view in params.items():
        value = view[member].detach()
        keys = their_names(name)
        if name in ("ic_enc.h0", "ci_enc.h0"):
            value = value[:, None]
        elif name == "con.h0":
            value = value[None]
        for key, part in zip(keys, value if len(keys) == 2 else [value], strict=True):
            state[key] = part.clone()
    return state
