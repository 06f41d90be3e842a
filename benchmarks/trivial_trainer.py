"""A trainer whose training is a sleep of 0.1 s a run: what is left is what a sweep costs beside its training.

It speaks the protocol of band/README.md and imports no library of arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from band.run_dir import seal

TRAINING_S = 0.1


def main() -> None:
    """Train the runs one after the other, as their processes would on one core."""
    parser = argparse.ArgumentParser()
    for name in ("--task", "--work", "--data", "--runs"):
        parser.add_argument(name, required=True)
    parser.add_argument("--events-fd", type=int, required=True)
    arguments = parser.parse_args()
    with os.fdopen(arguments.events_fd, "w", buffering=1) as events:

        def send(event: str, **fields: object) -> None:
            events.write(json.dumps({"t": time.time(), "event": event, **fields}) + "\n")

        runs = arguments.runs.split(",")
        send("started", runs=runs, step=0)
        for run in runs:
            time.sleep(TRAINING_S)
            folder = Path(arguments.work) / "runs" / run
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.csv").write_text("epoch,valid_recon\n1,0.5\n")
            print(f"{run}: trained", flush=True)
            training = {"outcome": "ok", "epochs": 1, "seconds": TRAINING_S}
            seal(folder, result={"schema": 1, "run_id": run, "training": training, "scores": {}})
            send("run_finished", run=run, outcome="ok")


if __name__ == "__main__":
    main()
