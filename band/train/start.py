"""Where members start: at random, with read-ins regressed across sessions, or from a trained run, part of it frozen.

Axes: M member, P parameters of one member.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from band.config import RunConfig
from band.data.alignment import common_courses, mean_courses, regress
from band.errors import ConfigError, DataError
from band.model.params import Params, session_room
from band.model.reconstructions import reconstruction_of
from band.train.population import Population
from band.train.trials import Trials

SESSION_ROOMS = ("readin", "readout", "recon")  # what belongs to one session's neurons


def start_population(
    runs: Sequence[tuple[str, RunConfig]], trials: Trials, places: Mapping[str, int], *, device: torch.device
) -> Population:
    """Return the untrained population of these (run id, configuration) pairs.

    Raises:
        ConfigError: the run to start from is not there, or is another one.
        DataError: sessions share too few conditions for read-ins by regression.
    """
    population = Population.start(runs, trials.widths, device=device)
    config = runs[0][1]
    source = read_source(config) if config.train.start_from else {}
    with torch.no_grad():
        for position, (run, own) in enumerate(runs):
            params = population.params.select([position])
            for name, value in params.items():
                if name in source and source[name].shape == value.shape[1:]:
                    value[0] = source[name].to(value)
            if own.arch.readin.startswith("pcr") and own.arch.readin_dim:
                _regress_readins(params, trials, places[run], own)
            population.params.flat[position] = params.flat[0]
    return population


def trained_columns(config: RunConfig, shapes: Mapping[str, tuple[int, ...]]) -> Tensor | None:
    """Return (P,) 1 where a parameter is trained and 0 where it stays; None where all are trained."""
    only_session, fixed_readin = config.train.trains == "session", config.arch.readin.endswith("fixed")
    if not only_session and not (fixed_readin and config.arch.readin_dim):
        return None
    parts = []
    for name, shape in shapes.items():
        room = name.partition(".")[0]
        stays = (only_session and room not in SESSION_ROOMS) or (fixed_readin and room == "readin")
        parts.append(torch.full((math.prod(shape),), 0.0 if stays else 1.0))
    return torch.cat(parts)


def read_source(config: RunConfig) -> dict[str, Tensor]:
    """Return the parameters of the run that training starts from.

    Raises:
        ConfigError: there is no such run, or its model is not the one that was meant.
    """
    path = Path(config.train.start_from) / "model.pt"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"train.start_from must be the folder of a trained run: {path}: {error.strerror}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != config.train.start_sha256:
        raise ConfigError(
            f"train.start_sha256 must be that of {path}, which is {found}, got {config.train.start_sha256 or 'none'}"
        )
    params: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["params"]
    return params


def _regress_readins(params: Params, trials: Trials, place: int, config: RunConfig) -> None:
    """Set the read-ins of one member, and its read-outs where factors and channels are equally many."""
    courses = [_courses(session, place) for session in trials.sessions]
    targets = source_courses(config) if config.train.start_from else common_courses(courses, dim=config.arch.readin_dim)
    kind = reconstruction_of(config.arch)
    for s, session in enumerate(trials.sessions):
        readin = regress(courses[s], targets)
        room = session_room("readin", s, len(courses))
        params[f"{room}.weight"][0] = torch.from_numpy(readin.weight)
        params[f"{room}.bias"][0] = torch.from_numpy(readin.bias)
        if config.arch.fac_dim != config.arch.readin_dim or kind.num_params != 1:
            continue
        counts = session.recon[:, torch.from_numpy(session.split("train", place))].double()
        mean = counts.mean(dim=(0, 1))
        room = session_room("readout", s, len(courses))
        seen = readin.weight.shape[1]
        params[f"{room}.weight"][0, :seen] = torch.from_numpy(np.linalg.pinv(readin.weight))
        params[f"{room}.bias"][0] = mean.clamp(min=1e-3).log() if kind.is_counts else mean


def _courses(session: Any, place: int) -> dict[Any, np.ndarray]:
    arrays, chosen = session.recording.arrays, session.split("train", place)
    if "cond" not in arrays:
        raise DataError(
            f"{session.recording.path}: read-ins by principal-component regression need one condition a trial (cond); "
            "add it, or set arch.readin=trained"
        )
    return mean_courses(np.asarray(arrays["encod_data"])[chosen], np.asarray(arrays["cond"])[chosen])


def source_courses(config: RunConfig) -> dict[Any, np.ndarray]:
    """Return {condition: mean course (T, D)} of what the encoders of the run to start from saw of its train trials.

    Raises:
        DataError: its recording is no longer there, or has no conditions.
    """
    from band.config import run_config_from_dict
    from band.run_dir import read_result

    folder = Path(config.train.start_from)
    result = read_result(folder)
    before = run_config_from_dict(result["config"])
    trials = Trials.load(Path(result["dataset"]["path"]), [before], device=torch.device("cpu"))
    params = read_source(config)
    each = []
    for s, session in enumerate(trials.sessions):
        courses = _courses(session, 0)
        room = session_room("readin", s, len(trials.sessions))
        if before.arch.readin_dim:
            weight, bias = (params[f"{room}.{kind}"].double().numpy() for kind in ("weight", "bias"))
            courses = {label: course @ weight.T + bias for label, course in courses.items()}
        each.append(courses)
    shared = set.intersection(*(set(courses) for courses in each))
    return {label: np.mean([courses[label] for courses in each], axis=0) for label in sorted(shared, key=str)}
