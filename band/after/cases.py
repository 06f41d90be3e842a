"""What baseline decoders are compared on: a run with its recording, or a recording alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from band.after.baselines import Case
from band.after.infer import Progress
from band.after.published import posterior_of
from band.config import DataConfig, RunConfig
from band.data.recording import open_sessions
from band.errors import DataError
from band.model.params import has_controller
from band.train.outputs import SPLITS, modelled_splits, observed_split, rows_by_split
from band.train.run_model import Model
from band.train.trials import SessionTrials, Trials


def cases_of_run(model: Model, trials: Trials, *, on_progress: Progress = lambda what, share: None) -> list[Case]:
    """Return a case a session: spikes that the encoders see, factors, and inferred inputs where there are any.

    Raises:
        DataError: the recording has no behaviour that could be decoded.
    """
    posterior, _ = posterior_of(model, trials, on_progress=on_progress)
    found = []
    for session, source in zip(trials.sessions, posterior, strict=True):
        case = _case(session, model.config)
        rows = rows_by_split(session, 0)
        inputs = {"factors": {name: source.arrays["factors"][part] for name, part in rows.items()}}
        if has_controller(model.config.arch):
            controls = source.arrays["gen_inputs"][..., : model.config.arch.co_dim]
            inputs["controls"] = {name: controls[part] for name, part in rows.items()}
        own = {name: part.behavior for name, part in modelled_splits(source, session, 0, model.config).items()}
        decoded = {name: values for name, values in own.items() if values is not None}
        found.append(replace(case, inputs={**case.inputs, **inputs}, own=decoded or None))
    return found


def cases_of_recording(path: str | Path, config: DataConfig) -> list[Case]:
    """Return a case a session of a recording, spikes alone.

    Raises:
        DataError: the file breaks a rule, or has no behaviour that could be decoded.
    """
    recordings = open_sessions(path, bin_ms=config.bin_ms, likelihood=None, missing=config.missing)
    run = RunConfig(data=config)
    device = torch.device("cpu")
    sessions = [SessionTrials.place(recording, [run], device=device) for recording in recordings]
    return [_case(session, run) for session in sessions]


def _case(session: SessionTrials, config: RunConfig) -> Case:
    arrays = session.recording.arrays
    if "behavior" not in arrays:
        raise DataError(f"{session.recording.path}: has no behaviour to decode")
    spikes = np.asarray(arrays["encod_data"])
    observed = {name: observed_split(session, name, 0, config) for name in SPLITS}
    if observed["train"].has_classes:
        raise DataError(f"{session.recording.path}: behaviour is classes, which these decoders do not tell")
    return Case(
        name=session.recording.session,
        observed=observed,
        inputs={"spikes": {name: spikes[session.split(name, 0)] for name in SPLITS}},
        bin_ms=session.recording.bin_ms,
    )
