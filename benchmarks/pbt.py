"""Population-based training beside random search: `python -m benchmarks.pbt SEARCH RANDOM [RANDOM …]`, sweep folders.

Of each repeat (seed) the winner of the search and the best of the random draws, chosen on valid by what both monitor,
with their scores on test; where the recording has true rates, R² to these. Seconds are those of training.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from band.run_dir import SweepDir, verify

SCORES = ("bits_per_spike", "behavior_r2/ridge_lag0/mean", "behavior_r2/own/mean")
TRUTH = "rate_r2/mean"


def published(folder: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return (folder, result) of every run of a sweep, verified."""
    return [(run, verify(run)) for run in sorted(SweepDir(Path(folder)).runs.glob("[!.]*"))]


def rate_r2(folder: Path) -> float | None:
    """Return R² of the rates to the true ones on test, the mean over neurons; None where there are none."""
    with h5py.File(folder / "outputs.h5") as file:
        if "test_truth" not in file:
            return None
        truth, rates = (np.asarray(file[f"test_{name}"], dtype=float) for name in ("truth", "output_params"))
    residual = ((rates - truth) ** 2).sum(axis=(0, 1))
    return float((1 - residual / ((truth - truth.mean(axis=(0, 1))) ** 2).sum(axis=(0, 1))).mean())


def row(kind: str, folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown of a run."""
    training, test = result["training"], result["scores"]["test"]
    values: dict[str, Any] = {"seed": result["config"]["seed"], "weight": result["config"]["hyper"]["behavior_weight"]}
    values |= {"kind": kind, "run": result["run_id"], "steps": training["steps"], "seconds": training["seconds"]}
    values |= {"valid monitor": training["best_monitor"], **{name: test.get(name) for name in SCORES}}
    return {**values, TRUTH: rate_r2(folder)}


def best_of(draws: list[tuple[Path, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return, for each seed and weight, the draw that is best on valid; its seconds are those of all draws together."""
    found: dict[tuple[int, float], list[tuple[Path, dict[str, Any]]]] = {}
    for folder, result in draws:
        key = (result["config"]["seed"], result["config"]["hyper"]["behavior_weight"])
        found.setdefault(key, []).append((folder, result))
    rows = []
    for group in found.values():
        lived = [pair for pair in group if pair[1]["training"]["best_monitor"] is not None]
        folder, result = min(lived, key=lambda pair: pair[1]["training"]["best_monitor"])
        populations = {tuple(r["provenance"]["packing"]): r["training"]["seconds"] for _, r in group}
        steps = sum(r["training"]["steps"] for _, r in group)
        chosen = row(f"best of {len(group)} random", folder, result)
        rows.append({**chosen, "steps": steps, "seconds": sum(populations.values())})
    return rows


def main() -> None:
    """Print the comparison as CSV."""
    search, *draws = sys.argv[1:]
    rows = []
    for folder, result in published(search):
        found = row("search", folder, result)
        rows.append({**found, "steps": found["steps"] * result["config"]["pbt"]["members"]})
    rows += best_of([pair for folder in draws for pair in published(folder)])
    rows.sort(key=lambda found: (found["weight"], found["seed"], found["kind"]))
    writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    writer.writeheader()
    for found in rows:
        writer.writerow({key: f"{v:.4f}" if isinstance(v, float) else v for key, v in found.items()})


if __name__ == "__main__":
    main()
