"""Several recording sessions in one file, a group each: what one model of several sessions is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from band.data.hdf5 import datasets, open_hdf5, split_of
from band.data.recording import Recording, open_recording, open_sessions
from band.errors import DataError
from band.files import whole_file


def check_alike(recordings: Sequence[Recording], *, path: Path) -> None:
    """Check that sessions have the same bins, behaviour channels and external inputs.

    Raises:
        DataError: they differ; names the key and both sessions.
    """
    first = recordings[0]
    for key in ("encod_data", "recon_data", "behavior", "ext_input"):
        axes = slice(1, 2) if key.endswith("_data") else slice(1, 3)
        for other in recordings[1:]:
            one, two = ((r.arrays[key].shape[axes] if key in r.arrays else None) for r in (first, other))
            if one != two:
                raise DataError(
                    f"{path}: {key} must have the same {'bins' if key.endswith('_data') else 'bins and channels'} in "
                    f"every session, found {one} in {first.session} and {two} in {other.session}; where a session has "
                    "no behaviour, give it as NaN with data.missing=mask"
                )


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What `join` makes of several files."""

    names: tuple[str, ...]  # of the sessions
    trials: tuple[int, ...]
    neurons: tuple[int, ...]
    without_behavior: tuple[str, ...]  # sessions whose behaviour is NaN for want of any


def join(
    paths: Sequence[Path],
    out: Path,
    *,
    names: Sequence[str] = (),
    replace: bool = False,
    is_dry: bool = False,
    on_step: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Joined:
    """Write recordings of one session each into one file, whole or not at all.

    Args:
        paths: the files.
        out: the file to write.
        names: of the sessions; default: the names of the files.
        replace: whether a file of that name gives way.
        is_dry: check, and write nothing.
        on_step: called with each session before it is written, its number from 0, and how many there are.

    Raises:
        DataError: a file breaks a rule, two sessions have one name, or they do not go together.
    """
    names = list(names) or [path.stem for path in paths]
    if len(names) != len(paths) or len(set(names)) < len(names):
        raise DataError(f"sessions must have names of their own, one a file, found {', '.join(names)}; give --names")
    if bad := [name for name in names if "/" in name or name.startswith(".") or not name or split_of(name)]:
        raise DataError(f"{bad[0]!r} must not be the name of a session; give others by --names")
    recordings = [open_recording(path, likelihood=None) for path in paths]
    widths = {recording.bin_ms for recording in recordings}
    if len(widths) > 1:
        raise DataError(f"sessions must have one width of a time bin, found {sorted(map(str, widths))} ms")
    bare = tuple(n for n, r in zip(names, recordings, strict=True) if "behavior" not in r.arrays)
    bare = () if len(bare) == len(names) else bare
    if not is_dry:
        try:
            _write(paths, names, recordings, bare, out, replace=replace, on_step=on_step)
        except FileExistsError as error:
            raise DataError(f"{out}: is there already; give another name, or --force to replace it") from error
    return Joined(
        names=tuple(names),
        trials=tuple(recording.num_trials for recording in recordings),
        neurons=tuple(recording.arrays["encod_data"].shape[2] for recording in recordings),
        without_behavior=bare,
    )


def _write(
    paths: Sequence[Path],
    names: Sequence[str],
    recordings: Sequence[Recording],
    bare: Sequence[str],
    out: Path,
    *,
    replace: bool,
    on_step: Callable[[str, int, int], None],
) -> None:
    channels = next((r.arrays["behavior"].shape[2] for r in recordings if "behavior" in r.arrays), 0)
    with whole_file(out, replace=replace) as temporary:
        with h5py.File(temporary, "w") as file:
            if recordings[0].bin_ms is not None:
                file.attrs["bin_ms"] = recordings[0].bin_ms
            for number, (path, name) in enumerate(zip(paths, names, strict=True)):
                on_step(name, number, len(names))
                group = file.create_group(name)
                with open_hdf5(path) as source:
                    if str(source.attrs.get("missing", "")) == "mask" or bare:
                        file.attrs["missing"] = "mask"
                    for key, array in datasets(source, path).items():
                        source.copy(array, group, name=key)
                        if name in bare and key.endswith("_recon_data"):
                            shape = (*array.shape[:2], channels)
                            group[key.replace("_recon_data", "_behavior")] = np.full(shape, np.nan, np.float32)
        check_alike(open_sessions(temporary, likelihood=None), path=out)
