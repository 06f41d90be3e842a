"""Which of a sweep's runs its figures show, chosen on valid, and what of their outputs is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from band.sweep.collect import PublishedRun, Setting
from band.sweep.compare import Comparison


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
