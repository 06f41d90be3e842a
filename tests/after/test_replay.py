"""Old runs scored, sampled, ablated and perturbed: against what they published, and against plain passes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from band.after.perturb import Push, perturb, transient
from band.after.rescore import breakdown, score, without_channels
from band.cli.train import main
from band.model.forward import run_model
from band.train import outputs
from band.train.outputs import Pass, compute_posterior
from band.train.run_model import open_model, own_trials
from band.train.scores import bits_per_spike, r2


def test_scores_of_an_untouched_run_are_those_of_its_result(finished: Path) -> None:
    model = open_model(finished)
    found, _ = score(model, own_trials(model))
    for split, wanted in model.result["scores"].items():
        assert found[split].keys() == wanted.keys()
        assert found[split] == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_the_command_says_whether_scores_have_changed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(finished)]) == 0
    said = capsys.readouterr().out
    assert "equal to the scores in result.json" in said and "bits_per_spike" in said
    assert main(["score", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == []


@pytest.mark.parametrize("by", ["cond", "epoch"])
def test_a_breakdown_scores_the_trials_or_bins_of_each_label_alone(finished: Path, by: str) -> None:
    model = open_model(finished)
    trials = own_trials(model)
    session = trials.sessions[0]
    (posterior,) = compute_posterior(model.params, trials, 0, config=model.config)
    found = breakdown(model, trials, [posterior], by=by)
    chosen = session.split("test", 0)
    rows = [int(np.flatnonzero(posterior.index == trial)[0]) for trial in chosen]
    labels = session.recording.arrays[by][chosen]
    assert set(found) == {str(int(label)) for label in np.unique(labels)}
    for label, scores in found.items():
        where = labels == int(label)
        keep = (where, slice(None)) if by == "cond" else (slice(None), where[0])
        arrays = [posterior.arrays["output_params"][rows], session.recording.arrays["recon_data"][chosen]]
        wanted = bits_per_spike(*(values[keep[0]][:, keep[1]] for values in arrays))
        assert scores["bits_per_spike"] == pytest.approx(wanted, rel=1e-9)
        arrays = [session.recording.arrays["behavior"][chosen], posterior.arrays["output_behavior_params"][rows]]
        own = r2(*(values[keep[0]][:, keep[1]] for values in arrays)).mean()
        assert scores["behavior_r2/own/mean"] == pytest.approx(own, rel=1e-6)


def test_the_mean_of_as_many_draws_is_the_runs_own_output(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "draws.h5"
    command = ["sample", str(finished), "--into", str(file), "-n", "4", "--fields", "factors,co_means"]
    assert main(command) == 0
    with h5py.File(file) as draws, h5py.File(finished / "outputs.h5") as published:
        for split in ("train", "valid", "test"):
            values = draws[f"{split}_factors"][()]
            assert values.shape[1] == 4 and values.std(axis=1).max() > 1e-3
            np.testing.assert_allclose(values.mean(axis=1), published[f"{split}_factors"], atol=1e-5)
            np.testing.assert_allclose(values.std(axis=1), published[f"{split}_factors_spread"], atol=1e-3)
            assert np.array_equal(draws[f"{split}_inds"], published[f"{split}_inds"])
    monkeypatch.setattr(outputs, "CHUNK", 50)  # splits that begin and end within chunks
    assert main([*command, "--force"]) == 0
    with h5py.File(file) as draws:
        assert all(np.abs(draws[f"{split}_factors"][()]).min(axis=(1, 2, 3)).size for split in ("train", "test"))
        assert all((np.abs(draws[f"{split}_factors"][()]).sum(axis=(2, 3)) > 0).all() for split in ("train", "valid"))


def test_a_channel_without_weights_is_a_channel_set_to_zero(finished: Path) -> None:
    """With every channel off the model is the one whose controller is cut, whatever the controller says."""
    model = open_model(finished)
    trials = own_trials(model)
    both = without_channels(model.params, [0, 1], co_dim=2)
    (weightless,) = compute_posterior(both, trials, 0, config=model.config)
    (cut,) = compute_posterior(model.params, trials, 0, config=model.config, co_off=True)
    np.testing.assert_allclose(weightless.arrays["factors"], cut.arrays["factors"], atol=1e-6)
    one = without_channels(model.params, [1], co_dim=2)
    (half,) = compute_posterior(one, trials, 0, config=model.config)
    assert np.abs(half.arrays["factors"] - cut.arrays["factors"]).max() > 1e-4
    assert bool((model.params["gen.weight_ih"][..., :2] != 0).all())  # the run itself is left alone


def test_ablations_are_scored_with_both_read_outs(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", str(finished), "--channel", "1", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]["test"]
    for name in ("noci", "channel1_off"):
        for read_out in ("ridge_lag0_intact", "ridge_lag0_refitted", "own"):
            assert f"{name}/behavior_r2/{read_out}/mean" in scores
    published = open_model(finished).result["scores"]["test"]
    assert scores["noci/bits_per_spike"] == pytest.approx(published["noci/bits_per_spike"], rel=1e-9)


def test_a_push_moves_no_bin_before_it_and_moves_what_a_whole_pass_would(finished: Path) -> None:
    model = open_model(finished)
    trials = own_trials(model)
    push = Push(channel=1, at_bin=5, size=2.0, num_bins=2)
    ((intact, pushed),) = found = perturb(model, trials, push)
    apart = np.abs(pushed.arrays["factors"] - intact.arrays["factors"]).max(axis=(0, 2))
    assert not apart[:5].any() and (apart[5:8] > 1e-4).all()
    # The pushed input is the inferred one and 2 more, in the two bins before the controller sees pushed factors.
    moved = pushed.arrays["gen_inputs"] - intact.arrays["gen_inputs"]
    np.testing.assert_allclose(moved[:, 5, 1], 2.0, atol=1e-5)
    np.testing.assert_allclose(moved[:, 5, 0], 0.0, atol=1e-5)
    answer = transient(found, push)
    distance = np.linalg.norm(pushed.arrays["factors"] - intact.arrays["factors"], axis=2).mean(axis=0)
    assert answer["peak_bin"] == int(distance.argmax()) >= 5 and answer["distance"] == pytest.approx(distance.tolist())


def test_without_a_push_a_draw_is_that_of_a_whole_pass(finished: Path) -> None:
    model = open_model(finished)
    trials = own_trials(model)
    index = torch.arange(20)[None]
    pass_ = Pass(model.params, trials, model.config)
    drawn = pass_.draw(pass_.encode(0, index[0].numpy(), purpose=(0,)), (0, 3))
    noise = outputs._noise_source(model.config, trials).posterior(20, "posterior/0/3")
    batch = trials.batch([index], [torch.ones_like(index, dtype=torch.float32)])
    with torch.no_grad():
        whole = run_model(model.params, batch, arch=model.config.arch, widths=trials.widths, noise=noise)
    assert drawn["factors"] is not None and torch.allclose(drawn["factors"], whole.decoded.factors, atol=1e-6)


def test_the_file_of_a_push_holds_both_sides_and_the_push(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "push.h5"
    command = ["perturb", str(finished), "--channel", "0", "--at", "4", "--size", "1", "--into", str(file), "--json"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["response"]["distance"]) == 12 and said["response"]["peak"] > 0
    with h5py.File(file) as pushed, h5py.File(finished / "outputs.h5") as published:
        np.testing.assert_allclose(pushed["test_factors"], published["test_factors"], atol=1e-5)
        assert {"test_pushed_factors", "test_pushed_output_params", "test_pushed_output_behavior_params"} <= set(pushed)
        assert dict(pushed.attrs) == {"bin_ms": 20.0, "channel": 0, "at_bin": 4, "size": 1.0, "num_bins": 1}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["perturb", "RUN", "--channel", "2", "--at", "4", "--size", "1", "--into", "F"], "channel must be in 0 … 1"),
        (["perturb", "RUN", "--channel", "0", "--at", "12", "--size", "1", "--into", "F"], "the model's 12 bins"),
        (["ablate", "RUN", "--channel", "7"], "--channel must be all, or in 0 … 1"),
        (["sample", "RUN", "--into", "F", "--fields", "factor"], "fields must be of"),
        (["score", "RUN", "--by", "target"], "has no 'target'"),
        (["score", "RUN", "--data", "nowhere.h5"], "nowhere.h5: the run's recording is not there"),
        (["score", "nowhere"], "nowhere must be the folder of a trained run"),
        (["decode", "nowhere"], "nowhere must be the folder of a trained run"),
        (["decode", "RUN", "--decoders", "magic"], "--decoders must be of"),
        (["decode", "RUN", "--lags", "a:b"], "--lags must be FROM:TO:STEP"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(
    finished: Path, tmp_path: Path, command: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.h5"
    given = [{"RUN": str(finished), "F": str(file)}.get(word, word) for word in command]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and "Traceback" not in said and not file.exists()


@pytest.mark.parametrize("command", ["score", "ablate", "decode", "nlb"])
def test_a_dry_run_computes_nothing(finished: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(finished), "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["written"] is False and "scores" not in said


def test_every_command_takes_a_run_of_several_sessions(
    of_two_sessions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, draws, push = str(of_two_sessions), tmp_path / "draws.h5", tmp_path / "push.h5"
    assert main(["score", run, "--by", "cond", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    each = [said["by"]["cond"]["2"][f"session/{name}/bits_per_spike"] for name in ("day1", "day2")]
    assert said["changed"] == [] and said["by"]["cond"]["2"]["bits_per_spike"] == pytest.approx(np.mean(each))
    assert main(["ablate", run, "--channel", "0", "--json"]) == 0
    assert "session/day2/channel0_off/bits_per_spike" in json.loads(capsys.readouterr().out)["scores"]["test"]
    assert main(["sample", run, "--into", str(draws), "-n", "2"]) == 0
    assert main(["perturb", run, "--channel", "0", "--at", "3", "--size", "1", "--into", str(push)]) == 0
    with h5py.File(draws) as one, h5py.File(push) as two, h5py.File(of_two_sessions / "outputs.h5") as published:
        for name in ("day1", "day2"):
            wanted = published[f"{name}/test_factors"][()]
            np.testing.assert_allclose(one[f"{name}/test_factors"][()].mean(axis=1), wanted, atol=1e-5)
            np.testing.assert_allclose(two[f"{name}/test_factors"], wanted, atol=1e-5)
    capsys.readouterr()
    assert main(["decode", run, "--decoders", "ridge", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["session"], row["input"]) for row in rows} >= {("day1", "spikes"), ("day2", "controls")}
    assert main(["nlb", run]) == 1 and "the benchmark takes one" in capsys.readouterr().err
