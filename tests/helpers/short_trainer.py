"""The trainer itself, stopped after two epochs and on a CPU, so that what a page shows can be run as it is printed.

BAND_TRAINER="python short_trainer.py python -m band.train.worker"
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

EPOCHS = 2


def shortened(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration with as little to train as there can be."""
    train = {**config["train"], "max_epochs": EPOCHS, "posterior_samples": 2}
    hyper = {**config["hyper"], "kl_increase_epoch": 1, "l2_increase_epoch": 1}
    found = {**config, "train": train, "hyper": hyper}
    if config.get("pbt", {}).get("members"):
        found["pbt"] = {**config["pbt"], "members": 4, "every_epochs": 1, "burn_in_epochs": 1}
    return found


def main(command: list[str]) -> None:
    """Become the trainer, on a task of short runs."""
    if "--task" in command:
        place = command.index("--task") + 1
        with open(command[place]) as file:
            task = json.load(file)
        task["device"] = "cpu"
        task["runs"] = [{**run, "config": shortened(run["config"])} for run in task["runs"]]
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as short:
            json.dump(task, short)
        command[place] = short.name
    os.environ["BAND_KERNELS"] = "plain"  # two epochs are over before a compiler is
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
