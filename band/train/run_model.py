"""A trained run as it lies in its folder: configuration, parameters, and its own recording or another one."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from band.config import DataConfig, RunConfig, run_config_from_dict, trained_config
from band.data.digest import dataset_digest
from band.data.recording import Recording
from band.data.splits import Split, make_split
from band.errors import BandError, ConfigError, DataError
from band.files import sha256_file
from band.model.behavior import behavior_decoder_of
from band.model.params import Params, Widths, parameter_shapes
from band.model.reconstructions import behavior_likelihood_of
from band.run_dir import manifest_digests, read_result
from band.train.trials import Cut, Trials

MODEL = "model.pt"
MAX_BEHAVIOR = 4096  # channels of behaviour that are tried where an old run does not say how many it has
WORDS = {
    "num_neurons": "neurons that the encoders see",
    "num_recon_neurons": "neurons to reconstruct",
    "num_bins": "time bins, of which band-data chop cuts windows",
    "num_recon_bins": "time bins to reconstruct",
    "ext_input_dim": "channels of external input",
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a run folder holds of a trained model."""

    folder: Path
    result: dict[str, Any]
    config: RunConfig
    params: Params  # one member
    widths: Widths | None  # of the recording it was trained on; None where the run was written before that was kept


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One trained member and the trials it is looked at with."""

    folder: Path
    result: dict[str, Any]
    config: RunConfig
    params: Params
    trials: Trials

    @staticmethod
    def open(folder: Path, *, data: Path | None = None) -> TrainedRun:
        """Return the run in a folder, with its own recording or with `data`.

        Raises:
            ConfigError: no trained run.
            DataError: the recording cannot be read, or has other sizes than the model.
        """
        model = open_model(folder)
        trials = own_trials(model, data=data)
        return TrainedRun(
            folder=model.folder, result=model.result, config=model.config, params=model.params, trials=trials
        )


def open_model(folder: str | Path, *, device: torch.device | str = "cpu") -> Model:
    """Return the model of a run folder.

    Raises:
        ConfigError: the folder is no finished run, or its model is missing or damaged.
    """
    folder = Path(folder)
    try:
        result = read_result(folder)
        if sha256_file(folder / MODEL) != manifest_digests(result).get(MODEL):
            raise ConfigError(f"{folder / MODEL} is not what the run's manifest says: it was altered or is damaged")
        content = torch.load(folder / MODEL, map_location="cpu", weights_only=True)
    except (BandError, OSError) as error:
        raise ConfigError(f"{folder} must be the folder of a trained run: {error}") from None
    values: dict[str, Tensor] = content["params"]
    widths = json.loads(content["meta"]).get("widths")
    flat = torch.cat([value.flatten() for value in values.values()])[None].to(device)
    return Model(
        folder=folder,
        result=result,
        config=run_config_from_dict(trained_config(result)),
        params=Params(flat, {name: tuple(value.shape) for name, value in values.items()}),
        widths=None if widths is None else _widths(widths),
    )


def _widths(values: dict[str, Any]) -> Widths:
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Widths(**plain)


def own_trials(model: Model, *, data: str | Path | None = None, device: torch.device | str = "cpu") -> Trials:
    """Return the recording that a run was trained on, cut into its splits.

    Args:
        model: the run.
        data: where the recording lies now; None: where it lay when the run was trained.
        device: where the tensors are to lie.

    Raises:
        ConfigError: the run was imported without a recording, and none is given.
        DataError: the recording is not there, or is another one.
    """
    dataset = model.result["dataset"]
    if data is None and not dataset["path"]:
        raise ConfigError(f"{model.folder} was imported without a recording; give one by --data")
    path = Path(data or dataset["path"])
    if not path.is_file():
        raise DataError(f"{path}: the run's recording is not there; say where it is by --data FILE")
    digest = dataset_digest(path)
    if data is None and digest != dataset["digest"]:
        raise DataError(
            f"{path}: is not the recording that the run was trained on (digest {digest[:12]}, the run's is "
            f"{dataset['digest'][:12]}); --data {path} takes it all the same"
        )
    return fitting_trials(model, path, device=device, cut=make_split)


def new_trials(model: Model, path: str | Path, *, device: torch.device | str = "cpu") -> Trials:
    """Return another recording for a trained model, all its trials in the splits that the file ships them in.

    Raises:
        DataError: the file breaks a rule, or its neurons, bins, behaviour or inputs are not the model's.
    """
    return fitting_trials(model, Path(path), device=device, cut=_as_in_file)


def _as_in_file(recording: Recording, config: DataConfig) -> Split:
    parts = {name: np.flatnonzero(recording.origin_split == name) for name in ("train", "valid", "test")}
    return Split(**parts, how="as in the file")


def fitting_trials(model: Model, path: Path, *, device: torch.device | str, cut: Cut) -> Trials:
    """Return the recording at `path` if the model can take it; behaviour may be missing in it.

    Raises:
        DataError: it cannot be read or does not fit.
    """
    try:
        trials = Trials.load(path, [model.config], device=torch.device(device), cut=cut)
    except ConfigError as error:
        raise DataError(f"{path}: does not fit the model of {model.folder}: {error}") from None
    widths = dataclasses.replace(trials.widths, behavior_dim=_behavior_dim(model, trials.widths))
    if problem := _misfit(model, trials, widths):
        raise DataError(
            f"{path}: does not fit the model of {model.folder}: {problem}; band-train adapt trains the maps of a new "
            "session"
        )
    return dataclasses.replace(trials, widths=widths)


def _misfit(model: Model, trials: Trials, widths: Widths) -> str:
    """Return what is wrong with a recording, in words; empty where it fits."""
    has = {name: value.shape[1:] for name, value in model.params.items()}
    counts = len([name for name in has if name.startswith("readout") and name.endswith("weight")])
    if trials.widths.num_sessions != counts:
        return f"must hold {counts} recording sessions, found {trials.widths.num_sessions}"
    if trials.widths.behavior_dim not in (0, widths.behavior_dim):
        return f"must have {widths.behavior_dim} channels of behaviour or none, found {trials.widths.behavior_dim}"
    if model.widths is not None:
        for name, what in WORDS.items():
            wanted, found = getattr(model.widths, name), getattr(widths, name)
            if wanted != found:
                return f"must have {_said(wanted)} {what}, found {_said(found)}"
    expected = parameter_shapes(model.config.arch, widths)
    for name, shape in expected.items():
        if name not in has or tuple(has[name]) != shape:
            return f"must have the sizes of {name} {tuple(has.get(name, ()))}, would need {shape}"
    return ""


def _said(value: int | tuple[int, ...]) -> str:
    return str(value) if isinstance(value, int) else " + ".join(map(str, value))


def _behavior_dim(model: Model, widths: Widths) -> int:
    """Return the channels of behaviour that a model decodes."""
    if model.widths is not None:
        return model.widths.behavior_dim
    own = {name.removeprefix("behavior."): tuple(v.shape[1:]) for name, v in model.params.items()}
    own = {name: shape for name, shape in own.items() if f"behavior.{name}" in model.params}
    decoder, num_params = behavior_decoder_of(model.config.arch), behavior_likelihood_of(model.config.arch).num_params
    tried = range(1, MAX_BEHAVIOR) if own else ()
    fitting = (k for k in tried if dict(decoder.shapes(widths.num_recon_bins, num_params * k)) == own)
    return next(fitting, widths.behavior_dim if own else 0)
