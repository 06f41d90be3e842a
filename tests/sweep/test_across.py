"""Sweeps beside each other: what is paired across them, what is said to differ, and what counts once."""

from __future__ import annotations

import json

import pytest
from published_sweep import publish_sweep, runs_of

from band.cli.sweep import main
from band.errors import SweepError
from band.sweep.report import build_report

BITS = "bits_per_spike"


def scores_of(run):
    bits = 0.3 + 0.01 * run["seed"] + 5 * run["hyper.lr"] - 0.001 * run.get("hyper.kl_increase_epoch", 0)
    return {"train": {}, "valid": {BITS: bits}, "test": {BITS: bits}}


def sweep(tmp_path, name, *, weights=(0.0, 1.0), rates=(0.01, 0.02), seeds=2, **constant):
    runs = runs_of(settings=[{"hyper.lr": rate, **constant} for rate in rates], weights=weights, seeds=seeds)
    return publish_sweep(tmp_path / name, runs, scores=scores_of)


def test_runs_of_equal_swept_values_seed_and_model_are_paired_and_what_differs_is_named(tmp_path):
    first = sweep(tmp_path, "slow", **{"hyper.kl_increase_epoch": 100})
    second = sweep(tmp_path, "fast", seeds=3, **{"hyper.kl_increase_epoch": 20})
    found = build_report(first, second).across
    assert [(one.first, one.second, one.weight) for one in found] == [("slow", "fast", 0.0), ("slow", "fast", 1.0)]
    for one in found:
        assert one.differs == {"hyper.kl_increase_epoch": (100, 20)}
        a, b, less = one.by_score[BITS]
        assert less.mean == pytest.approx(0.08) == pytest.approx(b.mean - a.mean) and less.num_seeds == 2


def test_lfads_of_one_sweep_stands_beside_band_of_another(tmp_path):
    report = build_report(sweep(tmp_path, "a", weights=(0.0,)), sweep(tmp_path, "b", weights=(1.0,)))
    assert all(comparison.is_pair for comparison in report.comparisons) and len(report.comparisons) == 2
    assert not report.across


def test_a_run_that_is_in_both_counts_once_and_is_named(tmp_path):
    first, second = sweep(tmp_path, "a"), sweep(tmp_path, "b")
    report = build_report(first, second)
    assert report.sections[0].rows[0].comparison.score(BITS).difference.num_runs == 2
    assert any("in several sweeps, LFADS beside BAND counts the first" in message for message in report.left_out)
    assert all(one.by_score[BITS][2].mean == 0 for one in report.across)


def test_the_command_writes_both_into_one_folder_and_says_so(tmp_path, capsys):
    folders = [sweep(tmp_path, name, **{"hyper.kl_increase_epoch": n}) for name, n in (("a", 10), ("b", 20))]
    assert main(["report", *map(str, folders), "--no-figures"]) == 0
    text = capsys.readouterr().out
    assert "Sweeps beside each other" in text and "difference -0.0100" in text
    page = (tmp_path / "a/report/a+b/report.html").read_text()
    assert "hyper.kl_increase_epoch 10 → 20" in page and "../../../b/runs/r000-maze/" in page
    assert main(["report", *map(str, folders), "--no-figures", "--json", "--into", str(tmp_path / "out")]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == [str(tmp_path / "out" / name) for name in ("results.csv", "results.parquet", "report.html")]


def test_two_sweeps_of_one_name_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(SweepError, match="a sweep named a is given already"):
        build_report(sweep(tmp_path, "a"), sweep(tmp_path / "other", "a"))
