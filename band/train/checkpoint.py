"""One checkpoint file a population, in two alternating slots, so that a damaged one never is the only one."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from band.config import RunConfig, run_config_from_dict, to_dict
from band.errors import BandError
from band.files import append_line, write_atomic
from band.model.kernels import kernels_name
from band.model.params import Params, Widths
from band.run_dir import CHECKPOINTS
from band.train.population import COLUMNS, Member, Population, population_shapes
from band.train.schedule import Schedule

SCHEMA = 1
SLOTS = (0, 1)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was written."""

    slot: int
    step: int
    sha256: str
    size: int
    runs: list[str]  # its members


def checkpoint_path(folder: Path, slot: int) -> Path:
    """Return the file of a slot."""
    return folder / f"population.{slot}.pt"


def save_checkpoint(
    population: Population, folder: Path, *, slot: int, packing: list[str], search: Mapping[str, Any] | None = None
) -> Saved:
    """Write a population into a slot, whole or not at all, after its digest has been noted beside it.

    A file counts if its digest has been noted: so neither a kill in between nor an unread event costs a checkpoint.

    Args:
        population: its active members.
        folder: work folder of the attempt.
        slot: 0 or 1; take the one that does not hold the newest checkpoint.
        packing: ids of all runs that started together, ended ones included.
        search: state of the search whose members these are, `packing` being its run.
    """
    members = [
        {
            "run_id": member.run_id,
            "config": to_dict(member.config),
            "schedule": member.schedule.state(),
            "epoch": member.epoch,
            "batch": member.batch,
            "first_non_finite": member.first_non_finite,
        }
        for member in population.members
    ]
    meta = {"schema": SCHEMA, "step": population.step, "packing": packing, "members": members}
    meta |= {"seconds": population.seconds, "search": search}
    meta["kernels"] = kernels_name(str(population.best.device))
    first, second = population.moments
    buffer = io.BytesIO()
    torch.save(
        {
            "meta": json.dumps(meta),
            "flat": population.params.flat.detach(),
            "first_moment": first,
            "second_moment": second,
            "best": population.best,
            "sums": population.sums,
            "history": [
                torch.tensor(member.history, dtype=torch.float64).view(-1, len(COLUMNS))
                for member in population.members
            ],
        },
        buffer,
    )
    data = buffer.getvalue()
    runs = packing if search else [member.run_id for member in population.members]
    saved = Saved(slot, population.step, hashlib.sha256(data).hexdigest(), len(data), runs)
    append_line(folder / CHECKPOINTS, {"event": "checkpoint", **dataclasses.asdict(saved)})
    write_atomic(checkpoint_path(folder, slot), data)
    return saved


def newest_checkpoint(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Return slot and content of the newest checkpoint that can be read, or None; a damaged one is passed over."""
    found = [(slot, content) for slot in SLOTS if (content := _read(checkpoint_path(folder, slot))) is not None]
    return max(found, key=lambda pair: pair[1]["meta"]["step"], default=None)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["meta"] = json.loads(content["meta"])
    except Exception as error:  # whatever a torn file raises: the other slot is whole
        print(f"warning: {path} cannot be read ({type(error).__name__}: {error}); the other checkpoint is used")
        return None
    return dict(content) if content["meta"]["schema"] == SCHEMA else None


def restore_population(
    content: Mapping[str, Any], configs: Mapping[str, RunConfig], widths: Widths, *, device: torch.device
) -> Population:
    """Return the population in a checkpoint, only the members named in `configs`.

    Raises:
        BandError: a member's configuration or shapes are not those it started with.
    """
    members = content["meta"]["members"]
    positions = [i for i, member in enumerate(members) if member["run_id"] in configs]
    if not positions:
        raise BandError("the checkpoint holds none of the runs of this task")
    restored = [_member(members[i], content["history"][i], configs) for i in positions]
    index = torch.tensor(positions)
    shapes = population_shapes(restored[0].config, widths)

    def rows(name: str) -> torch.Tensor:
        return content[name][index].to(device)

    return Population(
        members=restored,
        params=Params(rows("flat"), shapes, requires_grad=True),
        moments=(rows("first_moment"), rows("second_moment")),
        best=rows("best"),
        sums=rows("sums"),
        step=content["meta"]["step"],
        seconds=content["meta"]["seconds"],
    )


def _member(saved: Mapping[str, Any], history: torch.Tensor, configs: Mapping[str, RunConfig]) -> Member:
    run_id = saved["run_id"]
    config = configs[run_id]
    check_unchanged(run_id, before=run_config_from_dict(saved["config"]), now=config)
    return Member(
        run_id=run_id,
        config=config,
        schedule=Schedule(**saved["schedule"]),
        epoch=saved["epoch"],
        batch=saved["batch"],
        history=history.tolist(),
        first_non_finite=saved["first_non_finite"],
    )


# What may change between two attempts: it changes nothing that is learnt, see band/sweep/identity.py.
NO_MATTER = {"path", "checkpoint_s", "start_from", "shards", "trials_at_once"}


def check_unchanged(run_id: str, *, before: RunConfig, now: RunConfig) -> None:
    """Raise BandError where a run is configured otherwise than when its checkpoint was written."""
    for section in ("data", "arch", "hyper", "train", "pbt"):
        old, new = (dataclasses.asdict(getattr(c, section)) for c in (before, now))
        changed = {key for key in new if new[key] != old[key]} - NO_MATTER
        if changed:
            raise BandError(
                f"run {run_id}: {section}.{min(changed)} differs from the one its checkpoint was trained with"
            )
