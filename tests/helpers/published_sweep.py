"""Makes a sweep folder with published runs that nobody trained: given scores, made-up curves, given or no outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from signed import signed

from band.config import RunConfig, to_dict
from band.run_dir import SweepDir, seal

COLUMNS = (
    *("epoch", "step", "lr", "train_recon", "train_behavior", "train_kl_ic", "train_kl_co", "train_l2", "train_loss"),
    *("train_grad_norm", "kl_ramp", "l2_ramp", "valid_recon", "valid_behavior", "valid_kl_ic", "valid_kl_co"),
    *("valid_loss", "valid_bits_per_spike", "valid_behavior_r2", "monitor_smoothed"),
)

Config = dict[str, Any]


def runs_of(
    *,
    settings: Iterable[Mapping[str, Any]] = ({},),
    weights: Iterable[float] = (0.0, 1.0),
    sessions: Iterable[str] = ("maze",),
    folds: int = 1,
    seeds: int = 1,
) -> list[dict[str, Any]]:
    """Return the overrides, with "session", of every combination."""
    return [
        {"session": session, "hyper.behavior_weight": weight, "data.fold": fold, "seed": seed, **setting}
        for session in sessions
        for setting in settings
        for weight in weights
        for fold in range(folds)
        for seed in range(seeds)
    ]


def publish_sweep(
    folder: Path,
    runs: Iterable[Mapping[str, Any]],
    *,
    scores: Callable[[Mapping[str, Any]], dict[str, dict[str, float | None]]],
    outputs: Callable[[Mapping[str, Any]], dict[str, np.ndarray]] | None = None,
    outcome: Callable[[Mapping[str, Any]], str] = lambda run: "ok",
    num_folds: int = 1,
    bin_ms: float | None = 10.0,
    epochs: int = 40,
) -> Path:
    """Write a manifest and publish every run with what `scores` and `outputs` return for it; "unpublished" ones not.

    A run whose mapping has "published": False stands in the manifest alone, "retired": True says so there.
    """
    base = to_dict(RunConfig())
    base["data"]["num_folds"] = max(num_folds, 1)
    runs = list(runs)
    sessions = list(dict.fromkeys(run["session"] for run in runs))
    lines: list[dict[str, Any]] = [
        {
            "kind": "sweep",
            "schema": 1,
            "name": folder.name,
            "base": base,
            "datasets": [{"path": f"/data/{name}.h5", "digest": digest_of(name)} for name in sessions],
        }
    ]
    sweep = SweepDir(folder)
    folder.mkdir()
    for number, run in enumerate(runs):
        overrides = {k: v for k, v in run.items() if "." in k or k == "seed"}
        run_id = f"r{number:03d}-{run['session']}"
        lines.append(
            {
                "kind": "run",
                "id": run_id,
                "dataset": sessions.index(run["session"]),
                "overrides": overrides,
                "retired": run.get("retired", False),
            }
        )
        if not run.get("published", True):
            continue
        target = sweep.run(run_id)
        target.mkdir(parents=True)
        write_metrics(target / "metrics.csv", run, epochs=epochs)
        (target / "model.pt").write_bytes(b"weights")
        if outputs is not None:
            write_outputs(target / "outputs.h5", outputs(run), bin_ms=bin_ms)
        seal(target, result=result_of(run_id, run, base=base, scores=scores(run), outcome=outcome(run)))
    sweep.manifest.write_text(signed("\n".join(json.dumps(line) for line in lines)))
    return folder


def digest_of(session: str) -> str:
    """Return a made-up digest."""
    return session.encode().hex().ljust(64, "0")


def result_of(run_id: str, run: Mapping[str, Any], *, base: Config, scores: Any, outcome: str) -> dict[str, Any]:
    """Return the content of a result.json."""
    config = json.loads(json.dumps(base))
    config["data"]["path"] = f"/data/{run['session']}.h5"
    for key, value in run.items():
        section, _, name = key.rpartition(".")
        if section or key == "seed":
            (config[section] if section else config)[name] = value
    return {
        "schema": 1,
        "run_id": run_id,
        "config": config,
        "dataset": {"path": config["data"]["path"], "digest": digest_of(run["session"])},
        "training": {"outcome": outcome, "reason": "", "epochs": 40, "best_epoch": 30, "seconds": 1.5},
        "scores": scores,
        "split": {"train": 80, "valid": 20, "test": 20, "how": "stratified"},
        "provenance": {},
    }


def write_metrics(path: Path, run: Mapping[str, Any], *, epochs: int) -> None:
    """Write learning curves that fall and rise as real ones do."""
    rng = np.random.default_rng([int(run["seed"]), int(10 * run["hyper.behavior_weight"])])
    lines = [",".join(COLUMNS)]
    for epoch in range(epochs):
        done = 1 - np.exp(-6 * epoch / epochs)
        weight = run["hyper.behavior_weight"]
        values: dict[str, Any] = dict.fromkeys(COLUMNS, 0.0) | {
            "epoch": epoch,
            "step": epoch * 2,
            "train_recon": 1390 - 240 * done + rng.normal(0, 3),
            "valid_recon": 1380 - 220 * done + 10 * (epoch / epochs) ** 3 + 4 * weight + rng.normal(0, 3),
            "valid_bits_per_spike": 0.27 * done - 0.02 * weight * done + rng.normal(0, 0.003),
            "valid_behavior_r2": 0.9 * done - 0.1 + 0.02 * weight + rng.normal(0, 0.01) if weight else "",
        }
        lines.append(",".join(str(values[name]) for name in COLUMNS))
    path.write_text("\n".join(lines) + "\n")


def write_outputs(path: Path, arrays: Mapping[str, np.ndarray], *, bin_ms: float | None) -> None:
    """Write the arrays of an outputs.h5."""
    with h5py.File(path, "w") as file:
        if bin_ms is not None:
            file.attrs["bin_ms"] = bin_ms
        for name, values in arrays.items():
            file[name] = values
