"""The notebook of the main figure: its cells, run in order on a finished sweep."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from published_sweep import publish_sweep, runs_of

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/notebooks/main_figure.ipynb"
BINS, TRIALS, NEURONS = 12, {"train": 24, "test": 8}, 5


def scores(run):
    lead = 0.1 * (run["hyper.behavior_weight"] > 0)
    test = {
        "bits_per_spike": 0.3,
        "behavior_r2/ridge_lag0/mean": 0.6 + lead,
        "deviation_r2/ridge_lag0/mean": 0.2 + lead,
    }
    return {"train": test, "valid": test, "test": test}


def outputs(run):
    """Return factors of which those of BAND tell the velocity exactly, those of LFADS not at all."""
    rng = np.random.default_rng(run["seed"])
    found = {}
    for split, trials in TRIALS.items():
        velocity = rng.normal(size=(trials, BINS, 2))
        noise = rng.normal(size=(trials, BINS, 2))
        told = velocity if run["hyper.behavior_weight"] else noise
        found |= {f"{split}_behavior": velocity, f"{split}_factors": np.concatenate([told, noise], axis=2)}
        found[f"{split}_cond"] = np.arange(trials) % 4
    return found


def run_notebook(names: dict[str, object]) -> None:
    """Run the code cells in order."""
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)


def test_the_notebook_draws_what_the_runs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "experiments/sweeps/demo"
    folder.parent.mkdir(parents=True)
    publish_sweep(folder, runs_of(weights=(0.0, 0.5, 1.0), seeds=2), scores=scores, outputs=outputs)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    run_notebook(names)
    pairs = names["pairs"]
    gain = pairs["test/deviation_r2/ridge_lag0/mean"]  # type: ignore[index]
    assert len(pairs) == 2 and np.allclose(gain["BAND"] - gain["LFADS"], 0.1)  # type: ignore[arg-type]
    true, read = names["velocity"]["BAND"]  # type: ignore[index]
    assert np.abs(true - read).max() < 0.1
    _, missed = names["velocity"]["LFADS"]  # type: ignore[index]
    assert np.abs(true - missed).max() > 1
    assert {len(axis.lines) for axis in names["axes"][:3]} == {2}  # type: ignore[index]
    assert (tmp_path / "main_figure.pdf").stat().st_size > 5000
    plt.close("all")


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
