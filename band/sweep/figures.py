"""Figures of a report; those of whole runs are drawn here: learning curves, behaviour against spikes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from band.sweep.collect import PublishedRun, Setting
from band.sweep.compare import Comparison
from band.sweep.cost import cost_of
from band.sweep.figure_lineage import lineage_figure
from band.sweep.figure_movement import decoded_by_condition, single_trial
from band.sweep.figure_runs import (
    control_ablation,
    cost_figure,
    paired_differences,
    parallel_coordinates,
    parameter_effects,
    pbt_lineage,
)
from band.sweep.figure_style import (
    QUIET,
    Line,
    colours_of,
    label_ends,
    new_figure,
    panel,
    save,
    style,
)
from band.sweep.figure_trials import Decode, example_trials, rasters
from band.sweep.lineage import read_lineages
from band.sweep.report import Report
from band.sweep.shown import Shown, choose_shown, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
SMALLEST_BITS = 0.01  # width of an axis of bits per spike, at least: what is as good as equal shall not look far apart


def draw_figures(
    report: Report, *, folder: Path, decode: Decode, behavior_names: Sequence[str] | None = None
) -> list[Path]:
    """Draw the figures of a report as PDF and PNG into `folder` and return their paths.

    Those of single trials are drawn where the runs kept their outputs.

    Args:
        report: of the sweep.
        folder: where the files go; made if need be.
        decode: the read-out of example trials.
        behavior_names: of the channels; None: two channels are taken as a velocity.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with style():
        for name, draw in _drawings(report, decode=decode, behavior_names=behavior_names).items():
            figure = draw()
            if figure is not None:
                paths += save(figure, folder / name)
    return paths


def _drawings(
    report: Report, *, decode: Decode, behavior_names: Sequence[str] | None
) -> dict[str, Callable[[], Figure | None]]:
    """Return how each figure is drawn, by the name of its files."""
    runs, comparisons = report.collection.runs, report.comparisons
    shown = choose_shown(comparisons)
    return {
        "paired_differences": lambda: paired_differences(comparisons, report.paired_scores),
        "parameter_effects": lambda: parameter_effects(runs, report.effects),
        "parallel_coordinates": lambda: parallel_coordinates(runs, report.paired_scores),
        "learning_curves": lambda: learning_curves(shown),
        "r2_vs_bits": lambda: r2_against_bits(comparisons, shown=shown.setting),
        "decoded_by_condition": lambda: decoded_by_condition(shown, decode=decode, behavior_names=behavior_names),
        "example_trials": lambda: example_trials(shown, decode=decode, behavior_names=behavior_names),
        "rasters": lambda: rasters(shown),
        "single_trial": lambda: single_trial(shown, behavior_names=behavior_names),
        "control_ablation": lambda: control_ablation(shown.by_weight),
        "pbt_lineage": lambda: pbt_lineage(read_lineages((run.folder, run.training) for run in runs)),
        "pbt_hyperparameters": lambda: lineage_figure(shown),
        "cost": lambda: cost_figure(cost_of(report.collection.folders, runs)),
    }


# Learning curves ------------------------------------------------------------------------------------------------------


def read_metrics(run: PublishedRun) -> dict[str, Array]:
    """Return the columns of a run's metrics.csv; NaN where a field is empty."""
    with (run.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else {})}


def learning_curves(shown: Shown) -> Figure | None:
    """Return reconstruction, bits per spike and behaviour against epochs: a thin line a run, a thick one their mean."""
    metrics = {weight: [read_metrics(run) for run in runs] for weight, runs in shown.by_weight.items()}
    metrics = {weight: [m for m in found if len(m.get("epoch", ()))] for weight, found in metrics.items()}
    if not any(metrics.values()):
        return None
    any_run = next(run for runs in shown.by_weight.values() for run in runs)
    unit = "nats a bin and neuron" if any_run.parameters.get("train.recon_reduce_mean") else "nats a trial"
    figure = new_figure(width_mm=183, height_mm=58)
    columns = (
        ("valid_recon", "train_recon", f"reconstruction loss ({unit})", min),
        ("valid_bits_per_spike", "", "bits per spike", max),
        ("valid_behavior_r2", "", "behaviour R², own decoder", max),
    )
    all_axes = figure.subplots(1, 3)
    ends = []
    for axes, (name, dashed, label, best), letter in zip(all_axes, columns, "abc", strict=True):
        axes.set(xlabel="epoch", ylabel=label, title="valid; dashed: train" if dashed else "valid")
        panel(axes, letter)
        ends.append(_curves(axes, metrics, name=name, dashed=dashed, best=best))
    label_ends(figure, all_axes, ends)
    return figure


