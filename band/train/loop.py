"""Training a population until its last member ends: steps, epochs, validation, stopping, divergence.

Axes: M active member, B trial, P parameters of one member.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from band.config import Hyper, TrainConfig
from band.model.forward import Batch, Latents, Losses, Scales, compute_losses, run_model
from band.model.losses import ramp
from band.model.noise import Noise
from band.model.params import Params, Widths, session_room
from band.model.reconstructions import reconstruction_of
from band.train.augment import Augmenter
from band.train.augmentations.sample_validation import held_out_recon
from band.train.captured import Captured
from band.train.evaluate import evaluate, scores_by_member
from band.train.noise import NoiseSource, Rates
from band.train.optimiser import AdamWSettings, adamw_step_, clip_gradient_
from band.train.population import COLUMNS, SUMMED, TRAIN_TERMS, Population
from band.train.schedule import monitored
from band.train.start import trained_columns
from band.train.trials import Trials

L2_ROOMS = ("ic_enc", "ci_enc", "gen", "con")


@dataclass(frozen=True)
class _Outcome:
    """What a step tells of itself."""

    latents: Latents
    terms: Losses
    gradient: Tensor  # (M, P)
    finite: Tensor  # (M,), whether loss and gradient are


@dataclass(frozen=True)
class _Fixed:
    """What depends only on which members are active."""

    augmenter: Augmenter
    noise: NoiseSource
    scales: Scales
    settings: AdamWSettings
    valid: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # index and weight of their validation trials, by session


class Loop:
    """Trains a population step by step; `population` is its whole state between two steps."""

    def __init__(
        self, population: Population, trials: Trials, *, places: dict[str, int], trials_at_once: int | None = None
    ) -> None:
        """Take a population, started or restored.

        Args:
            population: its active members.
            trials: the recording and each run's splits.
            places: position of each run id among the splits of `trials`.
            trials_at_once: as in `run_model`; None: as configured.
        """
        self.population, self._trials, self._places = population, trials, places
        config = population.members[0].config
        self._arch, self._train = config.arch, config.train
        self._device = population.params.flat.device
        self._dtype = population.params.flat.dtype
        trained = trained_columns(config, population.params.shapes)
        self._trained = None if trained is None else trained.to(self._device, self._dtype)
        self._at_once = config.train.trials_at_once if trials_at_once is None else trials_at_once
        self._num_counts = 1 if self._train.recon_reduce_mean else counts_of_a_trial(trials.widths)
        self._prepare()

    def step(self) -> list[int]:
        """Do one optimiser step of every member; return the positions of those that completed an epoch or diverged."""
        population, fixed = self.population, self._fixed
        index, weight = ([part.to(self._device) for part in parts] for parts in self._next_batch())
        batch, held_out = fixed.augmenter.training(self._trials.batch(index, weight), index, step=population.step)
        noise = None if fixed.noise.is_of_tensors else fixed.noise.training(population.step)
        corrections = fixed.settings.corrections(population.step + 1)
        inputs = torch.tensor(population.step), corrections, self._by_epoch, batch, held_out, noise
        outcome = self._stepped(self._step, *inputs)
        population.step += 1
        return self._completed(self._find_diverged(outcome))

    def _step(
        self, step: Tensor, corrections: Tensor, by_epoch: Tensor, batch: Batch, held_out: Batch | None,
        noise: Noise | None,
    ) -> _Outcome:  # fmt: skip
        """Do a step, all of it in tensors.

        Args:
            step: (), steps done before.
            corrections: (2, M), of the optimiser.
            by_epoch: (3, M), what changes only when an epoch ends: step size, KL ramp, L2 ramp.
            batch: what is trained on.
            held_out: what is not, see `Augmenter.training`.
            noise: draws and masks; None: drawn here.
        """
        population, fixed = self.population, self._fixed
        lr, kl_ramp, l2_ramp = by_epoch.unbind()
        noise = fixed.noise.training(step) if noise is None else noise
        latents = run_model(
            population.params, batch, arch=self._arch, widths=self._trials.widths, noise=noise,
            trials_at_once=self._at_once,
        )  # fmt: skip
        terms = compute_losses(
            population.params, latents, batch, arch=self._arch, scales=fixed.scales,
            kl_ramp=kl_ramp, l2_ramp=l2_ramp, noise=noise,
        )  # fmt: skip
        recon_sv = self._held_out_recon(latents, held_out)
        gradient = population.params.gradient(terms.loss)
        if self._trained is not None:
            gradient *= self._trained
        norm = clip_gradient_(gradient, bound=fixed.settings.grad_clip)
        finite = torch.isfinite(norm) & torch.isfinite(terms.loss)
        # A member that diverged keeps its parameters.
        usable, lr = torch.where(finite[:, None], gradient, 0), torch.where(finite, lr, 0)
        adamw_step_(
            population.params.flat, usable, population.moments, corrections=corrections, lr=lr, decay_ramp=l2_ramp,
            settings=fixed.settings, trained=self._trained,
        )  # fmt: skip
        values = [getattr(terms, name).detach() for name in TRAIN_TERMS[:-1]]
        population.sums += torch.stack([*values, norm, recon_sv], dim=1)
        return _Outcome(latents, terms, gradient, finite)

    def end_epochs(self, positions: list[int]) -> None:
        """Validate the members that completed an epoch, record the scores, let their schedules decide."""
        population = self.population
        done = [p for p in positions if not population.members[p].has_ended]
        if not done:
            return
        # Members of one population may stand at different epochs; each draws by its own.
        by_epoch: dict[int, list[int]] = {}
        for p in done:
            by_epoch.setdefault(population.members[p].epoch, []).append(p)
        for epoch, rows in by_epoch.items():
            if len(rows) == len(population):
                validate = partial(self._validate, population, self._fixed)
                found = self._validated(validate, *self._validation_inputs(self._fixed, epoch, self._by_epoch))
            else:
                some = population.keep(rows)
                fixed, own = self._fixed_for(some), self._by_epoch[:, torch.tensor(rows, device=self._device)]
                found = self._validate(some, fixed, *self._validation_inputs(fixed, epoch, own))
            for p, score in zip(rows, scores_by_member(found), strict=True):
                self._end_epoch(p, score)
        self._set_epoch_tensors()

    def restart_epochs(self) -> None:
        """Begin the next epoch of every member that has completed one, without validation: to measure, not to train."""
        for position, member in enumerate(self.population.members):
            if member.batch == len(self._epoch_batches[position][0][0]):
                member.epoch, member.batch = member.epoch + 1, 0
                self._epoch_batches[position] = self._shuffled(position)

    def drop_ended(self) -> None:
        """Select out the members that ended; the loop goes on with the rest, if any."""
        active = [p for p, member in enumerate(self.population.members) if not member.has_ended]
        if len(active) < len(self.population):
            self.population = self.population.keep(active)
            if active:
                self._prepare()

    def _prepare(self) -> None:
        self._fixed = self._fixed_for(self.population)
        self._stepped: Captured[_Outcome] = Captured(device=self._device)
        self._validated: Captured[Tensor] = Captured(device=self._device)
        self._epoch_batches = [self._shuffled(p) for p in range(len(self.population))]
        self._set_epoch_tensors()

    def _validation_inputs(self, fixed: _Fixed, epoch: int, by_epoch: Tensor) -> tuple[Any, ...]:
        """Return what `_validate` takes beside population and `fixed`."""
        batch = fixed.augmenter.inference(self._trials.batch(*fixed.valid), "valid", epoch)
        samples = [epoch * self._train.valid_samples + sample for sample in range(self._train.valid_samples)]
        trials = batch.weight.shape[1]
        draws = None if fixed.noise.is_of_tensors else [fixed.noise.posterior(trials, "valid", n) for n in samples]
        return batch, by_epoch, torch.tensor(samples), draws

    def _validate(
        self, population: Population, fixed: _Fixed, batch: Batch, by_epoch: Tensor, samples: Tensor,
        draws: list[Noise] | None,
    ) -> Tensor:  # fmt: skip
        """Return what `evaluate` finds for some members, all of it in tensors; without `draws` they are drawn here."""
        trials = batch.weight.shape[1]
        draws = draws or [fixed.noise.posterior(trials, "valid", sample) for sample in samples]
        return evaluate(
            population.params, batch, draws, arch=self._arch, widths=self._trials.widths, scales=fixed.scales,
            ramps=by_epoch[1:], trials_at_once=self._at_once,
        )  # fmt: skip

    def _fixed_for(self, population: Population) -> _Fixed:
        hypers = [member.config.hyper for member in population.members]

        def per_member(name: str) -> Tensor:
            values = [getattr(hyper, name) for hyper in hypers]
            return torch.tensor(values, dtype=self._dtype, device=self._device)

        train = self._train
        scales = Scales(
            **{
                name: per_member(name)
                for name in ("behavior_weight", "kl_ic_scale", "kl_co_scale", "kl_ic_target", "kl_co_target")
            },
            l2={room: own for room in L2_ROOMS if bool((own := per_member(f"l2_{room}_scale")).any())},
            loss_scale=train.loss_scale,
            recon_reduce_mean=train.recon_reduce_mean,
            kl_co_reduce=train.kl_co_reduce,
            kl_target=train.kl_target,
        )
        names = ("dropout_rate", "behavior_dropout_rate", "cd_rate", "cd_pass_rate")
        noise = NoiseSource(
            [member.config.seed for member in population.members],
            Rates(*(per_member(name).cpu().double() for name in names)),
            arch=self._arch, widths=self._trials.widths, batch_sizes=self._trials.batch_sizes,
            dtype=self._dtype, device=self._device,
        )  # fmt: skip
        names = ("adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "grad_clip")
        settings = AdamWSettings(*(per_member(name) for name in names))
        augmenter = Augmenter([member.config for member in population.members])
        places = [self._places[member.run_id] for member in population.members]
        return _Fixed(augmenter, noise, scales, settings, self._trials.whole("valid", places))

    def _shuffled(self, position: int) -> list[tuple[Tensor, Tensor]]:
        member = self.population.members[position]
        return self._trials.epoch(self._places[member.run_id], member.config, epoch=member.epoch)

    def _set_epoch_tensors(self) -> None:
        """Set what changes only when an epoch ends: step sizes and ramps, (M,) each."""
        members = self.population.members

        def tensor(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=self._dtype, device=self._device)

        def ramps(kind: str) -> Tensor:
            starts, increases = (
                tensor([getattr(m.config.hyper, f"{kind}_{part}_epoch") for m in members])
                for part in ("start", "increase")
            )
            return ramp(tensor([m.epoch for m in members]), start=starts, increase=increases)

        self._by_epoch = torch.stack((tensor([m.schedule.lr for m in members]), ramps("kl"), ramps("l2")))

    def _next_batch(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return index and weight (M, B) of the next minibatch of every member, by session."""
        picks = [
            [(index[member.batch], weight[member.batch]) for index, weight in sessions]
            for member, sessions in zip(self.population.members, self._epoch_batches, strict=True)
        ]
        by_session = list(zip(*picks, strict=True))
        return (
            [torch.stack([index for index, _ in session]) for session in by_session],
            [torch.stack([weight for _, weight in session]) for session in by_session],
        )

    def _held_out_recon(self, latents: Latents, held_out: Batch | None) -> Tensor:
        if held_out is None:
            return torch.full((len(self.population),), math.nan, dtype=self._dtype, device=self._device)
        return held_out_recon(self.population.params, latents, held_out, reconstruction_of(self._arch))

    def _find_diverged(self, outcome: _Outcome) -> list[int]:
        """Return the positions of members whose loss or gradient is not finite, after naming what was so first."""
        if bool(outcome.finite.all()):
            return []
        positions = (~outcome.finite).nonzero().flatten().tolist()
        for p in positions:
            member = self.population.members[p]
            member.first_non_finite = _first_non_finite(p, self.population, outcome)
            member.schedule.stopped_by = "diverged"
        return positions

    def _completed(self, diverged: list[int]) -> list[int]:
        completed = list(diverged)
        for p, member in enumerate(self.population.members):
            if member.has_ended:
                continue
            member.batch += 1
            if member.batch == len(self._epoch_batches[p][0][0]):
                completed.append(p)
        return sorted(completed)

    def _end_epoch(self, position: int, score: dict[str, float]) -> None:
        """Record an epoch of one member and let its schedule decide."""
        population = self.population
        member = population.members[position]
        hyper = member.config.hyper
        score = _without_behavior(score) if hyper.behavior_weight == 0 else score
        means = dict(zip(SUMMED, (population.sums[position] / member.batch).tolist(), strict=True))
        row = {f"train_{name}": means[name] for name in TRAIN_TERMS}
        score = score | {"valid_recon_sv": means["recon_sv"]}
        if hyper.behavior_weight == 0:
            row["train_behavior"] = math.nan
        row.update(epoch=member.epoch, step=population.step, lr=member.schedule.lr, **score)
        row.update(kl_ramp=float(self._by_epoch[1, position]), l2_ramp=float(self._by_epoch[2, position]))
        if not math.isfinite(score["valid_loss"]):
            member.first_non_finite, member.schedule.stopped_by = "validation loss", "diverged"
        elif member.schedule.observe(
            monitored(score, self._train.monitor, num_counts=self._num_counts),
            epoch=member.epoch, hyper=hyper, train=self._train,
        ):  # fmt: skip
            population.best[position] = population.params.flat.detach()[position]
        row["monitor_smoothed"] = member.schedule.smoothed
        member.history.append([row[name] for name in COLUMNS])
        population.sums[position] = 0
        member.epoch, member.batch = member.epoch + 1, 0
        if not member.has_ended:
            self._epoch_batches[position] = self._shuffled(position)


