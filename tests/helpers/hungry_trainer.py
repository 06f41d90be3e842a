"""The fake trainer with an appetite: before it trains, it takes {"needs_mb"} of memory for each member.

Its results are such as a table can be made of.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import fake_trainer

from band.run_dir import RESULT, read_result, seal

STEP_MB, STEP_S = 20, 0.15  # slower than Slurm looks, so that it is killed at its limit


class HungryTrainer(fake_trainer.FakeTrainer):
    """A trainer whose population needs memory."""

    def send(self, event: str, **fields: Any) -> None:
        if event == "run_finished":
            folder = self.work / "runs" / fields["run"]
            result = read_result(folder)
            (folder / RESULT).unlink()
            more = {"config": self.configs[fields["run"]], "dataset": {"digest": "d", "path": "r.h5"}, "split": {}}
            seal(folder, result={**result, **more})
        super().send(event, **fields)

    def train(self) -> int:
        taken = []
        self.load()
        self.send("started", runs=list(self.members), step=self.step)
        for _ in range(0, sum(self.configs[run].get("needs_mb", 0) for run in self.members), STEP_MB):
            taken.append(bytearray(b"x" * (STEP_MB << 20)))
            time.sleep(STEP_S)
        time.sleep(2.0 if taken else 0.0)  # Slurm looks once a second
        return super().train()


if __name__ == "__main__":
    fake_trainer.FakeTrainer = HungryTrainer  # type: ignore[misc]
    sys.exit(fake_trainer.main())
