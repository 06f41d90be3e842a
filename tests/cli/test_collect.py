"""`band-sweep collect` writes the table that the report writes, and starts like any command of the login node."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from published_sweep import publish_sweep, runs_of

from band.cli import sweep

SCORES = {"test": {"bits_per_spike": 0.25}, "valid": {"bits_per_spike": 0.5}}


def test_the_table_has_a_row_for_each_published_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [*runs_of(seeds=3), {**runs_of(seeds=4)[3], "published": False}]
    folder = publish_sweep(tmp_path / "s", runs, scores=lambda run: SCORES)
    assert sweep.main(["collect", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"6 runs in {folder / 'report' / 'results.csv'}" in said and "left out: not published yet" in said
    with (folder / "report" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["seed"]) for row in rows] == [(m, s) for m in ("LFADS", "BAND") for s in "012"]
    assert {row["test/bits_per_spike"] for row in rows} == {"0.25"}
    assert sweep.main(["report", str(folder), "--no-figures"]) == 0
    with (folder / "report" / "results.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == rows


def test_what_was_written_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = publish_sweep(tmp_path / "s", runs_of(), scores=lambda run: SCORES)
    assert sweep.main(["collect", str(folder), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values.pop("schema"), values.pop("command")) == (1, "band-sweep collect")
    assert values == {"file": str(folder / "report" / "results.csv"), "runs": 2, "left_out": []}


def test_a_sweep_without_results_has_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = publish_sweep(
        tmp_path / "s", [{**run, "published": False} for run in runs_of()], scores=lambda run: SCORES
    )
    assert sweep.main(["collect", str(folder)]) == 1
    assert "no run of this sweep is published yet" in capsys.readouterr().err
    assert not (folder / "report").exists()
