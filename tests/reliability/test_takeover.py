"""An attempt that lost its task as it hung does no harm when it wakes up, wherever it stood."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability.ledger import Ledger, quick_folder
from reliability.takeover import inject


@pytest.mark.parametrize(("number", "mirrors"), [(75, 2), (110, 1), (190, 0)])
def test_who_wakes_up_after_another_took_over_publishes_nothing_twice_and_costs_it_nothing(
    tmp_path: Path, number: int, mirrors: int
) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with quick_folder() as folder:
        inject(ledger, folder=folder, number=number, mirrors=mirrors)
    assert not ledger.bad and ledger.hits == 1


@pytest.mark.parametrize("number", [4, 6])
def test_a_checkpoint_that_comes_home_late_does_not_take_the_place_of_a_newer_one(tmp_path: Path, number: int) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with quick_folder() as folder:
        inject(ledger, folder=folder, number=number, named="replace", dies=True, mirrors=2)
    assert not ledger.bad and ledger.hits == 1
