"""The state of a population in training: everything that a bit-identical continuation needs.

Axes: M active member, P parameters of one member.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from band.config import RunConfig
from band.model.params import Params, Widths, initial_params, parameter_shapes
from band.train.schedule import Schedule

TRAIN_TERMS = ("recon", "behavior", "kl_ic", "kl_co", "l2", "loss", "grad_norm")
SUMMED = (*TRAIN_TERMS, "recon_sv")  # over the batches of an epoch
COLUMNS = (
    "epoch", "step", "lr",
    *(f"train_{name}" for name in TRAIN_TERMS),
    "kl_ramp", "l2_ramp",
    "valid_recon", "valid_behavior", "valid_kl_ic", "valid_kl_co", "valid_loss",
    "valid_bits_per_spike", "valid_behavior_r2", "valid_recon_sv",
    "monitor_smoothed",
)  # fmt: skip


@dataclass
class Member:
    """One run in training."""

    run_id: str
    config: RunConfig
    schedule: Schedule
    epoch: int = 0  # epochs completed
    batch: int = 0  # batches of the running epoch that are done
    history: list[list[float]] = field(default_factory=list)  # one row of COLUMNS an epoch
    first_non_finite: str = ""  # name of the tensor that ended a diverged member

    @property
    def has_ended(self) -> bool:
        """Whether the member trains no further."""
        return bool(self.schedule.stopped_by)


@dataclass
class Population:
    """Members that train together; those that ended have been selected out."""

    members: list[Member]
    params: Params
    moments: tuple[Tensor, Tensor]  # (M, P) each
    best: Tensor  # (M, P), parameters of the best epoch; meaningful where best_epoch >= 0
    sums: Tensor  # (M, len(SUMMED)), over the batches of each member's running epoch
    step: int = 0  # optimiser steps done, the same for every member
    seconds: float = 0.0  # spent training, over all attempts

    @staticmethod
    def start(runs: Sequence[tuple[str, RunConfig]], widths: Widths, *, device: torch.device) -> Population:
        """Return the untrained population of these (run id, configuration) pairs."""
        dtype = getattr(torch, runs[0][1].train.dtype)
        seeds = [config.seed for _, config in runs]
        params = initial_params(runs[0][1].arch, widths, seeds, dtype=dtype, device=device)
        members = [Member(run_id, config, Schedule(lr=config.hyper.lr)) for run_id, config in runs]
        return Population(
            members=members,
            params=params,
            moments=(torch.zeros_like(params.flat), torch.zeros_like(params.flat)),
            best=params.flat.clone(),
            sums=torch.zeros(len(runs), len(SUMMED), dtype=torch.float64, device=device),
        )

    def __len__(self) -> int:
        return len(self.members)

    def keep(self, positions: Sequence[int]) -> Population:
        """Return a population of only the members at these positions, their state as it is."""
        index = torch.as_tensor(positions, dtype=torch.int64, device=self.best.device)
        first, second = self.moments
        return Population(
            members=[self.members[p] for p in positions],
            params=self.params.select(positions, requires_grad=True),
            moments=(first[index], second[index]),
            best=self.best[index],
            sums=self.sums[index],
            step=self.step,
            seconds=self.seconds,
        )

    def rows(self) -> list[Tensor]:
        """Return what is kept of each member in tensors, (M, ·) each."""
        return [self.params.flat.detach(), *self.moments, self.best, self.sums]

    def with_rows(self, members: Sequence[Member], rows: Sequence[Tensor]) -> Population:
        """Return a population at the same step of other members, from what `rows` has of them."""
        flat, first, second, best, sums = rows
        params = Params(flat, self.params.shapes, requires_grad=True)
        return Population(list(members), params, (first, second), best, sums, self.step, self.seconds)

    def final_params(self, position: int) -> Params:
        """Return the parameters that a member leaves: of its best epoch, or the last where none could count yet."""
        is_best = self.members[position].schedule.best_epoch >= 0
        source = self.best if is_best else self.params.flat.detach()
        return Params(source[position : position + 1].clone(), self.params.shapes)


def population_shapes(config: RunConfig, widths: Widths) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a member of this configuration."""
    return parameter_shapes(config.arch, widths)


def as_nan(value: float | None) -> float:
    """Return a number for a cell of `history`, NaN where there is none."""
    return math.nan if value is None else value
