"""Baseline decoders against refitting by hand, a known lag, and what only a nonlinear reader can tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from band.after.baselines import Case, Settings, decode_case
from band.after.directions import target_direction_accuracy
from band.after.features import smooth, stretch
from band.after.rnn import RnnSettings, fit_rnn
from band.cli.train import main
from band.train.decoding import ALPHAS
from band.train.scores import Observed


def make_case(inputs: np.ndarray, behavior: np.ndarray, *, cond: np.ndarray | None = None) -> Case:
    """Return a case whose first two thirds train; behaviour (n, T, K)."""
    cut = len(inputs) * 2 // 3
    parts = {"train": slice(0, cut), "test": slice(cut, None)}
    observed = {
        name: Observed(
            spikes=inputs[rows], num_heldin=inputs.shape[2], encod_bins=inputs.shape[1], behavior=behavior[rows],
            cond=None if cond is None else cond[rows],
        )
        for name, rows in parts.items()
    }  # fmt: skip
    return Case(name="", observed=observed, inputs={"spikes": {k: inputs[v] for k, v in parts.items()}}, bin_ms=10.0)


def test_the_lag_that_made_the_behaviour_is_found() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 30, 5))
    behavior = np.zeros((40, 30, 2))
    behavior[:, 3:] = inputs[:, :-3] @ rng.normal(size=(5, 2))
    behavior += rng.normal(size=behavior.shape) / 10
    (row,) = decode_case(
        make_case(inputs, behavior), Settings(decoders=("wiener",), taps=1, tap_ms=10, lags_ms=range(-20, 60, 10))
    )
    assert row.chosen["lag_ms"] == 30 and row.scores["behavior_r2/mean"] > 0.8


def test_a_wiener_filter_is_ridge_on_the_bins_before() -> None:
    """Against normal equations on features cut out one by one, at the alpha of least error without each trial."""
    rng = np.random.default_rng(1)
    inputs, taps = rng.poisson(1.0, (18, 12, 3)).astype(float), 2
    behavior = rng.normal(size=(18, 12, 1)) + inputs[..., :1]
    case = make_case(inputs, behavior)
    (row,) = decode_case(case, Settings(decoders=("wiener",), taps=taps, tap_ms=10, lags_ms=(10,)))

    def rows(x: np.ndarray) -> np.ndarray:
        return np.array(
            [[np.concatenate([trial[max(t - 1 - k, 0)] for k in range(taps)]) for t in range(12)] for trial in x]
        )

    train, test = rows(case.inputs["spikes"]["train"]), rows(case.inputs["spikes"]["test"])
    flat, target = train.reshape(-1, 6), behavior[:12].reshape(-1)
    shift, scale = flat.mean(0), flat.std(0)

    def fit(x: np.ndarray, y: np.ndarray, alpha: float):
        design = (x - shift) / scale
        centred = design - design.mean(0)
        weights = np.linalg.solve(centred.T @ centred + alpha * np.eye(6), centred.T @ (y - y.mean()))
        return lambda new: ((new - shift) / scale - design.mean(0)) @ weights + y.mean()

    trial = np.repeat(np.arange(12), 12)
    errors = [
        sum(((fit(flat[trial != g], target[trial != g], a)(flat[trial == g]) - target[trial == g]) ** 2).sum()
            for g in range(12))
        for a in ALPHAS
    ]  # fmt: skip
    alpha = ALPHAS[int(np.argmin(errors))]
    assert row.chosen["alpha"] == pytest.approx(alpha)
    wanted_cv = 1 - min(errors) / ((target - target.mean()) ** 2).sum()
    assert row.chosen["cv_r2"] == pytest.approx(wanted_cv, rel=1e-6)
    predicted, true = fit(flat, target, alpha)(test.reshape(-1, 6)), behavior[12:].reshape(-1)
    wanted = 1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum()
    assert row.scores["behavior_r2/mean"] == pytest.approx(wanted, rel=1e-6)


def test_smoothing_is_chosen_without_a_look_at_test() -> None:
    rng = np.random.default_rng(2)
    latent = np.cumsum(rng.normal(size=(45, 40, 1)), axis=1) / 3
    spikes = rng.poisson(np.exp(latent @ rng.normal(0, 0.4, (1, 20)) - 1)).astype(float)
    case = make_case(spikes, latent)
    (row,) = decode_case(case, Settings(decoders=("ridge",)))
    spoilt = {**case.observed, "test": make_case(spikes, rng.normal(size=latent.shape)).observed["test"]}
    (other,) = decode_case(
        Case(name="", observed=spoilt, inputs=case.inputs, bin_ms=10.0), Settings(decoders=("ridge",))
    )
    assert row.chosen == other.chosen and row.chosen["smoothing_ms"] > 0


def test_an_rnn_tells_what_no_linear_read_out_can() -> None:
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(120, 6, 2))
    behavior = np.abs(inputs[:, :, :1]) + rng.normal(0, 0.1, (120, 6, 1))
    behavior[3, 2] = np.nan
    rows = {
        row.decoder: row.scores["behavior_r2/mean"]
        for row in decode_case(make_case(inputs, behavior), Settings(decoders=("ridge", "wiener", "rnn")))
    }
    assert max(rows["ridge"], rows["wiener"]) < 0.2 < 0.4 < rows["rnn"]


def test_an_rnn_is_the_same_twice_and_stops_by_groups_that_train_nothing() -> None:
    rng = np.random.default_rng(4)
    inputs, behavior = rng.normal(size=(24, 6, 3)), rng.normal(size=(24, 6, 1))
    settings = RnnSettings(max_epochs=3)
    one, two = (fit_rnn(inputs, behavior, settings=settings).decode(inputs) for _ in range(2))
    assert np.array_equal(one, two)
    # Noise cannot be learnt: on groups held back it is best at once, however well train can be told by heart.
    assert fit_rnn(inputs, behavior, groups=np.arange(24) // 4).epochs < 40


def test_smoothing_keeps_a_constant_and_a_stretch_repeats_the_ends() -> None:
    ramp = np.arange(6.0)[None, :, None]
    assert np.allclose(smooth(np.ones((1, 6, 1)), sd_bins=2.0), 1.0)
    assert np.array_equal(smooth(ramp, sd_bins=0), ramp)
    assert stretch(ramp, lag=1, taps=2)[0].tolist() == [[0, 0], [0, 0], [1, 0], [2, 1], [3, 2], [4, 3]]
    assert stretch(ramp, lag=0, taps=2, width=2)[0].tolist()[3:] == [[2.5, 0.5], [3.5, 1.5], [4.5, 2.5]]
    assert stretch(ramp, lag=0, taps=1, width=2)[0].ravel().tolist() == [0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert stretch(ramp, lag=-1, taps=1)[0].ravel().tolist() == [1, 2, 3, 4, 5, 5]


def test_a_spike_where_train_has_hardly_any_does_not_blow_a_whole_trial_read_out_up() -> None:
    """The tail of a smoothed spike is almost nothing; divided by its own deviation it would outweigh everything."""
    rng = np.random.default_rng(5)
    inputs = rng.poisson(1.0, (60, 40, 4)).astype(float)
    behavior = smooth(inputs[..., :1], sd_bins=4) + rng.normal(0, 0.02, (60, 40, 1))
    inputs[:, :, 3] = 0
    inputs[0, 0, 3] = inputs[50:, 35, 3] = 5
    (row,) = decode_case(make_case(inputs, behavior), Settings(decoders=("ridge_trial",)))
    assert row.scores["behavior_r2/mean"] > 0


def test_directions_are_told_by_where_the_decoded_reach_ends() -> None:
    angle = np.arange(8) * np.pi / 4
    cond = np.repeat(np.arange(8), 5)
    speed = np.sin(np.linspace(0, np.pi, 20))[None, :, None]
    velocity = np.stack([np.cos(angle), np.sin(angle)], axis=1)[cond][:, None] * speed
    found = {
        turn: target_direction_accuracy(
            velocity @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * 0.1,
            cond=cond, train=velocity, train_cond=cond,
        )
        for turn in (0.0, np.pi / 9, np.pi / 7)
    }  # fmt: skip
    # Half of what lies between two targets is pi / 8; how far the hand goes does not matter.
    assert found == {0.0: 1.0, np.pi / 9: 1.0, np.pi / 7: 0.0}


def test_the_table_has_spikes_factors_controls_and_the_models_own_decoder(
    finished: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--decoders", "ridge,ridge_trial", "--json"]
    assert main(["decode", str(finished), *arguments]) == 0
    rows = {(r["input"], r["decoder"]): r["scores"] for r in json.loads(capsys.readouterr().out)["rows"]}
    inputs = ("spikes", "factors", "controls")
    assert set(rows) == {*((i, d) for i in inputs for d in ("ridge", "ridge_trial")), ("factors", "own")}
    published = json.loads((finished / "result.json").read_text())["scores"]["test"]
    for decoder, name in (("ridge", "ridge_lag0"), ("ridge_trial", "ridge_trial"), ("own", "own")):
        for kind in ("behavior_r2", "within_condition_r2", "deviation_r2"):
            wanted = published[f"{kind}/{name}/mean"]
            assert rows["factors", decoder][f"{kind}/mean"] == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert all(0 <= scores["target_direction_accuracy"] <= 1 for scores in rows.values())
    assert main(["decode", str(recording), *arguments]) == 0
    alone = {(r["input"], r["decoder"]): r["scores"] for r in json.loads(capsys.readouterr().out)["rows"]}
    assert alone == {key: rows[key] for key in rows if key[0] == "spikes"}


def test_behaviour_may_be_missing_in_most_trials_and_in_a_whole_channel() -> None:
    rng = np.random.default_rng(6)
    inputs = rng.normal(size=(60, 8, 3))
    behavior = np.concatenate([inputs[..., :1] + rng.normal(0, 0.1, (60, 8, 1)), np.full((60, 8, 1), np.nan)], axis=2)
    behavior[:30] = np.nan
    rows = list(
        decode_case(make_case(inputs, behavior), Settings(decoders=("ridge", "wiener"), smoothing_ms=(0.0,), tap_ms=10))
    )
    for row in rows:
        assert row.scores["behavior_r2/0"] > 0.8 and row.scores["behavior_r2/1"] is None
        assert all(np.isfinite(value) for value in row.chosen.values())
