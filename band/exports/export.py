"""Runs handed on: published ones whole and once, running ones by their event streams; a logger's fault harms no run."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from band.errors import BandError
from band.exports.loggers import Log, Logger
from band.files import canonical_json, read_json_object, write_atomic
from band.run_dir import SweepDir, read_events, read_result
from band.sweep.collect import SPLITS, flatten
from band.sweep.manifest import Manifest, Run

STATE = "exported.json"  # in the folder of an export: digests of runs that are in it, and how far streams were read


@dataclass
class Export:
    """One sweep on its way into one folder of a tool; knows what is there already."""

    sweep: SweepDir
    manifest: Manifest
    folder: Path
    logger: Logger
    done: dict[str, str] = field(default_factory=dict)  # run id: digest of its result
    offsets: dict[str, int] = field(default_factory=dict)  # event stream: bytes that were read
    problems: dict[str, str] = field(default_factory=dict)  # run id: why it could not be handed on
    live: dict[str, Log] = field(default_factory=dict)  # running runs that are open

    def __post_init__(self) -> None:
        with suppress(BandError, OSError, ValueError, TypeError, KeyError):
            state = read_json_object(self.folder / STATE)
            self.done, self.offsets = dict(state["done"]), dict(state["offsets"])

    def published(self) -> list[str]:
        """Hand on every published run that is not there yet, and return their ids."""
        added = []
        for run in self.manifest.active():
            with suppress(BandError):  # not published, or damaged: `report` names it
                result = read_result(self.sweep.run(run.id))
                if self.done.get(run.id) != result["digest"] and self._hand_on(run.id, result):
                    self.done[run.id] = result["digest"]
                    added.append(run.id)
                    self._save()
        return added

    def _hand_on(self, run: str, result: Mapping[str, Any]) -> bool:
        try:
            if run in self.live:
                self.live.pop(run).end({}, outcome="running")
            tags = {"sweep": self.manifest.name, "model": model_of(flatten(result["config"]))}
            log = self.logger.open(run, group=self.manifest.name, parameters=flatten(result["config"]), tags=tags)
            for epoch, values in curves_of(self.sweep.run(run) / "metrics.csv"):
                log.curve(epoch, values)
            log.end(scores_of(result), outcome=str(result["training"]["outcome"]))
        except Exception as error:  # of a package that is not ours: named, and the next run is tried
            self.problems[run] = f"{type(error).__name__}: {error}"
            return False
        self.problems.pop(run, None)
        return True

    def running(self) -> int:
        """Hand on what running runs have said since the last look, as NAME-live, and return of how many epochs."""
        known = {run.id: run for run in self.manifest.active()}
        count = 0
        for path in sorted(self.sweep.events.glob("*.jsonl")):
            events, self.offsets[path.name] = read_events(path, offset=self.offsets.get(path.name, 0))
            for event in events:
                told = event.get("runs")
                if event["event"] != "epoch" or not isinstance(told, Mapping):
                    continue
                for run, values in told.items():
                    if run in known and run not in self.done:
                        count += self._follow(known[run], values, t=event["t"])
        self._save()
        return count

    def _follow(self, run: Run, values: Mapping[str, Any], *, t: float) -> bool:
        try:
            if run.id not in self.live:
                parameters = flatten(self.manifest.run_config(run))
                tags = {"sweep": self.manifest.name, "model": model_of(parameters), "live": "yes"}
                name = f"{run.id}-live-{int(t)}"
                self.live[run.id] = self.logger.open(name, group=self.manifest.name, parameters=parameters, tags=tags)
            self.live[run.id].curve(int(values["epoch"]), numbers({k: v for k, v in values.items() if k != "epoch"}))
        except Exception as error:
            self.problems[run.id] = f"{type(error).__name__}: {error}"
            return False
        return True

    def close(self) -> None:
        """Close what is open."""
        for run, log in self.live.items():
            try:
                log.end({}, outcome="running")
            except Exception as error:
                self.problems[run] = f"{type(error).__name__}: {error}"
        self.live.clear()

    @property
    def is_complete(self) -> bool:
        """Whether every run that the sweep asks for is there."""
        return all(run.id in self.done for run in self.manifest.active())

    def _save(self) -> None:
        write_atomic(self.folder / STATE, canonical_json({"done": self.done, "offsets": self.offsets}) + b"\n")


def model_of(parameters: Mapping[str, Any]) -> str:
    """Return LFADS or BAND."""
    return "BAND" if float(parameters["hyper.behavior_weight"]) > 0 else "LFADS"


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a finite number."""
    found = {}
    for name, value in values.items():
        with suppress(TypeError, ValueError):
            number = float(value)
            if math.isfinite(number):
                found[name] = number
    return found


def curves_of(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield epoch by epoch what a metrics.csv has; empty cells left out."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = numbers({name: cell for name, cell in row.items() if cell})
            yield int(values.pop("epoch", 0)), values


def scores_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Return every score as SPLIT/NAME."""
    scores = result["scores"]
    return numbers({f"{split}/{name}": v for split in SPLITS for name, v in scores.get(split, {}).items()})