def _without_behavior(score: dict[str, float]) -> dict[str, float]:
    """Return the scores of a member that has no behaviour decoder: those of behaviour are NaN."""
    return score | {"valid_behavior": math.nan, "valid_behavior_r2": math.nan}


def _first_non_finite(position: int, population: Population, outcome: _Outcome) -> str:
    """Return the name of the first tensor of a member's step that is not finite, in the order of computation."""
    latents, terms = outcome.latents, outcome.terms
    decoded = {f.name: getattr(latents.decoded, f.name) for f in dataclasses.fields(latents.decoded)}
    named = {
        **{f"parameter {name}": value for name, value in population.params.items()},
        "ic_mean": latents.ic_mean,
        "ic_log_var": latents.ic_log_var,
        **decoded,
        **{session_room("outputs", s, len(latents.outputs)): value for s, value in enumerate(latents.outputs)},
        "behavior": latents.behavior,
        **{f"loss term {f.name}": getattr(terms, f.name) for f in dataclasses.fields(terms)},
    }
    order = [*named.items(), *((f"gradient of {n}", g) for n, g in _named_rows(population, outcome.gradient))]
    for name, value in order:
        if value is not None and not bool(torch.isfinite(value[position]).all()):
            return name
    return "gradient norm"


def _named_rows(population: Population, gradient: Tensor) -> list[tuple[str, Tensor]]:
    return Params(gradient, population.params.shapes).items()


