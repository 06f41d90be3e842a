"""The benchmark's scores against what its own tools gave, and a submission from a run."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from nlb_arrays import benchmark

from band.after.nlb import evaluate, velocity_r2
from band.cli.train import main

# What nlb_tools.evaluation.evaluate (nlb-tools 0.0.4, scikit-learn 1.6.1) says of the arrays of nlb_arrays. The package
# asks for pandas up to 1.3.4, which no Python from 3.11 on can have, so it cannot be installed beside what we pin.
THEIRS = {
    False: {
        "co-bps": 0.11003405761288332,
        "vel R2": 0.7604133990795774,
        "psth R2": 0.5615129184217468,
        "fp-bps": 0.10637268503750327,
    },
    True: {
        "co-bps": 0.11003405761288332,
        "vel R2": 0.7329990344591868,
        "psth R2": 0.43190542370118906,
        "fp-bps": 0.10637268503750327,
    },
}


@pytest.mark.parametrize("with_masks", [False, True], ids=["plain", "decode masks and jitter"])
def test_scores_are_those_of_the_benchmarks_own_tools(with_masks: bool) -> None:
    found = evaluate(*benchmark(with_masks=with_masks))
    assert found == pytest.approx(THEIRS[with_masks], rel=1e-9)


def test_velocity_is_decoded_by_the_alpha_that_five_blocks_of_rows_choose() -> None:
    rng = np.random.default_rng(0)
    x, new_x = rng.normal(size=(12, 5, 4)), rng.normal(size=(6, 5, 4))
    weights = rng.normal(size=(4, 2))
    y, new_y = x @ weights + rng.normal(size=(12, 5, 2)), new_x @ weights

    def fit(rows: np.ndarray, values: np.ndarray, alpha: float) -> np.ndarray:
        design = np.hstack([rows, np.ones((len(rows), 1))])
        penalty = alpha * np.diag([1.0] * 4 + [0.0])
        return np.linalg.solve(design.T @ design + penalty, design.T @ values)

    def score(rows: np.ndarray, values: np.ndarray, solution: np.ndarray) -> float:
        left = values - np.hstack([rows, np.ones((len(rows), 1))]) @ solution
        return float(np.mean(1 - (left**2).sum(0) / ((values - values.mean(0)) ** 2).sum(0)))

    flat, target = x.reshape(-1, 4), y.reshape(-1, 2)
    blocks = np.arange(60) // 12
    alphas = [10.0**k for k in np.arange(-4, 0.1, 0.5)]
    means = [
        np.mean([score(flat[blocks == b], target[blocks == b], fit(flat[blocks != b], target[blocks != b], a))
                 for b in range(5)])
        for a in alphas
    ]  # fmt: skip
    best = alphas[int(np.argmax(means))]
    wanted = score(new_x.reshape(-1, 4), new_y.reshape(-1, 2), fit(flat, target, best))
    assert velocity_r2(x, y, new_x, new_y) == pytest.approx(wanted, rel=1e-9)


def test_a_submission_holds_the_runs_rates_in_the_order_of_the_recording(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "submission.h5"
    assert main(["nlb", str(finished), "--name", "mc_maze_small", "--into", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["group"] == "mc_maze_small_20" and {"vel R2", "psth R2"} <= set(said["scores"])
    with h5py.File(file) as submitted, h5py.File(finished / "outputs.h5") as outputs:
        rates = np.concatenate([outputs[f"{split}_output_params"][()] for split in ("train", "valid")])
        order = np.argsort(np.concatenate([outputs[f"{split}_inds"][()] for split in ("train", "valid")]))
        group = submitted["mc_maze_small_20"]
        assert np.array_equal(group["train_rates_heldin"], rates[order])
        assert np.array_equal(group["eval_rates_heldin"], outputs["test_output_params"])
        assert group["eval_rates_heldout"].shape == (18, 12, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--into", "x.h5"], "--name must say"),
        (["--name", "mc_mase", "--into", "x.h5"], "did you mean mc_maze?"),
        (["--eval", "tset"], "splits must be of train, valid, test"),
        (["--name", "mc_maze", "--targets", "nowhere.h5"], "nowhere.h5: no such file"),
    ],
)
def test_what_the_benchmark_has_no_place_for_is_said(
    finished: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nlb", str(finished), *arguments]) == 1
    assert words in capsys.readouterr().err
