"""Merged outputs of chops are those of the recording where a stretch is one window long, for every overlap."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from band.cli.data import main as band_data
from band.cli.train import main as band_train

BINS = 12  # of a trial, and of the model


@pytest.mark.parametrize("overlap", ["0", "0.3", "0.5", "0.75"])
def test_merged_outputs_of_chops_equal_inference_without_chopping(
    finished: Path, recording: Path, tmp_path: Path, overlap: str
) -> None:
    chops, whole, parts, merged = (tmp_path / f"{name}.h5" for name in ("chops", "whole", "parts", "merged"))
    assert (
        band_data(["chop", str(recording), "--out", str(chops), "--window", f"{BINS}bins", "--overlap", overlap]) == 0
    )
    for data, into in ((recording, whole), (chops, parts)):
        assert band_train(["infer", str(finished), str(data), "--into", str(into), "--samples", "3"]) == 0
    assert band_data(["merge", str(parts), "--chopped", str(chops), "--out", str(merged)]) == 0
    with h5py.File(whole) as one, h5py.File(merged) as other:
        for name in ("factors", "output_params", "output_behavior_params", "factors_spread"):
            want = np.concatenate([one[f"{split}_{name}"][()] for split in ("train", "valid")])
            got = other[name][()].reshape(-1, BINS, want.shape[2])
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=name)
            assert np.abs(want[:, -1]).max() > 0.01, "a window that fades out at its end would be found"
