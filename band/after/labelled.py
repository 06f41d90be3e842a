"""A run's outputs as labelled arrays: trials of all splits, bins in milliseconds, and what every axis is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from band.after.run import SPLITS
from band.errors import needed

if TYPE_CHECKING:
    import xarray as xr

    from band.after.run import Run

AXES = {
    "output_params": ("bin", "neuron"), "recon_data": ("bin", "neuron"), "truth": ("bin", "neuron"),
    "encod_data": ("encod_bin", "encod_neuron"), "factors": ("bin", "factor"),
    "gen_inputs": ("bin", "input"), "co_means": ("bin", "control"), "co_stds": ("bin", "control"),
    "ext_input": ("input_bin", "ext_input_channel"), "output_behavior_params": ("bin", "behavior_channel"),
    "behavior": ("behavior_bin", "behavior_channel"), "ic_mean": ("ic",), "ic_std": ("ic",),
    "gen_states": ("bin", "gen_unit"), "gen_init": ("gen_unit",), "con_states": ("bin", "con_unit"),
}  # fmt: skip


def to_xarray(run: Run) -> xr.Dataset:
    """Return a Dataset with the axis `trial` and the axes of `AXES`; NAME_spread has those of NAME.

    Coordinates: `split` and, where there are, `cond` and `inds` of each trial; `time_ms` of each bin's start, where the
    width of a bin is known. Bins that behaviour or inputs have fewer of are axes of their own.

    Raises:
        ConfigError: xarray is not installed.
        DataError: the run kept no arrays.
    """
    xarray, numpy = needed("xarray"), needed("numpy")
    data: dict[str, Any] = {}
    splits = run.arrays["inds"]
    coords: dict[str, Any] = {"split": ("trial", numpy.repeat(list(splits), [len(v) for v in splits.values()]))}
    for name, by_split in run.arrays.items():
        values = numpy.concatenate([by_split[split] for split in SPLITS if split in by_split])
        if values.ndim == 1:
            coords[name] = ("trial", values)
            continue
        axes = AXES.get(name.removesuffix("_spread"), tuple(f"{name}_{k}" for k in range(values.ndim - 1)))
        data[name] = (("trial", *_shared(axes, values.shape[1:], run)), values)
    width = run.bin_ms
    if width is not None and "factors" in run.arrays:
        coords["time_ms"] = ("bin", numpy.arange(data["factors"][1].shape[1]) * width)
    attrs = {"run_id": run.id, **({"session": run.session} if run.session else {})}
    labelled: xr.Dataset = xarray.Dataset(data, coords=coords, attrs=attrs)
    return labelled


def _shared(axes: tuple[str, ...], shape: tuple[int, ...], run: Run) -> tuple[str, ...]:
    """Return the axes, those bins named `bin` that are as many as the factors have."""
    num_bins = run.factors["train"].shape[1] if "factors" in run.arrays else -1
    return tuple(
        "bin" if axis.endswith("_bin") and size == num_bins else axis for axis, size in zip(axes, shape, strict=True)
    )
