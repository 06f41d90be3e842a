"""NaN in a recording: what was not observed teaches nothing, whatever the rest of its trial does."""

from __future__ import annotations

import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from naive_case import Case, check
from tiny import config, make_loop, train, write_recording

from band.errors import DataError
from band.train.population import COLUMNS

RUNS = {"lfads": {}, "band": {"behavior_weight": 0.5}, "seen whole": {"behavior_weight": 0.5, "cd_rate": 0.0}}


def runs(**others) -> dict:
    """Return runs for which NaN stands for what was not observed."""
    found = {run: config(seed=s, **hyper, **others) for s, (run, hyper) in enumerate(RUNS.items())}
    return {run: replace(one, data=replace(one.data, missing="mask")) for run, one in found.items()}


@pytest.fixture
def recording(tmp_path):
    """A recording whose counts and behaviour have holes: bins, stretches, channels, most trials unlabelled."""
    path = write_recording(tmp_path / "holes.h5", bins=7)
    with h5py.File(path, "r+") as file:
        for split in ("train", "valid"):
            for key in ("encod_data", "recon_data"):
                counts = file[f"{split}_{key}"]
                values = counts[()]
                values[::3, 2:4] = math.nan
                values[1::4, :, 5] = math.nan
                values[::2, 6] = math.nan
                counts[...] = values
            behavior = file[f"{split}_behavior"][()]
            behavior[np.arange(len(behavior)) % 4 > 0] = math.nan
            behavior[0, 3, 1] = math.nan
            file[f"{split}_behavior"][...] = behavior
    return path


def test_a_step_on_a_recording_with_holes_has_the_gradient_of_the_naive_model_on_the_file(recording):
    loop = make_loop(recording, runs(train={"dtype": "float64"}))
    index, weight = loop._next_batch()
    batch, noise = loop._trials.batch(index, weight), loop._fixed.noise.training(0)
    arrays = loop._trials.sessions[0].recording.arrays
    recon, behavior = (torch.tensor(arrays[key]).double()[index[0]] for key in ("recon_data", "behavior"))
    assert bool(recon.isnan().any()) and bool(behavior.isnan().any())
    case = Case(
        arch=loop._arch, widths=loop._trials.widths, params=loop.population.params, noise=noise, recon=(recon,),
        encod=(recon.nan_to_num(0.0),), behavior=behavior, ext_input=None, weight=batch.weight,
    )  # fmt: skip
    check(case)
    for got, want in zip(case.batch().recon_observed, batch.recon_observed, strict=True):
        assert torch.equal(got, want)
    assert torch.equal(batch.encod[0], case.encod[0]) and torch.equal(batch.behavior, case.batch().behavior)


def test_a_recording_with_holes_trains_to_finite_scores_and_is_refused_where_nothing_declares_them(recording):
    ended = train(recording, runs(train={"max_epochs": 5}, jitter_width=1, sv_rate=0.1))
    for run, (row, member) in ended.items():
        assert bool(torch.isfinite(row).all()) and member.schedule.stopped_by == "max_epochs", run
        last = dict(zip(COLUMNS, member.history[-1], strict=True))
        assert math.isfinite(last["valid_recon"]) and math.isfinite(last["valid_recon_sv"])
        assert math.isfinite(last["valid_behavior_r2"]) == (run != "lfads")
    with pytest.raises(DataError, match="missing"):
        make_loop(recording, {"a": config()})
