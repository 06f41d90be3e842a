"""The compiled recurrences against the plain ones: the same values and gradients, whatever the sizes and options."""

from __future__ import annotations

import subprocess

import pytest
import torch
from scans import CASES, run

from band.model import kernels
from band.model.kernels import load_kernels
from band.model.recurrent import gru_scan
from band.train.streams import random_bits, random_mask, random_normals


@pytest.fixture(scope="module", autouse=True)
def _there_is_a_compiler():
    try:
        kernels.build()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no C++ compiler, or it failed: apt-get install g++ ({error})")


@pytest.mark.parametrize("trials", [1, 33, 130])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_plain_path(case, trials, monkeypatch):
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        plain, compiled = (run(case, path, monkeypatch, trials=trials, dtype=dtype) for path in ("plain", ""))
        for a, b in zip(plain, compiled, strict=True):
            assert bool(a.isfinite().all()) and (a - b).norm() <= bound * a.norm()


def test_the_number_of_threads_does_not_change_a_bit_of_a_scan(monkeypatch):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run("tails of vectors", "", monkeypatch, trials=130, dtype=torch.float32)[:5])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_nan_passes_through_as_it_does_in_the_plain_path(monkeypatch):
    x = torch.zeros(1, 4, 2, 6)
    x[0, 1, 0, 5] = float("nan")
    found = []
    for path in ("plain", ""):
        monkeypatch.setenv("BAND_KERNELS", path)
        _, states = gru_scan(x, weight_hh=torch.eye(2).repeat(3, 1)[None], h0=torch.zeros(1, 2, 2), clip=5.0)
        found.append(states.isnan())
    assert bool(found[0].any()) and not bool(found[0].all()) and torch.equal(*found)


def test_without_a_compiler_the_plain_path_is_taken_and_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match="without compiled recurrences"):
            assert load_kernels("") is None
        assert load_kernels("plain") is None
    finally:
        load_kernels.cache_clear()
    assert not list(tmp_path.rglob("*.so"))


def test_random_bits_are_those_of_the_published_generator():
    # The first numbers of SplitMix64 seeded by 1234567, as its users check theirs: Rosetta Code.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = random_bits(torch.tensor([1234567]), 5)[0]
    assert [value % 2**64 for value in found.tolist()] == known


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_are_the_same_by_either_path(dtype, monkeypatch):
    keys, rates = torch.tensor([5, -77, 2**62]), torch.tensor([0.3, 0.0, 0.9], dtype=torch.float64)
    found = []
    for path in ("plain", ""):
        monkeypatch.setenv("BAND_KERNELS", path)
        found.append(random_mask(keys, rates, (1 / (1 - rates)).to(dtype), 5001))
    assert torch.equal(*found) and found[0].dtype == dtype
    assert (found[0] == 0).double().mean(dim=1).tolist() == pytest.approx([0.3, 0.0, 0.9], abs=0.03)


def test_normal_numbers_have_the_moments_and_the_distribution_of_normal_ones():
    values = random_normals(torch.tensor([3, 4]), 200_001, torch.float64)
    assert values.shape == (2, 200_001)
    for moment, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert values.pow(moment).mean().item() == pytest.approx(expected, abs=5 * (spread / values.numel()) ** 0.5)
    share = 0.5 * (1 + torch.erf(values.flatten().sort().values / 2**0.5))
    assert (share - torch.linspace(0, 1, values.numel())).abs().max() < 2 / values.numel() ** 0.5
    assert abs((values[:, :-1] * values[:, 1:]).mean()) < 0.01 and abs((values[0] * values[1]).mean()) < 0.012
