"""Runs and sweeps in Python: arrays as published, labelled, and as tables."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from published_sweep import publish_sweep, runs_of

import band
from band.errors import ConfigError, DataError, PublishError


def test_a_run_is_one_line_and_its_arrays_are_those_of_the_file(finished: Path) -> None:
    factors = band.load_run(finished).factors
    with h5py.File(finished / "outputs.h5") as file:
        assert list(factors) == ["train", "valid", "test"]
        for split in factors:
            assert np.array_equal(factors[split], file[f"{split}_factors"])
        run = band.load_run(finished)
        assert np.array_equal(run.rates.test, file["test_output_params"])
        assert np.array_equal(run.controls.test, file["test_gen_inputs"])
        assert set(run.arrays) == {name.partition("_")[2] for name in file}
    assert run.config.hyper.behavior_weight == 1.0 and run.bin_ms == 20.0
    assert run.scores == json.loads((finished / "result.json").read_text())["scores"]


def test_metrics_are_the_columns_of_the_file(finished: Path) -> None:
    metrics = band.load_run(finished).metrics
    with open(finished / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1 and list(metrics) == list(rows[0])
    assert metrics["train_loss"].tolist() == [float(row["train_loss"]) for row in rows]


def test_what_is_not_there_is_named(finished: Path, tmp_path: Path) -> None:
    run = band.load_run(finished)
    with pytest.raises(AttributeError, match="did you mean factors"):
        _ = run.factor
    with pytest.raises(KeyError, match="train, valid, test"):
        _ = run.factors["tests"]
    with pytest.raises(PublishError, match=r"result\.json is missing"):
        band.load_run(tmp_path)
    for name in ("result.json", "metrics.csv", "model.pt"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(DataError, match="kept no arrays"):
        _ = band.load_run(tmp_path).factors


def test_labelled_arrays_know_trials_bins_and_splits(finished: Path) -> None:
    labelled = band.load_run(finished).to_xarray()
    assert labelled.factors.dims == ("trial", "bin", "factor") and labelled.behavior.dims[1] == "bin"
    assert labelled.sizes["trial"] == 120 and labelled.time_ms.values[:3].tolist() == [0.0, 20.0, 40.0]
    with h5py.File(finished / "outputs.h5") as file:
        test = labelled.factors[(labelled.split == "test").values]
        assert np.array_equal(test, file["test_factors"])
        by_condition = labelled.output_params.groupby("cond").mean("trial")
        cond = np.concatenate([file[f"{split}_cond"][()] for split in ("train", "valid", "test")])
        rates = np.concatenate([file[f"{split}_output_params"][()] for split in ("train", "valid", "test")])
        np.testing.assert_allclose(by_condition.sel(cond=2), rates[cond == 2].mean(axis=0), rtol=1e-5)


def test_scores_are_a_table(finished: Path) -> None:
    run = band.load_run(finished)
    table = run.to_pandas()
    assert table.loc["bits_per_spike", "test"] == run.scores["test"]["bits_per_spike"]
    assert set(table.columns) == {"train", "valid", "test"} and table.index.name == "score"


def test_a_sweep_is_a_table_with_a_row_a_run(tmp_path: Path) -> None:
    def scores(run: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
        return {"test": {"bits_per_spike": 0.25 + run["seed"], "co_bps": None}}

    table = band.load_sweep(publish_sweep(tmp_path / "s", runs_of(seeds=2), scores=scores))
    assert table["model"].tolist() == ["LFADS", "LFADS", "BAND", "BAND"] and table.index.name == "run_id"
    assert table.groupby("seed")["test/bits_per_spike"].mean().to_dict() == {0: 0.25, 1: 1.25}
    assert table["test/co_bps"].isna().all() and table["hyper.behavior_weight"].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_an_extra_that_is_missing_is_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ConfigError, match=r"pip install 'band-sweep\[xarray\]'"):
        band.load_run(finished).to_xarray()


def test_importing_the_package_and_opening_a_run_import_no_array_library(finished: Path) -> None:
    program = (
        "import sys, band; run = band.load_run(sys.argv[1]); run.scores, run.config; "
        "print(sorted({'torch', 'numpy', 'h5py', 'pandas', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(finished)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
