"""A trainer in a few lines that speaks the protocol of band/README.md: its "training" is a chain of hashes.

What a run does is written in its configuration: {"epochs", "epoch_s", "raise_at", "signal_at": [epoch, number], …}.
One that is "gated" does not come to its last epoch as long as there is a file `gate` beside the ledger, and makes its
pauses only as long; one that is "paced" makes them always.
Every epoch that is trained is noted in $FAKE_LEDGER, so that a test can see what was done twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from band.files import append_line, write_atomic
from band.run_dir import CHECKPOINTS, seal

MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")


def expected_state(run: str, *, epochs: int) -> str:
    """Return what a run's training must come to."""
    state = run
    for epoch in range(epochs):
        state = hashlib.sha256(f"{state} {epoch}".encode()).hexdigest()
    return state


class FakeTrainer:
    """The population of one call."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.work = Path(arguments.work)
        self.data = Path(arguments.data)
        task = json.loads(Path(arguments.task).read_text())
        self.configs = {run["id"]: run["config"] for run in task["runs"]}
        for config in self.configs.values():
            config.setdefault("epochs", config.get("train", {}).get("max_epochs"))
            config.update(json.loads(os.environ.get("FAKE_CONFIG", "{}")))
        self.runs = arguments.runs.split(",")
        self.events = os.fdopen(arguments.events_fd, "w")
        self.commands: list[str] = []
        self.step, self.slot = 0, 0
        self.members: dict[str, list[Any]] = {run: [0, run] for run in self.runs}  # epoch, state
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        is_deaf = any(config.get("deaf") for config in self.configs.values())
        for line in sys.stdin:
            self.commands += [] if is_deaf else [line.strip()]
        os._exit(3)

    def send(self, event: str, **fields: Any) -> None:
        self.events.write(json.dumps({"t": time.time(), "event": event, **fields}) + "\n")
        self.events.flush()

    def note(self, text: str) -> None:
        with open(os.environ["FAKE_LEDGER"], "ab", buffering=0) as ledger:
            ledger.write(f"{text}\n".encode())

    def load(self) -> None:
        found = []
        for slot in (0, 1):
            try:
                found.append((json.loads((self.work / f"population.{slot}.pt").read_text()), slot))
            except (OSError, ValueError):
                continue
        if found:
            content, slot = max(found, key=lambda pair: pair[0]["step"])
            self.step, self.slot = content["step"], 1 - slot
            self.members = {run: content["members"][run] for run in self.runs}

    def save(self) -> None:
        data = json.dumps({"step": self.step, "members": self.members}).encode()
        fields = {"slot": self.slot, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        record = {"event": "checkpoint", "step": self.step, "runs": list(self.members), **fields}
        append_line(self.work / CHECKPOINTS, record)
        write_atomic(self.work / f"population.{self.slot}.pt", data)
        self.send(**record)
        self.slot = 1 - self.slot

    def finish(self, run: str) -> None:
        folder = self.work / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.csv").write_text(f"state\n{self.members[run][1]}\n")
        (folder / "outputs.h5").write_bytes(self.data.read_bytes())
        scores = {split: {"bits_per_spike": 0.25, "within_condition_informative": 0.0} for split in ("valid", "test")}
        training = {"outcome": "ok", "epochs": self.members[run][0], "best_epoch": 1, "stopped_by": "max_epochs"}
        result = {"schema": 1, "run_id": run, "training": training, "scores": scores}
        # As in a real result: no two attempts give the same bytes.
        seal(folder, result={**result, "provenance": {"attempt": os.environ.get("BAND_ATTEMPT", "")}})
        self.send("run_finished", run=run, outcome="ok")

    def train_epoch(self, run: str) -> None:
        config = self.configs[run]
        epoch, state = self.members[run]
        if config.get("raise_at") == epoch:
            kind = type(config.get("raise_as", "RuntimeError"), (RuntimeError,), {})
            raise kind(f"{run} cannot go beyond epoch {epoch}")
        if config.get("signal_at", [-1])[0] == epoch:
            os.kill(os.getpid(), config["signal_at"][1])
        if config.get("hog_at") == epoch:
            take_memory(limit_bytes=config.get("hog_limit_bytes", 0))
        is_shut = config.get("gated") and Path(os.environ["FAKE_LEDGER"]).with_name("gate").exists()
        is_paced = is_shut or config.get("paced") or not config.get("gated")
        time.sleep(config.get("epoch_s", 0.0) if is_paced else 0.0)
        if is_shut and epoch + 1 == config["epochs"]:
            return
        self.note(f"epoch {run} {epoch}")
        self.members[run] = [epoch + 1, hashlib.sha256(f"{state} {epoch}".encode()).hexdigest()]

    def has_rehearsed(self, train_s: float) -> bool:
        """Whether it is a canary that has trained for long enough; it has told so then."""
        if train_s < float(os.environ.get("BAND_CANARY_S") or math.inf):
            return False
        self.save()
        epoch, _ = self.members[self.runs[0]]
        share = epoch / self.configs[self.runs[0]]["epochs"]
        self.send("rehearsed", runs=list(self.members), share=share, train_s=train_s, outputs_s=0.0)
        return True

    def train(self) -> int:
        self.load()
        self.send("started", runs=list(self.members), step=self.step)
        source = os.environ.get("BAND_DATA_SOURCE", "nowhere")
        print(f"training {', '.join(self.members)} from step {self.step}, reading from {source}", flush=True)
        start = time.monotonic()
        while self.members:
            for run, (epoch, _) in list(self.members.items()):
                if epoch < self.configs[run]["epochs"]:  # a checkpoint has those too that were at their ends
                    self.train_epoch(run)
            self.step += 1
            most = {run: self.configs[run]["epochs"] for run in self.members}
            progress = {run: {"epoch": self.members[run][0], "max_epochs": most[run]} for run in self.members}
            self.send("epoch", runs=progress, steps_per_s=1.0)
            ended = [run for run in self.members if self.members[run][0] >= most[run]]
            every = self.configs[self.runs[0]].get("checkpoint_every", 1)
            if ended or self.commands or self.step % every == 0:
                self.save()
            for run in ended:
                self.finish(run)
                del self.members[run]
            if "stop" in self.commands and self.members:
                return 4
            if self.members and self.has_rehearsed(time.monotonic() - start):
                return 4
        return 0


def take_memory(*, limit_bytes: int) -> None:
    """Take more and more memory until killed, by the kernel in a cgroup of that limit if one is given."""
    if limit_bytes:
        cgroup = MEMORY_CGROUPS / f"band-test-{os.urandom(4).hex()}"
        cgroup.mkdir()
        (cgroup / "memory.limit_in_bytes").write_text(str(limit_bytes))
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    taken = []
    while True:
        taken.append(b"x" * 20_000_000)
        time.sleep(0.02 if limit_bytes else 0.1)  # Slurm looks once a second


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--task", "--work", "--data", "--runs"):
        parser.add_argument(name, required=True)
    parser.add_argument("--events-fd", type=int, required=True)
    trainer = FakeTrainer(parser.parse_args())
    try:
        return trainer.train()
    except RuntimeError as error:
        trainer.send(
            "failed", runs=trainer.runs, error=type(error).__name__, message=str(error), traceback="Traceback: here"
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
