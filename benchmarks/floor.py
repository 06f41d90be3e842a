"""What a step would take if there were nothing but its matrix products, at the rate of this machine at their shapes."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from benchmarks.cases import BEHAVIOR_DIM, Case


class Product(NamedTuple):
    """A product (batch, rows, inner) x (batch, inner, columns) that a step does so many times."""

    batch: int
    rows: int
    inner: int
    columns: int
    times: int


def products(case: Case, members: int) -> list[Product]:
    """Return every product of a training step: forward, and two of the same size back for each."""
    arch, bins, trials, m = case.arch, case.bins, case.batch_size, members
    found: list[Product] = []

    def linear(groups: int, rows: int, inner: int, columns: int, *, has_input_gradient: bool = True) -> None:
        found.append(Product(groups, rows, inner, columns, 1))
        found.append(Product(groups, columns, rows, inner, 1))
        if has_input_gradient:
            found.append(Product(groups, rows, columns, inner, 1))

    def cell(groups: int, inputs: int, hidden: int) -> None:
        width = inputs + hidden
        for columns in (2 * hidden, hidden):
            found.append(Product(groups, trials, width, columns, bins))
            found.append(Product(groups, trials, columns, width, bins))
            found.append(Product(groups, columns, bins * trials, width, 1))

    encoders = 3 if arch.causal_con else 4
    linear(encoders * m, bins * trials, case.neurons + 1, 3 * arch.ic_enc_dim, has_input_gradient=False)
    cell(encoders * m, 0, arch.ic_enc_dim)
    linear(m, trials, 2 * arch.ic_enc_dim, 2 * arch.ic_dim)
    linear(m, trials, arch.ic_dim, arch.gen_dim)
    linear(m, bins * trials, arch.ci_enc_dim * (encoders - 2), 3 * arch.con_dim)
    cell(m, arch.fac_dim, arch.con_dim)
    cell(m, arch.co_dim, arch.gen_dim)
    for inner, columns in ((arch.con_dim, 2 * arch.co_dim), (arch.gen_dim, arch.fac_dim)):
        found.append(Product(m, trials, inner, columns, bins))
        found.append(Product(m, trials, columns, inner, bins))
        found.append(Product(m, columns, bins * trials, inner, 1))
    linear(m, bins * trials, arch.fac_dim, case.neurons)
    linear(m, trials, bins * arch.fac_dim, bins * BEHAVIOR_DIM)
    return found


def flops(found: list[Product]) -> float:
    """Return their floating-point operations, two for a multiply and an add."""
    return 2.0 * sum(p.batch * p.rows * p.inner * p.columns * p.times for p in found)


def floor_s(found: list[Product]) -> float:
    """Return how long they take here, each shape timed by itself, the best of several tries."""
    return sum(p.times * _seconds(p) for p in found)


def _seconds(product: Product) -> float:
    a = torch.randn(product.batch, product.rows, product.inner)
    b = torch.randn(product.batch, product.inner, product.columns)
    out = torch.empty(product.batch, product.rows, product.columns)
    times = []
    for _ in range(max(5, min(50, int(2e9 / flops([product._replace(times=1)]))))):
        before = time.perf_counter()
        torch.bmm(a, b, out=out)
        times.append(time.perf_counter() - before)
    return min(times)
