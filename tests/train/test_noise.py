"""Noise depends on seed, step and purpose alone, and meets its rates."""

from __future__ import annotations

import pytest
import torch
from tiny import ARCH, CPU

from band.model.params import Widths
from band.train.noise import NoiseSource, Rates

WIDTHS = Widths(
    num_bins=30, num_recon_bins=30, num_neurons=(40,), num_recon_neurons=(40,), behavior_dim=2, ext_input_dim=3
)


def source(seeds, *, dropout, cd=None, cd_pass=None, batch_size=32):
    members = len(seeds)
    zero = torch.zeros(members, dtype=torch.float64)
    rates = Rates(
        torch.tensor(dropout, dtype=torch.float64), zero,
        zero if cd is None else torch.tensor(cd, dtype=torch.float64),
        zero if cd_pass is None else torch.tensor(cd_pass, dtype=torch.float64),
    )  # fmt: skip
    return NoiseSource(
        seeds, rates, arch=ARCH, widths=WIDTHS, batch_sizes=(batch_size,), dtype=torch.float32, device=CPU
    )


def test_members_of_equal_seed_see_equal_noise_whatever_their_neighbours():
    alone = source([5], dropout=[0.2], cd=[0.3]).training(7)
    among = source([1, 5, 9, 5], dropout=[0.5, 0.2, 0.0, 0.2], cd=[0.1, 0.3, 0.5, 0.3]).training(7)
    for name in ("eps_ic", "eps_co", "cd_keep", "encoder", "ic", "controller", "gen_init", "generator", "ext_input"):
        one, many = ((v[0] if isinstance(v, tuple) else v) for v in (getattr(alone, name), getattr(among, name)))
        assert torch.equal(one[0], many[1]) and torch.equal(one[0], many[3]), name
        assert not torch.equal(many[0], many[1]), name
    assert alone.behavior is None


def test_noise_changes_with_the_step_and_comes_back_with_it():
    noise = source([5], dropout=[0.2])
    first, second, again = noise.training(0), noise.training(1), noise.training(0)
    assert torch.equal(first.eps_co, again.eps_co) and torch.equal(first.encoder, again.encoder)
    assert not torch.equal(first.eps_co, second.eps_co) and not torch.equal(first.encoder, second.encoder)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_a_mask_drops_its_share_and_keeps_the_mean(rate):
    noise = source([0, 1], dropout=[rate, rate], batch_size=200)
    mask = torch.stack([noise.training(step).encoder for step in range(4)])
    count = mask.numel()
    spread = (rate * (1 - rate) / count) ** 0.5
    assert abs(float((mask == 0).double().mean()) - rate) < 5 * spread
    assert mask.unique().tolist() == [0.0, pytest.approx(1 / (1 - rate))]


def test_a_member_of_rate_zero_keeps_everything_beside_one_that_does_not():
    noise = source([0, 0], dropout=[0.0, 0.4]).training(3)
    assert bool((noise.encoder[0] == 1).all()) and bool((noise.encoder[1] == 0).any())
    assert source([0], dropout=[0.0]).training(3).encoder is None


def test_the_pass_mask_lets_its_share_of_seen_counts_pass_unscaled():
    mask = source([0], dropout=[0.0], cd=[0.3], cd_pass=[0.25], batch_size=300).training(0).cd_pass[0]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert float(mask.mean()) == pytest.approx(0.25, abs=0.005)


def test_draws_of_neighbouring_bins_are_uncorrelated_and_standard():
    eps = source([3], dropout=[0.0], batch_size=400).training(0).eps_co[0].double()
    assert float(eps.mean()) == pytest.approx(0, abs=0.03) and float(eps.std()) == pytest.approx(1, abs=0.02)
    assert abs(float((eps[:, 1:] * eps[:, :-1]).mean())) < 0.03
