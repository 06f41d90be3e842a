"""Damaged files are named or done without; and the bench sees it when a result is false, or gone."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from band.run_dir import RESULT, seal
from reliability.damage import Bed, damage_files, judge, make_bed
from reliability.ledger import Ledger


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    return make_bed(tmp_path_factory.mktemp("bed"))


def test_no_damage_has_a_command_fail_without_a_word_or_something_false_published(bed: Bed, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    damage_files(ledger, bed, seed=1, until=time.monotonic() + 120, most=6)
    assert not ledger.bad
    assert ledger.hits >= 5


def test_a_false_result_and_one_that_is_gone_are_found_out(bed: Bed) -> None:
    bed.renew()
    runs = bed.sweep.sweep.runs
    (runs / "done-1" / "metrics.csv").write_text("state\nother\n")
    seal(runs / "done-1", result=json.loads((runs / "done-1" / RESULT).read_bytes()))
    shutil.rmtree(runs / "done-2")
    found = judge(bed, target="events/x", goes_on=False)
    assert (found["lost"], found["wrong"]) == (1, 1), found
