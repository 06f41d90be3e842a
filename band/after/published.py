"""The posterior that a run has published, read back instead of computed again."""

from __future__ import annotations

import h5py
import numpy as np

from band.after.infer import Progress
from band.train.outputs import BY_LEVEL, SPLITS, Posterior, compute_posterior, pooled_index, rows_by_split
from band.train.run_model import Model
from band.train.trials import SessionTrials, Trials

OUTPUTS = "outputs.h5"


def posterior_of(
    model: Model, trials: Trials, *, on_progress: Progress = lambda what, share: None
) -> tuple[list[Posterior], bool]:
    """Return the posterior of a run by session, and whether it was read: it is computed where the run kept none."""
    path = model.folder / OUTPUTS
    if path.is_file():
        with h5py.File(path, "r") as file:
            groups = [file[s.recording.session] if s.recording.session else file for s in trials.sessions]
            if all(_is_of(group, session) for group, session in zip(groups, trials.sessions, strict=True)):
                return [_read(group, session) for group, session in zip(groups, trials.sessions, strict=True)], True
    computed = compute_posterior(
        model.params, trials, 0, config=model.config, on_progress=lambda share: on_progress("posterior", share)
    )
    return computed, False


def _is_of(group: h5py.Group, session: SessionTrials) -> bool:
    """Return whether outputs are those of these trials in this order."""
    inds, index = np.asarray(session.recording.arrays["inds"]), pooled_index(session, 0)
    return all(
        f"{split}_inds" in group and np.array_equal(group[f"{split}_inds"][()], inds[index[rows]])
        for split, rows in rows_by_split(session, 0).items()
    )


def _read(group: h5py.Group, session: SessionTrials) -> Posterior:
    names = [name for level in BY_LEVEL.values() for name in level if f"train_{name}" in group]
    arrays = {name: np.concatenate([group[f"{split}_{name}"][()] for split in SPLITS]) for name in names}
    return Posterior(arrays, pooled_index(session, 0))
