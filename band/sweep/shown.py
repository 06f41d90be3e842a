"""Which of a sweep's runs its figures show, chosen on valid, and how settings and values are named there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from band.sweep.collect import PublishedRun, Setting
from band.sweep.compare import Comparison, varying
from band.sweep.report import show

MOST_ROWS = 24  # of settings in a figure of paired differences
MOST_LETTERS = 34  # of a setting's name beside it
# Scores with inferred inputs, and without them by read-outs that are fitted anew.
CONTROLS = (
    ("bits_per_spike", "noci/bits_per_spike"),
    ("behavior_r2/ridge_lag0/mean", "noci/behavior_r2/ridge_lag0_refitted/mean"),
    ("deviation_r2/ridge_lag0/mean", "noci/deviation_r2/ridge_lag0_refitted/mean"),
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The runs that the figures show: one setting, one session and fold, its seeds, by weight of behaviour."""

    setting: Setting
    by_weight: Mapping[float, Sequence[PublishedRun]]  # seeds in order; 0 is LFADS

    @property
    def pair(self) -> tuple[PublishedRun | None, PublishedRun | None]:
        """LFADS and BAND of one seed; BAND of the weight whose decoded behaviour is best on valid."""
        weights = [w for w in self.by_weight if w > 0]
        weight = max(weights, key=self._behavior_on_valid, default=0.0)
        band = self.by_weight[weight] if weight else []
        lfads = self.by_weight.get(0.0, [])
        seeds = [run.cell.seed for run in (lfads or band) if run.cell.seed in [r.cell.seed for r in (band or lfads)]]
        chosen = [next((r for r in side if r.cell.seed == min(seeds, default=None)), None) for side in (lfads, band)]
        return chosen[0], chosen[1]

    def _behavior_on_valid(self, weight: float) -> float:
        scores = [run.score("behavior_r2/ridge_lag0/mean", split="valid") for run in self.by_weight[weight]]
        return fmean([-math.inf if score is None else score for score in scores])


def choose_shown(comparisons: Sequence[Comparison]) -> Shown:
    """Return what the figures show: the setting with the best bits per spike on valid over LFADS and BAND together."""
    by_setting: dict[Setting, dict[str, PublishedRun]] = {}
    for comparison in comparisons:
        runs = [*comparison.lfads.values(), *comparison.band.values()]
        by_setting.setdefault(comparison.setting, {}).update({run.id: run for run in runs})

    def quality(setting: Setting) -> tuple[int, float]:
        runs = by_setting[setting].values()
        scores = [score for run in runs if (score := run.score("bits_per_spike", split="valid")) is not None]
        return len({run.weight for run in runs}), fmean(scores) if scores else -math.inf

    setting = max(by_setting, key=quality)
    runs = list(by_setting[setting].values())
    first = min((run.cell.session, run.cell.fold) for run in runs)
    runs = [run for run in runs if (run.cell.session, run.cell.fold) == first]
    by_weight = {
        weight: sorted((run for run in runs if run.weight == weight), key=lambda run: run.cell.seed)
        for weight in sorted({run.weight for run in runs})
    }
    return Shown(setting=setting, by_weight=by_weight)


def name_of(weight: float) -> str:
    """Return what a model is called in a figure."""
    return f"BAND {weight:g}" if weight > 0 else "LFADS"


def best_pairs(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons that have both sides; of too many, those with the best bits per spike on valid first."""
    pairs = [comparison for comparison in comparisons if comparison.is_pair]

    def quality(comparison: Comparison) -> float:
        runs = (*comparison.lfads.values(), *comparison.band.values())
        return fmean([run.score("bits_per_spike", split="valid") or 0.0 for run in runs])

    return pairs if len(pairs) <= MOST_ROWS else sorted(pairs, key=quality, reverse=True)[:MOST_ROWS]


def short_labels(labels: Sequence[str]) -> list[str]:
    """Return names that an axis has room for: ranks in place of long ones."""
    if max((len(label) for label in labels), default=0) <= MOST_LETTERS:
        return list(labels)
    return [f"{n}: {label.rpartition(', ')[2]}" for n, label in enumerate(labels, start=1)]


def labels_of_settings(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a name for each comparison: the values in which settings differ, and its weight."""
    runs = [run for c in comparisons for run in (*c.lfads.values(), *c.band.values())]
    keys = varying(runs)
    labels = []
    for comparison in comparisons:
        values = dict(comparison.setting)
        words = [f"{key.rpartition('.')[2]} {show(values[key])}" for key in keys if key in values]
        labels.append(", ".join([*words, name_of(comparison.weight or 0.0)]))
    return labels


def is_numeric(values: Sequence[Any]) -> bool:
    """Return whether all values are numbers."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Return whether numbers spread more evenly by their logarithms: positive, over most of a decade or more."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < 8:
        return False
    middle = abs((fmean(values) - low) / (high - low) - 0.5)
    return abs(fmean(math.log(value / low) for value in values) / math.log(high / low) - 0.5) < middle
