"""At every call that changes a file, killed or failing, an operation leaves what it found or what it was to make."""

from __future__ import annotations

from pathlib import Path

from reliability.calls import step
from reliability.ledger import Ledger, quick_folder

MOST = 100


def test_whatever_call_an_operation_dies_or_fails_at_nothing_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with quick_folder() as folder:
        step(ledger, folder=folder, seed=1, seconds=300, most=MOST)
    assert not ledger.bad
    assert ledger.hits >= MOST / 2


def test_an_operation_that_writes_in_place_is_found_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with quick_folder() as folder:
        step(ledger, folder=folder, seed=1, seconds=300, only="naive")
    found = {injection.fault for injection in ledger.bad}
    assert {"kill -9 before the call", "kill -9 with half of it written"} <= found
    assert any("no space" in fault for fault in found) and "one byte written of many" not in found
