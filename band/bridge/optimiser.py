"""The optimiser in a foreign checkpoint, and where its step size stood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from band.bridge.archive import Archive
from band.bridge.values import StoredTensor, attributes_of
from band.errors import ForeignError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class AdamState:
    """The optimiser: its moments by parameter, of those that have any."""

    step: int
    lr: float | None
    first: dict[str, np.ndarray] = field(repr=False)
    second: dict[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class PlateauState:
    """Where the step size's schedule stood."""

    best: float
    bad_epochs: int


def read_adam(
    archive: Archive, content: Mapping[Any, Any], tensors: Mapping[str, StoredTensor], notes: list[str]
) -> AdamState | None:
    """Return the optimiser's state by parameter: it counts them in the order in which the state dict names them.

    Args:
        archive: the file.
        content: what its pickle holds.
        tensors: the state dict.
        notes: takes in words what is not carried over.
    """
    states = content.get("optimizer_states") or []
    if not states:
        notes.append("no optimiser state in the file: its moments start at 0")
        return None
    first = attributes_of(states[0] if isinstance(states, (list, tuple)) else None)
    groups, by_index = first.get("param_groups"), attributes_of(first.get("state"))
    group = attributes_of(groups[0]) if isinstance(groups, list) and len(groups) == 1 else {}
    indices = group.get("params")
    problem = _problem(indices, by_index, tensors)
    if problem:
        notes.append(f"the optimiser's state is not carried over, its moments start at 0: {problem}")
        return None
    assert isinstance(indices, list)
    names = dict(zip(indices, tensors, strict=True))
    steps = {_step(_scalar(archive, attributes_of(s)["step"])) for s in by_index.values()}
    if len(steps) > 1:
        notes.append(f"parameters were trained for {min(steps)} to {max(steps)} steps; all count as {max(steps)}")
    moments = [
        {names[i]: archive.array(attributes_of(s)[kind]) for i, s in by_index.items()}
        for kind in ("exp_avg", "exp_avg_sq")
    ]
    return AdamState(step=max(steps), lr=_scalar(archive, group.get("lr")), first=moments[0], second=moments[1])


def _problem(indices: Any, by_index: Mapping[Any, Any], tensors: Mapping[str, StoredTensor]) -> str:
    """Return why an optimiser's state cannot be told apart by parameter, "" where it can."""
    if not isinstance(indices, list) or not by_index:
        return "it is not that of one AdamW over all parameters"
    if len(indices) != len(tensors) or len(set(indices)) != len(indices):
        return f"it counts {len(indices)} parameters, the model has {len(tensors)}"
    names = dict(zip(indices, tensors, strict=True))
    for index, values in by_index.items():
        entry = attributes_of(values)
        for kind in ("exp_avg", "exp_avg_sq"):
            found = entry.get(kind)
            if index not in names or not isinstance(found, StoredTensor) or "step" not in entry:
                return "it is not that of one AdamW over all parameters"
            if found.shape != tensors[names[index]].shape:
                return f"{kind} of {names[index]} has shape {found.shape}, not {tensors[names[index]].shape}"
    return ""


def read_plateau(content: Mapping[Any, Any]) -> PlateauState | None:
    """Return where a ReduceLROnPlateau stood, None where the file has none."""
    schedules = content.get("lr_schedulers")
    found = attributes_of(schedules[0]) if isinstance(schedules, list) and schedules else {}
    best, bad = found.get("best"), found.get("num_bad_epochs")
    if isinstance(best, (int, float)) and isinstance(bad, int) and 0 <= bad < 2**31:
        return PlateauState(best=float(best), bad_epochs=bad)
    return None


def read_smoothed(archive: Archive, content: Mapping[Any, Any]) -> float | None:
    """Return the smoothed validation score of the epoch that was saved, which ModelCheckpoint keeps."""
    for name, state in attributes_of(content.get("callbacks")).items():
        values = attributes_of(state)
        if str(name).startswith("ModelCheckpoint") and values.get("monitor") == "valid/recon_smth":
            return _scalar(archive, values.get("current_score"))
    return None


def _scalar(archive: Archive, value: Any) -> float | None:
    """Return a number that is kept as such or as a tensor of one element; None where it is neither."""
    if isinstance(value, StoredTensor):
        array = archive.array(value)
        return float(array.reshape(-1)[0]) if array.size == 1 else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _step(value: float | None) -> int:
    if value is None or not 0 <= value < 2**48:
        raise ForeignError(f"the optimiser's step must be a number of at least 0, found {value!r}")
    return int(value)
