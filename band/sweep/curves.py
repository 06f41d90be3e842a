"""How a run's training has gone, epoch by epoch: from its published metrics, else from its attempts' event streams."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from band.run_dir import SweepDir, read_events
from band.sweep.fold import AttemptFold

METRICS = "metrics.csv"
# Those of most interest, first; others follow in the order of the file.
FIRST = (
    "valid_loss",
    "valid_recon",
    "valid_bits_per_spike",
    "valid_behavior_r2",
    "train_loss",
    "monitor_smoothed",
    "lr",
)
NO_CURVE = ("epoch", "step", "max_epochs")

Curves = dict[str, list[tuple[float, float]]]


class CurveReader:
    """The curves of one run; each look reads only what is new."""

    def __init__(self, sweep: SweepDir, run: str) -> None:
        """Nothing is read yet."""
        self._sweep, self._run = sweep, run
        self._offsets: dict[str, int] = {}
        self._values: dict[str, dict[float, float]] = {}
        self.source = ""  # the file that the curves are of

    def read(self, attempts: Sequence[AttemptFold]) -> Curves:
        """Return {name: [(epoch, value)]}, those of most interest first; of an epoch trained twice the later value."""
        published = self._sweep.run(self._run) / METRICS
        if self.source != str(published):
            with suppress(FileNotFoundError, NotADirectoryError):
                metrics = read_metrics(published)
                if metrics:
                    self._values, self.source = metrics, str(published)
        if self.source != str(published):
            for fold in attempts:
                self._read_stream(fold)
        known = [name for name in FIRST if name in self._values]
        names = [*known, *(name for name in self._values if name not in known)]
        return {name: sorted(self._values[name].items()) for name in names if self._values[name]}

    def _read_stream(self, fold: AttemptFold) -> None:
        path = self._sweep.event_file(fold.task, attempt=fold.attempt)
        events, self._offsets[fold.stem] = read_events(path, offset=self._offsets.get(fold.stem, 0))
        for event in events:
            if event["event"] == "epoch" and isinstance(event.get("runs"), dict):
                self.source = str(path)
                self._add(event["runs"].get(self._run))

    def _add(self, values: Any) -> None:
        if not isinstance(values, dict) or not isinstance(values.get("epoch"), int):
            return
        for name, value in values.items():
            if name not in NO_CURVE and isinstance(value, (int, float)) and math.isfinite(value):
                self._values.setdefault(name, {})[float(values["epoch"])] = float(value)


def read_metrics(path: Path) -> dict[str, dict[float, float]]:
    """Return {column: {epoch, counted from 1: value}} of a metrics.csv; what is no number is left out.

    Raises:
        OSError: the file cannot be read.
    """
    columns: dict[str, dict[float, float]] = {}
    with path.open(newline="", errors="replace") as file:
        for number, row in enumerate(csv.DictReader(file)):
            epoch = _number(row.get("epoch")) if "epoch" in row else float(number)
            for name, text in row.items():
                value = _number(text)
                if name and name not in NO_CURVE and value is not None and epoch is not None:
                    columns.setdefault(name, {})[epoch + 1] = value
    return columns


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
