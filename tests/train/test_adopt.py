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
from band.model.noise import Noise
from band.model.params import has_controller, session_room
from band.model.reconstructions import reconstruction_of
from band.train.adopt import Adopted, adopt_import, write_imported
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
