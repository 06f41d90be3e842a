"""The numbers behind the page: runs in rows, thinned learning curves, and what each picture shows."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from band.sweep.collect import SPLITS, WEIGHT, PublishedRun
from band.sweep.compare import Comparison, is_band_alone, varying
from band.sweep.cost import GIB, Cost
from band.sweep.effects import MOST_VALUES, order
from band.sweep.figure_style import colours_of
from band.sweep.lineage import Lineage
from band.sweep.report import MAIN, WITHIN, Report, label_of, show
from band.sweep.shown import CONTROLS, best_pairs, is_logarithmic, is_numeric, labels_of_settings, name_of, short_labels

MOST_POINTS = 60  # of a learning curve on the page
CURVES = (
    ("valid_recon", "reconstruction loss, valid"),
    ("valid_bits_per_spike", "bits/spike, valid"),
    ("valid_behavior_r2", "behaviour R² of the own decoder, valid"),
)
MOST_AXES = 12  # of parallel coordinates
SCATTERS = ("behavior_r2/ridge_lag0/mean", "behavior_r2/ridge_trial/mean")


Place = Mapping[tuple[str, str], int]  # row of a run, by sweep and id


def _key(run: PublishedRun) -> tuple[str, str]:
    return run.sweep, run.id


def number(value: Any) -> Any:
    """Return a value that JSON has: numbers to five digits, None for what is not finite, all else in words."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return show(value)


def link(run: PublishedRun, *, page: Path) -> str:
    """Return the address of a run's folder as the page has it."""
    return quote(os.path.relpath(run.folder, page), safe="/.") + "/"


def page_data(report: Report, *, page: Path, lineages: Sequence[Lineage], cost: Cost) -> dict[str, Any]:
    """Return all that the page's script is told, but curves and details."""
    runs = report.collection.runs
    columns = columns_of(report)
    weights = sorted({run.weight for run in runs})
    colours = colours_of(weights)
    folders = {run.folder: n for n, run in enumerate(runs)}
    place = {_key(run): n for n, run in enumerate(runs)}
    return {
        "columns": [{key: value for key, value in column.items() if key != "of"} for column in columns],
        "rows": [[number(column["of"](run)) for column in columns] for run in runs],
        "links": [link(run, page=page) for run in runs],
        "series": [{"name": name_of(weight), "colour": colours[weight]} for weight in weights],
        "series_of": [weights.index(run.weight) for run in runs],
        "axes": axes_of(columns, runs),
        "forest": forest(report.comparisons, report.paired_scores, place=place),
        "scatter": scatter(report.comparisons, columns, place=place),
        "effects": effect_panels(report, columns),
        "ablation": ablation(runs),
        "lineage": [lineage_panel(one, run=folders.get(one.folder)) for one in lineages],
        "cost": cost_panel(cost, place=place),
    }


# Runs in rows ---------------------------------------------------------------------------------------------------------


def columns_of(report: Report) -> list[dict[str, Any]]:
    """Return the columns of the table of runs, each with a function of a run; parameters that do not vary are none."""
    runs = report.collection.runs
    found = [
        _column("run", "run", lambda run: run.id, group="run"),
        _column("model", "model", lambda run: name_of(run.weight), group="run"),
    ]
    if len(report.collection.folders) > 1:
        found.append(_column("sweep", "sweep", lambda run: run.sweep, group="run"))
    if len({run.session for run in runs}) > 1:
        found.append(_column("session", "recording", lambda run: run.session, group="run"))
    for key in swept(runs):
        found.append(_column(key, key.rpartition(".")[2], _parameter(key), group="parameter"))
    for name in scores_of(runs):
        found.append(_column(f"test/{name}", label_of(name), _score(name), group="score"))
    found.append(_column("epochs", "epochs", lambda run: run.training.get("epochs"), group="training"))
    found.append(_column("minutes", "minutes", _minutes, group="training"))
    found.append(_column("outcome", "outcome", lambda run: run.outcome, group="training"))
    return found


def _column(key: str, label: str, of: Any, *, group: str) -> dict[str, Any]:
    return {"key": key, "label": label, "group": group, "of": of}


def _parameter(key: str) -> Any:
    return lambda run: run.parameters.get(key)


def _score(name: str) -> Any:
    return lambda run: run.score(name)


