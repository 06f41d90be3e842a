"""Figures of single test trials: true and decoded behaviour, spikes beside inferred rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from band.sweep.collect import PublishedRun
from band.sweep.figure_style import QUIET, TRUTH, as_text, bare, colours_of, ink, new_figure
from band.sweep.shown import Shown, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Array = NDArray[Any]
# (train factors, train behaviour, factors, whether over the whole trial) to behaviour, by the ridges of the scores.
Decode = Callable[[Array, Array, Array, bool], Array]

VELOCITY = ("velocity x", "velocity y")
MAX_EXAMPLES = 5
MAX_CHANNELS = 3
MIN_RATE = 1.0  # spikes a second; below it a neuron's own range shows mere noise
READ_OUTS = {"behavior_r2/ridge_lag0/mean": "ridge at zero lag", "behavior_r2/ridge_trial/mean": "ridge over the trial"}


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What one run kept of its trials, as far as a figure asked for it."""

    label: str
    colour: str
    run: PublishedRun
    bin_ms: float | None
    arrays: Mapping[str, Array]


def read_outputs(run: PublishedRun, *, needed: Sequence[str], wanted: Sequence[str], colour: str) -> Outputs | None:
    """Return the named arrays of a run's outputs.h5; None where it lacks one that is needed."""
    import h5py

    path = run.folder / "outputs.h5"
    if not path.is_file():
        return None
    with h5py.File(path) as file:
        if any(name not in file for name in needed):
            return None
        arrays = {name: np.asarray(file[name]) for name in (*needed, *wanted) if name in file}
        width = file.attrs.get("bin_ms", run.parameters.get("data.bin_ms"))
    return Outputs(
        label=name_of(run.weight),
        colour=colour,
        run=run,
        bin_ms=None if width is None else float(width),
        arrays=arrays,
    )


def read_pair(shown: Shown, *, needed: Sequence[str], wanted: Sequence[str] = ()) -> list[Outputs]:
    """Return the outputs of the LFADS and the BAND run that are shown, those that kept what is needed."""
    colours = colours_of(list(shown.by_weight))
    found = [
        read_outputs(run, needed=needed, wanted=wanted, colour=colours[run.weight])
        for run in shown.pair
        if run is not None
    ]
    return [outputs for outputs in found if outputs is not None]


def time_of(outputs: Outputs, num_bins: int) -> Array:
    """Return when bins begin, in ms where their width is known, else in bins."""
    return np.arange(num_bins) * (outputs.bin_ms or 1.0)


def time_label(outputs: Outputs) -> str:
    """Return what an axis of time is called."""
    return "time (bins)" if outputs.bin_ms is None else "time (ms)"


