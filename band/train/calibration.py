"""How fast populations of one shape train here, by their size: `band-sweep calibrate` starts this once for each shape.

python -m band.train.calibration RECORDING DEVICE THREADS MOST SECONDS, the configuration as JSON on stdin, prints a
JSON line {"members", "steps_per_s"} for 1, 2, 4 … members, member-steps a second, until more no longer pay.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from band.config import RunConfig, run_config_from_dict
from band.train.device import device_of
from band.train.loop import Loop
from band.train.start import start_population
from band.train.trials import Trials
from band.train.worker import LACKS_MEMORY, OF_THE_GPU, error_name, keep_freed_memory

WARM_UP = 2  # steps that are not counted
PAYS = 1.05  # twice the members pay if they do so much more in all
PATIENCE = 2  # doublings in a row that did not pay, after which no more are tried


def rates(
    config: RunConfig, recording: Path, *, device: torch.device, most: int, seconds: float
) -> Iterator[tuple[int, float]]:
    """Yield (members, member-steps a second) for 1, 2, 4 … members of a configuration, each trained for `seconds`.

    Ends at `most`, where there is no memory for more, or where more did not pay.

    Raises:
        BandError: the recording breaks a rule, or does not fit the configuration.
    """
    best, misses, members = 0.0, 0, 1
    while members <= most and misses < PATIENCE:
        try:
            rate = _rate(config, recording, device=device, members=members, seconds=seconds)
        except (RuntimeError, MemoryError) as error:
            if error_name(error) not in (LACKS_MEMORY, OF_THE_GPU):
                raise
            return
        yield members, rate
        misses = 0 if rate > PAYS * best else misses + 1
        best, members = max(best, rate), 2 * members


def _rate(config: RunConfig, recording: Path, *, device: torch.device, members: int, seconds: float) -> float:
    runs = [(str(seed), replace(config, seed=seed)) for seed in range(members)]
    trials = Trials.load(recording, [own for _, own in runs], device=device)
    places = {run: place for place, (run, _) in enumerate(runs)}
    loop = Loop(start_population(runs, trials, places, device=device), trials, places=places)
    for _ in range(WARM_UP):
        _step(loop)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _step(loop)
        steps += 1
    return members * steps / (time.perf_counter() - start)


def _step(loop: Loop) -> None:
    """Do a step, and begin the next epoch where it was the last of one; nothing is validated."""
    if loop.step():
        loop.restart_epochs()
    if loop.population.params.flat.is_cuda:
        torch.cuda.synchronize()


def main() -> int:
    """Print the rates."""
    recording, device, threads, most, seconds = sys.argv[1:6]
    keep_freed_memory()
    torch.set_num_threads(int(threads))
    config = run_config_from_dict(json.load(sys.stdin))
    torch.set_float32_matmul_precision(config.train.matmul_precision)
    found = rates(config, Path(recording), device=device_of(device), most=int(most), seconds=float(seconds))
    for members, rate in found:
        print(json.dumps({"members": members, "steps_per_s": rate}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
