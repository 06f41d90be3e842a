"""One task from its first step, or its newest checkpoint, to the finished folders of all its runs."""

from __future__ import annotations

import dataclasses
import math
import os
import queue
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from band.config import RunConfig, run_config_from_dict
from band.errors import ConfigError, PublishError
from band.model.kernels import kernels_name
from band.run_dir import verify
from band.train.augmentations import augmentations_of
from band.train.checkpoint import newest_checkpoint, restore_population, save_checkpoint
from band.train.export import export_member, metrics_lines
from band.train.loop import Loop, effective_beta, train_population
from band.train.population import COLUMNS, Population
from band.train.provenance import provenance
from band.train.start import start_population
from band.train.trials import Trials

EPOCH_EVENTS_S = 2.0
STOPPED = 4


class EventSink(Protocol):
    """Where events go."""

    def send(self, event: str, **fields: Any) -> None:
        """Take one event."""


def train_task(
    task: Mapping[str, Any],
    *,
    work: Path,
    data: Path,
    runs: Sequence[str],
    events: EventSink,
    commands: queue.SimpleQueue[str],
) -> int:
    """Train runs of a task until each has a finished folder `work/runs/RUN_ID`; return the worker's exit code.

    Args:
        task: content of task.json.
        work: folder for checkpoints and finished runs; continues from what it holds.
        data: the staged recording.
        runs: ids to train, all of the task or some.
        events: receives started, epoch, checkpoint, run_finished.
        commands: `checkpoint` and `stop`, looked at between steps.

    Raises:
        BandError: a run is not in the task, the recording breaks a rule, a checkpoint is of another configuration.
    """
    known = {run["id"]: run_config_from_dict(run["config"]) for run in task["runs"]}
    if missing := [run for run in runs if run not in known]:
        raise ConfigError(f"task {task['task']} has no run {missing[0]}; it has {', '.join(known)}")
    torch.set_num_threads(int(task.get("threads", 1)))
    device = torch.device(task.get("device", "cpu"))
    configs = {run: known[run] for run in runs}
    for key in ("augmentations", "inference_augmentations"):
        augmentations_of(list(configs.values()), key)  # one that is not there is told before anything is trained
    trials = Trials.load(data, list(configs.values()), device=device)
    # What this process has finished is the supervisor's from then on, who publishes it and takes the folder away.
    finished = {run for run in runs if is_finished(work / "runs" / run)}
    while pending := [run for run in runs if run not in finished]:
        session = _Session(task, trials, configs, work, device, events, commands)
        if not session.train(pending):
            return STOPPED
        finished |= session.finished
    return 0


def is_finished(folder: Path) -> bool:
    """Return whether a run folder is sealed and whole."""
    try:
        verify(folder)
    except PublishError:
        return False
    return True


