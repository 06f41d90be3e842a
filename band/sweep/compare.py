"""LFADS beside BAND: runs that differ in the weight of behaviour alone, paired, summarised, chosen among on valid."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from band.sweep.collect import PublishedRun, Setting, named
from band.sweep.statistics import Cell, Summary, summarise

Runs = Mapping[Cell, PublishedRun]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """One score of both models over the same cells; BAND's alone where only BAND can have it."""

    lfads: Summary | None
    band: Summary | None
    difference: Summary | None  # BAND less LFADS, pair by pair


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One setting: LFADS and BAND of one weight, cell by cell; one side is empty where nothing stands beside it."""

    setting: Setting
    weight: float | None  # of BAND's behaviour; None: LFADS alone
    lfads: Runs
    band: Runs

    @property
    def is_pair(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self.lfads and self.band)

    def score(self, name: str) -> Beside:
        """Return a score on test, the sides averaged over the pairs in which both have it."""
        if self.is_pair and not is_band_alone(name):
            lfads, band = _scores(self.lfads, name), _scores(self.band, name)
            both = [cell for cell in lfads if cell in band]
            return Beside(
                lfads=self._summary({cell: lfads[cell] for cell in both}),
                band=self._summary({cell: band[cell] for cell in both}),
                difference=self._summary({cell: band[cell] - lfads[cell] for cell in both}),
            )
        lfads = {} if is_band_alone(name) else _scores(self.lfads, name)
        return Beside(lfads=self._summary(lfads), band=self._summary(_scores(self.band, name)), difference=None)

    def _summary(self, values: Mapping[Cell, float]) -> Summary | None:
        runs = [*self.lfads.values(), *self.band.values()]
        return summarise(values, test_by_train=fmean(run.split["test"] / run.split["train"] for run in runs))


def is_band_alone(name: str) -> bool:
    """Whether a score is one of BAND's own decoder, which LFADS has not got: no difference is taken of those."""
    return "/own/" in name


def _scores(runs: Runs, name: str, *, split: str = "test") -> dict[Cell, float]:
    found = {cell: run.score(name, split=split) for cell, run in runs.items()}
    return {cell: value for cell, value in found.items() if value is not None}


def compare(runs: Iterable[PublishedRun]) -> tuple[list[Comparison], list[str]]:
    """Return a comparison for each setting and weight of behaviour, and what was left out of them, in words.

    A cell counts where both sides ended well; where one lacks it, the pair is left out and named. A setting that no
    run of the other model shares stands alone.
    """
    by_setting: dict[Setting, dict[float, dict[Cell, PublishedRun]]] = defaultdict(lambda: defaultdict(dict))
    diverged = []
    for run in runs:
        if run.outcome == "ok":
            by_setting[run.setting][run.weight][run.cell] = run
        else:
            diverged.append(run.id)
    left_out = [f"diverged: {named(diverged)}"] if diverged else []
    comparisons = []
    for setting, by_weight in by_setting.items():
        lfads = by_weight.pop(0.0, {})
        if not by_weight:
            comparisons.append(Comparison(setting=setting, weight=None, lfads=lfads, band={}))
        for weight, band in sorted(by_weight.items()):
            comparison, missing = _pair(setting, weight, lfads, band)
            comparisons.append(comparison)
            left_out.extend(missing)
    return comparisons, left_out


def _pair(setting: Setting, weight: float, lfads: Runs, band: Runs) -> tuple[Comparison, list[str]]:
    """Return the comparison over the cells that both have, and the runs that stand alone, in words."""
    both = [cell for cell in lfads if cell in band]
    if not both:
        return Comparison(setting=setting, weight=weight, lfads={}, band=band), []
    messages = []
    for model, alone, others in (("LFADS", lfads, band), (f"BAND {weight:g}", band, lfads)):
        other = f"BAND {weight:g}" if model == "LFADS" else "LFADS"
        if ids := [run.id for cell, run in alone.items() if cell not in others]:
            messages.append(f"{model} without its {other}: {named(ids)}")
    pairs = ({cell: side[cell] for cell in both} for side in (lfads, band))
    return Comparison(setting=setting, weight=weight, lfads=next(pairs), band=next(pairs)), messages


def varying(runs: Iterable[PublishedRun]) -> list[str]:
    """Return the parameters, other than the weight of behaviour and what is repeated, that differ between settings."""
    values: dict[str, set[Any]] = defaultdict(set)
    for setting in {run.setting for run in runs}:
        for key, value in setting:
            values[key].add(value)
    return [key for key, found in values.items() if len(found) > 1]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The best setting of each model on valid, chosen per session and fold among equally many; scored on test."""

    comparison: Comparison
    num_candidates: int  # of either model
    lfads_picks: Mapping[Setting, int]  # how often each setting was chosen
    band_picks: Mapping[Setting, int]


def choose(comparisons: Sequence[Comparison], *, by: str) -> tuple[list[Choice], list[str]]:
    """Return, for each weight of behaviour, the choice among settings by a score on valid, and what it left out.

    A candidate is a setting in which LFADS and BAND of that weight both have the score in every cell, so that both
    models choose among equally many. The weight is not chosen: it would give BAND more candidates than LFADS.
    """
    num_settings = len({comparison.setting for comparison in comparisons})
    choices, left_out = [], []
    for weight in sorted({c.weight for c in comparisons if c.weight is not None}):
        pairs = [c for c in comparisons if c.weight == weight and c.is_pair]
        cells = {cell for comparison in pairs for cell in comparison.lfads}
        candidates = [
            c
            for c in pairs
            if cells == set(_scores(c.lfads, by, split="valid")) == set(_scores(c.band, by, split="valid"))
        ]
        if num_settings > 1 and len(candidates) < num_settings:
            left_out.append(
                f"choosing for BAND {weight:g}: {num_settings - len(candidates)} of {num_settings} settings are no "
                "candidates, as LFADS or BAND lacks runs there"
            )
        if len(candidates) > 1:
            choices.append(_choose(candidates, weight, by=by))
    return choices, left_out


def _choose(candidates: Sequence[Comparison], weight: float, *, by: str) -> Choice:
    sides = []
    for side in ("lfads", "band"):
        chosen: dict[Cell, PublishedRun] = {}
        picks: Counter[Setting] = Counter()
        for unit in sorted({(cell.session, cell.fold) for cell in getattr(candidates[0], side)}):
            best = max(candidates, key=lambda c: _mean_on_valid(getattr(c, side), unit, by=by))
            picks[best.setting] += 1
            chosen.update({c: run for c, run in getattr(best, side).items() if (c.session, c.fold) == unit})
        sides.append((chosen, picks))
    (lfads, lfads_picks), (band, band_picks) = sides
    return Choice(
        comparison=Comparison(setting=(), weight=weight, lfads=lfads, band=band),
        num_candidates=len(candidates),
        lfads_picks=lfads_picks,
        band_picks=band_picks,
    )


def _mean_on_valid(runs: Runs, unit: tuple[str, int], *, by: str) -> float:
    scores = _scores(runs, by, split="valid")
    return fmean(value for cell, value in scores.items() if (cell.session, cell.fold) == unit)
