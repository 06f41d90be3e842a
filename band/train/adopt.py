"""A model of lfads-torch or BAND-torch becomes a member here: parameters, moments of the optimiser, how far it came.

Axes: P parameters of one member.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from band.bridge.checkpoint import ForeignCheckpoint
from band.bridge.imported import Imported
from band.config import Arch, RunConfig, to_dict
from band.errors import DataError, ForeignError
from band.files import write_atomic
from band.model.interchange import left_over, row_from_lfads_torch, standard_names, their_names
from band.model.kernels import kernels_name
from band.model.params import Params, Widths, initial_params, parameter_shapes
from band.model.reconstructions import reconstruction_of
from band.run_dir import seal
from band.train.checkpoint import Saved, save_checkpoint
from band.train.export import IMPORTED, SCHEMA, export_member, training_section, write_model
from band.train.population import SUMMED, Member, Population
from band.train.provenance import provenance
from band.train.schedule import Schedule
from band.train.trials import Trials

SEEN = "the recording ships no test trials: those scored as test are of those that the checkpoint was trained on"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What their configuration says of the data."""

    encod_seq_len: int
    recon_seq_len: int
    ext_input_dim: int = 0


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A member that was trained elsewhere, the sizes of its data, and the recording where one is at hand."""

    population: Population
    widths: Widths
    trials: Trials | None

    @property
    def notes(self) -> list[str]:
        """What to know of its scores."""
        sessions = self.trials.sessions if self.trials is not None else ()
        if all("test" in session.recording.origin_split for session in sessions):
            return []
        return [SEEN]


def adopt_import(found: Imported, config: RunConfig, *, data: Path | None) -> Adopted:
    """Return what a checkpoint and its configuration become.

    Args:
        found: both, read.
        config: of the run, what they say with what the user says over it.
        data: the recording, or None.

    Raises:
        ForeignError: checkpoint, configuration and recording do not go together.
        DataError: the recording cannot be read.
    """
    state = {name: torch.from_numpy(value) for name, value in found.checkpoint.state.items()}
    try:
        widths = widths_of(state, Sizes(**found.sizes), config.arch)
    except ForeignError as error:
        raise ForeignError(f"{found.checkpoint.path}: {error}") from None
    trials = None
    if data is not None:
        trials = Trials.load(data, [config], device=torch.device("cpu"))
        check_widths(widths, trials.widths, path=data)
        widths = trials.widths
    run_id = f"imported-{found.checkpoint.sha256[:10]}"
    population = adopt(found.checkpoint, config, widths, run_id=run_id)
    return Adopted(population=population, widths=widths, trials=trials)


def widths_of(state: Mapping[str, Tensor], sizes: Sizes, arch: Arch) -> Widths:
    """Return the sizes of the recording that a state dict was trained on.

    Raises:
        ForeignError: it has no read-out.
    """
    state = standard_names(state)
    outputs = _each(state, "readout")
    if not outputs or "encoder.ic_enc.fwd_gru.cell.weight_ih" not in state:
        raise ForeignError("the state dict must have a readout and an encoder.ic_enc, as those of lfads-torch have")
    seen = [value.shape[-1] for value in _each(state, "readin")]
    behavior = state.get("behavior_readout.layers.2.bias")
    return Widths(
        num_bins=sizes.encod_seq_len,
        num_recon_bins=sizes.recon_seq_len,
        num_neurons=tuple(seen or [state["encoder.ic_enc.fwd_gru.cell.weight_ih"].shape[-1]]),
        num_recon_neurons=tuple(value.shape[0] // reconstruction_of(arch).num_params for value in outputs),
        behavior_dim=0 if behavior is None else behavior.numel() // sizes.recon_seq_len,
        ext_input_dim=sizes.ext_input_dim,
    )


def check_widths(said: Widths, found: Widths, *, path: Path) -> None:
    """Check that a recording has the sizes of a checkpoint; its behaviour may be left aside.

    Raises:
        ForeignError: it has others.
    """
    for name in ("num_bins", "num_recon_bins", "num_neurons", "num_recon_neurons", "ext_input_dim", "behavior_dim"):
        theirs, ours = getattr(said, name), getattr(found, name)
        if theirs != ours and not (name == "behavior_dim" and theirs == 0):
            raise ForeignError(
                f"{path}: {name} must be {theirs}, as the checkpoint has it, found {ours}; give its own recording"
            )


def _each(state: Mapping[str, Tensor], room: str) -> list[Tensor]:
    """Return the weights of a room that each session has, in the order of the sessions."""
    found: list[Tensor] = []
    while (name := f"{room}.{len(found)}.weight") in state:
        found.append(state[name])
    return found


def adopt(checkpoint: ForeignCheckpoint, config: RunConfig, widths: Widths, *, run_id: str) -> Population:
    """Return the population of one whose member goes on where a checkpoint stopped.

    Args:
        checkpoint: of the other package.
        config: what its configuration became.
        widths: sizes of the recording.
        run_id: of the member.

    Raises:
        ForeignError: parameters are missing, of another shape, not finite, or belong to a model that is not known here.
    """
    dtype = getattr(torch, config.train.dtype)
    shapes = parameter_shapes(config.arch, widths)
    state = standard_names({name: torch.from_numpy(value) for name, value in checkpoint.state.items()})
    try:
        _check(state, shapes)
        row = row_from_lfads_torch(_with_decoder(state, config, widths, shapes), shapes, dtype)
    except DataError as error:
        raise ForeignError(
            f"{checkpoint.path}: {error}; is this the configuration (and recording) that it was trained with?"
        ) from None
    moments = _moments(checkpoint, state, shapes, row)
    return Population(
        members=[_member(checkpoint, config, run_id)],
        params=Params(row[None], shapes, requires_grad=True),
        moments=moments,
        best=row[None].clone(),
        sums=torch.zeros(1, len(SUMMED), dtype=torch.float64),
        step=checkpoint.adam.step if checkpoint.adam else 0,
    )


def _check(state: Mapping[str, Tensor], shapes: Mapping[str, Any]) -> None:
    if unknown := left_over(state, list(shapes)):
        raise DataError(f"the state dict has {', '.join(unknown[:5])}, which no part of this model is made of")
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{name} must be finite, found {int((~torch.isfinite(value)).sum())} values that are not")


def _with_decoder(
    state: dict[str, Tensor], config: RunConfig, widths: Widths, shapes: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the state with an untrained behaviour decoder where it has none: LFADS, of a recording with behaviour."""
    names = [name for name in shapes if name.startswith("behavior") and their_names(name)[0] not in state]
    if not names:
        return state
    if config.hyper.behavior_weight > 0:
        raise DataError("the state dict has no behaviour decoder, though model.behavior_weight is above 0")
    start = initial_params(config.arch, widths, [config.seed], dtype=torch.float64)
    return {**state, **{their_names(name)[0]: start[name][0].detach() for name in names}}


