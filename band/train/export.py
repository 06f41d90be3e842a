"""A member that ended becomes a finished run folder: result.json, metrics.csv, model.pt, outputs.h5."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from band.config import RunConfig, to_dict
from band.files import write_atomic
from band.model.params import Params, Widths, has_controller
from band.run_dir import seal
from band.train.loop import effective_beta
from band.train.outputs import SPLITS, Posterior, compute_posterior, score_member, write_outputs
from band.train.population import COLUMNS, Member, Population
from band.train.schedule import Schedule
from band.train.trials import Trials

SCHEMA = 1
LINEAGE = "lineage.csv"
INTEGERS = ("epoch", "step")
IMPORTED = "imported"  # in place of what stopped a member that was trained by another package


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The search that a member won: under which id and configuration it is published, what is told of it."""

    run_id: str
    config: RunConfig
    summary: dict[str, Any]
    lineage: str  # content of lineage.csv


def metrics_lines(rows: Iterable[list[float]], *, header: bool) -> str:
    """Return epochs as lines of CSV; what does not exist is an empty cell, floats as short as reads back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    for row in rows:
        cells = zip(COLUMNS, row, strict=True)
        writer.writerow(
            "" if math.isnan(v) else str(int(v)) if name in INTEGERS else repr(float(v)) for name, v in cells
        )
    return text.getvalue()


def export_member(
    population: Population,
    position: int,
    trials: Trials,
    place: int,
    *,
    folder: Path,
    dataset: dict[str, Any],
    provenance: dict[str, Any],
    on_progress: Callable[[str, float], None] = lambda what, share: None,
    searched: Searched | None = None,
) -> str:
    """Write the finished folder of one member and return its outcome, "ok" or "diverged".

    Args:
        population: state at the member's end.
        position: of the member in it.
        trials: the recording.
        place: of the member's splits in it.
        folder: created if need be; unfinished leftovers in it are replaced.
        dataset: path and digest, for result.json.
        provenance: see `band.train.provenance`.
        on_progress: called with what is being computed and the share done.
        searched: where the member is what a search has come to.
    """
    member, told = population.members[position], {"pbt": searched.summary} if searched else {}
    folder.mkdir(parents=True, exist_ok=True)
    has_diverged = member.schedule.stopped_by == "diverged"
    scores: dict[str, dict[str, float | None]] = {split: {} for split in SPLITS}
    write_model(folder / "model.pt", population, position, widths=trials.widths)
    write_atomic(folder / "metrics.csv", metrics_lines(member.history, header=True).encode())
    if not has_diverged:
        posterior, ablated = posteriors(
            population.final_params(position), trials, place, config=member.config, on_progress=on_progress
        )
        scores = score_member(posterior, ablated, trials, place, config=member.config)
        if member.config.output.level != "scores":
            write_outputs(folder / "outputs.h5", posterior, trials, place, level=member.config.output.level)
    if searched:
        write_atomic(folder / LINEAGE, searched.lineage.encode())
    splits = [session.splits[place] for session in trials.sessions]
    sizes = {name: sum(len(getattr(split, name)) for split in splits) for name in SPLITS}
    outcome = "diverged" if has_diverged else "ok"
    result = {
        "schema": SCHEMA,
        "run_id": searched.run_id if searched else member.run_id,
        "config": to_dict(searched.config if searched else member.config),
        "dataset": {"path": dataset["path"], "digest": dataset["digest"]},
        "training": training_section(member, population, trials.widths, outcome) | told,
        "scores": scores,
        "split": {**sizes, "how": "; ".join(dict.fromkeys(split.how for split in splits))},
        "provenance": {**provenance, **peak_memory()},
    }
    seal(folder, result=result)
    return outcome


def training_section(member: Member, population: Population, widths: Widths, outcome: str) -> dict[str, Any]:
    """Return the section of a `result.json` that tells how a member was trained."""
    schedule = member.schedule
    reason = f"first tensor not finite: {member.first_non_finite}" if outcome == "diverged" else None
    return {
        "outcome": outcome,
        "reason": reason,
        "epochs": member.epoch,
        "steps": population.step,
        "best_epoch": schedule.best_epoch if schedule.best_epoch >= 0 else None,
        "best_monitor": schedule.best if math.isfinite(schedule.best) else None,
        "parameters": _which(schedule),
        "stopped_by": schedule.stopped_by,
        "seconds": round(population.seconds, 3),
        "effective_beta": effective_beta(member.config.hyper, member.config.train, widths),
    }


def peak_memory() -> dict[str, int]:
    """Return the most memory that this process has had so far, and of a GPU where it has used one, in bytes."""
    kibibyte = 1024  # ru_maxrss counts in these on Linux
    found = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibyte}
    if torch.cuda.is_initialized():
        found["peak_gpu_memory_bytes"] = torch.cuda.max_memory_reserved()
    return found


def _which(schedule: Schedule) -> str:
    """Return in words which parameters a member leaves."""
    if schedule.stopped_by == IMPORTED:
        return "imported"
    return "best" if schedule.best_epoch >= 0 else "last: no epoch had the full KL and L2 weights"


def write_model(path: Path, population: Population, position: int, *, widths: Widths | None = None) -> None:
    """Write the parameters that a member leaves, with its configuration and, where known, its recording's sizes."""
    params = population.final_params(position)
    buffer = io.BytesIO()
    meta = {"schema": SCHEMA, "config": to_dict(population.members[position].config)}
    if widths is not None:
        meta["widths"] = dataclasses.asdict(widths)
    torch.save({"meta": json.dumps(meta), "params": {n: v[0].clone().cpu() for n, v in params.items()}}, buffer)
    write_atomic(path, buffer.getvalue())


def posteriors(
    params: Params,
    trials: Trials,
    place: int,
    *,
    config: RunConfig,
    on_progress: Callable[[str, float], None] = lambda what, share: None,
) -> tuple[list[Posterior], dict[str, list[Posterior]]]:
    """Return the posterior of a member, and the same with inputs switched off, by name of the ablation."""

    def compute(what: str, *, co_off: bool, ext_off: bool) -> list[Posterior]:
        return compute_posterior(
            params, trials, place, config=config, co_off=co_off, ext_off=ext_off,
            on_progress=lambda share: on_progress(what, share),
        )  # fmt: skip

    ablated = {}
    if has_controller(config.arch):
        ablated["noci"] = compute("without controller", co_off=True, ext_off=False)
    if trials.widths.ext_input_dim:
        ablated["all_inputs_off"] = compute("without inputs", co_off=True, ext_off=True)
    return compute("posterior", co_off=False, ext_off=False), ablated
