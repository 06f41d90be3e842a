"""The report of a sweep: which tables it has, and as rows, JSON and terminal tables."""

from __future__ import annotations

import difflib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from band.errors import SweepError
from band.sweep.across import Across, across
from band.sweep.collect import WEIGHT, Collection, PublishedRun, Setting, collect, named
from band.sweep.compare import Beside, Choice, Comparison, choose, compare, is_band_alone, varying
from band.sweep.effects import Effect, effects
from band.sweep.statistics import MIN_UNITS, Summary

CHOOSE_BY = "bits_per_spike"
MAIN = (
    "bits_per_spike",
    "co_bps",
    "fp_bps",
    "behavior_r2/ridge_lag0/mean",
    "behavior_r2/ridge_trial/mean",
    "behavior_r2/own/mean",
)
WITHIN = (
    "deviation_r2/ridge_lag0/mean",
    "deviation_r2/ridge_trial/mean",
    "deviation_r2/own/mean",
    "within_condition_r2/ridge_trial/mean",
    "within_condition_r2/own/mean",
)
ABLATED = (
    "noci/bits_per_spike",
    "noci/behavior_r2/ridge_lag0_refitted/mean",
    "noci/behavior_r2/ridge_lag0_intact/mean",
    "noci/behavior_r2/own/mean",
)
WORDS = {
    "bits_per_spike": "bits/spike",
    "co_bps": "co-bps",
    "fp_bps": "fp-bps",
    "behavior_r2": "behaviour R²",
    "deviation_r2": "deviation R²",
    "within_condition_r2": "within-cond. R²",
    "ridge_lag0": "lag-0 ridge",
    "ridge_trial": "whole-trial ridge",
    "ridge_lag0_refitted": "lag-0 ridge refitted",
    "ridge_trial_refitted": "whole-trial ridge refitted",
    "ridge_lag0_intact": "lag-0 ridge intact",
    "ridge_trial_intact": "whole-trial ridge intact",
    "own": "own decoder",
    "mean": "",
    "noci": "controller off",
    "all_inputs_off": "all inputs off",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting, or one choice among settings: what its first columns say, and the comparison behind it."""

    labels: Sequence[str]
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table: comparisons in rows, scores on test in columns, and what is to be said beneath it."""

    title: str
    labels: Sequence[str]  # heads of the first columns
    rows: Sequence[Row]
    scores: Sequence[str]
    notes: Sequence[str]
    prefix: str = ""  # of the scores' names, said by the title


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a report says."""

    collection: Collection
    comparisons: Sequence[Comparison]
    sections: Sequence[Section]
    left_out: Sequence[str]
    paired_scores: Sequence[str] = ()  # those that LFADS and BAND both have, the main ones first
    effects: Sequence[Effect] = ()
    across: Sequence[Across] = ()  # sweeps beside each other


def build_report(
    folder: Path, *others: Path, metrics: Sequence[str] = (), sort: str | None = None, choose_by: str = CHOOSE_BY
) -> Report:
    """Return the report of the sweep in `folder`, from its published runs alone, or of several sweeps together.

    Args:
        folder: of the sweep.
        others: folders of sweeps that are compared with it.
        metrics: names of scores for a single table; empty: the usual tables.
        sort: a parameter or score to sort rows by, best score first; None: by setting.
        choose_by: the score on valid that chooses among settings, of LFADS and BAND alike.

    Raises:
        SweepError: nothing is published, or a score or key is not known; says what is.
    """
    collection = collect(folder, *others)
    on_test = [run.scores.get("test", {}) for run in collection.runs]
    known = sorted({name for scores in on_test for name in scores})
    found = {name for scores in on_test for name, value in scores.items() if value is not None}
    parameters = varying(collection.runs)
    _check_scores(metrics, known, choose_by=choose_by)
    runs, shared = _unique(collection.runs)
    comparisons, left_out = compare(runs)
    comparisons = _sorted(comparisons, parameters, sort=sort, known=known)
    choices, no_candidates = choose(comparisons, by=choose_by)
    scores = metrics or [name for name in MAIN if name in found]
    notes = _split_notes(collection.runs)
    sections = [_settings_section("Test split", comparisons, parameters, scores=scores, notes=notes)]
    if choices:
        sections.append(_choices_section(choices, parameters, scores=scores, choose_by=choose_by))
    if not metrics:
        sections += _more_sections(comparisons, parameters, collection.runs, found=found)
    paired = [name for name in (*MAIN, *WITHIN) if name in found and not is_band_alone(name)]
    return Report(
        collection=collection,
        comparisons=comparisons,
        sections=sections,
        left_out=[*collection.left_out, *shared, *left_out, *no_candidates],
        paired_scores=paired,
        effects=effects(runs, paired[:4]),
        across=across(collection.runs, paired),
    )


def _unique(runs: Sequence[PublishedRun]) -> tuple[list[PublishedRun], list[str]]:
    """Return runs of equal parameters and data once, as the first sweep has them, and what is left out."""
    found: dict[tuple[Any, ...], PublishedRun] = {}
    twice = []
    for run in runs:
        key = (run.setting, run.weight, run.cell, run.outcome)
        if found.setdefault(key, run) is not run:
            twice.append(run.id)
    words = f"in several sweeps, LFADS beside BAND counts the first sweep's: {named(twice)}"
    return list(found.values()), [words] if twice else []


def _check_scores(metrics: Sequence[str], known: Sequence[str], *, choose_by: str) -> None:
    for name in metrics:
        _check_known(name, known, what="score")
    _check_known(choose_by, [name for name in known if not is_band_alone(name)], what="score of both models")


def _check_known(name: str, known: Sequence[str], *, what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known[:3])
        raise SweepError(f"{name!r} is no {what} of this sweep; there is {', '.join(close)} … (all in results.csv)")


def _sorted(
    comparisons: Sequence[Comparison], parameters: Sequence[str], *, sort: str | None, known: Sequence[str]
) -> list[Comparison]:
    """Return the comparisons by the parameters that vary and by weight, or by what `sort` names."""

    def order(comparison: Comparison, keys: Sequence[str]) -> list[tuple[bool, bool, Any]]:
        values = [comparison.weight if key == WEIGHT else dict(comparison.setting)[key] for key in keys]
        return [(value is not None, isinstance(value, str), 0 if value is None else value) for value in values]

    by_setting = sorted(comparisons, key=lambda c: order(c, [*parameters, WEIGHT]))
    if sort is None:
        return by_setting
    if sort in (*parameters, WEIGHT):
        return sorted(by_setting, key=lambda c: order(c, [sort]))
    _check_known(sort, [*parameters, WEIGHT, *known], what="varied parameter or score")
    return sorted(by_setting, key=lambda c: -_best(c.score(sort)))


def _best(beside: Beside) -> float:
    return max((side.mean for side in (beside.lfads, beside.band) if side is not None), default=float("-inf"))


def _settings_section(
    title: str,
    comparisons: Sequence[Comparison],
    parameters: Sequence[str],
    *,
    scores: Sequence[str],
    notes: Sequence[str] = (),
    prefix: str = "",
) -> Section:
    """Return the table of every setting."""
    rows = []
    for comparison in comparisons:
        values = dict(comparison.setting)
        weight = "-" if comparison.weight is None else f"{comparison.weight:g}"
        rows.append(Row(labels=[*(show(values[key]) for key in parameters), weight], comparison=comparison))
    return Section(
        title=title,
        labels=[*(key.rpartition(".")[2] for key in parameters), "weight"],
        rows=rows,
        scores=scores,
        notes=[*notes, *_statistics_notes(comparisons, scores)],
        prefix=prefix,
    )


def _choices_section(
    choices: Sequence[Choice], parameters: Sequence[str], *, scores: Sequence[str], choose_by: str
) -> Section:
    """Return the table of the settings that valid chooses."""

    def picks(counts: Mapping[Setting, int]) -> str:
        words = []
        for setting, count in counts.items():
            values = dict(setting)
            words.append(" ".join(f"{key.rpartition('.')[2]}={show(values[key])}" for key in parameters))
            words[-1] += f" ({count} of {sum(counts.values())})" if len(counts) > 1 else ""
        return "; ".join(words)

    rows = [
        Row(labels=[f"{c.comparison.weight:g}", picks(c.lfads_picks), picks(c.band_picks)], comparison=c.comparison)
        for c in choices
    ]
    numbers = " and ".join(str(number) for number in sorted({c.num_candidates for c in choices}))
    notes = [
        f"Chosen by {label_of(choose_by)} on valid, per session and fold, among {numbers} settings for LFADS and as "
        "many for BAND. Each weight stands by itself: choosing it too would give BAND more candidates than LFADS.",
        *_statistics_notes([c.comparison for c in choices], scores),
    ]
    return Section(
        title="Test split, settings chosen on valid",
        labels=["weight", "LFADS setting", "BAND setting"],
        rows=rows,
        scores=scores,
        notes=notes,
    )


def _more_sections(
    comparisons: Sequence[Comparison],
    parameters: Sequence[str],
    runs: Sequence[PublishedRun],
    *,
    found: Container[str],
) -> list[Section]:
    """Return the tables within conditions and without the controller, where there are such scores."""
    sections = []
    for title, names, notes, prefix in (
        ("Test split, within conditions", WITHIN, _within_notes(runs), ""),
        ("Test split, controller outputs set to zero", ABLATED, [], "noci/"),
    ):
        if scores := [name for name in names if name in found]:
            section = _settings_section(title, comparisons, parameters, scores=scores, notes=notes, prefix=prefix)
            sections.append(section)
    return sections


def _split_notes(runs: Sequence[PublishedRun]) -> list[str]:
    """Return how many trials each split has, and how it was made."""
    notes: dict[str, None] = {}
    for run in runs:
        counts = " / ".join(f"{run.split[name]} {name}" for name in ("train", "valid", "test"))
        notes[f"{show(run.session)}: trials {counts}; {show(run.split['how'])}"] = None
    shown = list(notes)[:3]
    return [*shown, f"… and {len(notes) - 3} more ways to split"] if len(notes) > 3 else shown


def _within_notes(runs: Sequence[PublishedRun]) -> list[str]:
    """Return, by session, what within-condition scores are read against, and whether they say anything."""
    by_session: dict[str, list[PublishedRun]] = {}
    for run in runs:
        by_session.setdefault(run.session, []).append(run)
    notes = []
    for session, members in by_session.items():
        share, trials, informative, baseline = (
            _mean_score(members, name)
            for name in (
                "within_condition_share/pooled",
                "within_condition_trials",
                "within_condition_informative",
                "baseline/condition_mean_r2/mean",
            )
        )
        if share is None or trials is None or informative is None or baseline is None:
            continue
        verdict = "" if informative == 1 else "NOT INFORMATIVE: "
        notes.append(
            f"{verdict}{show(session)}: {share:.1%} of the behaviour's variance lies within conditions, with "
            f"{trials:.3g} test trials each (10 % and 5 are asked for). Train's mean course of each condition alone: "
            f"behaviour R² {baseline:.3f}."
        )
    return notes


def _mean_score(runs: Sequence[PublishedRun], name: str) -> float | None:
    values = [value for run in runs if (value := run.score(name)) is not None]
    return fmean(values) if values else None


def _statistics_notes(comparisons: Sequence[Comparison], scores: Sequence[str]) -> list[str]:
    """Return what n is and what stands in brackets, once for each kind of summary that occurs."""
    notes: dict[str, None] = {}
    for comparison in comparisons:
        for name in scores:
            beside = comparison.score(name)
            for summary in (beside.difference or beside.band or beside.lfads,):
                if summary is not None:
                    notes[explain(summary)] = None
    return list(notes)


def explain(summary: Summary) -> str:
    """Return in words what n of a summary is and what its brackets mean."""
    if summary.interval is not None:
        how = "Nadeau-Bengio corrected t" if summary.unit == "fold" else "t"
        return f"{summary.count}: [95 % interval] over {summary.unit}s, {how}, seeds averaged first."
    if summary.spread is None:
        return f"{summary.count}: a single point."
    if summary.unit == "split":
        return f"{summary.count}: (lowest … highest) seed, a spread over trainings and no interval."
    return f"{summary.count}: (lowest … highest) {summary.unit}, no interval below {MIN_UNITS} {summary.unit}s."


# What a score is called, and how values are shown ---------------------------------------------------------------------


def label_of(score: str) -> str:
    """Return what people call a score: "behavior_r2/own/mean" is "behaviour R², own decoder"."""
    words = (WORDS.get(part, f"channel {part}" if part.isdecimal() else part) for part in score.split("/"))
    return ", ".join(word for word in words if word)


def show(value: object) -> str:
    """Return a parameter's value for a table; control characters escaped, so that no value commands the terminal."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
