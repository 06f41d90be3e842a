"""Two manifests of one sweep as one: what another machine has that is not at home is added, nothing is changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from band.sweep.collect import flatten
from band.sweep.manifest import Manifest, Run


def merge(home: Manifest, other: Manifest) -> Manifest:
    """Return the manifest at home with the runs of the other that it lacks; itself where it lacks none.

    A run is its id; its overrides are written anew, against the base at home, and its recording is found by content.
    """
    known = {run.id for run in home.runs}
    added = [run for run in other.runs if run.id not in known]
    if not added:
        return home
    datasets = list(home.datasets)
    places: dict[int, int] = {}
    for run in added:
        if run.dataset not in places:
            places[run.dataset] = _place(datasets, other.datasets[run.dataset])
    runs = [_against(home, other, run, dataset=places[run.dataset]) for run in added]
    return dataclasses.replace(home, datasets=datasets, runs=[*home.runs, *runs])


def _place(datasets: list[dict[str, Any]], dataset: dict[str, Any]) -> int:
    """Return where a recording stands among those known, added where it does not."""
    for number, known in enumerate(datasets):
        if known.get("digest") == dataset.get("digest"):
            return number
    datasets.append(dataset)
    return len(datasets) - 1


def _against(home: Manifest, other: Manifest, run: Run, *, dataset: int) -> Run:
    base = flatten(home.base)
    values: Mapping[str, Any] = flatten(other.run_config(run))
    overrides = {
        key: value
        for key, value in values.items()
        if key != "data.path" and (key in run.overrides or key not in base or base[key] != value)
    }
    return Run(run.id, dataset, overrides, run.retired)


def are_related(home: Manifest, other: Manifest) -> bool:
    """Return whether two manifests have a run or a recording in common, as two of one sweep do."""
    digests = [{dataset.get("digest") for dataset in manifest.datasets} for manifest in (home, other)]
    return bool(digests[0] & digests[1]) or len(lacks(home, other)) < len(other.runs)


def lacks(home: Manifest, other: Manifest) -> list[str]:
    """Return the ids of the other's runs that the one at home does not have."""
    known = {run.id for run in home.runs}
    return [run.id for run in other.runs if run.id not in known]
