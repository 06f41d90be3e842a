"""Reconstructions: what the read-out's numbers say of the recorded data. One small file each; yours by its import path.

Axes: M member, B trial, R time bin, N' neuron, P numbers a neuron and bin.
"""

from __future__ import annotations

from band.config import Arch
from band.model.options import named_option
from band.model.reconstructions.base import Reconstruction

BUILT_IN = {
    "poisson": "band.model.reconstructions.poisson:Poisson",
    "poisson_stirling": "band.model.reconstructions.poisson:PoissonStirling",
    "gaussian": "band.model.reconstructions.gaussian:Gaussian",
    "gamma": "band.model.reconstructions.gamma:Gamma",
    "zero_inflated_gamma": "band.model.reconstructions.zero_inflated_gamma:ZeroInflatedGamma",
    "categorical": "band.model.reconstructions.categorical:Categorical",
    "mse": "band.model.reconstructions.squared_error:SquaredError",
}


def reconstruction_of(arch: Arch) -> Reconstruction:
    """Return the reconstruction that `arch.reconstruction` names.

    Raises:
        ConfigError: there is no such name, or `module:Class` cannot be imported.
    """
    return _named(arch.reconstruction, arch, "arch.reconstruction")


def behavior_likelihood_of(arch: Arch) -> Reconstruction:
    """Return the loss of behaviour that `arch.behavior_likelihood` names; what holds of neurons holds of channels.

    Raises:
        ConfigError: there is no such name, or `module:Class` cannot be imported.
    """
    return _named(arch.behavior_likelihood, arch, "arch.behavior_likelihood")


def _named(name: str, arch: Arch, key: str) -> Reconstruction:
    found: Reconstruction = named_option(name, BUILT_IN, key=key, base=Reconstruction)(arch)
    return found
