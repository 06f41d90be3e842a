"""Several recording sessions in one model: batches, read-ins, what is frozen, outputs and scores of each."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
import torch
from tiny import CPU, config, joint, make_loop, train, trained, write_recording, write_sessions

from band.data.alignment import common_courses, mean_courses, regress
from band.errors import ConfigError, DataError
from band.model.params import Params
from band.run_dir import read_result
from band.train.start import read_source, start_population
from band.train.trials import Trials, shares


def test_an_epoch_passes_once_over_every_trial_of_every_session(tmp_path):
    run = joint(train={"batch_size": 8})
    trials = Trials.load(write_sessions(tmp_path / "two.h5"), [run], device=CPU)
    assert trials.batch_sizes == (5, 3) and trials.widths.num_neurons == (9, 6)
    for session, (index, weight) in zip(trials.sessions, trials.epoch(0, run, epoch=3), strict=True):
        assert sorted(index[weight > 0].tolist()) == sorted(session.split("train", 0).tolist())
        assert (weight.sum(dim=1) > 0).all(), "every batch has trials of every session"


@pytest.mark.parametrize(
    ("batch", "counts", "expected"), [(8, [40, 24], (5, 3)), (10, [1, 1, 1], (4, 3, 3)), (4, [1000, 1], (3, 1))]
)
def test_a_batch_is_shared_in_proportion_and_leaves_no_session_out(batch, counts, expected):
    assert shares(batch, counts) == expected


def test_the_loss_is_the_mean_over_sessions_of_what_each_has_alone(tmp_path):
    from band.model.forward import Batch, compute_losses, run_model
    from band.model.noise import Noise

    run = joint(train={"dtype": "float64"}, behavior_weight=1.0)
    loop = make_loop(write_sessions(tmp_path / "two.h5"), {"a": run})
    index, weight = loop._next_batch()
    batch, widths, params = loop._trials.batch(index, weight), loop._trials.widths, loop.population.params

    def losses(batch, widths, params):
        latents = run_model(params, batch, arch=run.arch, widths=widths, noise=Noise())
        one = torch.ones(1, dtype=torch.float64)
        return compute_losses(
            params, latents, batch, arch=run.arch, scales=loop._fixed.scales, kl_ramp=one, l2_ramp=one, noise=Noise()
        )

    both = losses(batch, widths, params)
    alone, start = [], 0
    for s, size in enumerate(batch.sizes):
        part = slice(start, start + size)
        own = Batch(
            encod=(batch.encod[s],), recon=(batch.recon[s],), weight=batch.weight[:, part],
            behavior=batch.behavior[:, part], recon_constant=batch.recon_constant[:, part],
        )  # fmt: skip
        named = {name.replace(f".{s}.", "."): value for name, value in params.items()}
        alone.append(
            losses(
                own,
                dataclasses.replace(
                    widths,
                    num_neurons=(widths.num_neurons[s],),
                    num_recon_neurons=(widths.num_recon_neurons[s],),
                ),
                _of(named),
            )
        )
        start += size
    for term in ("recon", "behavior"):
        mean = sum(getattr(one, term) for one in alone) / 2
        torch.testing.assert_close(getattr(both, term), mean, rtol=1e-12, atol=1e-12)
    counts = batch.weight.sum(dim=1)
    for term in ("kl_ic", "kl_co"):
        parts = [
            getattr(one, term) * w.sum(dim=1) for one, w in zip(alone, batch.weight.split(batch.sizes, 1), strict=True)
        ]
        torch.testing.assert_close(getattr(both, term), sum(parts) / counts, rtol=1e-12, atol=1e-12)


def _of(views: dict[str, torch.Tensor]) -> Params:
    """Return parameters with these names and values (M, ...)."""
    flat = torch.cat([view.detach().flatten(1) for view in views.values()], dim=1)
    return Params(flat, {name: tuple(view.shape[1:]) for name, view in views.items()})


def test_a_member_of_several_sessions_trains_alone_as_among_others(tmp_path):
    data = write_sessions(tmp_path / "two.h5")
    runs = {name: joint(seed=seed, behavior_weight=weight, cd_rate=rate, train={"dtype": "float64", "max_epochs": 10})
            for name, seed, weight, rate in (("a", 1, 0.0, 0.3), ("b", 1, 1.0, 0.3), ("c", 2, 0.5, 0.0))}  # fmt: skip
    among = train(data, runs)
    for name, run in runs.items():
        alone, _ = train(data, {name: run})[name]
        assert torch.linalg.norm(among[name][0] - alone) <= 1e-10 * torch.linalg.norm(alone), name


def test_outputs_and_scores_tell_the_sessions_apart(tmp_path):
    data = write_sessions(tmp_path / "two.h5")
    folder = trained(tmp_path / "work", data, joint(behavior_weight=1.0, train={"max_epochs": 3}))
    result = read_result(folder)
    with h5py.File(folder / "outputs.h5") as file:
        assert sorted(file) == ["day0", "day1"]
        assert file["day1/test_output_params"].shape[2] == 6 and file["day0/test_output_params"].shape[2] == 9
        count = sum(len(file[f"{day}/test_inds"]) for day in file)
    assert result["split"]["test"] == count
    scores = result["scores"]["test"]
    own = [scores[f"session/{day}/bits_per_spike"] for day in ("day0", "day1")]
    assert scores["bits_per_spike"] == pytest.approx(np.mean(own)) and own[0] != own[1]


def test_sessions_without_a_common_read_in_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"arch\.readin_dim must be above 0 for a recording of 2 sessions"):
        Trials.load(write_sessions(tmp_path / "two.h5"), [config()], device=CPU)


def sessions_of_one_latent(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return counts and conditions of two sessions that see the same two latents through neurons of their own."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(0, 2 * np.pi, 6, endpoint=False)[:, None]
    time = np.arange(20)[None]
    latents = np.stack([np.sin(phase + time / 3), np.cos(phase - time / 5)], axis=2)
    found = []
    for neurons in (30, 22):
        cond = np.repeat(np.arange(6), 20)
        rates = np.exp(latents[cond] @ rng.normal(0, 0.7, (2, neurons)))
        found.append((rng.poisson(rates).astype(np.float32), cond))
    return found


def test_read_ins_by_regression_mean_the_same_in_both_sessions():
    courses = [mean_courses(counts, cond) for counts, cond in sessions_of_one_latent(0)]
    targets = common_courses(courses, dim=2)
    readins = [regress(session, targets) for session in courses]
    mapped = [
        np.concatenate([c @ r.weight.T + r.bias for c in s.values()]) for s, r in zip(courses, readins, strict=True)
    ]
    for channel in range(2):
        assert np.corrcoef(mapped[0][:, channel], mapped[1][:, channel])[0, 1] > 0.97
    assert np.mean(np.concatenate(list(targets.values())) ** 2) == pytest.approx(1.0)


def test_principal_components_are_those_of_the_covariance():
    courses = [mean_courses(counts, cond) for counts, cond in sessions_of_one_latent(1)]
    stacked = np.concatenate([np.concatenate(list(session.values())) for session in courses], axis=1)
    values, vectors = np.linalg.eigh(np.cov(stacked.T))
    scores = (stacked - stacked.mean(axis=0)) @ vectors[:, ::-1][:, :3]
    found = np.concatenate(list(common_courses(courses, dim=3).values()))
    for channel in range(3):
        assert abs(np.corrcoef(scores[:, channel], found[:, channel])[0, 1]) > 1 - 1e-9
    assert values[-1] > values[-2]


def test_read_ins_by_regression_start_from_train_trials_alone(tmp_path):
    data = write_sessions(tmp_path / "two.h5")
    run = joint(arch={"readin": "pcr_trained"})

    def start(data):
        trials = Trials.load(data, [run], device=CPU)
        return start_population([("a", run)], trials, {"a": 0}, device=CPU).params["readin.0.weight"], trials

    before, trials = start(data)
    with h5py.File(data, "r+") as file:
        held = file["day0/valid_encod_data"]
        held[...] = np.roll(held[...], 3, axis=2)
        file["day0/valid_recon_data"][...] = held[...]
    after, _ = start(data)
    assert torch.equal(before, after)
    assert not torch.equal(before, torch.zeros_like(before)) and trials.widths.num_sessions == 2


def test_read_ins_by_regression_need_conditions(tmp_path):
    data = write_sessions(tmp_path / "two.h5")
    with h5py.File(data, "r+") as file:
        for split in ("train", "valid"):
            del file[f"day1/{split}_cond"]
    run = joint(arch={"readin": "pcr_trained"})
    trials = Trials.load(data, [run], device=CPU)
    with pytest.raises(DataError, match=r"day1.*need one condition a trial"):
        start_population([("a", run)], trials, {"a": 0}, device=CPU)


@pytest.mark.parametrize("readin", ["fixed", "pcr_fixed", "trained"])
def test_a_fixed_read_in_stays_as_it_starts(tmp_path, readin):
    data = write_sessions(tmp_path / "two.h5")
    run = joint(arch={"readin": readin}, weight_decay=0.1, l2_increase_epoch=1)
    trials = Trials.load(data, [run], device=CPU)
    start = start_population([("a", run)], trials, {"a": 0}, device=CPU).params
    folder = trained(tmp_path / "work", data, run)
    end = torch.load(folder / "model.pt", weights_only=True)["params"]
    assert torch.equal(start["readin.1.weight"][0], end["readin.1.weight"]) == readin.endswith("fixed")
    assert not torch.equal(start["gen.weight_hh"][0], end["gen.weight_hh"])


def test_a_new_session_trains_its_own_maps_on_a_frozen_core(tmp_path):
    import hashlib

    both = write_sessions(tmp_path / "two.h5")
    old = trained(tmp_path / "old", both, joint(behavior_weight=1.0, train={"max_epochs": 3}))
    new = write_recording(tmp_path / "new.h5", neurons=7, seed=5)
    digest = hashlib.sha256((old / "model.pt").read_bytes()).hexdigest()
    settings = {"max_epochs": 3, "start_from": str(old), "start_sha256": digest, "trains": "session"}
    run = joint(behavior_weight=1.0, train=settings, arch={"readin": "pcr_trained"})
    end = torch.load(trained(tmp_path / "new", new, run) / "model.pt", weights_only=True)["params"]
    source = read_source(run)
    kept = [name for name in end if name.partition(".")[0] not in ("readin", "readout")]
    assert len(kept) > 20 and all(torch.equal(end[name], source[name]) for name in kept)
    assert end["readin.weight"].shape == (5, 7)
    with pytest.raises(ConfigError, match="start_sha256 must be that of"):
        read_source(joint(train={**settings, "start_sha256": "0" * 64}))