def _curves(
    axes: Axes,
    metrics: Mapping[float, Sequence[Mapping[str, Array]]],
    *,
    name: str,
    dashed: str,
    best: Callable[..., float],
) -> list[Line]:
    """Draw one score of every run and return where the means end; limits leave the first epochs' fall out."""
    colours = colours_of(list(metrics))
    ends, settled = [], []
    for weight, runs in metrics.items():
        curves = [run[name] for run in runs if name in run and np.isfinite(run[name]).any()]
        if not curves:
            continue
        for run in runs:
            axes.plot(run["epoch"], run[name], color=colours[weight], linewidth=0.4, alpha=0.45)
            if dashed in run:
                axes.plot(run["epoch"], run[dashed], color=colours[weight], linewidth=0.5, alpha=0.6, dashes=(4, 2))
                settled += [run[dashed][len(run[dashed]) // 20 :]]
        shortest = min(len(curve) for curve in curves)
        mean = np.mean([curve[:shortest] for curve in curves], axis=0)
        axes.plot(runs[0]["epoch"][:shortest], mean, color=colours[weight], linewidth=1.3)
        settled += [curve[len(curve) // 20 :] for curve in curves]
        ends.append(Line(float(np.nanmean(mean[-1 - shortest // 20 :])), name_of(weight), colours[weight]))
    if settled:
        values = np.concatenate(settled)
        low, high = np.nanmin(values), np.nanpercentile(values, 99.5)
        low, high = (low, high) if best is min else (np.nanpercentile(values, 0.5), np.nanmax(values))
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    return ends


# Behaviour against spikes ---------------------------------------------------------------------------------------------


def r2_against_bits(comparisons: Sequence[Comparison], *, shown: Setting) -> Figure | None:
    """Return R² by ridge against bits per spike on test: a line joins LFADS and BAND of one seed and fold."""
    read_outs = (
        ("behavior_r2/ridge_lag0/mean", "ridge at zero lag"),
        ("behavior_r2/ridge_trial/mean", "ridge over the trial"),
    )
    runs = [run for c in comparisons for run in (*c.lfads.values(), *c.band.values())]
    drawn = [(name, words) for name, words in read_outs if any(run.score(name) is not None for run in runs)]
    if not drawn:
        return None
    figure = new_figure(width_mm=74 * len(drawn) + 15, height_mm=66)
    colours = colours_of([c.weight for c in comparisons if c.weight is not None])
    all_axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    ends = []
    for axes, (name, words), letter in zip(all_axes, drawn, "ab", strict=False):
        others = [c for c in comparisons if c.setting != shown]
        _draw_pairs(axes, others, name=name, colours=colours, opacity=0.25)
        strong = [c for c in comparisons if c.setting == shown]
        means = _draw_pairs(axes, strong, name=name, colours=colours, opacity=1.0)
        ends.append([Line(y, name_of(weight), colours[weight]) for weight, y in means.items()])
        baseline = [s for run in runs if (s := run.score("baseline/condition_mean_r2/mean")) is not None]
        if baseline:
            axes.axhline(fmean(baseline), color=QUIET, linewidth=0.7, dashes=(4, 2), zorder=0)
            ends[-1].append(Line(fmean(baseline), "condition means", QUIET))
        axes.set(xlabel="bits per spike, test", ylabel=f"behaviour R², {words}, test")
        _limit(axes)
        panel(axes, letter)
    label_ends(figure, all_axes, ends)
    return figure


def _limit(axes: Axes) -> None:
    axes.margins(0.12)
    low, high = axes.get_xlim()
    missing = max(SMALLEST_BITS - (high - low), 0.0)
    axes.set_xlim(low - missing / 2, high + missing / 2)
    axes.locator_params(axis="x", nbins=5)


def _draw_pairs(
    axes: Axes, comparisons: Sequence[Comparison], *, name: str, colours: Mapping[float, str], opacity: float
) -> dict[float, float]:
    """Draw the runs of some settings, pairs joined, and return the mean R² by weight."""
    from matplotlib.collections import LineCollection

    points: dict[float, dict[str, tuple[float, float]]] = {}
    lines = []
    for comparison in comparisons:
        for run in (*comparison.lfads.values(), *comparison.band.values()):
            bits, r2 = run.score("bits_per_spike"), run.score(name)
            if bits is not None and r2 is not None:
                points.setdefault(run.weight, {})[run.id] = (bits, r2)
        both = ((run, comparison.band[cell]) for cell, run in comparison.lfads.items() if cell in comparison.band)
        lines += [
            (points[lfads.weight][lfads.id], points[band.weight][band.id])
            for lfads, band in both
            if lfads.id in points.get(lfads.weight, {}) and band.id in points.get(band.weight, {})
        ]
    axes.add_collection(LineCollection(lines, colors=QUIET, linewidths=0.5, alpha=0.8 * opacity, zorder=1))
    for weight, found in points.items():
        axes.scatter(
            [bits for bits, _ in found.values()],
            [r2 for _, r2 in found.values()],
            s=16,
            zorder=2 + opacity,
            linewidths=0.9,
            edgecolors=colours[weight],
            facecolors="white" if weight == 0 else colours[weight],
            alpha=opacity,
        )
    return {weight: fmean(r2 for _, r2 in found.values()) for weight, found in points.items()}
