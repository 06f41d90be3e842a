"""The sizes that are timed, and a random batch of such a size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from band.config import Arch, RunConfig, TrainConfig, to_dict
from band.model.forward import Batch, Scales
from band.model.losses import count_constant
from band.model.params import Params, Widths, initial_params
from band.sizes import Sizes, training_bytes
from band.train.noise import NoiseSource, Rates

BEHAVIOR_DIM = 2


@dataclass(frozen=True)
class Case:
    """One size of model and data."""

    name: str
    arch: Arch
    batch_size: int
    bins: int
    neurons: int

    @property
    def widths(self) -> Widths:
        """Sizes of the data."""
        return Widths(
            num_bins=self.bins,
            num_recon_bins=self.bins,
            num_neurons=(self.neurons,),
            num_recon_neurons=(self.neurons,),
            behavior_dim=BEHAVIOR_DIM,
        )


BIG = Arch(gen_dim=200)
CASES = {
    "large": Case("large: generator 200, batch 256", BIG, 256, 40, 20),
    "small": Case(
        "small: generator 64, batch 64",
        Arch(ic_enc_dim=64, ci_enc_dim=64, con_dim=64, co_dim=2, ic_dim=32, gen_dim=64, fac_dim=20),
        64, 40, 20,
    ),
    "maze": Case("maze: generator 100, batch 64", Arch(), 64, 50, 162),
}  # fmt: skip
# The same small model on longer trials and larger batches.
CASES |= {f"small-T{bins}": dataclasses.replace(CASES["small"], bins=bins) for bins in (100, 140)}
CASES |= {f"small-B{size}": dataclasses.replace(CASES["small"], batch_size=size) for size in (16, 256)}


def predicted_bytes(name: str, members: int, *, trials_at_once: int = 0) -> int:
    """Return what band/sizes.py says that training so many members takes, beside the process itself."""
    case = CASES[name]
    config = to_dict(
        RunConfig(arch=case.arch, train=TrainConfig(batch_size=case.batch_size, trials_at_once=trials_at_once))
    )
    sizes = Sizes(
        train=case.batch_size, valid=1, test=1, bins=case.bins, recon_bins=case.bins, neurons=case.neurons,
        recon_neurons=case.neurons, behavior=BEHAVIOR_DIM, external=0,
    )  # fmt: skip
    return training_bytes(config, sizes, members=members)


@dataclass(frozen=True)
class Problem:
    """Parameters, data, noise source and loss weights of M members of a case."""

    case: Case
    params: Params
    batch: Batch
    noise: NoiseSource
    scales: Scales
    ones: torch.Tensor  # (M,)


def make_problem(case: Case, seeds: Sequence[int], *, device: torch.device | str = "cpu") -> Problem:
    """Return M = len(seeds) members on random counts, all rates at their defaults, on a device."""
    members, widths = len(seeds), case.widths
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((members, case.bins, case.batch_size, case.neurons), 0.3), generator=generator)
    behavior = torch.randn(members, case.bins, case.batch_size, BEHAVIOR_DIM, generator=generator)
    counts, behavior = counts.to(device).transpose(1, 2), behavior.to(device).transpose(1, 2)
    ones, zeros = torch.ones(members, device=device), torch.zeros(members, device=device)
    rates = Rates(*(torch.full((members,), rate, dtype=torch.float64) for rate in (0.1, 0.5, 0.3, 0.0)))
    return Problem(
        case=case,
        params=initial_params(case.arch, widths, seeds, dtype=torch.float32, device=device),
        batch=Batch(
            encod=(counts,),
            recon=(counts,),
            weight=torch.ones(members, case.batch_size, device=device),
            behavior=behavior,
            recon_constant=count_constant(counts),
        ),
        noise=NoiseSource(
            seeds, rates, arch=case.arch, widths=widths, batch_sizes=(case.batch_size,), dtype=torch.float32,
            device=torch.device(device),
        ),
        scales=Scales(
            behavior_weight=ones,
            kl_ic_scale=ones,
            kl_co_scale=ones,
            kl_ic_target=zeros,
            kl_co_target=zeros,
            l2=dict.fromkeys(("ic_enc", "ci_enc", "gen", "con"), zeros),
        ),
        ones=ones,
    )  # fmt: skip
