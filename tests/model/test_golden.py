"""The model against numbers computed with an independent implementation, alone and among other members."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import GoldenCase, Pass, run_case

from band.model.forward import Latents
from band.model.params import has_controller

FOLDER = Path(os.environ.get("BAND_GOLDEN", Path(__file__).parents[1] / "golden"))
CASES = sorted(FOLDER.glob("*.npz"))
# What the model cannot do yet; a case that starts to pass must leave this list.
EXPECTED_TO_FAIL = {
    "autoregressive_inputs", "forward_prediction", "gamma", "gaussian", "ic_segment", "mse", "two_sessions",
    "zero_inflated_gamma",
}  # fmt: skip
BOUND = 1e-5
TERMS = {
    "loss": "loss",
    "recon": "recon",
    "beh_recon": "behavior",
    "wt_kl/ic": "kl_ic",
    "wt_kl/co": "kl_co",
    "wt_l2": "l2",
}


def fields(latents: Latents, member: int, *, means: bool) -> dict[str, np.ndarray]:
    """Return a member's latents under the golden names."""
    decoded = latents.decoded
    found = {
        "output_params": latents.log_rates.exp() if means else latents.log_rates[..., None],
        "output_behavior_params": latents.behavior,
        "factors": decoded.factors,
        "ic_mean": latents.ic_mean,
        "ic_std": (latents.ic_log_var.exp() + 1e-4).sqrt(),
        "co_means": decoded.co_means,
        "co_stds": None if decoded.co_log_vars is None else (0.5 * decoded.co_log_vars).exp(),
        "gen_states": decoded.gen_states,
        "gen_init": decoded.gen_init,
        "gen_inputs": decoded.gen_inputs,
        "con_states": decoded.con_states,
    }
    return {name: value[member].detach().numpy() for name, value in found.items() if value is not None}


def assert_close(name: str, got: np.ndarray, want: np.ndarray) -> None:
    """Compare per tensor, as the golden README asks."""
    assert got.shape == want.shape, f"{name}: {got.shape} is not {want.shape}"
    worst = np.abs(got - want).max(initial=0)
    assert worst <= BOUND * np.abs(want).max(initial=0), f"{name}: off by {worst:.2e} of {np.abs(want).max():.2e}"


def check(case: GoldenCase, result: Pass, member: int) -> None:
    """Compare every output, loss term and gradient of a case."""
    compared = 0
    for where, latents in (("mean_out/0/", result.means), ("train_out/0/", result.drawn)):
        got = fields(latents, member, means=where.startswith("mean"))
        for key in (k for k in case.arrays if k.startswith(where) and case.arrays[k].size):
            if key.endswith("con_states") and not has_controller(case.arch()):
                continue  # the reference carries the controller's start along, unused
            assert_close(key, got[key.removeprefix(where)], case.arrays[key])
            compared += 1
    for theirs, ours in TERMS.items():
        want = case.meta["expected"][theirs]
        if np.isfinite(want):
            assert_close(theirs, getattr(result.losses, ours)[member].detach().numpy(), np.float32(want))
            compared += 1
    for key in (k for k in case.arrays if k.startswith("grad/")):
        name = key.removeprefix("grad/")
        if name == "decoder.con_h0" and not has_controller(case.arch()):
            assert not case.arrays[key].any()
            continue
        assert_close(key, result.gradients[name].numpy(), case.arrays[key])
        compared += 1
    assert compared > 30


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_golden_case_is_reproduced_alone_and_among_others(path, dtype):
    case = GoldenCase.read(path)
    if path.stem in EXPECTED_TO_FAIL:
        with pytest.raises(NotImplementedError, match=path.stem):
            run_case(case, dtype)
        pytest.xfail(f"{path.stem} is due later")
    check(case, run_case(case, dtype), 0)
    check(case, run_case(case, dtype, neighbours=3, member=2), 2)


def test_the_golden_folder_holds_the_nine_cases_of_this_model():
    assert len({path.stem for path in CASES} - EXPECTED_TO_FAIL) >= 9
