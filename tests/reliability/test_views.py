"""Clocks and listings that differ between machines let nobody hold a task, or publish a run, beside another."""

from __future__ import annotations

import time
from pathlib import Path

from reliability import views
from reliability.ledger import Ledger, quick_folder


def test_rivals_with_clocks_an_hour_off_who_see_names_late_never_both_hold_or_publish(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with quick_folder() as folder:
        views.bench(ledger, folder=folder, seed=1, until=time.monotonic() + 60, most=2)
    assert not ledger.bad
    assert ledger.hits >= 2
