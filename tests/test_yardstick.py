"""What training is timed against computes the same loss, so that a ratio of times compares like with like."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("case", ["small", "maze"])
def test_the_reference_of_the_benchmarks_has_our_loss(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from benchmarks.step import difference, ours, reference

    assert difference(case) < 1e-5
    for make in (ours, reference):
        make(case, 1)()
    assert "benchmarks.reference" in sys.modules