class _Session:
    """Trains one population to its end."""

    def __init__(
        self,
        task: Mapping[str, Any],
        trials: Trials,
        configs: Mapping[str, RunConfig],
        work: Path,
        device: torch.device,
        events: EventSink,
        commands: queue.SimpleQueue[str],
    ) -> None:
        self._task, self._trials, self._configs, self._work = task, trials, configs, work
        self._device, self._events, self._commands = device, events, commands
        self._places = {run: place for place, run in enumerate(configs)}
        self._slot = 0
        self._packing = list(configs)
        self.finished: set[str] = set()
        self._last_checkpoint = self._last_event = self._last_time = time.monotonic()
        self._last_step = 0
        self._canary_s = float(os.environ.get("BAND_CANARY_S") or 0)

    def train(self, pending: Sequence[str]) -> bool:
        """Train the pending runs, those in the newest checkpoint first; return False where a command stopped it."""
        population = self._population(pending)
        self._announce(population)
        self._last_step = population.step
        for member in population.members:
            self._write_metrics(member.run_id, metrics_lines(member.history, header=True), append=False)
        if ended := [p for p, member in enumerate(population.members) if member.has_ended]:
            self._finish(population, ended)
            population = population.keep([p for p in range(len(population)) if p not in ended])
            if not population.members:
                return True
        loop = Loop(population, self._trials, places=self._places)
        return train_population(loop, on_epoch=self._on_epoch, on_ended=self._on_ended, after_step=self._after_step)

    def _population(self, pending: Sequence[str]) -> Population:
        newest = newest_checkpoint(self._work)
        if newest is not None:
            slot, content = newest
            self._slot, self._packing = 1 - slot, content["meta"]["packing"]
            self._compare_kernels(content["meta"].get("kernels", "plain"))
            held = {member["run_id"] for member in content["meta"]["members"]}
            if wanted := {run: self._configs[run] for run in pending if run in held}:
                return restore_population(content, wanted, self._trials.widths, device=self._device)
        self._packing = list(pending)
        runs = [(run, self._configs[run]) for run in pending]
        return start_population(runs, self._trials, self._places, device=self._device)

    def _compare_kernels(self, before: str) -> None:
        """Say where a training goes on by other recurrences than it began with: no longer bit by bit the same then."""
        if before != (now := kernels_name(str(self._device))):
            print(f"continues with {now} recurrences what began with {before} ones: equal to rounding", flush=True)

    def _announce(self, population: Population) -> None:
        beta = {
            member.run_id: effective_beta(member.config.hyper, member.config.train, self._trials.widths)
            for member in population.members
        }
        for run, values in beta.items():
            numbers = ", ".join(f"{name} {value:g}" for name, value in values.items())
            print(f"{run}: at the end of the KL ramp {numbers} (1 is the evidence bound)")
            print(f"{run}: an epoch a line in {self._work / 'runs' / run / 'metrics.csv'}", flush=True)
        ids = [member.run_id for member in population.members]
        self._events.send("started", runs=ids, step=population.step, effective_beta=beta)

    def _after_step(self, population: Population) -> bool:
        now = time.monotonic()
        population.seconds += now - self._last_time
        self._last_time = now
        command = None if self._commands.empty() else self._commands.get()
        every = population.members[0].config.train.checkpoint_s
        if command is not None or now - self._last_checkpoint >= every:
            self._checkpoint(population)
        return command == "stop" or self._has_rehearsed(population)

    def _has_rehearsed(self, population: Population) -> bool:
        """Stop a canary that has trained for long enough, after its outputs were made as at its end and thrown away."""
        member = population.members[0]
        if not self._canary_s or population.seconds < self._canary_s or not member.epoch or member.batch:
            return False
        self._checkpoint(population)
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self._work, prefix="rehearsal-") as folder:
            self._export(population, 0, folder=Path(folder) / member.run_id)
        share = member.epoch / member.config.train.max_epochs
        seconds = {"train_s": population.seconds, "outputs_s": time.monotonic() - start}
        self._events.send("rehearsed", runs=[m.run_id for m in population.members], share=share, **seconds)
        return True

    def _checkpoint(self, population: Population) -> None:
        saved = save_checkpoint(population, self._work, slot=self._slot, packing=self._packing)
        self._slot = 1 - self._slot
        self._last_checkpoint = time.monotonic()
        self._events.send("checkpoint", **dataclasses.asdict(saved))

    def _on_epoch(self, population: Population) -> None:
        for member in population.members:
            if member.batch == 0 and member.history and not member.first_non_finite:
                self._write_metrics(member.run_id, metrics_lines(member.history[-1:], header=False), append=True)
        now = time.monotonic()
        if now - self._last_event < EPOCH_EVENTS_S and not any(member.has_ended for member in population.members):
            return
        rate = (population.step - self._last_step) / max(now - self._last_event, 1e-9)
        self._last_event, self._last_step = now, population.step
        runs = {member.run_id: _progress(member.history[-1:], member.config) for member in population.members}
        self._events.send("epoch", runs=runs, step=population.step, steps_per_s=round(rate, 3))

    def _on_ended(self, population: Population, ended: list[int]) -> None:
        # First the checkpoint, their final state in it: a run is never published while only an older one exists,
        # so a continuation selects out the same members at the same step.
        self._checkpoint(population)
        self._finish(population, ended)

    def _finish(self, population: Population, ended: list[int]) -> None:
        """Write the finished folders of members that ended, and say so."""
        for position in ended:
            member = population.members[position]
            folder = self._work / "runs" / member.run_id
            outcome = "diverged" if member.schedule.stopped_by == "diverged" else "ok"
            if not is_finished(folder):
                if outcome == "diverged":
                    print(f"{member.run_id} diverged: first tensor not finite is {member.first_non_finite}", flush=True)
                self._export(population, position, folder=folder)
            self.finished.add(member.run_id)
            self._events.send("run_finished", run=member.run_id, outcome=outcome)
        self._last_time = time.monotonic()

    def _export(self, population: Population, position: int, *, folder: Path) -> None:
        run = population.members[position].run_id
        export_member(
            population, position, self._trials, self._places[run],
            folder=folder, dataset=self._task["dataset"], provenance=self._provenance(),
            on_progress=lambda what, share: self._events.send("outputs", run=run, what=what, share=round(share, 3)),
        )  # fmt: skip

    def _provenance(self) -> dict[str, Any]:
        return provenance(
            device=str(self._device), threads=torch.get_num_threads(), packing=self._packing,
            attempt=os.environ.get("BAND_ATTEMPT", self._work.name), kernels=kernels_name(str(self._device)),
        )  # fmt: skip

    def _write_metrics(self, run: str, text: str, *, append: bool) -> None:
        path = self._work / "runs" / run / "metrics.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a" if append else "w", encoding="utf-8") as file:
            file.write(text)


def _progress(rows: list[list[float]], config: RunConfig) -> dict[str, Any]:
    """Return what an epoch event tells of one run; empty before its first epoch."""
    if not rows:
        return {"epoch": 0, "max_epochs": config.train.max_epochs}
    row = dict(zip(COLUMNS, rows[0], strict=True))
    wanted = ("valid_recon", "valid_bits_per_spike", "valid_behavior_r2", "lr")
    values = {name: row[name] for name in wanted if math.isfinite(row[name])}
    return {"epoch": int(row["epoch"]) + 1, "max_epochs": config.train.max_epochs, **values}
