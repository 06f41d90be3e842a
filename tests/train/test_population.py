"""A member trains the same alone and among others, and what happens to one does not reach its neighbours."""

from __future__ import annotations

import gc
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import config, make_loop, train, write_recording

from band.errors import DataError
from band.model.forward import compute_losses, run_model
from band.model.noise import Noise
from band.model.params import derived_generator
from band.train.population import COLUMNS, Population
from band.train.trials import spread, steps_per_epoch


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("tiny") / "tiny.h5")


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def varied(dtype: str) -> dict:
    """Return runs that differ in everything a population allows."""
    common = {"dtype": dtype, "max_epochs": 67, "batch_size": 8}
    return {
        "lfads": config(seed=1, train=common),
        "band": config(seed=1, behavior_weight=0.5, train=common),
        "fold": config(seed=2, fold=1, num_folds=4, behavior_weight=1.0, cd_rate=0.5, train=common),
        "decay": config(seed=3, weight_decay=0.1, l2_gen_scale=10.0, dropout_rate=0.0, cd_rate=0.0, train=common),
        "fast": config(seed=4, lr=2e-2, lr_patience=1, lr_decay=0.5, lr_stop=1e-3, cd_pass_rate=0.4, train=common),
    }  # fmt: skip


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-10)])
def test_a_member_among_others_ends_like_it_does_alone(recording, dtype, bound):
    runs = varied(dtype)
    together = train(recording, runs)
    order = train(recording, dict(reversed(runs.items())))
    assert together["fast"][1].epoch < 67, "one member is meant to stop early"
    for run, run_config in runs.items():
        row, member = train(recording, {run: run_config})[run]
        for other_row, other in (together[run], order[run]):
            assert other.epoch == member.epoch and other.schedule.best_epoch == member.schedule.best_epoch
            start = make_loop(recording, {run: run_config}).population.params.flat[0]
            assert distance(row, start) > 0.1, "the member is meant to have moved"
            assert distance(other_row, row) <= bound, run
        steps = member.history[-1][COLUMNS.index("step")]
        assert steps == 201 or run in ("fast", "fold")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"behavior_likelihood": "categorical"}, "train_behavior trial 0 must hold whole numbers from 0 to below"),
        (
            {"behavior_likelihood": "poisson"},
            "must hold non-negative whole counts where arch.behavior_likelihood=poisson",
        ),
        ({"reconstruction": "zero_inflated_gamma", "gamma_loc": 1.0}, "must hold 0 or values above arch.gamma_loc"),
    ],
    ids=str,
)
def test_data_that_cannot_be_what_the_configuration_says_are_refused(recording, arch, message):
    run = config(behavior_weight=1.0)
    with pytest.raises(DataError, match=re.escape(message)):
        make_loop(recording, {"a": replace(run, arch=replace(run.arch, **arch))})


OPTIONS = {
    "ic_prior": "student_t", "co_prior": "autoregressive", "behavior_decoder": "causal_lag", "behavior_lags": 2,
    "behavior_likelihood": "gaussian", "ic_enc_seq_len": 3,
}  # fmt: skip


def augmented(dtype: str) -> dict:
    """Return runs whose trials are changed each in another way, with other priors and another decoder."""
    common = {"dtype": dtype, "max_epochs": 12, "batch_size": 8}
    runs = {
        "still": config(seed=1, behavior_weight=0.5, train=common),
        "jitter": config(seed=1, jitter_width=2, train=common),
        "shift": config(seed=2, shift_std=1.5, behavior_weight=0.3, fold=1, num_folds=4, train=common),
        "sample": config(seed=3, sv_rate=0.3, jitter_width=1, cd_rate=0.0, train=common),
    }
    return {run: replace(one, arch=replace(one.arch, **OPTIONS)) for run, one in runs.items()}


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-10)])
def test_a_member_whose_trials_are_changed_ends_among_others_like_it_does_alone(recording, dtype, bound):
    runs = augmented(dtype)
    together = train(recording, runs)
    ends = {}
    for run, run_config in runs.items():
        ends[run], member = train(recording, {run: run_config})[run]
        assert distance(together[run][0], ends[run]) <= bound, run
        own, other = (np.array(one.history) for one in (together[run][1], member))
        np.testing.assert_allclose(own, other, rtol=1e-3 if dtype == "float32" else 1e-8)
    unchanged = replace(runs["jitter"], hyper=replace(runs["jitter"].hyper, jitter_width=0))
    assert distance(train(recording, {"a": unchanged})["a"][0], ends["jitter"]) > 1e-3, "the jitter is meant to act"


def test_an_lfads_band_pair_differs_in_the_behaviour_weight_alone(recording):
    loop = make_loop(recording, {"lfads": config(seed=1), "band": config(seed=1, behavior_weight=1.0)})
    flat = loop.population.params.flat
    assert torch.equal(flat[0], flat[1])
    (index,), _ = loop._next_batch()
    assert torch.equal(index[0], index[1])
    loop.step()
    assert not torch.equal(*loop.population.params.flat)


def test_a_diverging_member_stops_alone_and_names_the_first_tensor(recording):
    runs = {
        "good": config(seed=1),
        "bad": config(seed=2, lr=1e30, grad_clip=1e30),
        "band": config(seed=1, behavior_weight=1.0),
    }
    together = train(recording, runs)
    row, member = together["bad"]
    assert member.schedule.stopped_by == "diverged" and member.first_non_finite
    assert bool(torch.isfinite(row).all())
    calm = train(recording, {run: runs[run] for run in ("good", "band")})
    for run in ("good", "band"):
        assert together[run][1].schedule.stopped_by == "max_epochs"
        assert distance(together[run][0], calm[run][0]) <= 1e-5


