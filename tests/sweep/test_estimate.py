"""Estimates against sizes of the real model, counted by brute force, and against what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from band.config import Arch, DataConfig, PbtConfig, RunConfig, TrainConfig, to_dict
from band.sizes import forward_flops, num_parameters, sizes_of
from band.sweep import estimate as module
from band.sweep.estimate import calibrate, calibration_path, estimate, num_steps

MAZE = {
    "train": {"encod_data": [129, 50, 162], "recon_data": [129, 50, 162], "behavior": [129, 50, 2]},
    "valid": {"encod_data": [36, 50, 162], "recon_data": [36, 50, 162], "behavior": [36, 50, 2]},
}
CONFIG = to_dict(RunConfig())


@pytest.fixture(autouse=True)
def uncalibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module.speed_correction.cache_clear()


def changed(**sections: object) -> dict[str, object]:
    return to_dict(dataclasses.replace(RunConfig(), **sections))


def test_weights_are_those_of_torch_layers_of_the_same_sizes() -> None:
    torch = pytest.importorskip("torch")
    arch, neurons = Arch(), 162
    layers = [
        torch.nn.GRU(neurons, arch.ic_enc_dim, bidirectional=True),
        torch.nn.GRU(neurons, arch.ci_enc_dim, bidirectional=True),
        torch.nn.GRUCell(2 * arch.ci_enc_dim + arch.fac_dim, arch.con_dim),
        torch.nn.GRUCell(arch.co_dim, arch.gen_dim),
        torch.nn.Linear(2 * arch.ic_enc_dim, 2 * arch.ic_dim),
        torch.nn.Linear(arch.ic_dim, arch.gen_dim),
        torch.nn.Linear(arch.con_dim, 2 * arch.co_dim),
        torch.nn.Linear(arch.gen_dim, arch.fac_dim),
        torch.nn.Linear(arch.fac_dim, neurons),
        torch.nn.Linear(50 * arch.fac_dim, 50 * 2),
    ]
    weights = sum(p.numel() for layer in layers for p in layer.parameters() if p.dim() == 2)
    assert num_parameters(CONFIG, MAZE) == weights


def test_flops_are_those_that_torch_counts_in_a_forward_pass() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    arch, (bins, neurons) = Arch(co_dim=0), (50, 162)
    linear = torch.nn.functional.linear
    ones = torch.ones
    with FlopCounterMode(display=False) as counter:
        for inputs, units, times in ((neurons, arch.ic_enc_dim, 2), (0, arch.gen_dim, 1)):
            for _ in range(times):
                for _ in range(bins):
                    if inputs:
                        linear(ones(1, inputs), ones(3 * units, inputs))
                    linear(ones(1, units), ones(3 * units, units))
        linear(ones(1, 2 * arch.ic_enc_dim), ones(2 * arch.ic_dim, 2 * arch.ic_enc_dim))
        linear(ones(1, arch.ic_dim), ones(arch.gen_dim, arch.ic_dim))
        linear(ones(bins, arch.gen_dim), ones(arch.fac_dim, arch.gen_dim))
        linear(ones(bins, arch.fac_dim), ones(neurons, arch.fac_dim))
        linear(ones(1, bins * arch.fac_dim), ones(bins * 2, bins * arch.fac_dim))
    assert forward_flops(changed(arch=arch), MAZE) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("trials", "drop_last", "steps"), [(129, True, 2), (129, False, 3), (128, False, 2), (9, True, 1)]
)
def test_an_epoch_has_as_many_steps_as_a_loader_gives_batches(trials: int, drop_last: bool, steps: int) -> None:
    assert num_steps({"batch_size": 64, "drop_last": drop_last}, num_trials=trials) == steps


@pytest.mark.parametrize(
    "data", [{}, {"split": "stratified"}, {"num_folds": 5}, {"split": "blocked", "test_share": 0.3}]
)
def test_splits_use_every_trial_once(data: dict[str, object]) -> None:
    sizes = sizes_of(changed(data=DataConfig(**data)), MAZE)
    assert sizes.train + sizes.valid + sizes.test == 165
    assert min(sizes.train, sizes.valid, sizes.test) > 0


def test_cost_grows_with_epochs_and_the_level_of_the_outputs() -> None:
    base = estimate(CONFIG, MAZE)
    twice = estimate(changed(train=TrainConfig(max_epochs=1400)), MAZE)
    assert 1.9 < twice.seconds / base.seconds <= 2
    levels = [
        estimate({**CONFIG, "output": {"level": level}}, MAZE).home_bytes for level in ("scores", "factors", "full")
    ]
    assert levels == sorted(levels) and levels[1] > levels[0] + 165 * 50 * (162 + 40) * 4


def test_the_reference_machine_needs_the_time_that_was_measured_within_a_factor_of_three() -> None:
    assert 385 / 3 < estimate(changed(data=DataConfig(test_share=1e-9)), MAZE).seconds < 450 * 3


def test_measured_times_correct_the_estimates_half_way() -> None:
    before = estimate(CONFIG, MAZE).seconds
    calibrate(400.0, estimated_s=100.0)
    assert estimate(CONFIG, MAZE).seconds == pytest.approx(2 * before)
    for _ in range(30):
        calibrate(400.0, estimated_s=estimate(CONFIG, MAZE).seconds)
    assert estimate(CONFIG, MAZE).seconds == pytest.approx(400.0, rel=1e-3)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"seconds_ratio": "fast"}', '{"seconds_ratio": -1}', "\x00", "1e999"]
)
def test_a_damaged_calibration_counts_as_none(content: str) -> None:
    before = estimate(CONFIG, MAZE)
    calibration_path().parent.mkdir(parents=True, exist_ok=True)
    calibration_path().write_text(content)
    module.speed_correction.cache_clear()
    assert estimate(CONFIG, MAZE) == before


def test_an_estimate_can_be_printed_as_json_and_costs_microseconds() -> None:
    import time

    begun = time.perf_counter()
    for _ in range(1000):
        values = estimate(CONFIG, MAZE)
    assert time.perf_counter() - begun < 0.5
    assert json.loads(json.dumps(dataclasses.asdict(values)))["seconds"] > 0


def test_processes_that_share_a_search_are_each_counted_and_their_members_once() -> None:
    space = '{"hyper.lr": {"low": 1e-3, "high": 2e-2}}'
    one, four = (estimate(changed(pbt=PbtConfig(members=8, space=space, shards=n)), MAZE) for n in (1, 4))
    assert four.memory_bytes - one.memory_bytes == 3 * module.PROCESS_BYTES
    assert four.seconds == one.seconds > 7 * estimate(CONFIG, MAZE).seconds
