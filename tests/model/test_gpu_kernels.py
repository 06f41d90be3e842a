"""The operators for GPUs against the plain path: what Triton's interpreter makes of them where there is no GPU."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from scans import run

from band.train.streams import random_mask


@pytest.fixture(scope="module")
def gpu():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("no Triton for this machine: it is published for Linux on x86-64 and arm64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        from band.model.kernels import gpu

        yield gpu


@pytest.mark.parametrize("case", ["clipped", "no controller", "encoders of two sizes", "means", "inputs off", "pushed"])
def test_values_and_gradients_are_those_of_the_plain_path(gpu, case, monkeypatch):
    plain = run(case, "plain", monkeypatch, trials=3, dtype=torch.float64)
    for module in ("recurrent", "decoder"):
        monkeypatch.setattr(f"band.model.{module}.kernels_for", lambda values: gpu)
    for a, b in zip(plain, run(case, "", monkeypatch, trials=3, dtype=torch.float64), strict=True):
        assert bool(a.isfinite().all()) and (a - b).norm() <= 1e-13 * a.norm()


def test_what_is_not_a_number_stays_so(gpu):
    x, states = torch.zeros(1, 4, 2, 6), torch.zeros(1, 5, 2, 2)
    x[0, 1, 0, 5] = float("nan")
    room = [torch.empty(1, 4, 2, width) for width in (2, 4, 2)]
    gpu.gru_forward(x, states, *room, torch.eye(2).repeat(1, 3)[None], 5.0)
    assert states.isnan().any(dim=-1)[0].tolist() == [[False] * 2, [False] * 2, *[[True, False]] * 3]


def test_masks_are_those_of_the_plain_path(gpu, monkeypatch):
    monkeypatch.setenv("BAND_KERNELS", "plain")
    keys, rates = torch.tensor([5, -77, 2**62]), torch.tensor([0.3, 0.0, 0.9], dtype=torch.float64)
    kept = (1 / (1 - rates)).float()
    wanted, found = random_mask(keys, rates, kept, 2001), torch.empty(3, 2001)
    gpu.mask(keys, (rates * 65536).round().sub(32768).to(torch.int32), kept, found)
    assert torch.equal(wanted, found)