def test_a_parameter_that_is_not_finite_is_named_first(recording):
    loop = make_loop(recording, {"a": config(seed=1), "b": config(seed=2)})
    with torch.no_grad():
        loop.population.params["co_linear.weight"][1, 0, 0] = float("nan")
    assert loop.step() == [1]
    assert loop.population.members[1].first_non_finite == "parameter co_linear.weight"
    assert not loop.population.members[0].has_ended


def test_a_loop_goes_with_its_last_name_and_so_does_what_a_gpu_recorded_for_it(recording):
    loop = make_loop(recording, {"a": config(), "b": config(seed=1)})
    gc.collect()
    gc.disable()
    try:
        for _ in range(8):
            loop.end_epochs(loop.step())
        assert loop.population.members[0].epoch == 2
        left = weakref.ref(loop), weakref.ref(loop._stepped), weakref.ref(loop._validated)
        del loop
        assert [ref() for ref in left] == [None] * 3
    finally:
        gc.enable()


def test_selecting_members_carries_their_whole_state(recording):
    loop = make_loop(recording, varied("float32"))
    for _ in range(9):
        loop.end_epochs(loop.step())
    whole = loop.population
    some = whole.keep([3, 1])
    assert [m.run_id for m in some.members] == ["decay", "band"] and some.step == whole.step
    for get in (
        lambda p: p.params.flat,
        lambda p: p.moments[0],
        lambda p: p.moments[1],
        lambda p: p.best,
        lambda p: p.sums,
    ):
        assert torch.equal(get(some), get(whole)[[3, 1]])
        assert get(some).data_ptr() != get(whole).data_ptr()
    assert isinstance(some, Population)


def epoch_batches(trials, *, seed, epoch, batch_size, drop_last):
    steps = steps_per_epoch(len(trials), batch_size=batch_size, drop_last=drop_last)
    return spread(trials, derived_generator(seed, "shuffle", epoch), steps=steps, batch_size=batch_size)


def test_every_epoch_is_a_fresh_shuffle_of_the_members_own_trials():
    trials = np.arange(100, 130)
    first, weight = epoch_batches(trials, seed=1, epoch=0, batch_size=8, drop_last=True)
    second, _ = epoch_batches(trials, seed=1, epoch=1, batch_size=8, drop_last=True)
    assert first.shape == (3, 8) and bool((weight == 1).all())
    assert len(set(first.flatten().tolist())) == 24 and set(first.flatten().tolist()) <= set(range(100, 130))
    assert not torch.equal(first, second)
    seen = set()
    for epoch in range(10):
        seen |= set(epoch_batches(trials, seed=1, epoch=epoch, batch_size=8, drop_last=True)[0].flatten().tolist())
    assert seen == set(trials.tolist()), "what one epoch leaves out, another takes"


def test_padding_has_weight_zero_and_nothing_is_lost_where_the_last_batch_stays():
    trials = np.arange(13)
    index, weight = epoch_batches(trials, seed=0, epoch=0, batch_size=8, drop_last=False)
    assert index.shape == (2, 8) and float(weight.sum()) == 13
    assert sorted(index[weight > 0].tolist()) == list(range(13))
    assert steps_per_epoch(13, batch_size=8, drop_last=True) == 1
    assert steps_per_epoch(5, batch_size=8, drop_last=True) == 1
    index, weight = epoch_batches(trials[:5], seed=0, epoch=0, batch_size=8, drop_last=True)
    assert float(weight.sum()) == 5 and sorted(index[weight > 0].tolist()) == list(range(5))


def test_a_padded_batch_trains_like_an_unpadded_one(tmp_path):
    data = write_recording(tmp_path / "few.h5", trials=16)
    padded = {
        "a": config(
            seed=1, cd_rate=0.0, dropout_rate=0.0, train={"batch_size": 32, "max_epochs": 3, "dtype": "float64"}
        )
    }
    loop = make_loop(data, padded)
    index, weight = loop._next_batch()
    batch = loop._trials.batch(index, weight)
    size = int(weight[0].sum())
    assert size < 32

    def gradient(batch):
        params = loop.population.params
        latents = run_model(params, batch, arch=loop._arch, widths=loop._trials.widths, noise=Noise())
        terms = compute_losses(
            params, latents, batch, arch=loop._arch, scales=loop._fixed.scales, kl_ramp=torch.ones(1),
            l2_ramp=torch.ones(1), noise=Noise(),
        )  # fmt: skip
        return params.gradient(terms.loss)

    few = loop._trials.batch([index[0][:, :size]], [weight[0][:, :size]])
    torch.testing.assert_close(gradient(batch), gradient(few), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-6), ("float64", 1e-13)])
def test_losses_of_compiled_and_plain_recurrences_agree_step_by_step(tmp_path, monkeypatch, dtype, bound):
    data = write_recording(tmp_path / "tiny.h5")
    train = {"max_epochs": 100, "dtype": dtype}
    runs = {"lfads": config(seed=1, train=train), "band": config(seed=2, behavior_weight=0.5, lr=1e-2, train=train)}
    losses = {}
    for path in ("plain", ""):
        monkeypatch.setenv("BAND_KERNELS", path)
        found = losses.setdefault(path, [])

        def recorded(*given, found=found, **named):
            terms = compute_losses(*given, **named)
            found.append(terms.loss.detach())
            return terms

        monkeypatch.setattr("band.train.loop.compute_losses", recorded)
        loop = make_loop(data, runs)
        for _ in range(100):
            completed = loop.step()
            loop.end_epochs(completed)
    plain, compiled = (torch.stack(losses[path]).double() for path in ("plain", ""))
    assert plain.shape == (100, 2) and float(plain[-1].sum()) < 0.9 * float(plain[0].sum())
    assert float(((compiled - plain) / plain).abs().max()) <= bound