def _minutes(run: PublishedRun) -> float | None:
    seconds = run.training.get("seconds")
    return None if seconds is None else round(float(seconds) / 60, 2)


def swept(runs: Sequence[PublishedRun]) -> list[str]:
    """Return the parameters that differ between runs: those of settings, the weight, and what is repeated."""
    repeated = [key for key in (WEIGHT, "data.fold", "seed") if len({run.parameters.get(key) for run in runs}) > 1]
    return [*varying(runs), *repeated]


def scores_of(runs: Sequence[PublishedRun]) -> list[str]:
    """Return the main scores that some run has."""
    return [name for name in (*MAIN, *WITHIN) if any(run.score(name) is not None for run in runs)]


def axes_of(columns: Sequence[Mapping[str, Any]], runs: Sequence[PublishedRun]) -> list[dict[str, Any]]:
    """Return the axes of the parallel coordinates: parameters, then scores that both models have."""
    found = []
    for place, column in enumerate(columns):
        is_shared = column["group"] == "score" and not is_band_alone(column["key"])
        values = [value for run in runs if (value := number(column["of"](run))) is not None]
        if not values or not (column["group"] == "parameter" or is_shared):
            continue
        if not is_shared and (len(set(values)) <= MOST_VALUES or not is_numeric(values)):
            kind: dict[str, Any] = {"type": "category", **_labelled(values)}
        else:
            kind = {"type": "log" if not is_shared and is_logarithmic([float(v) for v in values]) else "value"}
        found.append({"column": place, "label": column["label"], **kind})
    parameters = [axis for axis in found if columns[axis["column"]]["group"] == "parameter"]
    scores = [axis for axis in found if columns[axis["column"]]["group"] == "score"][:4]
    return [*parameters[: MOST_AXES - len(scores)], *scores]


def _labelled(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the distinct values of a parameter, as rows have them, and what they are called."""
    distinct = order(values)
    return {"values": distinct, "data": [show(value) for value in distinct]}


def details(runs: Sequence[PublishedRun]) -> dict[str, Any]:
    """Return every score of every run that is no mere channel's, by split."""
    names = list(dict.fromkeys(name for run in runs for split in SPLITS for name in run.scores.get(split, {})))
    names = [name for name in names if not name.rpartition("/")[2].isdecimal()]
    return {
        "names": [label_of(name) for name in names],
        "keys": names,
        **{split: [[number(run.score(name, split=split)) for name in names] for run in runs] for split in SPLITS},
        "training": [
            {key: number(v) for key, v in run.training.items() if not isinstance(v, (dict, list))} for run in runs
        ],
    }


# Learning curves ------------------------------------------------------------------------------------------------------


def curves(runs: Sequence[PublishedRun]) -> dict[str, Any]:
    """Return the learning curves of every run in at most `MOST_POINTS` epochs, equal lists of epochs once."""
    known: dict[tuple[int, ...], int] = {}
    found = []
    for run in runs:
        epochs, values = read_curves(run.folder / "metrics.csv")
        found.append([known.setdefault(epochs, len(known)), *values])
    return {"labels": [label for _, label in CURVES], "epochs": [list(epochs) for epochs in known], "runs": found}


def read_curves(path: Path) -> tuple[tuple[int, ...], list[list[float | None]]]:
    """Return some epochs, first and last among them, and the value of each curve there; none without a file."""
    rows: list[dict[str, str]] = []
    with suppress(OSError, csv.Error), path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.DictReader(file))
    count = min(len(rows), MOST_POINTS)
    rows = [rows[round(n * (len(rows) - 1) / max(count - 1, 1))] for n in range(count)]
    epochs = tuple(int(float(row.get("epoch") or n)) for n, row in enumerate(rows))
    return epochs, [[_cell(row.get(name)) for row in rows] for name, _ in CURVES]


def _cell(words: str | None) -> float | None:
    with suppress(TypeError, ValueError):
        value: float | None = number(float(words or "nan"))
        return value
    return None


# What pictures show ---------------------------------------------------------------------------------------------------


def forest(comparisons: Sequence[Comparison], scores: Sequence[str], *, place: Place) -> list[dict[str, Any]]:
    """Return, by score, the paired difference of each setting with its interval or spread, and the pairs behind it."""
    pairs = best_pairs(comparisons)
    labels = labels_of_settings(pairs)
    panels = []
    for name in scores[:4]:
        rows = [_forest_row(c, label, name, place) for c, label in zip(pairs, labels, strict=True)]
        if any(row is not None for row in rows):
            panels.append({"label": label_of(name), "labels": short_labels(labels), "rows": rows})
    return panels


