"""The folder that `band-train import` makes: a finished run, its configuration, and the start of more training."""

from __future__ import annotations

import dataclasses
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band.errors import ForeignError
from band.files import append_line, canonical_json, rename_exclusive, sha256_file, write_atomic
from band.run_dir import SweepDir, check_name, read_result

if TYPE_CHECKING:
    from band.bridge.imported import Imported
    from band.train.adopt import Adopted
    from band.train.population import Population


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an import goes: its name, its folder in the end, and the one it is made in."""

    name: str
    folder: Path
    work: Path

    @property
    def yaml(self) -> Path:
        """The sweep file while it is made."""
        return self.work / f"{self.name}.yaml"


def place_for(into: Path | None, checkpoint: Path, *, is_dry: bool) -> Place:
    """Return where an import goes; without `into`, a folder here with the name of the checkpoint.

    Raises:
        ForeignError: that is there already.
        SweepError: its name cannot be the name of a sweep.
    """
    stem = re.sub(r"[^A-Za-z0-9._+-]", "-", checkpoint.stem).lstrip("-.+_")
    folder = (into or Path(stem or "imported")).resolve()
    if folder.exists() and not is_dry:
        raise ForeignError(f"{folder}: is there already; give another folder by --into")
    work = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    return Place(name=check_name(folder.name, what="--into"), folder=folder, work=work)


def facts_of(found: Imported, adopted: Adopted) -> dict[str, Any]:
    """Return what can be told of an import, as JSON values."""
    checkpoint, (member,) = found.checkpoint, adopted.population.members
    return {
        "run_id": member.run_id, "parameters": adopted.population.params.flat.numel(), "lr": member.schedule.lr,
        "has_moments": checkpoint.adam is not None, "checkpoint": checkpoint.path.name, "sha256": checkpoint.sha256,
        "lightning": checkpoint.version, "epochs": checkpoint.epochs, "steps": checkpoint.steps,
        "left_out": list(checkpoint.classes), "notes": [*checkpoint.notes, *adopted.notes],
        "fates": [fate.to_json() for fate in found.fates],
    }  # fmt: skip


def make_folder(
    place: Place, found: Imported, adopted: Adopted, *, values: Mapping[str, Any], facts: dict[str, Any],
    data: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Make the whole folder beside its place, then give it its name; nothing is left where that fails.

    Args:
        place: where.
        found: checkpoint and configuration.
        adopted: what they became.
        values: {our full key: value} of the run.
        facts: what is told of it, see `facts_of`.
        data: the recording, or None.

    Returns:
        what more can be told: scores; whether it goes on, and the id of that run.
    """
    place.work.mkdir(parents=True)
    try:
        more = _write_run(place, adopted, facts, data)
        _write_yaml(place, found, values)
        if data is not None:
            more |= _write_start(place, adopted.population)
        write_atomic(place.work / "imported.json", canonical_json({**facts, **more}) + b"\n")
        if not rename_exclusive(place.work, place.folder):
            raise ForeignError(f"{place.folder}: is there already; give another folder by --into")
    finally:
        shutil.rmtree(place.work, ignore_errors=True)
    return more


def _write_run(place: Place, adopted: Adopted, facts: dict[str, Any], data: Path | None) -> dict[str, Any]:
    """Write run/, the finished run; return its scores."""
    from band.data.digest import dataset_digest
    from band.train.adopt import write_imported

    dataset = {"path": str(data.resolve()) if data else "", "digest": dataset_digest(data) if data else ""}
    write_imported(place.work / "run", adopted, dataset=dataset, origin=facts)
    return {"scores": read_result(place.work / "run")["scores"]}


def _write_yaml(place: Place, found: Imported, values: Mapping[str, Any]) -> None:
    """Write the configuration, which names run/ as what training starts from."""
    from band.bridge.sweep_file import sweep_text

    said = {fate.ours: fate.to for fate in found.fates if fate.ours}
    changed = {key: value for key, value in values.items() if key not in said or said[key] != value}
    start = {
        "train.start_from": str(place.folder / "run"),
        "train.start_sha256": sha256_file(place.work / "run" / "model.pt"),
    }
    kept = [fate for fate in found.fates if not fate.ours or (fate.ours in values and fate.ours not in changed)]
    text = sweep_text(kept, sources=[found.checkpoint.path.name], extra={**changed, **start})
    write_atomic(place.yaml, text.encode())


def _write_start(place: Place, population: Population) -> dict[str, Any]:
    """Write a sweep of the one run with a checkpoint of it, as if an attempt here had stopped there."""
    from band.cli.train import make_task, plan_one
    from band.config import run_config_from_dict
    from band.sweep.plan import write_plan
    from band.train.adopt import save_start

    plan = plan_one(str(place.yaml), sets=[])
    chosen, sweep = plan.manifest.runs[0], SweepDir(plan.folder)
    write_plan(plan)
    (member,) = population.members
    own = run_config_from_dict(plan.manifest.run_config(chosen))
    if member.epoch >= own.train.max_epochs:
        return {"goes_on": False}
    task = make_task(sweep, plan=plan, chosen=chosen, threads=1, device="auto")
    begun = dataclasses.replace(population, members=[dataclasses.replace(member, run_id=chosen.id, config=own)])
    work = place.work / "checkpoint"
    work.mkdir()
    saved = save_start(begun, work, target=sweep.task(task).population(0))
    shutil.rmtree(work)
    events = sweep.event_file(task, attempt="import")
    events.parent.mkdir(parents=True, exist_ok=True)
    append_line(events, {"t": time.time(), "event": "checkpoint", **dataclasses.asdict(saved)})
    return {"goes_on": True, "train_run_id": chosen.id}
