"""A recording that runs on is chopped, trained on with neurons held out, and its outputs are merged on its clock."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
from tiny import config, trained

from band.config import DataConfig
from band.data.chop import chop_file, write_chopped
from band.data.merge import merge_file
from band.data.windows import taper


def write_continuous(path):
    """Write 20 s of spikes that follow a slow latent, with counts and behaviour missing here and there."""
    random = np.random.default_rng(0)
    time = np.arange(1000)
    latent = np.stack([np.sin(time / 9), np.cos(time / 13)], axis=-1)
    counts = random.poisson(np.exp(latent @ random.normal(0, 0.7, (2, 8)) - 0.5)).astype(np.float32)
    counts[400:407], latent[100:160] = np.nan, np.nan
    with h5py.File(path, "w") as file:
        file.attrs["bin_ms"] = 20.0
        file["encod_data"], file["behavior"] = counts, latent.astype(np.float32)
    return path


@pytest.mark.parametrize("overlap", [0, 4, 6, 9])
def test_outputs_of_a_run_are_merged_as_by_hand_for_every_overlap(tmp_path, overlap):
    source, chops = write_continuous(tmp_path / "x.h5"), tmp_path / "chops.h5"
    write_chopped(chops, chop_file(source, window="12bins", overlap=f"{overlap}bins"))
    run = config(behavior_weight=1.0, train={"max_epochs": 2, "posterior_samples": 2})
    run = dataclasses.replace(run, data=DataConfig(heldout_share=0.25))
    outputs = trained(tmp_path / "work", chops, run) / "outputs.h5"
    merged = merge_file(outputs, chopped=chops).arrays
    total, weight = np.zeros((1000, 6)), np.zeros((1000, 1))
    weights = taper(12, overlap_bins=overlap)[:, None]
    with h5py.File(outputs) as found, h5py.File(chops) as file:
        starts = file["train_window_start"][()]
        for split in ("train", "valid", "test"):
            for number, factors in zip(found[f"{split}_inds"], found[f"{split}_factors"], strict=True):
                there = slice(starts[number], starts[number] + 12)
                total[there] += weights * factors
                weight[there] += weights
        neurons = found["neurons"][()]
    covered = weight[:, 0] > 0
    np.testing.assert_allclose(
        merged["factors"][covered], (total / np.maximum(weight, 1))[covered], rtol=1e-5, atol=1e-6
    )
    assert np.array_equal(merged["split"] != "", covered) and covered.mean() > 0.9
    assert np.isfinite(merged["output_params"][covered]).all() and np.isnan(merged["factors"][~covered]).all()
    with h5py.File(source) as file:
        assert np.array_equal(
            merged["recon_data"][covered], file["encod_data"][()][covered][:, neurons], equal_nan=True
        )
