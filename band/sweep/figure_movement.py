"""Figures of movements: decoded against recorded by condition, and what a model infers in a single trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from band.sweep.figure_style import BAND, LFADS, QUIET, TRUTH, bare, ink, new_figure
from band.sweep.figure_trials import (
    READ_OUTS,
    VELOCITY,
    Decode,
    Outputs,
    active_neurons,
    choose_read_out,
    choose_trials,
    draw_map,
    order_neurons,
    read_pair,
    scale_rates,
    time_label,
    time_of,
)
from band.sweep.shown import Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
MOST_CONDITIONS = 12  # that have colours of their own
NUM_FACTORS = 5  # principal components of the factors that are drawn
ONSET = 0.2  # of a trial's greatest speed: where movement begins
ROWS = {"factors": "factors\n(components)", "spikes": "spikes\nneuron", "rates": "inferred rates\nneuron"}
LINES = (LFADS, *BAND, "#56B4E9", "#F0E442", TRUTH)


def decoded_by_condition(shown: Shown, *, decode: Decode, behavior_names: Sequence[str] | None) -> Figure | None:
    """Return recorded and decoded hand paths and mean velocities of all test trials, a colour a condition."""
    needed = ("train_factors", "train_behavior", "test_factors", "test_behavior", "test_cond")
    pair = read_pair(shown, needed=needed)
    if not pair or not _is_velocity(pair[0].arrays["test_behavior"], behavior_names):
        return None
    is_over_trial = "ridge_trial" in (read_out := choose_read_out([outputs.run for outputs in pair]))
    recorded = pair[0].arrays["test_behavior"]
    sides = [("recorded", TRUTH, recorded)]
    for outputs in pair:
        factors, behavior, new = (outputs.arrays[n] for n in needed[:3])
        sides.append((outputs.label, outputs.colour, decode(factors, behavior, new, is_over_trial)))
    colours = condition_colours(recorded, pair[0].arrays["test_cond"])
    figure = new_figure(width_mm=20 + 54 * len(sides), height_mm=118)
    grid = figure.subplots(3, len(sides), squeeze=False, sharey="row", height_ratios=(1.6, 1, 1))
    for column, (label, colour, values) in enumerate(sides):
        _paths_by_condition(grid[0, column], values, pair[0], colours)
        grid[0, column].set_title(label, color=ink(colour))
        for k in range(2):
            _courses(grid[1 + k, column], values[:, :, k], pair[0], colours)
            grid[1 + k, column].tick_params(labelbottom=k == 1)
    for row, words in enumerate(("hand path (position)", *VELOCITY)):
        grid[row, 0].set_ylabel(words)
    grid[2, 0].set_xlabel(time_label(pair[0]))
    figure.supxlabel(
        f"test trials; a colour a condition; decoded by {READ_OUTS[read_out]}; thick: mean of a condition",
        fontsize=6.5, color="#595959", x=0.01, ha="left",
    )  # fmt: skip
    return figure


def _is_velocity(behavior: Array, names: Sequence[str] | None) -> bool:
    return behavior.shape[2] == 2 and (names is None or list(names) == list(VELOCITY))


def condition_colours(behavior: Array, cond: Array) -> list[tuple[Array, Any]]:
    """Return the trials of each condition and its colour, by the direction in which its mean movement goes."""
    from matplotlib import colormaps

    labels = np.unique(cond[np.isfinite(cond)] if cond.dtype.kind == "f" else cond)
    trials = [np.flatnonzero(cond == label) for label in labels]
    ends = [np.nansum(np.nanmean(behavior[own], axis=0), axis=0) for own in trials]
    ranks = np.argsort(np.argsort([np.arctan2(y, x) for x, y in ends]))
    share = (ranks + 0.5) / max(len(trials), 1)
    return [(own, colormaps["cividis" if len(trials) > MOST_CONDITIONS else "viridis"](0.95 * s)) for own, s in
            zip(trials, share, strict=True)]  # fmt: skip


def _paths_by_condition(axes: Axes, values: Array, outputs: Outputs, colours: Sequence[tuple[Array, Any]]) -> None:
    seconds = (outputs.bin_ms or 1000.0) / 1000
    for trials, colour in colours:
        paths = np.cumsum(np.nan_to_num(values[trials]), axis=1) * seconds
        paths = np.concatenate([np.zeros_like(paths[:, :1]), paths], axis=1)
        for path in paths:
            axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=0.5, alpha=0.6)
        mean = paths.mean(axis=0)
        axes.plot(mean[:, 0], mean[:, 1], color=colour, linewidth=1.5)
    axes.plot(0, 0, "o", color=TRUTH, markersize=2.5)
    axes.set_aspect("equal", adjustable="datalim")
    bare(axes)


def _courses(axes: Axes, values: Array, outputs: Outputs, colours: Sequence[tuple[Array, Any]]) -> None:
    time = time_of(outputs, values.shape[1])
    axes.axhline(0, color=QUIET, linewidth=0.4, zorder=0)
    for trials, colour in colours:
        for course in values[trials]:
            axes.plot(time, course, color=colour, linewidth=0.3, alpha=0.4)
        axes.plot(time, np.nanmean(values[trials], axis=0), color=colour, linewidth=1.2)


# A single trial -------------------------------------------------------------------------------------------------------


def movement_onset(velocity: Array) -> int | None:
    """Return the bin in which the speed (T, 2) first exceeds a share of its greatest; None where there is none."""
    speed = np.linalg.norm(velocity, axis=1)
    if not np.isfinite(speed).any() or np.nanmax(speed) <= 0:
        return None
    return int(np.argmax(np.nan_to_num(speed) > ONSET * np.nanmax(speed)))


def single_trial(shown: Shown, *, behavior_names: Sequence[str] | None) -> Figure | None:
    """Return spikes, rates, factors and inferred inputs of one test trial around movement, a column a model."""
    pair = read_pair(
        shown,
        needed=("test_recon_data", "test_output_params", "test_factors"),
        wanted=("test_gen_inputs", "test_gen_inputs_spread", "test_behavior", "test_cond"),
    )
    if not pair:
        return None
    spikes = pair[0].arrays["test_recon_data"]
    behavior = pair[0].arrays.get("test_behavior", np.zeros((len(spikes), 1, 1)))
    trials = choose_trials(behavior, pair[0].arrays.get("test_cond"), count=3)
    if not len(trials):
        return None
    trial = int(trials[len(trials) // 2])
    has_speed = "test_behavior" in pair[0].arrays and _is_velocity(behavior, behavior_names)
    rows = ["spikes", "rates", "factors", *(["inferred inputs"] if _has_inputs(pair) else []), *(["speed"] * has_speed)]
    ratios = [{"spikes": 1.5, "rates": 1.5, "speed": 0.7}.get(row, 1.0) for row in rows]
    figure = new_figure(width_mm=25 + 70 * len(pair), height_mm=14 + 22 * sum(ratios))
    grid = figure.subplots(len(rows), len(pair), squeeze=False, sharex=True, sharey="row", height_ratios=ratios)
    _maps(grid, pair, spikes, trial)
    for column, outputs in enumerate(pair):
        grid[0, column].set_title(outputs.label, color=ink(outputs.colour))
        _lines(grid[2, column], components(outputs.arrays["test_factors"], trial), outputs)
        if _has_inputs(pair):
            _inputs(grid[3, column], outputs, trial)
        if has_speed:
            _speed(grid[:, column], behavior[trial], outputs)
        grid[-1, column].set_xlabel(time_label(outputs))
    for axes, row in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(ROWS.get(row, row))
    return figure


def _has_inputs(pair: Sequence[Outputs]) -> bool:
    return all(outputs.arrays.get("test_gen_inputs", np.zeros((1, 1, 0))).shape[2] for outputs in pair)


def _maps(grid: Any, pair: Sequence[Outputs], spikes: Array, trial: int) -> None:
    keep = active_neurons(spikes, bin_ms=pair[0].bin_ms)
    rates = scale_rates([outputs.arrays["test_output_params"][:, :, keep] for outputs in pair])
    neurons = order_neurons(np.concatenate(rates), is_aligned="test_cond" in pair[0].arrays)
    width = pair[0].bin_ms or 1.0
    most = max(1.0, float(np.nanpercentile(spikes, 99.5)))
    for column, found in enumerate(rates):
        draw_map(grid[0, column], spikes[trial][:, keep[neurons]], width=width, cmap="Greys", highest=most)
        draw_map(grid[1, column], found[trial][:, neurons], width=width, cmap="magma_r")


def components(factors: Array, trial: int) -> Array:
    """Return the first principal components (T, C) of the factors (n, T, F), over all trials, in one trial."""
    flat = factors.reshape(-1, factors.shape[2])
    centred = np.nan_to_num(flat - np.nanmean(flat, axis=0))
    _, _, vectors = np.linalg.svd(centred, full_matrices=False)
    own = factors[trial] - np.nanmean(flat, axis=0)
    return np.asarray(own @ vectors[:NUM_FACTORS].T / (np.std(centred @ vectors[0]) or 1.0))


def _lines(axes: Axes, values: Array, outputs: Outputs) -> None:
    time = time_of(outputs, len(values))
    axes.axhline(0, color=QUIET, linewidth=0.4, zorder=0)
    for k in range(values.shape[1]):
        axes.plot(time, values[:, k], color=LINES[k % len(LINES)], linewidth=0.9)


def _inputs(axes: Axes, outputs: Outputs, trial: int) -> None:
    values = outputs.arrays["test_gen_inputs"][trial]
    _lines(axes, values, outputs)
    spread = outputs.arrays.get("test_gen_inputs_spread")
    if spread is not None:
        time = time_of(outputs, len(values))
        for k in range(values.shape[1]):
            low, high = values[:, k] - spread[trial][:, k], values[:, k] + spread[trial][:, k]
            axes.fill_between(time, low, high, color=LINES[k % len(LINES)], alpha=0.15, linewidth=0)


def _speed(column: Any, velocity: Array, outputs: Outputs) -> None:
    """Draw the hand's speed, and in every row of the column where movement begins."""
    time = time_of(outputs, len(velocity))
    speed = np.linalg.norm(velocity, axis=1)
    column[-1].plot(time, speed, color=TRUTH, linewidth=1.0)
    column[-1].set_ylim(0, 1.35 * np.nanmax(speed) or 1.0)  # room for the words above it
    onset = movement_onset(velocity)
    if onset is not None:
        for axes in column:
            axes.axvline(time[onset], color=BAND[0], linewidth=0.8, dashes=(3, 2))
        column[-1].annotate("movement onset", (time[onset], 0.98), xycoords=("data", "axes fraction"), xytext=(3, 0),
                            textcoords="offset points", color=ink(BAND[0]), fontsize=6, va="top")  # fmt: skip
