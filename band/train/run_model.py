"""A trained run as it lies in its folder: configuration, parameters, and its recording or another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from band.config import RunConfig, run_config_from_dict
from band.errors import ConfigError, DataError, PublishError
from band.model.params import Params, parameter_shapes
from band.run_dir import read_result, verify
from band.train.trials import Trials


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
        try:
            verify(folder)
            result = read_result(folder)
        except (PublishError, OSError) as error:
            raise ConfigError(f"{folder} must be the folder of a trained run: {error}") from None
        config = run_config_from_dict(result["config"])
        if data is None and not result["dataset"]["path"]:
            raise ConfigError(f"{folder} was imported without a recording; give one by --data")
        path = data or Path(result["dataset"]["path"])
        trials = Trials.load(path, [config], device=torch.device("cpu"))
        saved = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)["params"]
        shapes = parameter_shapes(config.arch, trials.widths)
        for name, shape in shapes.items():
            found = tuple(saved[name].shape) if name in saved else None
            if found != shape:
                raise DataError(
                    f"{path}: the model of {folder} needs other sizes: its {name} is {found}, this recording asks for "
                    f"{shape}; band-train adapt trains the maps of a new session"
                )
        flat = torch.cat([saved[name].reshape(-1).to(trials.dtype) for name in shapes])[None]
        return TrainedRun(folder=folder, result=result, config=config, params=Params(flat, shapes), trials=trials)
