"""Augmentations against loops over single spikes and bins; what is held out stays out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from naive_case import Case, check
from tiny import CPU, config, make_loop, train, write_recording

from band.config import Hyper
from band.errors import ConfigError
from band.model.forward import Batch, run_model
from band.model.losses import count_constant
from band.train.augment import Augmenter
from band.train.augmentations.base import Counts, Draws
from band.train.augmentations.jitter import Jitter
from band.train.augmentations.shift import Shift
from band.train.population import COLUMNS

F64 = torch.float64
M, B, T, R, N, N2 = 3, 4, 9, 11, 5, 7


def counts(*, observed: bool = False) -> Counts:
    """Return counts with held-out neurons and forecast bins, the members of which see the same trials."""
    generator = torch.Generator().manual_seed(1)
    recon = torch.poisson(torch.full((1, B, R, N2), 1.2, dtype=F64), generator=generator).expand(M, -1, -1, -1).clone()
    seen = (torch.rand((M, B, R, N2), generator=generator) > 0.3).to(F64) if observed else None
    recon = recon if seen is None else recon * seen
    return Counts(encod=recon[:, :, :T, :N].clone(), recon=recon, observed=seen)


def draws(*purpose: object, seeds=(5, 5, 9)) -> Draws:
    return Draws(seeds=seeds, purpose=purpose or ("a", 0), dtype=F64, device=CPU)


def members(*hypers: dict) -> list:
    return [config(**hyper) for hyper in hypers]


@pytest.mark.parametrize("observed", [False, True])
def test_every_spike_moves_like_the_loop_over_spikes_says(observed):
    widths = (2, 0, 3)
    before, source = counts(observed=observed), draws()
    after = Jitter(members(*({"jitter_width": width} for width in widths))).change(before, source)
    want = before.recon.clone()
    want[:, :, :T] = 0
    for m, b, t, n in np.ndindex(M, B, T, N2):
        for spike in range(int(before.recon[m, b, t, n])):
            number = int(source.bits(str(spike // 4), B, T, N2)[m, b, t, n]) % 2**64
            drawn = number // 2 ** (16 * (spike % 4)) % 2**16 / 2**16
            target = t + math.floor(drawn * (2 * widths[m] + 1)) - widths[m]
            target = -1 - target if target < 0 else 2 * T - 1 - target if target >= T else target
            if observed and not before.observed[m, b, target, n]:
                target = t
            want[m, b, target, n] += 1
    assert torch.equal(after.recon, want) and torch.equal(after.encod, want[:, :, :T, :N])
    assert torch.equal(after.recon[1], before.recon[1]) and not torch.equal(after.recon[0], before.recon[0])
    assert torch.equal(after.recon[:, :, :T].sum(dim=2), before.recon[:, :, :T].sum(dim=2)), "no spike is lost"
    assert not observed or not bool(after.recon[after.observed == 0].any())


@pytest.mark.parametrize("observed", [False, True])
def test_every_neuron_of_a_trial_shifts_like_the_loop_over_bins_says(observed):
    stds, most = (2.0, 0.0, 3.0), (6, 6, 2)
    hypers = [{"shift_std": std, "shift_max": bound} for std, bound in zip(stds, most, strict=True)]
    before, source = counts(observed=observed), draws()
    after = Shift(members(*hypers)).change(before, source)
    normal = source.normal("bins", B, 1, N2)
    want, seen = before.recon.clone(), None if before.observed is None else before.observed.clone()
    for m, b, t, n in np.ndindex(M, B, T, N2):
        by = max(-most[m], min(most[m], round(stds[m] * float(normal[m, b, 0, n]))))
        at = min(max(t - by, 0), T - 1)
        want[m, b, t, n] = before.recon[m, b, at, n]
        if seen is not None:
            seen[m, b, t, n] = before.observed[m, b, at, n]
    assert torch.equal(after.recon, want) and torch.equal(after.encod, want[:, :, :T, :N])
    assert torch.equal(after.recon[1], before.recon[1]) and not torch.equal(after.recon[0], before.recon[0])
    assert seen is None or torch.equal(after.observed, seen)


def test_a_jitter_is_uniform_reflects_and_leaves_a_flat_rate_flat():
    flat = torch.ones(1, 4000, 6, 1, dtype=F64)
    moved = Jitter(members({"jitter_width": 2})).change(Counts(encod=flat, recon=flat), draws(seeds=(0,)))
    assert moved.recon is moved.encod
    assert moved.encod.mean(dim=(0, 1))[:, 0].tolist() == pytest.approx([1.0] * 6, abs=0.06)
    single = torch.zeros(1, 20000, 9, 1, dtype=F64)
    single[:, :, 4] = 1
    moved = Jitter(members({"jitter_width": 2})).change(Counts(encod=single, recon=single), draws(seeds=(0,)))
    assert moved.encod.mean(dim=(0, 1))[:, 0].tolist() == pytest.approx(
        [0, 0, 0.2, 0.2, 0.2, 0.2, 0.2, 0, 0], abs=0.015
    )


@pytest.mark.parametrize(("kind", "hyper"), [(Jitter, {"jitter_width": 2}), (Shift, {"shift_std": 2.0})])
def test_members_of_equal_seed_move_alike_whatever_their_neighbours_and_draws_change_with_the_step(kind, hyper):
    among = kind(members(hyper, hyper, hyper)).change(counts(), draws("a", 7)).recon
    assert torch.equal(among[0], among[1]) and not torch.equal(among[0], among[2])
    one = counts()
    alone = Counts(encod=one.encod[:1], recon=one.recon[:1])
    assert torch.equal(kind(members(hyper)).change(alone, draws("a", 7, seeds=(5,))).recon[0], among[0])
    assert not torch.equal(kind(members(hyper)).change(alone, draws("a", 8, seeds=(5,))).recon[0], among[0])


def as_batch(part: Counts) -> Batch:
    return Batch(
        encod=(part.encod,), recon=(part.recon,), weight=torch.ones(M, B, dtype=F64),
        recon_observed=None if part.observed is None else (part.observed,),
        recon_constant=count_constant(part.recon),
    )  # fmt: skip


@pytest.mark.parametrize("hyper", [{}, {"jitter_width": 2, "shift_std": 1.5}], ids=["still", "moved"])
@pytest.mark.parametrize("observed", [False, True])
def test_held_out_samples_reach_neither_encoder_nor_loss_and_are_the_same_in_every_epoch(observed, hyper):
    before = counts(observed=observed)
    augmenter = Augmenter([config(seed=s, sv_rate=r, **hyper) for s, r in ((5, 0.4), (5, 0.0), (9, 0.4))])
    index = [torch.arange(B).expand(M, -1) + 3]
    rest, held = augmenter.training(as_batch(before), index, step=2)
    (trained,), (checked,) = rest.recon_observed, held.recon_observed
    assert bool((trained * checked == 0).all())
    assert not bool(checked[:, :, T:].any()) and not bool(checked[..., N:].any()), "only what the encoders could see"
    scale = torch.tensor([1 / 0.6, 1, 1 / 0.6], dtype=F64).view(-1, 1, 1, 1)
    torch.testing.assert_close(rest.encod[0], rest.recon[0][:, :, :T, :N] * scale, rtol=1e-12, atol=0)
    assert not bool(held.recon[0][checked == 0].any()) and not bool(checked[1].any())
    torch.testing.assert_close(rest.recon_constant, count_constant(rest.recon[0]), rtol=1e-12, atol=0)
    if not hyper:
        whole = torch.ones_like(before.recon) if before.observed is None else before.observed
        assert torch.equal(trained + checked, whole) and torch.equal(rest.recon[0] + held.recon[0], before.recon)
        share = checked[0].sum() / whole[0, :, :T, :N].sum()
        assert 0.3 < float(share) < 0.5
        again, _ = augmenter.training(as_batch(before), index, step=90)
        assert torch.equal(again.recon_observed[0], trained), "the same in every epoch"
        turned, _ = augmenter.training(as_batch(before), [index[0].flip(1)], step=2)
        assert observed or torch.equal(turned.recon_observed[0], trained.flip(1)), "wherever the trial stands"


def test_the_held_out_samples_are_scored_as_the_loop_over_them_says(tmp_path):
    data = write_recording(tmp_path / "tiny.h5")
    runs = {
        "some": config(seed=1, sv_rate=0.3, cd_rate=0.0, dropout_rate=0.0, train={"dtype": "float64"}),
        "none": config(seed=1, cd_rate=0.0, dropout_rate=0.0, train={"dtype": "float64"}),
    }
    loop = make_loop(data, runs)
    index, weight = loop._next_batch()
    batch, held = loop._fixed.augmenter.training(loop._trials.batch(index, weight), index, step=0)
    noise = loop._fixed.noise.training(0)
    with torch.no_grad():
        latents = run_model(loop.population.params, batch, arch=loop._arch, widths=loop._trials.widths, noise=noise)
    got = loop._held_out_recon(latents, held)
    total, count = 0.0, 0
    for b, t, n in np.ndindex(*held.recon[0].shape[1:]):
        if held.recon_observed[0][0, b, t, n] and weight[0][0, b]:
            log_rate, seen = float(latents.outputs[0][0, b, t, n]), float(held.recon[0][0, b, t, n])
            total += math.exp(log_rate) - seen * log_rate + math.lgamma(seen + 1)
            count += 1
    assert count > 100 and float(got[0]) == pytest.approx(total / count, rel=1e-10) and math.isnan(got[1])


def test_a_step_on_changed_trials_has_the_loss_and_gradient_of_the_naive_model_on_them(tmp_path):
    hypers = (
        {"jitter_width": 2, "sv_rate": 0.3, "cd_rate": 0.4, "cd_pass_rate": 0.2},
        {"shift_std": 1.5, "cd_rate": 0.0, "dropout_rate": 0.0},
        {"jitter_width": 1, "shift_std": 3.0, "sv_rate": 0.1},
    )
    loop = make_loop(
        write_recording(tmp_path / "tiny.h5", bins=7),
        {str(m): config(seed=m, train={"dtype": "float64"}, **hyper) for m, hyper in enumerate(hypers)},
    )
    index, weight = loop._next_batch()
    raw = loop._trials.batch(index, weight)
    batch, _ = loop._fixed.augmenter.training(raw, index, step=4)
    noise = loop._fixed.noise.training(4)
    widths, params = loop._trials.widths, loop.population.params
    recon = torch.where(batch.recon_observed[0] > 0, batch.recon[0], math.nan)
    case = Case(
        arch=loop._arch, widths=widths, params=params, noise=noise, encod=batch.encod, recon=(recon,),
        behavior=batch.behavior, ext_input=None, weight=batch.weight,
    )  # fmt: skip
    check(case)
    assert not bool((raw.recon[0] == batch.recon[0]).flatten(1).all(dim=1).any()), "every member's trials changed"


def test_sample_validation_is_a_column_and_may_choose(tmp_path):
    data = write_recording(tmp_path / "tiny.h5")
    run = config(seed=1, sv_rate=0.2, train={"monitor": "valid_recon_sv", "max_epochs": 3})
    _, member = train(data, {"sv": run})["sv"]
    column = [row[COLUMNS.index("valid_recon_sv")] for row in member.history]
    assert len(column) == 3 and column[-1] < column[0]
    assert member.history[0][COLUMNS.index("monitor_smoothed")] == pytest.approx(column[0])
    _, member = train(data, {"none": config(seed=1, train={"max_epochs": 1})})["none"]
    assert math.isnan(member.history[0][COLUMNS.index("valid_recon_sv")])


def test_augmentations_of_inference_reach_validation_alone(tmp_path):
    data = write_recording(tmp_path / "tiny.h5")
    base = {"batch_size": 8, "max_epochs": 1}
    only = base | {"augmentations": "", "inference_augmentations": "shift"}
    still = train(data, {"a": config(seed=1, shift_std=2.0, train=only)})
    plain = train(data, {"a": config(seed=1, train=base)})
    assert torch.equal(still["a"][0], plain["a"][0]), "training is the same"
    valid = COLUMNS.index("valid_recon")
    assert still["a"][1].history[0][valid] != plain["a"][1].history[0][valid]


def test_settings_that_would_do_nothing_or_cannot_be_done_are_refused():
    with pytest.raises(ConfigError, match=r"hyper.jitter_width must be 0 where train.augmentations lacks jitter"):
        config(jitter_width=1, train={"augmentations": "shift"})
    with pytest.raises(ConfigError, match=r"train.augmentations must be one of jitter, shift"):
        config(train={"augmentations": "shift, twist"})
    with pytest.raises(ConfigError, match=r"train.monitor must be another score where hyper.sv_rate is 0"):
        config(train={"monitor": "valid_recon_sv"})
    for name, value in (("jitter_width", -1), ("shift_std", -0.5), ("shift_max", -1), ("sv_rate", 1.0)):
        with pytest.raises(ConfigError, match=f"hyper.{name}"):
            Hyper(**{name: value})
    base = config(jitter_width=1)
    gaussian = dataclasses.replace(base, arch=dataclasses.replace(base.arch, reconstruction="gaussian"))
    with pytest.raises(ConfigError, match=r"jitter_width must be 0 where arch.reconstruction is gaussian"):
        Augmenter([gaussian])
