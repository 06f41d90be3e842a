"""Behaviour decoders: from factors to what the animal did. One small file each; yours by its import path."""

from __future__ import annotations

from band.config import Arch
from band.model.behavior.base import BehaviorDecoder
from band.model.options import named_option

BUILT_IN = {
    "trial": "band.model.behavior.trial:Trial",
    "bin": "band.model.behavior.lagged:Instantaneous",
    "causal_lag": "band.model.behavior.lagged:CausalLag",
}


def behavior_decoder_of(arch: Arch) -> BehaviorDecoder:
    """Return the decoder that `arch.behavior_decoder` names.

    Raises:
        ConfigError: there is no such name, or `module:Class` cannot be imported.
    """
    kind = named_option(arch.behavior_decoder, BUILT_IN, key="arch.behavior_decoder", base=BehaviorDecoder)
    return kind(arch)
