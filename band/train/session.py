"""One population from its first step, or its newest checkpoint, to the finished folders of all its runs."""

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

from band.config import RunConfig
from band.errors import PublishError
from band.model.kernels import kernels_name
from band.run_dir import verify
from band.train.checkpoint import newest_checkpoint, restore_population, save_checkpoint
from band.train.export import Searched, export_member, metrics_lines
from band.train.loop import Loop, effective_beta, train_population
from band.train.memory import trials_at_once
from band.train.population import COLUMNS, Member, Population
from band.train.provenance import provenance
from band.train.shards import Launch
from band.train.start import start_population
from band.train.trials import Trials

EPOCH_EVENTS_S = 2.0


class EventSink(Protocol):
    """Where events go."""

    def send(self, event: str, **fields: Any) -> None:
        """Take one event."""


def is_finished(folder: Path) -> bool:
    """Return whether a run folder is sealed and whole."""
    try:
        verify(folder)
    except PublishError:
        return False
    return True


class Session:
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
        launch: Launch,
    ) -> None:
        self._launch = launch
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
        # Of a population that is too large the supervisor makes two.
        at_once = None if len(population) > 1 else trials_at_once(population.members[0].config, self._trials, members=1)
        loop = Loop(population, self._trials, places=self._places, trials_at_once=at_once)
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
        command = self._due(population)
        if command:
            self._checkpoint(population)
        if command == "rehearse":
            self._rehearse(population)
        return command in ("stop", "rehearse")

    def _due(self, population: Population) -> str:
        """Return what is to be done between two steps: "checkpoint"; "stop" or "rehearse", after one; or nothing."""
        if not self._commands.empty():
            return self._commands.get()
        first = population.members[0] if population.members else None
        if self._canary_s and population.seconds >= self._canary_s and first and first.epoch and not first.batch:
            return "rehearse"
        every = next(iter(self._configs.values())).train.checkpoint_s
        return "checkpoint" if time.monotonic() - self._last_checkpoint >= every else ""

    def _rehearse(self, population: Population) -> None:
        """Make the outputs of a canary that has trained for long enough as at its end, and throw them away."""
        member = population.members[0]
        runs = list(dict.fromkeys(self._run_of(m) for m in population.members))
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self._work, prefix="rehearsal-") as folder:
            self._export(population, 0, run=runs[0], folder=Path(folder) / runs[0])
        share = member.epoch / self._configs[runs[0]].train.max_epochs
        seconds = {"train_s": population.seconds, "outputs_s": time.monotonic() - start}
        self._events.send("rehearsed", runs=runs, share=share, **seconds)

    def _run_of(self, member: Member) -> str:
        """Return the run that a member belongs to."""
        return member.run_id

    def _checkpoint(self, population: Population, *, search: Mapping[str, Any] | None = None) -> None:
        saved = save_checkpoint(population, self._work, slot=self._slot, packing=self._packing, search=search)
        self._slot = 1 - self._slot
        self._last_checkpoint = time.monotonic()
        self._events.send("checkpoint", **dataclasses.asdict(saved))

    def _on_epoch(self, population: Population) -> None:
        for member in population.members:
            if member.batch == 0 and member.history and not member.first_non_finite:
                self._write_metrics(member.run_id, metrics_lines(member.history[-1:], header=False), append=True)
        self._send_epoch(population.members, step=population.step)

    def _send_epoch(self, members: Sequence[Member], *, step: int, **more: Any) -> None:
        """Say how far members are, at most so often, and always when one ends."""
        now = time.monotonic()
        if now - self._last_event < EPOCH_EVENTS_S and not any(member.has_ended for member in members):
            return
        rate = (step - self._last_step) / max(now - self._last_event, 1e-9)
        self._last_event, self._last_step = now, step
        runs = {member.run_id: _progress(member.history[-1:], member.config) for member in members}
        self._events.send("epoch", runs=runs, step=step, steps_per_s=round(rate, 3), **more)

    def _on_ended(self, population: Population, ended: list[int]) -> None:
        # First the checkpoint, their final state in it: a run is never published while only an older one exists,
        # so a continuation selects out the same members at the same step.
        self._checkpoint(population)
        self._finish(population, ended)

    def _finish(self, population: Population, ended: list[int]) -> None:
        """Write the finished folders of members that ended, and say so."""
        for position in ended:
            member = population.members[position]
            if member.first_non_finite:
                print(f"{member.run_id} diverged: first tensor not finite is {member.first_non_finite}", flush=True)
            self._publish(population, position, run=member.run_id)
        self._last_time = time.monotonic()

    def _publish(self, population: Population, position: int, *, run: str, searched: Searched | None = None) -> None:
        """Write the finished folder of a run from the member it comes to, unless it is there, and say so."""
        folder = self._work / "runs" / run
        if not is_finished(folder):
            self._export(population, position, run=run, folder=folder, searched=searched)
        self.finished.add(run)
        has_diverged = population.members[position].schedule.stopped_by == "diverged"
        self._events.send("run_finished", run=run, outcome="diverged" if has_diverged else "ok")

    def _export(
        self, population: Population, position: int, *, run: str, folder: Path, searched: Searched | None = None
    ) -> None:
        export_member(
            population, position, self._trials, self._places[population.members[position].run_id],
            folder=folder, dataset=self._task["dataset"], provenance=self._provenance(), searched=searched,
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
