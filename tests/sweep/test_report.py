"""The report of published runs: what is paired, chosen, averaged, left out and written, from the folders alone."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from published_sweep import publish_sweep, runs_of
from rich.console import Console
from scipy import stats

from band.cli.sweep import main
from band.errors import SweepError
from band.sweep import figure_style
from band.sweep.collect import collect
from band.sweep.report import build_report, explain
from band.sweep.report_text import as_json, print_report

RIDGE = "behavior_r2/ridge_lag0/mean"


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    monkeypatch.setitem(figure_style.STYLE, "savefig.dpi", 60)


def made_up(run, *, extra=0.0):
    """Scores that depend on everything, so that no two runs agree; BAND gains behaviour and pays in spikes."""
    rng = np.random.default_rng([int(run["seed"]), run["data.fold"], len(run["session"])])
    noise = rng.normal(0, 0.01)
    bits = 0.3 + noise - 0.02 * run["hyper.behavior_weight"] + extra
    r2 = 0.5 + 3 * noise + 0.2 * run["hyper.behavior_weight"]
    own = 0.8 + noise if run["hyper.behavior_weight"] else None
    test = {"bits_per_spike": bits, RIDGE: r2, "behavior_r2/own/mean": own}
    return {"test": test, "valid": {k: v and v + 0.01 for k, v in test.items()}, "train": {"bits_per_spike": 0.4}}


def printed(report, *, width=200):
    out = io.StringIO()
    print_report(report, console=Console(file=out, width=width))
    return out.getvalue()


def row_of(report, *, section=0, row=0):
    return as_json(report)["sections"][section]["rows"][row]


def test_a_row_stands_for_a_setting_and_holds_both_models_and_their_paired_difference(tmp_path):
    runs = runs_of(weights=(0.0, 0.1, 1.0), folds=5, seeds=2)
    report = build_report(publish_sweep(tmp_path / "s", runs, scores=made_up, num_folds=5))
    rows = as_json(report)["sections"][0]["rows"]
    assert [row["behavior_weight"] for row in rows] == [0.1, 1.0]
    folds = [[made_up({"session": "maze", "hyper.behavior_weight": w, "data.fold": f, "seed": s})["test"][RIDGE]
              for s in range(2)] for w, f in product((0.0, 1.0), range(5))]  # fmt: skip
    lfads, band = np.mean(folds, axis=1).reshape(2, 5)
    found = rows[1]["scores"][RIDGE]
    assert found["lfads"]["mean"] == pytest.approx(lfads.mean())
    assert found["band"]["mean"] == pytest.approx(band.mean())
    difference = band - lfads
    half = stats.t.ppf(0.975, 4) * math.sqrt(difference.var(ddof=1) * (1 / 5 + 20 / 80))
    assert found["difference"]["interval"] == pytest.approx([difference.mean() - half, difference.mean() + half])
    assert "n = 5 folds x 2 seeds: [95 % interval] over folds, Nadeau-Bengio corrected t" in printed(report)


def test_seeds_of_one_split_are_shown_as_a_spread_and_called_so(tmp_path):
    report = build_report(publish_sweep(tmp_path / "s", runs_of(seeds=6), scores=made_up))
    text = printed(report)
    assert "n = 1 split x 6 seeds: (lowest … highest) seed, a spread over trainings and no interval." in text
    assert "[" not in text.split("n = 1")[0]
    assert row_of(report)["scores"][RIDGE]["difference"]["interval"] is None


def test_sessions_are_the_units_where_there_are_several(tmp_path):
    runs = runs_of(sessions=[f"day{'x' * k}" for k in range(5)], folds=3, seeds=2)
    report = build_report(publish_sweep(tmp_path / "s", runs, scores=made_up, num_folds=3))
    assert len(report.sections[0].rows) == 1
    difference = report.comparisons[0].score(RIDGE).difference
    assert (difference.unit, difference.num_units, difference.num_runs) == ("session", 5, 30)
    assert explain(difference).startswith("n = 5 sessions x 2 seeds: [95 % interval] over sessions, t")


def test_no_difference_is_taken_of_bands_own_decoder(tmp_path):
    report = build_report(publish_sweep(tmp_path / "s", runs_of(seeds=2), scores=made_up))
    own = row_of(report)["scores"]["behavior_r2/own/mean"]
    assert own["lfads"] is None and own["difference"] is None and own["band"]["mean"] > 0.7


def test_incomplete_pairs_are_named_and_left_out_of_both_sides(tmp_path):
    runs = runs_of(seeds=4)
    runs[2]["published"] = False  # LFADS, seed 2
    folder = publish_sweep(
        tmp_path / "s", runs, scores=made_up, outcome=lambda run: diverged_at(run, seed=3, weight=1.0)
    )
    report = build_report(folder)
    found = row_of(report)
    assert [run.split("-")[0] for run in found["runs"]["lfads"]] == ["r000", "r001"]
    assert [run.split("-")[0] for run in found["runs"]["band"]] == ["r004", "r005"]
    left_out = "\n".join(report.left_out)
    assert "not published yet: r002-maze" in left_out and "diverged: r007-maze" in left_out
    assert "BAND 1 without its LFADS: r006-maze" in left_out and "LFADS without its BAND 1: r003-maze" in left_out
    expected = fmean(made_up(runs[k])["test"][RIDGE] for k in (0, 1))
    assert found["scores"][RIDGE]["lfads"]["mean"] == pytest.approx(expected)


def diverged_at(run, *, seed, weight):
    return "diverged" if (run["seed"], run["hyper.behavior_weight"]) == (seed, weight) else "ok"


def test_a_pair_in_which_one_side_has_no_score_counts_for_neither_side_of_that_score(tmp_path):
    def scores(run):
        found = made_up(run)
        if run["seed"] == 1 and run["hyper.behavior_weight"]:
            found["test"][RIDGE] = None
        return found

    beside = build_report(publish_sweep(tmp_path / "s", runs_of(seeds=3), scores=scores)).comparisons[0]
    assert beside.score(RIDGE).lfads.num_runs == beside.score(RIDGE).band.num_runs == 2
    assert beside.score("bits_per_spike").difference.num_runs == 3


def test_settings_are_paired_with_their_equals_alone_and_one_without_a_partner_stands_alone(tmp_path):
    runs = runs_of(settings=({"hyper.lr": 0.01}, {"hyper.lr": 0.02})) + runs_of(
        settings=({"hyper.lr": 0.03},), weights=(0.0,)
    )
    report = build_report(publish_sweep(tmp_path / "s", runs, scores=made_up))
    rows = as_json(report)["sections"][0]["rows"]
    assert [row["labels"] for row in rows] == [
        {"lr": "0.01", "weight": "1"},
        {"lr": "0.02", "weight": "1"},
        {"lr": "0.03", "weight": "-"},
    ]
    assert rows[2]["scores"][RIDGE]["difference"] is None and rows[2]["runs"]["band"] == []
    assert any("1 of 3 settings are no candidates" in message for message in report.left_out)


def test_settings_are_chosen_on_valid_fold_by_fold_and_scored_on_test(tmp_path):
    rates = (0.01, 0.02, 0.03)

    def scores(run):
        """In fold f, LFADS is best on valid with rate f and BAND with rate 2 - f; test says otherwise."""
        place = rates.index(run["hyper.lr"])
        best = run["data.fold"] if run["hyper.behavior_weight"] == 0 else 2 - run["data.fold"]
        valid = 1.0 if place == best else 0.1 * place
        test = 10.0 * run["data.fold"] + place
        return {"valid": {"bits_per_spike": valid}, "test": {"bits_per_spike": test}, "train": {}}

    runs = runs_of(settings=[{"hyper.lr": rate} for rate in rates], folds=3, seeds=2)
    report = build_report(publish_sweep(tmp_path / "s", runs, scores=scores, num_folds=3))
    chosen = row_of(report, section=1)
    assert chosen["scores"]["bits_per_spike"]["lfads"]["mean"] == pytest.approx(fmean([0, 11, 22]))
    assert chosen["scores"]["bits_per_spike"]["band"]["mean"] == pytest.approx(fmean([2, 11, 20]))
    note = " ".join(report.sections[1].notes)
    assert "among 3 settings for LFADS and as many for BAND" in note


def test_weights_are_not_chosen_among_as_that_would_give_band_more_candidates(tmp_path):
    runs = runs_of(settings=({"hyper.lr": 0.01}, {"hyper.lr": 0.02}), weights=(0.0, 0.1, 1.0))
    report = build_report(publish_sweep(tmp_path / "s", runs, scores=made_up))
    assert [row["behavior_weight"] for row in as_json(report)["sections"][1]["rows"]] == [0.1, 1.0]


def test_a_single_setting_has_no_table_of_choices(tmp_path):
    report = build_report(publish_sweep(tmp_path / "s", runs_of(), scores=made_up))
    assert [section.title for section in report.sections] == ["Test split"]


def test_within_condition_scores_are_marked_where_they_say_nothing(tmp_path):
    def scores(run):
        found = made_up(run)
        found["test"] |= {
            "deviation_r2/ridge_lag0/mean": -1.2,
            "within_condition_share/pooled": 0.044,
            "within_condition_trials": 4.0,
            "within_condition_informative": 0.0,
            "baseline/condition_mean_r2/mean": 0.935,
        }
        return found

    text = printed(build_report(publish_sweep(tmp_path / "s", runs_of(), scores=scores)), width=300)
    assert "NOT INFORMATIVE: maze: 4.4% of the behaviour's variance lies within conditions, with 4 test trials" in text
    assert "behaviour R² 0.935" in text


def test_rows_are_sorted_by_a_parameter_or_the_best_score_first(tmp_path):
    runs = runs_of(settings=[{"hyper.lr": rate} for rate in (0.02, 0.1, 0.01)])
    folder = publish_sweep(tmp_path / "s", runs, scores=lambda run: made_up(run, extra=-abs(run["hyper.lr"] - 0.02)))

    def rates(**kwargs):
        return [row.labels[0] for row in build_report(folder, **kwargs).sections[0].rows]

    assert rates() == rates(sort="hyper.lr") == ["0.01", "0.02", "0.1"]
    assert rates(sort="bits_per_spike") == ["0.02", "0.01", "0.1"]


def test_an_unknown_score_is_answered_with_those_that_are_close(tmp_path):
    folder = publish_sweep(tmp_path / "s", runs_of(), scores=made_up)
    with pytest.raises(SweepError, match=r"'behavior_r2/ridge_lag0' is no score.*behavior_r2/ridge_lag0/mean"):
        build_report(folder, metrics=["behavior_r2/ridge_lag0"])
    with pytest.raises(SweepError, match="no score of both models"):
        build_report(folder, choose_by="behavior_r2/own/mean")


def test_a_sweep_without_results_says_so(tmp_path):
    runs = [{**run, "published": False} for run in runs_of()]
    with pytest.raises(SweepError, match="no run of this sweep is published yet"):
        build_report(publish_sweep(tmp_path / "s", runs, scores=made_up))


def test_damaged_results_and_retired_runs_are_left_out_and_named(tmp_path):
    runs = runs_of(seeds=3)
    runs[0]["retired"] = True
    folder = publish_sweep(tmp_path / "s", runs, scores=made_up)
    result = folder / "runs" / "r001-maze" / "result.json"
    result.write_text(result.read_text().replace("0.4", "0.9", 1))
    collection = collect(folder)
    assert [run.id for run in collection.runs] == ["r002-maze", "r003-maze", "r004-maze", "r005-maze"]
    assert any("r001-maze/result.json is not what its own digest says" in message for message in collection.left_out)
    assert "no longer in the sweep (retired): 1 runs" in collection.left_out


def test_datasets_of_equal_names_and_bins_of_two_widths_stay_apart(tmp_path):
    runs = [{**run, "data.bin_ms": width} for width in (5.0, 10.0) for run in runs_of()]
    comparisons = build_report(publish_sweep(tmp_path / "s", runs, scores=made_up)).comparisons
    assert len(comparisons) == 1 and len(comparisons[0].lfads) == 2
    assert {cell.session[-4:] for cell in comparisons[0].lfads} == {"-5.0", "10.0"}


def test_a_table_wider_than_the_terminal_is_split_by_scores_and_loses_none(tmp_path):
    report = build_report(publish_sweep(tmp_path / "s", runs_of(seeds=2), scores=made_up))
    narrow = printed(report, width=60)
    assert max(len(line) for line in narrow.splitlines()) <= 60
    for words in ("bits/spike", "lag-0 ridge", "own decoder"):
        assert narrow.count(words) == 1
    assert "…" not in narrow.replace(" … ", "").replace("(lowest …", "")


def test_no_table_is_wider_than_a_hundred_columns_on_however_wide_a_terminal(tmp_path):
    settings = ({"hyper.lr": rate, "hyper.cd_rate": share} for rate in (0.01, 0.004) for share in (0.1, 0.3))
    report = build_report(publish_sweep(tmp_path / "s", runs_of(seeds=2, settings=settings), scores=made_up))
    lines = printed(report, width=250).splitlines()
    assert any("BAND-LFADS" in line for line in lines) and max(map(len, lines)) <= 100
    narrow, wide = printed(report, width=80), printed(report, width=250)
    for words in ("bits/spike\n", "lag-0 ridge", "own decoder", "-0.0200 …"):
        assert narrow.count(words) == wide.count(words)


def test_no_value_of_a_configuration_commands_the_terminal(tmp_path):
    runs = runs_of(settings=({"data.group_key": "\x1b[31mred[bold]"}, {"data.group_key": "plain"}))
    text = printed(build_report(publish_sweep(tmp_path / "s", runs, scores=made_up)), width=300)
    assert "\x1b" not in text and "[bold]" in text


def outputs_of(run, *, conditions=3):
    rng = np.random.default_rng(run["seed"])
    arrays = {}
    for split, n in (("train", 30), ("test", 9)):
        factors = rng.standard_normal((n, 12, 4))
        arrays |= {
            f"{split}_factors": factors,
            f"{split}_behavior": factors[:, :, :2] + 0.1 * rng.standard_normal((n, 12, 2)),
            f"{split}_output_params": np.exp(factors @ rng.standard_normal((4, 7)) * 0.3 - 2),
            f"{split}_recon_data": rng.poisson(0.2, (n, 12, 7)).astype(np.float32),
        }
        if conditions:
            arrays[f"{split}_cond"] = np.arange(n) % conditions
    return arrays


OF_RUNS = {"paired_differences", "parallel_coordinates", "learning_curves", "r2_vs_bits", "cost"}
OF_TRIALS = {"example_trials", "rasters", "single_trial"}
FILES = {"report.html", "results.csv", "results.parquet"}


def drawn(folder):
    """Return the figures of a report, each there as PDF and PNG."""
    names = {path.name for path in (folder / "report" / "figures").iterdir()}
    stems = {name.partition(".")[0] for name in names}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("pdf", "png")}
    return stems


@pytest.mark.parametrize("conditions", [3, 0])
def test_the_command_writes_a_table_of_runs_and_figures_whose_text_stays_text(tmp_path, capsys, conditions):
    folder = publish_sweep(
        tmp_path / "s", runs_of(seeds=2), scores=made_up, outputs=lambda run: outputs_of(run, conditions=conditions)
    )
    assert main(["report", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "BAND-LFADS" in text and "Wrote results.csv, results.parquet, report.html and " in text
    assert max(map(len, text.replace(str(folder), "").splitlines())) <= 100
    assert {path.name for path in (folder / "report").iterdir()} == FILES | {"figures"}
    assert drawn(folder) == OF_RUNS | OF_TRIALS | ({"decoded_by_condition"} if conditions else set())
    for path in (folder / "report" / "figures").iterdir():
        data = path.read_bytes()
        assert data.startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG") and len(data) > 3000
        assert path.suffix == ".png" or b"/Type0" in data or b"/TrueType" in data


def test_the_table_of_runs_has_every_run_with_every_parameter_and_score(tmp_path):
    folder = publish_sweep(tmp_path / "s", runs_of(seeds=3), scores=made_up)
    assert main(["report", str(folder), "--no-figures"]) == 0
    with (folder / "report" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {path.name for path in (folder / "report").iterdir()} == FILES
    assert len(rows) == 6 and {row["model"] for row in rows} == {"LFADS", "BAND"}
    for row in rows:
        run = {"session": "maze", "hyper.behavior_weight": float(row["hyper.behavior_weight"]), "data.fold": 0}
        expected = made_up({**run, "seed": int(row["seed"])})
        assert float(row[f"test/{RIDGE}"]) == expected["test"][RIDGE]
        assert (row["valid/behavior_r2/own/mean"] == "") == (expected["valid"]["behavior_r2/own/mean"] is None)
        assert row["arch.gen_dim"] == "100" and row["training.best_epoch"] == "30"


def test_json_is_one_object_with_the_same_numbers(tmp_path, capsys):
    folder = publish_sweep(tmp_path / "s", runs_of(seeds=2), scores=made_up)
    assert main(["report", str(folder), "--json", "--no-figures", "--metric", RIDGE]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_runs"] == 4 and list(found["sections"][0]["rows"][0]["scores"]) == [RIDGE]
    assert found["sections"] == json.loads(json.dumps(as_json(build_report(folder, metrics=[RIDGE]))["sections"]))


def test_runs_without_outputs_have_the_figures_that_need_none(tmp_path):
    folder = publish_sweep(tmp_path / "s", runs_of(), scores=made_up)
    assert main(["report", str(folder)]) == 0
    assert drawn(folder) == OF_RUNS


def test_lfads_alone_and_behaviour_of_one_channel_are_drawn_too(tmp_path):
    def outputs(run):
        arrays = outputs_of(run)
        return {k: v[:, :, :1] if k.endswith("behavior") else v for k, v in arrays.items()}

    folder = publish_sweep(tmp_path / "s", runs_of(weights=(0.0,)), scores=made_up, outputs=outputs)
    assert main(["report", str(folder), "--behavior", "grip force"]) == 0
    assert drawn(folder) == (OF_RUNS | OF_TRIALS) - {"paired_differences", "parallel_coordinates"}


def test_reporting_changes_no_published_file_and_can_be_repeated(tmp_path):
    folder = publish_sweep(tmp_path / "s", runs_of(), scores=made_up)
    before = {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()}
    assert main(["report", str(folder), "--no-figures"]) == main(["report", str(folder), "--no-figures"]) == 0
    assert {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()} == before


def test_help_imports_neither_numpy_nor_matplotlib():
    code = (
        "import sys; from band.cli.sweep import main\ntry: main(['report', '--help'])\nfinally: print([*sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert "usage: band-sweep report" in done.stdout
    assert not {"'numpy'", "'matplotlib'", "'h5py'", "'torch'"} & set(
        done.stdout.split("[")[-1].strip("]\n").split(", ")
    )


def test_a_sweep_is_reported_from_another_place_than_it_was_made_in(tmp_path):
    folder = publish_sweep(tmp_path / "s", runs_of(), scores=made_up)
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    assert main(["report", str(moved), "--no-figures"]) == 0


def test_parquet_has_the_rows_and_columns_of_the_table_with_types(tmp_path):
    pandas = pytest.importorskip("pandas")
    runs = runs_of(settings=({"hyper.lr": 0.01}, {"hyper.lr": 1}), seeds=2)
    folder = publish_sweep(tmp_path / "s", runs, scores=made_up)
    assert main(["report", str(folder), "--no-figures"]) == 0
    table = pandas.read_parquet(folder / "report" / "results.parquet")
    text = pandas.read_csv(folder / "report" / "results.csv")
    assert list(table.columns) == list(text.columns) and len(table) == 8
    assert table["hyper.lr"].tolist() == text["hyper.lr"].tolist() and table["arch.causal_con"].dtype == bool
    assert table["test/behavior_r2/own/mean"].isna().sum() == 4


def test_without_pyarrow_all_else_is_written_and_the_line_that_installs_it_is_printed(tmp_path, monkeypatch, capsys):
    folder = publish_sweep(tmp_path / "s", runs_of(), scores=made_up)
    monkeypatch.setattr("band.sweep.parquet.is_available", lambda: False)
    assert main(["report", str(folder), "--no-figures"]) == 0
    assert "pip install 'band-sweep[parquet]'" in capsys.readouterr().out
    assert {path.name for path in (folder / "report").iterdir()} == {"results.csv", "report.html"}
