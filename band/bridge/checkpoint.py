"""What a Lightning checkpoint of lfads-torch or BAND-torch holds: parameters, hyperparameters, how far it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band.bridge.archive import Archive
from band.bridge.optimiser import AdamState, PlateauState, read_adam, read_plateau, read_smoothed
from band.bridge.values import StoredTensor, attributes_of
from band.errors import ForeignError
from band.files import sha256_file

if TYPE_CHECKING:
    import numpy as np

EARLIEST = (1, 6)  # before, Lightning counted epoch and step one further when it saved


@dataclass(frozen=True, kw_only=True)
class ForeignCheckpoint:
    """A checkpoint, read; `hyper_parameters` has what the file says, placeholders included."""

    path: Path
    sha256: str
    version: str  # of Lightning, "" where it does not say
    epochs: int  # completed
    steps: int  # of the optimiser
    state: dict[str, np.ndarray] = field(repr=False)  # by their names
    hyper_parameters: dict[str, Any] = field(repr=False)
    adam: AdamState | None = None
    plateau: PlateauState | None = None
    smoothed: float | None = None  # their smoothed validation score, lower is better
    classes: tuple[str, ...] = ()  # whose objects were left out
    notes: tuple[str, ...] = ()  # what could not be carried over, in words


def read_checkpoint(path: Path) -> ForeignCheckpoint:
    """Return what a `.ckpt` file holds; nothing of it is run, and nothing is imported for it.

    Raises:
        ForeignError: no checkpoint, damaged, of the format before torch 1.6, or with code in its pickle.
    """
    with Archive(path) as archive:
        content, classes = archive.content()
        try:
            return _read(archive, content, classes)
        except ForeignError as error:
            raise error if str(error).startswith(str(path)) else ForeignError(f"{path}: {error}") from None
        except OSError as error:
            raise ForeignError(f"{path}: cannot be read ({error.strerror})") from None


def _read(archive: Archive, content: Any, classes: tuple[str, ...]) -> ForeignCheckpoint:
    if not isinstance(content, dict):
        raise ForeignError(f"must hold a dictionary, as Lightning saves it, found {type(content).__name__}")
    tensors = _state_dict(content)
    notes: list[str] = []
    version = str(content.get("pytorch-lightning_version", ""))[:40]
    return ForeignCheckpoint(
        path=archive.path,
        sha256=sha256_file(archive.path),
        version=version,
        epochs=_epochs(content, version, notes),
        steps=_count(content.get("global_step", 0), "global_step"),
        state={name: archive.array(tensor) for name, tensor in tensors.items()},
        hyper_parameters={str(k): v for k, v in attributes_of(content.get("hyper_parameters")).items()},
        adam=read_adam(archive, content, tensors, notes),
        plateau=read_plateau(content),
        smoothed=read_smoothed(archive, content),
        classes=classes,
        notes=tuple(notes),
    )


def _state_dict(content: Mapping[Any, Any]) -> dict[str, StoredTensor]:
    """Return the tensors of the model: under `state_dict`, or the file's own where it is nothing but a state dict."""
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not state:
        raise ForeignError("has no state_dict, where the parameters of a model are")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, StoredTensor)):
            kind = type(value).__name__
            raise ForeignError(f"state_dict must hold tensors by name, found {kind} under {str(name)[:80]!r}")
    return dict(state)


def _count(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**48:
        raise ForeignError(f"{key} must be a whole number of at least 0, found {str(value)[:40]!r}")
    return value


def _epochs(content: Mapping[Any, Any], version: str, notes: list[str]) -> int:
    """Return how many epochs were completed; their own count stands one behind while an epoch is being saved."""
    epoch = _count(content.get("epoch", 0), "epoch")
    fit = attributes_of(attributes_of(content.get("loops")).get("fit_loop"))
    begun = attributes_of(attributes_of(fit.get("epoch_progress")).get("current")).get("ready")
    batches = attributes_of(fit.get("epoch_loop.batch_progress"))
    if isinstance(begun, int) and 0 <= begun < 2**48 and "is_last_batch" in batches:
        if batches["is_last_batch"] is False and begun > 0:
            notes.append(f"saved within epoch {begun}: that epoch begins anew, in another order of trials")
            return begun - 1
        return begun
    if "epoch" not in content:
        return 0
    return epoch if _is_before(version, EARLIEST) else epoch + 1


def _is_before(version: str, than: tuple[int, int]) -> bool:
    parts = version.split(".")[:2]
    return len(parts) == 2 and all(part.isdecimal() for part in parts) and tuple(map(int, parts)) < than
