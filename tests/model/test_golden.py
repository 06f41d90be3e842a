"""The model against numbers computed with an independent implementation, alone and among other members."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import GoldenCase, Pass, run_case

from band.model.forward import compute_losses, run_model
from band.model.params import has_controller, session_room
from band.model.reconstructions import reconstruction_of

FOLDER = Path(os.environ.get("BAND_GOLDEN", Path(__file__).parents[1] / "golden"))
CASES = sorted(FOLDER.glob("*.npz"))
BOUND = 1e-5
TERMS = {
    "loss": "loss",
    "recon": "recon",
    "beh_recon": "behavior",
    "wt_kl/ic": "kl_ic",
    "wt_kl/co": "kl_co",
    "wt_l2": "l2",
}


def fields(case: GoldenCase, result: Pass, member: int, *, session: int, means: bool) -> dict[str, np.ndarray]:
    """Return a member's latents of one session under the golden names."""
    latents = result.means if means else result.drawn
    kind, own = reconstruction_of(case.arch()), result.params.room(session_room("recon", session, len(case.sessions)))
    outputs = kind.split(latents.outputs[session])
    decoded = latents.decoded
    stacked = {
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
    sizes = case.meta["batch"]
    found = {name: value.split(sizes, dim=1)[session] for name, value in stacked.items() if value is not None}
    found["output_params"] = kind.means(outputs, own) if means else outputs.movedim(0, -1)
    return {name: value[member].detach().numpy() for name, value in found.items()}


def assert_close(name: str, got: np.ndarray, want: np.ndarray) -> None:
    """Compare per tensor, as the golden README asks."""
    assert got.shape == want.shape, f"{name}: {got.shape} is not {want.shape}"
    worst = np.abs(got - want).max(initial=0)
    assert worst <= BOUND * np.abs(want).max(initial=0), f"{name}: off by {worst:.2e} of {np.abs(want).max():.2e}"


def check(case: GoldenCase, result: Pass, member: int) -> None:
    """Compare every output, loss term and gradient of a case."""
    compared = 0
    for session in case.sessions:
        for kind in ("mean", "train"):
            got = fields(case, result, member, session=session, means=kind == "mean")
            where = f"{kind}_out/{session}/"
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
    check(case, run_case(case, dtype), 0)
    check(case, run_case(case, dtype, neighbours=3, member=2), 2)


@pytest.mark.parametrize("target", [0.0, 1e3])
def test_a_divergence_below_its_target_costs_nothing_or_as_much_as_one_above(target):
    case, f64 = GoldenCase.read(FOLDER / "ramps_and_l2.npz"), torch.float64
    params, batch, noise, arch = case.params(f64), case.batch(f64), case.noise(f64), case.arch()
    latents = run_model(params, batch, arch=arch, widths=case.widths(), noise=noise)
    wanted = torch.tensor([target], dtype=f64)
    found = {}
    for rule in ("free", "absolute"):
        scales = replace(case.scales(f64), kl_ic_target=wanted, kl_co_target=wanted, kl_target=rule)
        found[rule] = compute_losses(
            params, latents, batch, arch=arch, scales=scales, kl_ramp=case.ramp("kl", f64),
            l2_ramp=case.ramp("l2", f64), noise=noise,
        )  # fmt: skip
    free, absolute = found["free"], found["absolute"]
    below = scales.kl_ic_scale * (wanted - free.kl_ic) + scales.kl_co_scale * (wanted - free.kl_co)
    extra = scales.loss_scale * case.ramp("kl", f64) * below if target else torch.zeros(1, dtype=f64)
    torch.testing.assert_close(absolute.loss - free.loss, extra, rtol=1e-9, atol=1e-9)
    assert (absolute.loss > free.loss).item() == (target > 0)


def test_the_golden_folder_holds_all_seventeen_cases():
    assert len(CASES) >= 17
