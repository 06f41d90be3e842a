"""Draws of a model's posterior, one by one, written as they are made: the whole of them need not fit the memory.

Axes: n trial, S draw, R time bin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from band.after.infer import Progress, writing
from band.errors import ConfigError
from band.train.outputs import Pass, chunks, pooled_index, rows_by_split
from band.train.run_model import Model
from band.train.trials import SessionTrials, Trials

FIELDS = (
    "output_params", "factors", "output_behavior_params", "gen_inputs", "gen_states", "gen_init", "con_states",
    "co_means", "co_stds",
)  # fmt: skip


def field_shapes(
    model: Model, trials: Trials, *, fields: Sequence[str], num_samples: int
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array that `write_samples` would write, told from a draw of one trial.

    Raises:
        ConfigError: the model has no such field.
    """
    if unknown := [name for name in fields if name not in FIELDS]:
        raise ConfigError(f"fields must be of {', '.join(FIELDS)}, got {unknown[0]!r}")
    shapes: dict[str, tuple[int, ...]] = {}
    for number, session in enumerate(trials.sessions):
        pass_ = Pass(model.params, trials, model.config)
        drawn = pass_.draw(pass_.encode(number, pooled_index(session, 0)[:1], purpose=(0,)), (0, 0))
        start = f"{session.recording.session}/" if session.recording.session else ""
        for name in fields:
            values = drawn[name]
            if values is None:
                raise ConfigError(f"this model has no {name}; leave it out of the fields")
            for split, rows in rows_by_split(session, 0).items():
                if rows.stop > rows.start:
                    shapes[f"{start}{split}_{name}"] = (rows.stop - rows.start, num_samples, *values.shape[2:])
    return shapes


def write_samples(
    model: Model,
    trials: Trials,
    path: Path,
    *,
    num_samples: int,
    fields: Sequence[str] = ("factors",),
    replace_file: bool = False,
    on_progress: Progress = lambda what, share: None,
) -> dict[str, tuple[int, ...]]:
    """Write `SPLIT_FIELD` (n, S, R, ·) and `SPLIT_inds` (n,) for every split; return the shapes of what was written.

    The first draws are those behind the run's own outputs: over `train.posterior_samples` of them the mean is theirs.

    Raises:
        ConfigError: the model has no such field.
        DataError: the file is there already, or cannot be written.
    """
    shapes = field_shapes(model, trials, fields=fields, num_samples=num_samples)
    with writing(path, replace_file=replace_file) as temporary, h5py.File(temporary, "w") as file:
        if trials.sessions[0].recording.bin_ms is not None:
            file.attrs["bin_ms"] = trials.sessions[0].recording.bin_ms
        for name, shape in shapes.items():
            width = shape[2:]
            file.create_dataset(name, shape, dtype=model.config.train.dtype, chunks=(1, 1, *width))
        for number, session in enumerate(trials.sessions):
            group = file[session.recording.session] if session.recording.session else file
            pass_ = Pass(model.params, trials, model.config)
            done = number / len(trials.sessions)

            def tell(share: float, done: float = done) -> None:
                on_progress("draws", done + share / len(trials.sessions))

            _write_session(group, pass_, session, number, num_samples=num_samples, fields=fields, tell=tell)
    return shapes


def _write_session(
    group: h5py.Group, pass_: Pass, session: SessionTrials, number: int, *, num_samples: int, fields: Sequence[str],
    tell: Callable[[float], None],
) -> None:  # fmt: skip
    rows = rows_by_split(session, 0)
    index = pooled_index(session, 0)
    for split, part in rows.items():
        group[f"{split}_inds"] = np.asarray(session.recording.arrays["inds"])[index[part]]
    start = 0
    for chunk, purpose in chunks(index, session=number, num_sessions=len(pass_.trials.sessions)):
        encoded = pass_.encode(number, chunk, purpose=purpose)
        for sample in range(num_samples):
            drawn = pass_.draw(encoded, (*purpose, sample))
            for name in fields:
                values = drawn[name]
                assert values is not None
                _write_draw(group, name, values[0].cpu().numpy(), start, sample, rows=rows)
            tell((start + len(chunk) * (sample + 1) / num_samples) / len(index))
        start += len(chunk)


def _write_draw(
    group: h5py.Group, name: str, values: np.ndarray, start: int, sample: int, *, rows: dict[str, slice]
) -> None:
    """Write one draw of pooled rows `start` … into the arrays of the splits that they lie in."""
    stop = start + len(values)
    for split, part in rows.items():
        first, last = max(start, part.start), min(stop, part.stop)
        if first < last:
            group[f"{split}_{name}"][first - part.start : last - part.start, sample] = values[
                first - start : last - start
            ]
