"""Posterior means and spreads of a recording that a trained model has never seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from band.errors import DataError
from band.files import whole_file
from band.train.outputs import compute_posterior, write_outputs
from band.train.run_model import Model
from band.train.trials import SessionTrials, Trials

Progress = Callable[[str, float], None]


def target_files(into: Path, trials: Trials) -> list[Path]:
    """Return where outputs go: the file `into`, or, where it is no .h5 file, one file a session in that folder.

    Files of a folder are called outputs_SESSION.h5, as the scripts made for lfads-torch expect.
    """
    if into.suffix in (".h5", ".hdf5"):
        return [into]
    return [
        into / f"outputs{'_' * bool(name)}{name.replace('/', '_')}.h5"
        for name in (s.recording.session for s in trials.sessions)
    ]


def infer(
    model: Model,
    trials: Trials,
    into: Path,
    *,
    level: str = "factors",
    num_samples: int | None = None,
    replace_files: bool = False,
    on_progress: Progress = lambda what, share: None,
) -> list[Path]:
    """Write the outputs of a trained model for all trials of a recording, each file whole or not at all.

    Args:
        model: the run.
        trials: the recording, as `new_trials` gives it.
        into: an HDF5 file, in which several sessions are a group each; or a folder, with a file a session.
        level: "factors" or "full", see `OutputConfig`.
        num_samples: posterior draws; None: as many as the run's own outputs.
        replace_files: whether files that are there give way.
        on_progress: called with what is being done and the share done.

    Returns:
        The files written.

    Raises:
        DataError: a file is there already, or cannot be written.
    """
    paths = target_files(into, trials)
    config = model.config
    if num_samples is not None:
        config = replace(config, train=replace(config.train, posterior_samples=num_samples))
    posterior = compute_posterior(
        model.params, trials, 0, config=config, on_progress=lambda share: on_progress("posterior", share)
    )
    is_split = len(paths) > 1
    for number, path in enumerate(paths):
        own = [posterior[number]] if is_split else posterior
        part = replace(trials, sessions=(_nameless(trials, number),)) if is_split else trials
        with writing(path, replace_file=replace_files) as temporary:
            write_outputs(temporary, own, part, 0, level=level, with_encod=True)
    return paths


def _nameless(trials: Trials, number: int) -> SessionTrials:
    session = trials.sessions[number]
    return replace(session, recording=replace(session.recording, session=""))


@contextmanager
def writing(path: Path, *, replace_file: bool) -> Iterator[Path]:
    """Yield a temporary name for a file that is written whole or not at all.

    Raises:
        DataError: the file is there and must not be replaced, or cannot be written.
    """
    check_free(path, replace_file=replace_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, replace=replace_file) as temporary:
            yield temporary
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}; choose another place") from error


def check_free(path: Path, *, replace_file: bool) -> None:
    """Raise DataError where a file is there that must not be replaced."""
    if path.exists() and not replace_file:
        raise DataError(f"{path}: is there already; give another name, or --force to replace it")
