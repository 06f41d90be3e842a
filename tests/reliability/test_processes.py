"""A supervisor struck at any call, of home or scratch, loses nothing: the next submit does the rest."""

from __future__ import annotations

from pathlib import Path

from reliability.ledger import Ledger, quick_folder
from reliability.processes import Bench

STRIKES = 3


def test_a_supervisor_struck_at_calls_drawn_by_seed_loses_nothing_and_publishes_nothing_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with quick_folder() as folder:
        bench = Bench(folder, "supervisor", seed=1)
        for number in range(STRIKES):
            ledger.add(bench.strike(number, seed=1))
    assert not ledger.bad
    assert ledger.hits >= STRIKES - 1
