"""The compiled recurrences against the plain ones: the same values and gradients, whatever the sizes and options."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest
import torch
from torch import Tensor

from band.config import Arch
from band.model import kernels
from band.model.decoder import decode
from band.model.encoder import encode
from band.model.kernels import load_kernels
from band.model.noise import Noise
from band.model.params import Widths, initial_params
from band.model.recurrent import gru_scan

BINS = 7
CASES = {
    "tails of vectors": ({}, {}),
    "whole vectors": ({"gen_dim": 32, "con_dim": 16, "fac_dim": 16, "co_dim": 8}, {}),
    "clipped": ({"cell_clip": 0.2}, {}),
    "no controller": ({"co_dim": 0}, {}),
    "encoders of two sizes": ({"ci_enc_dim": 9, "causal_con": False}, {}),
    "a segment of its own": ({"ic_enc_seq_len": 3}, {}),
    "no masks": ({}, {"factor_mask": None, "controller": None, "generator": None}),
    "means": ({}, {"eps_co": None}),
    "inputs off": ({}, {"co_off": True}),
    "pushed": ({}, {"push": torch.randn(3, BINS, 3, generator=torch.Generator().manual_seed(3))}),
}


@pytest.fixture(scope="module", autouse=True)
def _there_is_a_compiler():
    try:
        kernels.build()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no C++ compiler, or it failed: apt-get install g++ ({error})")


def run(case: str, path: str, monkeypatch: pytest.MonkeyPatch, *, trials: int, dtype: torch.dtype) -> list[Tensor]:
    """Return what encoder and decoder come to, and the gradient of all parameters, by one path."""
    monkeypatch.setenv("BAND_KERNELS", path)
    sizes, options = CASES[case]
    arch = dataclasses.replace(
        Arch(ic_enc_dim=11, ci_enc_dim=11, con_dim=9, co_dim=3, ic_dim=4, gen_dim=13, fac_dim=5), **sizes
    )
    widths = Widths(num_bins=BINS, num_recon_bins=BINS, num_neurons=(6,), num_recon_neurons=(6,))
    params = initial_params(arch, widths, [1, 2, 3], dtype=dtype)
    source = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(3, *shape, generator=source).to(dtype)

    control = arch.ci_enc_dim * (1 if arch.causal_con else 2) + arch.fac_dim
    given = {
        "eps_co": draw(BINS, trials, max(arch.co_dim, 1)).transpose(1, 2),
        "controller": (draw(BINS, trials, control) > 0).to(dtype).transpose(1, 2),
        "generator": (draw(BINS, trials, arch.gen_dim) > 0).to(dtype).transpose(1, 2),
    } | options
    noise = Noise(**{name: given[name] for name in ("eps_co", "controller", "generator")})
    mean, log_var, control_input = encode(params, draw(trials, BINS, 6).abs(), arch=arch, noise=noise)
    decoded = decode(
        params, mean, control_input, None, arch=arch, num_bins=BINS, noise=noise,
        co_off=given.get("co_off", False), push=given["push"].to(dtype) if "push" in given else None,
    )  # fmt: skip
    loss = (
        decoded.factors.square().mean(dim=(1, 2, 3)) + mean.square().sum(dim=(1, 2)) + log_var.mean(dim=(1, 2))
    ).sum()
    if decoded.co_means is not None:
        loss = loss + decoded.co_means.square().sum() + 0.1 * decoded.co_log_vars.sum()
    found = [mean, log_var, decoded.factors, decoded.gen_states, decoded.gen_inputs]
    return [value.detach() for value in found] + [params.gradient(loss)]


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
