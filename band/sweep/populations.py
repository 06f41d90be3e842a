"""How large a population pays, as measured on this machine or one like it; kept by device and shape."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from band.errors import SweepError
from band.files import write_atomic
from band.sizes import Shapes, sizes_of
from band.sweep.estimate import calibration_path, num_members
from band.sweep.manifest import Manifest, Run

ENOUGH = 0.95  # of the best rate: of populations that reach it the smallest is taken, whose results come first
TIMEOUT_S = 600.0


def shape_key(config: Mapping[str, Any], shapes: Shapes, *, device: str, threads: int) -> str:
    """Return what the speed of a population depends on beside its size, as a short digest."""
    sizes, train = sizes_of(config, shapes), config["train"]
    batch = min(int(train["batch_size"]), max(sizes.train, 1))
    widths = [sizes.bins, sizes.recon_bins, sizes.neurons, sizes.recon_neurons, sizes.behavior, sizes.external]
    parts = [
        device,
        threads if device == "cpu" else 0,
        config["arch"],
        batch,
        train["dtype"],
        train["matmul_precision"],
        widths,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def paying(key: str) -> int | None:
    """Return how many members pay for a shape, None where that was not measured."""
    rates = _read().get(key, {}).get("rates")
    return best_size({int(members): float(rate) for members, rate in rates.items()}) if rates else None


def shapes_in(
    manifest: Manifest, runs: Iterable[Run], *, device: str, threads: int
) -> dict[str, tuple[Run, dict[str, Any], int]]:
    """Return of each shape among `runs`, by its key, the first run, its configuration, and how many runs have it.

    A search is left out: it says itself how many members it has.
    """
    found: dict[str, tuple[Run, dict[str, Any], int]] = {}
    for run in runs:
        config = manifest.run_config(run)
        if num_members(config) > 1:
            continue
        shapes: Shapes = manifest.datasets[run.dataset].get("shapes") or {}
        key = shape_key(config, shapes, device=device, threads=threads)
        first = found.get(key, (run, config, 0))
        found[key] = (first[0], first[1], first[2] + 1)
    return found


def best_size(rates: Mapping[int, float]) -> int:
    """Return the smallest population that does nearly as many member-steps a second as the best."""
    return min(members for members, rate in rates.items() if rate >= ENOUGH * max(rates.values()))


def keep(key: str, rates: Mapping[int, float]) -> None:
    """Keep what was measured of a shape.

    Raises:
        OSError: the user's cache cannot be written.
    """
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {**_read(), key: {"t": time.time(), "rates": {str(m): rate for m, rate in rates.items()}}}
    write_atomic(path, json.dumps(values).encode())


def measure(
    config: Mapping[str, Any], recording: str, *, device: str, threads: int, most: int, seconds: float
) -> Iterator[tuple[int, float]]:
    """Yield (members, member-steps a second) of growing populations, measured in a process of its own.

    Raises:
        SweepError: it cannot train that configuration here; says why.
    """
    words = [recording, device, str(threads), str(most), str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        [sys.executable, "-m", "band.train.calibration", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        try:
            process.stdin.write(json.dumps(config))
            process.stdin.close()
            for line in process.stdout:
                found = json.loads(line)
                yield int(found["members"]), float(found["steps_per_s"])
            why = process.stderr.read().strip()
            process.wait(TIMEOUT_S)
        finally:
            process.kill()
    if process.returncode:
        reason = (why.splitlines() or ["no reason given"])[-1]
        raise SweepError(f"{recording} cannot be trained with this configuration here: {reason}")


def _path() -> Path:
    return calibration_path().with_name("populations.json")


def _read() -> dict[str, Any]:
    with suppress(OSError, ValueError):
        values = json.loads(_path().read_text())
        if isinstance(values, dict):
            return values
    return {}