def _head(figure: Figure, entries: Sequence[tuple[str, str]], *, remark: str) -> None:
    """Write (text, colour) side by side above the axes, each with a piece of its line, and a remark after them."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=1.5, label=text) for text, colour in entries]
    handles.append(Line2D([], [], color=QUIET, linewidth=0, label=remark))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), frameon=False,
        labelcolor=[ink(str(handle.get_color())) for handle in handles],
        handlelength=1.2, columnspacing=2, borderaxespad=0.3,
    )  # fmt: skip


# True and decoded behaviour -------------------------------------------------------------------------------------------


def choose_trials(behavior: Array, cond: Array | None, *, count: int) -> Array:
    """Return trials to show, chosen without looking at any model: spread over conditions where there are some.

    Only trials with all of their behaviour (n, Tb, K) observed; the first of each of `count` conditions (n,) spread
    evenly over them, else trials spread evenly over the split.
    """
    whole = np.flatnonzero(~np.isnan(behavior).any(axis=(1, 2)))
    if cond is not None and len(whole):
        _, first = np.unique(cond[whole], return_index=True)
        whole = whole[first]
    places = np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int)
    return np.asarray(whole[np.unique(places)])


def example_trials(shown: Shown, *, decode: Decode, behavior_names: Sequence[str] | None) -> Figure | None:
    """Return true and decoded behaviour of a few test trials, and the paths that velocities integrate to."""
    needed = ("train_factors", "train_behavior", "test_factors", "test_behavior")
    pair = read_pair(shown, needed=needed, wanted=["test_cond"])
    trials = (
        choose_trials(pair[0].arrays["test_behavior"], pair[0].arrays.get("test_cond"), count=MAX_EXAMPLES)
        if pair
        else ()
    )
    if not len(trials):
        return None
    true = pair[0].arrays["test_behavior"]
    read_out = choose_read_out([outputs.run for outputs in pair])
    is_over_trial = "ridge_trial" in read_out
    decoded = []
    for outputs in pair:
        factors, behavior, new = (outputs.arrays[n] for n in ("train_factors", "train_behavior", "test_factors"))
        decoded.append(decode(factors, behavior, new, is_over_trial))
    labels = list(behavior_names or (VELOCITY if true.shape[2] == 2 else ()))
    labels += [f"channel {k}" for k in range(len(labels), true.shape[2])]
    has_path = labels[:2] == list(VELOCITY)
    channels = labels[:MAX_CHANNELS]
    heights = [1.0] * len(channels) + [1.5] * has_path
    figure = new_figure(width_mm=183, height_mm=22 * sum(heights) + 18)
    grid = figure.subplots(
        len(heights), len(trials), squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights}
    )
    for column, trial in enumerate(trials):
        for k in range(len(channels)):
            _traces(grid[k, column], pair, true[trial, :, k], [d[trial, :, k] for d in decoded])
            grid[k, column].tick_params(labelbottom=k == len(channels) - 1)
        grid[0, column].set_title(_name_of_trial(trial, pair[0].arrays.get("test_cond")))
        if has_path:
            _paths(grid[-1, column], pair, true[trial], [d[trial] for d in decoded])
    grid[len(channels) - 1, 0].set_xlabel(time_label(pair[0]))
    for k, label in enumerate(channels):
        grid[k, 0].set_ylabel(as_text(label))
    if has_path:
        grid[-1, 0].set_ylabel("hand path")
    r2s = [o.run.score(read_out) for o in pair]
    decoders = [(o.label + ("" if r2 is None else f", R² {r2:.2f}"), o.colour) for o, r2 in zip(pair, r2s, strict=True)]
    remark = f"decoded by {READ_OUTS[read_out]}; R² over all test trials"
    _head(figure, [("recorded", TRUTH), *decoders], remark=remark)
    return figure


def choose_read_out(runs: Sequence[PublishedRun]) -> str:
    """Return the score whose read-out is shown for all of the runs: that with the best mean over them on valid."""

    def quality(name: str) -> float:
        scores = [run.score(name, split="valid") for run in runs]
        return fmean(-math.inf if score is None else score for score in scores)

    return max(READ_OUTS, key=quality)


def _name_of_trial(trial: int, cond: Array | None) -> str:
    return f"test trial {trial}" if cond is None else f"condition {cond[trial]:g}, trial {trial}"


def _traces(axes: Axes, pair: Sequence[Outputs], true: Array, decoded: Sequence[Array]) -> None:
    time = time_of(pair[0], len(true))
    axes.axhline(0, color=QUIET, linewidth=0.4, zorder=0)
    axes.plot(time, true, color=TRUTH, linewidth=1.3)
    for outputs, values in zip(pair, decoded, strict=True):
        axes.plot(time, values, color=outputs.colour, linewidth=1.0)


def _paths(axes: Axes, pair: Sequence[Outputs], true: Array, decoded: Sequence[Array]) -> None:
    """Draw the paths that velocities (T, 2) integrate to, from a common start."""
    seconds = (pair[0].bin_ms or 1000.0) / 1000
    lines = [(d, o.colour, 1.0) for d, o in zip(decoded, pair, strict=True)]
    for values, colour, width in [(true, TRUTH, 1.3), *lines]:
        path = np.concatenate([np.zeros((1, 2)), np.cumsum(values[:, :2], axis=0) * seconds])
        axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=width)
    axes.plot(0, 0, "o", color=TRUTH, markersize=2.5)
    axes.set_aspect("equal", adjustable="datalim")
    bare(axes)


# Spikes beside inferred rates -----------------------------------------------------------------------------------------


def rasters(shown: Shown) -> Figure | None:
    """Return the spikes of two test trials beside the rates that each model infers, neurons in one order."""
    pair = read_pair(shown, needed=("test_output_params", "test_recon_data"), wanted=["test_cond", "test_behavior"])
    if not pair:
        return None
    spikes, cond = pair[0].arrays["test_recon_data"], pair[0].arrays.get("test_cond")
    trials = choose_trials(pair[0].arrays.get("test_behavior", np.zeros((len(spikes), 1, 1))), cond, count=2)
    keep = active_neurons(spikes, bin_ms=pair[0].bin_ms)
    rates = scale_rates([outputs.arrays["test_output_params"][:, :, keep] for outputs in pair])
    order = order_neurons(np.concatenate(rates), is_aligned=cond is not None)
    figure = new_figure(width_mm=62 * (1 + len(pair)) - 10, height_mm=48 * len(trials) + 12)
    grid = figure.subplots(len(trials), 1 + len(pair), squeeze=False, sharex=True, sharey=True)
    width = pair[0].bin_ms or 1.0
    most = max(1.0, float(np.nanpercentile(spikes, 99.5)))
    for row, trial in enumerate(trials):
        draw_map(grid[row, 0], spikes[trial][:, keep[order]], width=width, cmap="Greys", highest=most)
        for axes, found in zip(grid[row, 1:], rates, strict=True):
            image = draw_map(axes, found[trial][:, order], width=width, cmap="magma_r")
        grid[row, 0].set_ylabel(f"neuron ({_name_of_trial(trial, cond)})")
    titles = [
        ("spikes, darker: more in a bin" if most > 1 else "spikes", TRUTH),
        *((f"{outputs.label}, inferred rates", outputs.colour) for outputs in pair),
    ]
    for axes, (title, colour) in zip(grid[0], titles, strict=True):
        axes.set_title(title, color=ink(colour))
    grid[-1, 0].set_xlabel(time_label(pair[0]))
    bar = figure.colorbar(image, ax=grid, shrink=0.4, aspect=25, ticks=[0, 1], pad=0.01)
    bar.ax.set_yticklabels(["lowest", "highest"])
    bar.set_label("neuron's rate", labelpad=-18)
    bar.outline.set_visible(False)
    return figure


def active_neurons(spikes: Array, *, bin_ms: float | None) -> Array:
    """Return which neurons of counts (n, R, N) have at least MIN_RATE; all where none has or time is unknown."""
    rates = np.nan_to_num(np.nanmean(spikes, axis=(0, 1))) * 1000 / (bin_ms or np.inf)
    found = np.flatnonzero(rates >= MIN_RATE)
    return found if len(found) else np.arange(spikes.shape[2])


def scale_rates(rates: Sequence[Array]) -> list[Array]:
    """Return each model's rates (n, R, N) from 0 to 1: each neuron's 1st to 99th percentile over all the models."""
    low, high = np.percentile(np.concatenate([r.reshape(-1, r.shape[2]) for r in rates]), [1, 99], axis=0)
    return [np.clip((r - low) / np.where(high > low, high - low, 1.0), 0, 1) for r in rates]


def order_neurons(rates: Array, *, is_aligned: bool) -> Array:
    """Return an order of the neurons of scaled rates (n, R, N) in which those that vary together stand together.

    Where trials are aligned to something, by the time of the peak of the mean over trials; else by the angle of the
    loadings on the first two principal components.
    """
    if is_aligned:
        return np.argsort(rates.mean(axis=0).argmax(axis=0), kind="stable")
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(rates.reshape(-1, rates.shape[2]).T)))
    return np.argsort(np.arctan2(vectors[:, -1], vectors[:, -2 if len(vectors) > 1 else -1]), kind="stable")


def draw_map(axes: Axes, values: Array, *, width: float, cmap: str, highest: float = 1.0) -> AxesImage:
    """Draw values (R, N) from 0 to `highest` as a map, time from left to right, neurons from the top."""
    extent = (0, len(values) * width, values.shape[1], 0)
    image = axes.imshow(values.T, aspect="auto", extent=extent, cmap=cmap, vmin=0, vmax=highest)
    image.set_interpolation("nearest")
    return image
