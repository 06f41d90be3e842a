"""What people do to a sweep while it runs neither loses a run nor trains it twice."""

from __future__ import annotations

import time
from pathlib import Path

from reliability.ledger import Ledger, quick_folder
from reliability.people import play

SCENES = (
    "generated again, with more or fewer runs, while it runs",
    "a published run's folder deleted while others run",
)


def test_a_sweep_generated_again_and_a_run_deleted_meanwhile_lose_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with quick_folder() as folder:
        play(ledger, SCENES, folder=folder, seed=1, until=time.monotonic() + 120, most=2)
    assert not ledger.bad and len(ledger.made) == 2
