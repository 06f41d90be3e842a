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


def test_training_to_a_loss_is_measured_of_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.setattr(sys, "argv", ["to_loss"])
    from benchmarks import to_loss

    monkeypatch.setattr(to_loss, "EPOCHS", 3)
    path = to_loss.recording(tmp_path)
    for curve in (to_loss.reference(path), to_loss.ours(path, 2)):
        (first_s, first), _, (last_s, last) = curve
        assert 0 < first_s < last_s and 500 < last < 600 and last < first < 1000, curve
