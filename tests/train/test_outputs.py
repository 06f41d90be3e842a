"""Posterior means and spreads against drawing them one by one; validation scores against the scores of results."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from tiny import CPU, config, make_loop, write_recording

from band.model.forward import run_model
from band.model.noise import Noise
from band.train import outputs
from band.train.evaluate import behavior_r2, bits_per_spike
from band.train.outputs import compute_posterior, score_member, write_outputs
from band.train.scores import bits_per_spike as score_bits_per_spike
from band.train.scores import r2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = write_recording(tmp_path_factory.mktemp("tiny") / "tiny.h5")
    runs = {"band": config(seed=3, behavior_weight=1.0, train={"max_epochs": 30, "posterior_samples": 5})}
    loop = make_loop(path, runs)
    for _ in range(40):
        loop.end_epochs(loop.step())
    return loop, runs["band"]


def test_means_and_spreads_equal_those_of_whole_passes(trained, monkeypatch):
    loop, run = trained
    monkeypatch.setattr(outputs, "CHUNK", 1000)
    params = loop.population.params.select([0])
    (found,) = compute_posterior(params, loop._trials, 0, config=run)
    index = torch.from_numpy(found.index)[None]
    batch = loop._trials.batch([index], [torch.ones_like(index, dtype=torch.float32)])
    source = outputs._noise_source(run, loop._trials)
    draws: dict[str, list[np.ndarray]] = {
        "output_params": [],
        "factors": [],
        "gen_inputs": [],
        "output_behavior_params": [],
    }
    for sample in range(5):
        noise = source.posterior(index.shape[1], f"posterior/0/{sample}")
        with torch.no_grad():
            latents = run_model(params, batch, arch=run.arch, widths=loop._trials.widths, noise=noise)
        draws["output_params"].append(latents.outputs[0][0].exp().numpy())
        draws["factors"].append(latents.decoded.factors[0].numpy())
        draws["gen_inputs"].append(latents.decoded.gen_inputs[0].numpy())
        draws["output_behavior_params"].append(latents.behavior[0].numpy())
    for name, values in draws.items():
        np.testing.assert_allclose(found.arrays[name], np.mean(values, axis=0), rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(
            found.arrays[f"{name}_spread"], np.std(values, axis=0), rtol=1e-2, atol=1e-4, err_msg=name
        )
        assert found.arrays[f"{name}_spread"].max() > 1e-2


def test_chunks_cover_every_trial_once_and_keep_its_place(trained, monkeypatch):
    loop, run = trained
    params = loop.population.params.select([0])
    (whole,) = compute_posterior(params, loop._trials, 0, config=run)
    monkeypatch.setattr(outputs, "CHUNK", 7)
    (chunked,) = compute_posterior(params, loop._trials, 0, config=run)
    split = loop._trials.sessions[0].splits[0]
    expected = np.concatenate([split.train, split.valid, split.test])
    assert np.array_equal(chunked.index, expected) and np.array_equal(whole.index, expected)
    assert len(set(expected)) == len(expected) == 40
    # The initial condition's posterior is not drawn, so chunks cannot change it.
    np.testing.assert_allclose(chunked.arrays["ic_mean"], whole.arrays["ic_mean"], rtol=1e-4, atol=1e-6)


def test_switched_off_controls_reach_the_generator_as_zeros(trained):
    loop, run = trained
    (off,) = compute_posterior(loop.population.params.select([0]), loop._trials, 0, config=run, co_off=True)
    (on,) = compute_posterior(loop.population.params.select([0]), loop._trials, 0, config=run)
    assert not off.arrays["gen_inputs"].any() and on.arrays["gen_inputs"].any()
    assert np.abs(off.arrays["factors"] - on.arrays["factors"]).max() > 1e-3


def test_the_output_file_holds_each_split_in_order_with_its_input(trained, tmp_path):
    loop, run = trained
    posterior = compute_posterior(loop.population.params.select([0]), loop._trials, 0, config=run)
    arrays = loop._trials.sessions[0].recording.arrays
    for level in ("factors", "full"):
        write_outputs(tmp_path / f"{level}.h5", posterior, loop._trials, 0, level=level)
        with h5py.File(tmp_path / f"{level}.h5") as file:
            assert ("test_gen_states" in file) == (level == "full")
            for name in ("train", "valid", "test"):
                chosen = getattr(loop._trials.sessions[0].splits[0], name)
                assert np.array_equal(file[f"{name}_recon_data"], arrays["recon_data"][chosen])
                assert np.array_equal(file[f"{name}_inds"], arrays["inds"][chosen])
                assert file[f"{name}_factors"].shape == (len(chosen), 12, run.arch.fac_dim)
                rows = [int(np.flatnonzero(posterior[0].index == trial)[0]) for trial in chosen]
                assert np.array_equal(file[f"{name}_output_params"], posterior[0].arrays["output_params"][rows])
            assert file.attrs["bin_ms"] == 20.0


def test_scores_come_from_the_posterior_of_each_split(trained):
    loop, run = trained
    posterior = compute_posterior(loop.population.params.select([0]), loop._trials, 0, config=run)
    scores = score_member(posterior, {}, loop._trials, 0, config=run)
    chosen = loop._trials.sessions[0].splits[0].test
    rows = np.isin(posterior[0].index, chosen)
    spikes = loop._trials.sessions[0].recording.arrays["recon_data"][posterior[0].index[rows]]
    wanted = score_bits_per_spike(posterior[0].arrays["output_params"][rows], spikes)
    assert scores["test"]["bits_per_spike"] == pytest.approx(wanted, rel=1e-9)


def test_validation_scores_equal_those_of_results_and_ignore_padding(trained):
    loop, run = trained
    (index,), (weight,) = loop._trials.whole("valid", [0])
    padded = torch.cat((index, torch.zeros(1, 4, dtype=torch.int64)), dim=1)
    batch = loop._trials.batch([padded], [torch.cat((weight, torch.zeros(1, 4)), dim=1)])
    with torch.no_grad():
        latents = run_model(loop.population.params, batch, arch=run.arch, widths=loop._trials.widths, noise=Noise())
    count = index.shape[1]
    spikes, rates = batch.recon[0][0, :count].numpy(), latents.outputs[0][0, :count].exp().numpy()
    assert float(bits_per_spike(latents, batch, arch=run.arch)[0]) == pytest.approx(
        score_bits_per_spike(rates, spikes), rel=1e-4
    )
    wanted = r2(batch.behavior[0, :count].numpy(), latents.behavior[0, :count].numpy()).mean()
    assert float(behavior_r2(loop.population.params, latents, batch, arch=run.arch)[0]) == pytest.approx(
        wanted, rel=1e-4
    )
    assert latents.outputs[0].device == CPU
