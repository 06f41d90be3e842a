"""The table says what the ledger holds, and a fault of which something came is not hidden in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability.ledger import Injection, Ledger, main, read


def test_a_ledger_counts_what_struck_and_names_what_something_came_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.add(Injection(kind="damage", fault="half a line", seed="1", hit=True))
    ledger.add(Injection(kind="damage", fault="half a line", seed="2", hit=False))
    assert ledger.hits == 1 and not ledger.bad and main([str(ledger.path)]) == 0
    ledger.add(Injection(kind="damage", fault="half a line", seed="3", hit=True, lost=2, note="a and b"))
    assert main([str(ledger.path)]) == 1
    said = capsys.readouterr().out
    assert "| half a line | 3 | 2 | 2 | 0 | 0 |" in said and "half a line, 3: a and b" in said
    assert list(read([ledger.path])) == ledger.made