def _moments(
    checkpoint: ForeignCheckpoint, state: Mapping[str, Tensor], shapes: dict[str, tuple[int, ...]], row: Tensor
) -> tuple[Tensor, Tensor]:
    """Return both moments (1, P); 0 where a parameter has none. A hidden bias is not trained, so it has none."""
    if checkpoint.adam is None:
        return torch.zeros_like(row[None]), torch.zeros_like(row[None])
    found = []
    for arrays in (checkpoint.adam.first, checkpoint.adam.second):
        given = standard_names({name: torch.from_numpy(value) for name, value in arrays.items()})
        trained = {name: value for name, value in state.items() if not name.endswith("bias_hh")}
        every = {name: given.get(name, torch.zeros_like(value)) for name, value in trained.items()}
        for name, shape in shapes.items():
            every.setdefault(their_names(name)[0], torch.zeros(shape))
        found.append(row_from_lfads_torch(every, shapes, row.dtype)[None])
    return found[0], found[1]


def _member(checkpoint: ForeignCheckpoint, config: RunConfig, run_id: str) -> Member:
    adam, plateau = checkpoint.adam, checkpoint.plateau
    schedule = Schedule(lr=adam.lr if adam and adam.lr else config.hyper.lr)
    if config.train.monitor == "valid_recon":
        if checkpoint.smoothed is not None:
            schedule.smoothed = checkpoint.smoothed
        if plateau is not None:
            schedule.plateau_best, schedule.bad_epochs = plateau.best, plateau.bad_epochs
    return Member(run_id, config, schedule, epoch=checkpoint.epochs)


def write_imported(folder: Path, adopted: Adopted, *, dataset: dict[str, Any], origin: dict[str, Any]) -> None:
    """Write the run folder of an adopted member as it came; where there are trials, with scores and outputs.

    Args:
        folder: made here.
        adopted: the member, its sizes, its recording.
        dataset: path and digest of that, None where there is none.
        origin: what is told of the checkpoint, for result.json.
    """
    population, trials = adopted.population, adopted.trials
    (member,) = population.members
    own = provenance(
        device="cpu", threads=torch.get_num_threads(), packing=[member.run_id], attempt="import",
        kernels=kernels_name("cpu"),
    )  # fmt: skip
    own["imported"] = origin
    imported = replace(member, schedule=replace(member.schedule, stopped_by=IMPORTED))
    frozen = replace(population, members=[imported])
    if trials is not None:
        export_member(frozen, 0, trials, 0, folder=folder, dataset=dataset, provenance=own)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model.pt", frozen, 0)
    result = {
        "schema": SCHEMA, "run_id": member.run_id, "config": to_dict(member.config), "dataset": dataset,
        "training": training_section(imported, frozen, adopted.widths, "ok"), "scores": {}, "split": {},
        "provenance": own,
    }  # fmt: skip
    seal(folder, result=result)


def save_start(population: Population, folder: Path, *, target: Path) -> Saved:
    """Write the checkpoint that training goes on from to `target`, by way of an empty folder on the same disk."""
    (member,) = population.members
    saved = save_checkpoint(population, folder, slot=0, packing=[member.run_id])
    write_atomic(target, (folder / "population.0.pt").read_bytes())
    return saved