def _forest_row(comparison: Comparison, label: str, name: str, place: Place) -> dict[str, Any] | None:
    found = comparison.score(name).difference
    if found is None:
        return None
    points = [
        [number(b - a), place[_key(comparison.band[cell])]]
        for cell, run in comparison.lfads.items()
        if (a := run.score(name)) is not None and (b := comparison.band[cell].score(name)) is not None
    ]
    low, high = found.interval or found.spread or (found.mean, found.mean)
    return {
        "model": name_of(comparison.weight or 0.0),
        "label": label,
        "mean": number(found.mean),
        "low": number(low),
        "high": number(high),
        "what": "95 % interval" if found.interval else "lowest to highest",
        "count": found.count,
        "points": points,
    }


def scatter(comparisons: Sequence[Comparison], columns: Sequence[Mapping[str, Any]], *, place: Place) -> dict[str, Any]:
    """Return which columns are drawn against bits per spike, and which runs are joined by a line."""
    keys = [column["key"] for column in columns]
    joined = [
        [place[_key(run)], place[_key(c.band[cell])]] for c in comparisons for cell, run in c.lfads.items() if c.is_pair
    ]
    panels = [
        {"x": keys.index("test/bits_per_spike"), "y": keys.index(f"test/{name}")}
        for name in SCATTERS
        if f"test/{name}" in keys and "test/bits_per_spike" in keys
    ]
    return {"panels": panels, "joined": joined}


def effect_panels(report: Report, columns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each swept parameter and score, which columns to draw, and whether the parameter has few values."""
    keys = [column["key"] for column in columns]
    panels = []
    for key, score in dict.fromkeys((effect.key, effect.score) for effect in report.effects):
        values = [run.parameters[key] for run in report.collection.runs]
        if key not in keys or f"test/{score}" not in keys or score not in list(report.paired_scores)[:2]:
            continue
        few = len(set(values)) <= MOST_VALUES
        kind = "category" if few or not is_numeric(values) else "value"
        if kind == "value" and is_logarithmic([float(value) for value in values]):
            kind = "log"
        named = _labelled([number(value) for value in values]) if kind == "category" else {"values": [], "data": []}
        panels.append({"x": keys.index(key), "y": keys.index(f"test/{score}"), "type": kind, **named})
    return panels


def ablation(runs: Sequence[PublishedRun]) -> list[dict[str, Any]]:
    """Return, by score, its value with and without inferred inputs, run by run."""
    panels = []
    for intact, off in CONTROLS:
        found = [
            [n, number(a), number(b)]
            for n, run in enumerate(runs)
            if (a := run.score(intact)) is not None and (b := run.score(off)) is not None
        ]
        if found:
            panels.append({"label": label_of(intact), "runs": found})
    return panels


def lineage_panel(lineage: Lineage, *, run: int | None) -> dict[str, Any]:
    """Return the members of a lineage, of the run in that row, and which lead to the winner."""
    where = {(m.generation, m.member): n for n, m in enumerate(lineage.members)}
    return {
        "label": show(lineage.run),
        "run": run,
        "best": [where[m.generation, m.member] for m in lineage.line()],
        "members": [
            {
                "generation": m.generation,
                "member": show(m.member),
                "parent": where.get((m.generation - 1, m.parent)),
                "score": number(m.score),
                "words": [f"{show(key)} {show(value)}" for key, value in list(m.hyperparameters.items())[:12]],
            }
            for m in lineage.members
        ],
    }


def cost_panel(cost: Cost, *, place: Place) -> list[dict[str, Any]]:
    """Return hours and memory of every attempt."""
    return [
        {
            "label": show(f"task {spent.task or '-'}, attempt {spent.attempt or '-'}"),
            "minutes": number(spent.seconds / 60),
            "asked": number(spent.asked_bytes / GIB) if spent.asked_bytes else None,
            "used": number(spent.peak_bytes / GIB) if spent.peak_bytes else None,
            "runs": len(spent.runs),
            "run": next((place[spent.sweep, run] for run in spent.runs if (spent.sweep, run) in place), None),
        }
        for spent in cost.attempts
    ]
