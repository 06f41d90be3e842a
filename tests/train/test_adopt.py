"""A checkpoint in BAND-torch's key layout, saved by pytorch-lightning, becomes a run here: no number changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import model_config, save, state_of, write_config
from golden_case import GoldenCase

from band.bridge.convert import run_config
from band.bridge.imported import read_import
from band.model.forward import run_model
from band.model.interchange import row_from_lfads_torch
from band.model.noise import Noise
from band.model.params import has_controller, session_room
from band.model.reconstructions import reconstruction_of
from band.train.adopt import Adopted, adopt_import, write_imported
from band.train.optimiser import AdamWSettings, adamw_step_
from band.train.population import Population
from band.train.release import load_run_model, write_release

FOLDER = Path(os.environ.get("BAND_GOLDEN", Path(__file__).parents[1] / "golden"))
CASES = sorted(FOLDER.glob("*.npz"))
BOUND = 1e-5


def imported(checkpoint: Path, config: Path) -> Adopted:
    """Return what a checkpoint becomes."""
    found = read_import(checkpoint, [config])
    return adopt_import(found, run_config(found.values), data=None)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_lightning_checkpoint_reproduces_mean_out_and_comes_back_unchanged(path: Path, tmp_path: Path) -> None:
    case = GoldenCase.read(path)
    config = write_config(tmp_path / "configs" / "model" / "case.yaml", model_config(case))
    state = state_of(case)
    checkpoint = save(tmp_path / "case.ckpt", state, case.meta["config"])
    adopted = imported(checkpoint, config)
    population = adopted.population
    assert adopted.widths == case.widths()
    (member,) = population.members
    assert (member.epoch, population.step) == (2, 6)
    assert population.moments[0].abs().sum() > 0 and population.moments[1].abs().sum() > 0
    check_means(case, population)

    run = tmp_path / "run"
    write_imported(run, adopted, dataset={"path": None, "digest": None}, origin={})
    released = tmp_path / "released.ckpt"
    write_release(run, released)
    content = torch.load(released, weights_only=True)
    assert set(content["state_dict"]) == set(state)
    for name, value in state.items():
        assert content["state_dict"][name].shape == value.shape
        if name != "decoder.con_h0" or has_controller(case.arch()):
            torch.testing.assert_close(content["state_dict"][name], value, rtol=0, atol=0, msg=name)
    again = imported(released, config).population
    assert torch.equal(again.params.flat, population.params.flat)
    params, own = load_run_model(run)
    assert torch.equal(params.flat, population.params.flat) and own == member.config


def check_means(case: GoldenCase, population: Population) -> None:
    """Compare what the imported model gives for posterior means with the numbers of the golden case."""
    config = population.members[0].config
    batch, kind = case.batch(torch.float32), reconstruction_of(config.arch)
    with torch.no_grad():
        found = run_model(population.params, batch, arch=config.arch, widths=case.widths(), noise=Noise())
    for session in case.sessions:
        own = population.params.room(session_room("recon", session, len(case.sessions)))
        got = {
            "output_params": kind.means(kind.split(found.outputs[session]), own),
            "output_behavior_params": found.behavior.split(batch.sizes, dim=1)[session],
            "factors": found.decoded.factors.split(batch.sizes, dim=1)[session],
            "ic_mean": found.ic_mean.split(batch.sizes, dim=1)[session],
            "gen_states": found.decoded.gen_states.split(batch.sizes, dim=1)[session],
        }
        for name, value in got.items():
            want = case.arrays[f"mean_out/{session}/{name}"]
            worst = np.abs(value[0].detach().numpy() - want).max()
            assert worst <= BOUND * np.abs(want).max(), f"{name}: off by {worst}"


def test_the_next_step_of_the_optimiser_is_the_one_that_it_would_have_done_there(tmp_path: Path) -> None:
    case = GoldenCase.read(FOLDER / "band.npz")
    config = write_config(tmp_path / "configs" / "model" / "case.yaml", model_config(case))
    checkpoint = save(tmp_path / "case.ckpt", state_of(case), case.meta["config"])
    population = imported(checkpoint, config).population
    theirs = torch.load(checkpoint, weights_only=False)  # written by this test
    gradients = {n: torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) for n, v in state_of(case).items()}
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in theirs["state_dict"].items()}
    for name, parameter in parameters.items():
        is_trained = not name.endswith(("bias_hh", "logvar"))
        parameter.requires_grad_(is_trained).grad = gradients[name] if is_trained else None
    optimiser = torch.optim.AdamW(parameters.values())
    optimiser.load_state_dict(theirs["optimizer_states"][0])
    optimiser.param_groups[0].update(lr=1e-2)
    optimiser.step()

    trained = {name: value for name, value in gradients.items() if not name.endswith("bias_hh")}
    shapes, one = population.params.shapes, torch.ones(1)
    settings = AdamWSettings(0.9 * one, 0.999 * one, 1e-8 * one, 0 * one, 200 * one)
    adamw_step_(
        population.params.flat.detach(), row_from_lfads_torch(trained, shapes, torch.float32)[None], population.moments,
        corrections=settings.corrections(population.step + 1), lr=1e-2 * one, decay_ramp=0 * one, settings=settings,
    )  # fmt: skip
    want = row_from_lfads_torch({n: p.detach() for n, p in parameters.items()}, shapes, torch.float32)
    torch.testing.assert_close(population.params.flat[0].detach(), want, rtol=2e-6, atol=2e-6)


def test_a_checkpoint_without_an_optimiser_starts_its_moments_at_zero_and_says_so(tmp_path: Path) -> None:
    case = GoldenCase.read(FOLDER / "lfads.npz")
    config = write_config(tmp_path / "configs" / "model" / "case.yaml", model_config(case))
    torch.save({"state_dict": state_of(case), "epoch": 4, "global_step": 50}, tmp_path / "bare.ckpt")
    population = imported(tmp_path / "bare.ckpt", config).population
    assert population.members[0].epoch == 5 and population.step == 0 and not population.moments[0].any()
    assert "no optimiser state" in read_import(tmp_path / "bare.ckpt", [config]).checkpoint.notes[0]
