"""Training on a GPU: as on a CPU, as without graphs, as alone, as without a kill. Runs where there is a GPU."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from scans import CASES, run
from tiny import CPU, config, make_loop, train, write_recording

from band.train.checkpoint import newest_checkpoint, restore_population, save_checkpoint
from band.train.loop import Loop
from band.train.population import SUMMED
from band.train.streams import random_mask

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
GPU = torch.device("cuda")
OPTIONS = {"ic_prior": "student_t", "co_prior": "autoregressive", "behavior_decoder": "causal_lag"}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("tiny") / "tiny.h5")


def runs(members: int, **train_options: object) -> dict:
    """Return members that differ in hyperparameters, seeds and folds."""
    options = {"max_epochs": 67, "batch_size": 8, **train_options}
    return {
        f"m{i}": config(
            seed=i, behavior_weight=0.25 * (i % 3), lr=2e-3 * (1 + i % 4), cd_rate=0.1 * (i % 4),
            dropout_rate=0.05 * (i % 3), weight_decay=0.1 * (i % 2), l2_gen_scale=5.0 * (i % 2), train=options,
        )
        for i in range(members)
    }  # fmt: skip


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double().cpu() - b.double().cpu()).norm() / b.double().cpu().norm())


def steps(loop: Loop, count: int) -> list[torch.Tensor]:
    """Do so many steps, epochs and all; return what each added up of the losses so far in its epoch."""
    found = []
    for _ in range(count):
        completed = loop.step()
        found.append(loop.population.sums[:, SUMMED.index("loss")].cpu().clone())
        loop.end_epochs(completed)
    return found


@pytest.mark.parametrize("trials", [3, 64, 65])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_plain_path(case, trials, monkeypatch):
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        plain = run(case, "plain", monkeypatch, trials=trials, dtype=dtype, device="cuda")
        compiled = run(case, "", monkeypatch, trials=trials, dtype=dtype, device="cuda")
        for a, b in zip(plain, compiled, strict=True):
            assert bool(a.isfinite().all()) and (a - b).norm() <= bound * a.norm()


def test_masks_are_those_of_a_cpu_bit_by_bit(monkeypatch):
    keys, rates = torch.tensor([5, -77, 2**62]), torch.tensor([0.3, 0.0, 0.9], dtype=torch.float64)
    kept = (1 / (1 - rates)).float()
    for path in ("plain", ""):
        monkeypatch.setenv("BAND_KERNELS", path)
        found = random_mask(keys.cuda(), rates.cuda(), kept.cuda(), 5001)
        assert torch.equal(found.cpu(), random_mask(keys, rates, kept, 5001)), path


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 2e-4)])
def test_losses_are_those_of_a_cpu_step_by_step(recording, dtype, bound):
    members = runs(4, dtype=dtype)
    here, there = (torch.stack(steps(make_loop(recording, members, device=d), 30)) for d in (CPU, GPU))
    assert ((here - there) / here).abs().max() <= bound


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
def test_losses_of_fast_and_plain_path_agree_over_100_steps(recording, monkeypatch, dtype, bound):
    found = {}
    for path, graphs in (("plain", "off"), ("", "")):
        monkeypatch.setenv("BAND_KERNELS", path)
        monkeypatch.setenv("BAND_GRAPHS", graphs)
        found[path] = torch.stack(steps(make_loop(recording, runs(4, dtype=dtype), device=GPU), 100))
    off = float(((found[""] - found["plain"]) / found["plain"]).abs().max())
    print(f"{dtype}: off by {off:.1e}")
    assert off <= bound


@pytest.mark.parametrize("kind", ["as it is", "augmented, with other priors", "in pieces"])
def test_a_captured_step_does_bit_by_bit_what_it_does_uncaptured(recording, monkeypatch, kind):
    members = runs(3, valid_samples=2, trials_at_once=3 if kind == "in pieces" else 0)
    if kind.startswith("augmented"):
        members = {
            name: replace(one, arch=replace(one.arch, **OPTIONS), hyper=replace(one.hyper, jitter_width=1, sv_rate=0.2))
            for name, one in members.items()
        }
    rows = []
    for graphs in ("off", ""):
        monkeypatch.setenv("BAND_GRAPHS", graphs)
        loop = make_loop(recording, members, device=GPU)
        steps(loop, 20)
        assert (loop._stepped._graph is None) == (graphs == "off")
        assert (loop._validated._graph is None) == (graphs == "off")
        rows.append([*loop.population.rows(), torch.tensor(loop.population.members[1].history).nan_to_num()])
    for eager, captured in zip(*rows, strict=True):
        assert torch.equal(eager.nan_to_num(), captured.nan_to_num())


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-10)])
def test_a_member_of_sixteen_ends_like_it_does_alone(recording, dtype, bound):
    members = runs(16, dtype=dtype)
    fast = replace(members["m4"].hyper, lr=2e-2, lr_patience=1, lr_decay=0.5, lr_stop=1e-3)
    members["m4"] = replace(members["m4"], hyper=fast)
    together = train(recording, members, device=GPU)
    reverse = train(recording, dict(reversed(members.items())), device=GPU)
    assert together["m4"][1].epoch < 67, "one member is meant to stop early"
    worst = 0.0
    for name in ("m0", "m3", "m4", "m15"):
        row, _ = train(recording, {name: members[name]}, device=GPU)[name]
        worst = max(worst, distance(together[name][0], row), distance(reverse[name][0], row))
    print(f"{dtype}: off by {worst:.1e}")
    assert worst <= bound


def test_what_a_loop_recorded_goes_with_it(recording):
    """The next generation of a search that fills the GPU finds it empty."""
    gc.collect()
    gc.disable()
    try:
        reserved = []
        for _ in range(4):
            loop = make_loop(recording, runs(64), device=GPU)
            steps(loop, 20)
            assert loop._stepped._graph is not None and loop._validated._graph is not None
            reserved.append(torch.cuda.memory_allocated())
            del loop
        print(reserved)
        assert max(reserved) <= 1.1 * reserved[0]
    finally:
        gc.enable()


def test_a_continuation_is_bit_by_bit_the_same(recording, tmp_path):
    members = runs(4)
    whole, part = (make_loop(recording, members, device=GPU) for _ in range(2))
    steps(whole, 31)
    steps(part, 17)
    save_checkpoint(part.population, tmp_path, slot=0, packing=list(members))
    _, content = newest_checkpoint(tmp_path)
    trials = part._trials
    again = Loop(
        restore_population(content, members, trials.widths, device=GPU), trials,
        places={name: place for place, name in enumerate(members)},
    )  # fmt: skip
    steps(again, 14)
    for a, b in zip(whole.population.rows(), again.population.rows(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_a_diverging_member_is_named_and_the_others_go_on(recording):
    members = runs(3)
    members["m1"] = replace(members["m1"], hyper=replace(members["m1"].hyper, lr=1e30, grad_clip=1e30))
    calm = train(recording, {name: members[name] for name in ("m0", "m2")}, device=GPU)
    found = train(recording, members, device=GPU)
    row, member = found["m1"]
    assert member.schedule.stopped_by == "diverged" and member.first_non_finite and bool(row.isfinite().all())
    for name in ("m0", "m2"):
        assert found[name][1].schedule.stopped_by == "max_epochs" and distance(found[name][0], calm[name][0]) <= 1e-5


def test_a_parameter_that_is_not_finite_is_named_by_a_captured_step(recording):
    loop = make_loop(recording, runs(2), device=GPU)
    steps(loop, 7)
    assert loop._stepped._graph is not None
    with torch.no_grad():
        loop.population.params["co_linear.weight"][1, 0, 0] = float("nan")
    assert loop.step() == [1]
    assert loop.population.members[1].first_non_finite == "parameter co_linear.weight"
