"""Priors of the initial condition and of the inferred inputs. One small file each; yours by its import path."""

from __future__ import annotations

from band.config import Arch
from band.model.options import named_option
from band.model.priors.base import Prior

BUILT_IN = {
    "normal": "band.model.priors.normal:Normal",
    "autoregressive": "band.model.priors.autoregressive:Autoregressive",
    "student_t": "band.model.priors.student_t:StudentT",
    "student_t_lfads_torch": "band.model.priors.student_t:StudentTFromScale",
}


def prior_of(arch: Arch, room: str) -> Prior:
    """Return the prior of `room`, "ic" or "co".

    Raises:
        ConfigError: there is no such name, or `module:Class` cannot be imported.
    """
    name = arch.ic_prior if room == "ic" else arch.co_prior
    kind = named_option(name, BUILT_IN, key=f"arch.{room}_prior", base=Prior)
    return kind(arch, room)
