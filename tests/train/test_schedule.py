"""Plateau, best epoch and stopping of one member."""

from __future__ import annotations

import math

import pytest
import torch

from band.config import Hyper, TrainConfig
from band.train.schedule import Schedule, ramps_have_ended

SCORES = [5 + 3 * math.sin(i * i) - 0.02 * i for i in range(60)]


def test_the_rate_decays_as_torchs_plateau_schedule_on_the_smoothed_score():
    hyper = Hyper(lr=0.01, lr_decay=0.5, lr_patience=2, lr_stop=0.0, kl_increase_epoch=0)
    train = TrainConfig(max_epochs=1000, stop_patience=0, smooth=0.4)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.01)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=2, threshold=0.0)
    schedule, smoothed = Schedule(lr=0.01), SCORES[0]
    for epoch, score in enumerate(SCORES):
        smoothed = 0.4 * score + 0.6 * smoothed
        plateau.step(smoothed)
        schedule.observe(score, epoch=epoch, hyper=hyper, train=train)
        assert schedule.lr == pytest.approx(optimiser.param_groups[0]["lr"])
    assert schedule.lr < 0.01


def test_nothing_is_best_and_nothing_stops_before_the_ramps_end():
    hyper = Hyper(kl_start_epoch=2, kl_increase_epoch=20, lr_patience=0, lr_decay=0.1, lr_stop=1e-3)
    train = TrainConfig(max_epochs=1000, stop_patience=3, smooth=1.0)
    schedule = Schedule(lr=4e-3)
    for epoch in range(22):
        assert not schedule.observe(float(epoch), epoch=epoch, hyper=hyper, train=train)
        assert schedule.best_epoch == -1 and not schedule.stopped_by
    assert schedule.observe(100.0, epoch=22, hyper=hyper, train=train)
    assert schedule.best_epoch == 22


def test_stopping_counts_the_epochs_since_the_best():
    hyper = Hyper(kl_increase_epoch=0, lr_stop=0.0)
    train = TrainConfig(max_epochs=1000, stop_patience=4, smooth=1.0)
    schedule = Schedule(lr=1e-3)
    scores = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    for epoch, score in enumerate(scores):
        schedule.observe(score, epoch=epoch, hyper=hyper, train=train)
        if schedule.stopped_by:
            break
    assert (epoch, schedule.best_epoch, schedule.stopped_by) == (5, 1, "stop_patience")


def test_the_last_epoch_and_a_tiny_rate_stop():
    train = TrainConfig(max_epochs=2, smooth=1.0)
    schedule = Schedule(lr=1e-3)
    hyper = Hyper(kl_increase_epoch=0)
    schedule.observe(1.0, epoch=0, hyper=hyper, train=train)
    assert not schedule.stopped_by
    schedule.observe(0.5, epoch=1, hyper=hyper, train=train)
    assert schedule.stopped_by == "max_epochs"
    schedule = Schedule(lr=1e-9)
    schedule.observe(1.0, epoch=0, hyper=hyper, train=train)
    assert schedule.stopped_by == "lr_stop"


@pytest.mark.parametrize(
    ("hyper", "end"),
    [
        (Hyper(kl_start_epoch=3, kl_increase_epoch=5), 8),
        (Hyper(kl_increase_epoch=5, l2_increase_epoch=90), 5),
        (Hyper(kl_increase_epoch=5, l2_start_epoch=2, l2_increase_epoch=9, l2_gen_scale=1.0), 11),
    ],
)
def test_the_ramps_end_in_the_first_epoch_of_full_weight(hyper, end):
    from band.model.losses import ramp

    assert ramps_have_ended(end, hyper) and not ramps_have_ended(end - 1, hyper)
    kind = "l2" if hyper.l2_gen_scale else "kl"
    start, increase = (torch.tensor([getattr(hyper, f"{kind}_{part}_epoch")]) for part in ("start", "increase"))
    assert ramp(torch.tensor([end]), start=start, increase=increase) == 1
    assert ramp(torch.tensor([end - 1]), start=start, increase=increase) < 1