def train_population(
    loop: Loop,
    *,
    on_epoch: Callable[[Population], None],
    on_ended: Callable[[Population, list[int]], None],
    after_step: Callable[[Population], bool],
) -> bool:
    """Train until every member has ended, or `after_step` says to stop.

    Args:
        loop: the population and its trials.
        on_epoch: called after members completed an epoch.
        on_ended: called with the population and the positions of members that ended, before they are selected out.
        after_step: called between steps with the whole state; True stops.

    Returns:
        whether all members ended.
    """
    while loop.population.members:
        completed = loop.step()
        if completed:
            loop.end_epochs(completed)
            on_epoch(loop.population)
            ended = [p for p, member in enumerate(loop.population.members) if member.has_ended]
            if ended:
                on_ended(loop.population, ended)
                loop.drop_ended()
        if loop.population.members and after_step(loop.population):
            return False
    return True


def counts_of_a_trial(widths: Widths) -> float:
    """Return over how many counts the reconstruction of a trial is a sum, on average over sessions."""
    return widths.num_recon_bins * sum(widths.num_recon_neurons) / widths.num_sessions


def effective_beta(hyper: Hyper, train: TrainConfig, widths: Widths) -> dict[str, float]:
    """Return the KL weights in units of the evidence bound, where 1 is the bound, and what coordinated dropout changes.

    Args:
        hyper: the member.
        train: whether the loss sums or averages over counts, and the divergence of the inputs over bins.
        widths: R reconstructed bins of N' neurons.

    Returns:
        beta_ic and beta_co at the end of the ramp; cd_gradient_share, the share of counts whose gradient reaches the
        parameters: the reconstruction is not rescaled for it, so against it the divergences weigh 1 / share as much.
    """
    unit = counts_of_a_trial(widths) if train.recon_reduce_mean else 1
    bins = widths.num_recon_bins if train.kl_co_reduce == "mean" else 1
    share = hyper.cd_rate + (1 - hyper.cd_rate) * hyper.cd_pass_rate if hyper.cd_rate > 0 else 1.0
    share *= 1 - hyper.sv_rate
    return {
        "beta_ic": hyper.kl_ic_scale * unit,
        "beta_co": hyper.kl_co_scale * unit / bins,
        "cd_gradient_share": share,
    }
