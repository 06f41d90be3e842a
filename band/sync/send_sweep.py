"""A sweep sent to another machine to be submitted there: code, recordings, template, and at last the sweep itself."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from band.data.digest import file_digest
from band.errors import DataError, RemoteError, SweepError
from band.run_dir import SweepDir, check_name, code_digest
from band.slurm.template import FOLDER, templates
from band.sweep.manifest import SWEEPS, Manifest, manifest_text, parse_manifest, read_manifest
from band.sweep.snapshot import PACKAGE
from band.sync.connection import Connection
from band.sync.merge import lacks
from band.sync.push import Parcel, Shipment, offer, parcel

DATASETS = "datasets"
NEEDS = ("yaml", "submitit", "torch", "h5py")  # what submitting there, and the jobs, import


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What is to be sent, and what is there."""

    path: str  # of the sweep there
    code: str  # digest of the code
    shipments: tuple[Shipment, ...]
    manifest: str  # as it is to be there
    found: str | None  # as it is there
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes that are still to be sent."""
        return sum(shipment.size_bytes for shipment in self.shipments)

    @property
    def is_there(self) -> bool:
        """Whether nothing is left to be sent."""
        return not self.size_bytes and self.manifest == self.found


def plan_errand(sweep: SweepDir, connection: Connection, *, cluster: str, is_dry_run: bool = False) -> Errand:
    """Return what is to be sent of a sweep; a folder for what is on its way is all that is made there.

    Args:
        sweep: the sweep at home.
        connection: to the machine; its `path` is the project's folder there.
        cluster: the template that is to be there, "" for none.
        is_dry_run: make not even that folder.

    Raises:
        DataError: a recording is missing, or is not what the sweep was generated for.
        SweepError: the sweep there has runs that the one at home has not.
        RemoteError: the connection broke.
    """
    manifest = read_manifest(sweep.path)
    folder = f"experiments/{SWEEPS}/{check_name(sweep.name, what='sweep')}"
    there = connection.call("read", path=folder, start=connection.config.path)
    found = there["manifest"]
    if found is not None:
        _check_runs(manifest, parse_manifest(found, path=Path(there["path"], "manifest.jsonl")), connection=connection)
    used = sorted({run.dataset for run in manifest.active()})
    recordings = {number: _recording(manifest.datasets[number]) for number in used}
    data = _ship_recordings(connection, list(recordings.values()), is_dry_run=is_dry_run)
    code = code_digest(PACKAGE)
    shipments = [
        data,
        offer(connection, package(), folder=f"{folder}/code/{code}", is_whole=True, is_dry_run=is_dry_run),
    ]
    notes: list[str] = []
    own = _own_template(cluster)
    if own is not None:
        shipments.append(offer(connection, [parcel(own)], folder=FOLDER, is_dry_run=is_dry_run))
        if shipments[-1].of_state("differs"):
            notes.append(f"{shipments[-1].paths[0]} there differs from {own}; the one there counts")
    paths = dict(zip(recordings, data.paths, strict=True))
    return Errand(
        path=str(there["path"]),
        code=code,
        shipments=tuple(shipments),
        manifest=manifest_text(_with_paths(manifest, paths)),
        found=found,
        notes=tuple(notes),
    )


def finish(sweep: SweepDir, connection: Connection, errand: Errand) -> None:
    """Write the sweep there, once all that it names is there.

    Raises:
        BandError: somebody else has changed it meanwhile.
        RemoteError: the connection broke.
    """
    if errand.manifest == errand.found:
        return
    text = sweep.sweep_yaml.read_text(encoding="utf-8") if sweep.sweep_yaml.exists() else None
    answer = connection.call(
        "write", path=errand.path, manifest=errand.manifest, sweep_yaml=text, expected=errand.found
    )
    if not answer.get("path"):
        raise RemoteError(f"{connection.host} did not say that the sweep was written; give the same command again")


def _check_runs(manifest: Manifest, other: Manifest, *, connection: Connection) -> None:
    extra = lacks(manifest, other)
    if extra:
        raise SweepError(
            f"the sweep {manifest.name} at {connection.host} has {len(extra)} runs that this one has not, such as "
            f"{extra[0]}; bring them home first (band-sync pull), or give this sweep another name"
        )


def _recording(dataset: Mapping[str, Any]) -> Parcel:
    path, digest = Path(dataset["path"]), str(dataset["file_digest"])
    if file_digest(path) != digest:
        raise DataError(f"{path} has changed since the sweep was generated; generate it again")
    return parcel(path, sha256=digest)


def _ship_recordings(connection: Connection, parcels: list[Parcel], *, is_dry_run: bool) -> Shipment:
    """Offer recordings; one whose name is taken there by another gets a few digits of its own."""
    names = [each.name for each in parcels]
    parcels = [_renamed(each) if names.count(each.name) > 1 else each for each in parcels]
    options: dict[str, Any] = {"folder": DATASETS, "reuse": True, "is_dry_run": is_dry_run}
    shipment = offer(connection, parcels, **options)
    if not shipment.of_state("differs"):
        return shipment
    taken = set(shipment.of_state("differs"))
    return offer(connection, [_renamed(each) if each in taken else each for each in parcels], **options)


def _renamed(each: Parcel) -> Parcel:
    name = PurePosixPath(each.name)
    return dataclasses.replace(each, name=f"{name.stem}-{each.sha256[:8]}{name.suffix}")


def package() -> list[Parcel]:
    """Return the files of this package as they stand below code/DIGEST."""
    return [parcel(path, name=f"{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}") for path in _files(PACKAGE)]


def _files(folder: Path) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _own_template(cluster: str) -> Path | None:
    """Return the user's own template of a cluster, None where band ships it or there is none."""
    path = templates(Path.cwd()).get(cluster)
    return None if path is None or path.is_relative_to(PACKAGE) else path


def _with_paths(manifest: Manifest, paths: Mapping[int, str]) -> Manifest:
    """Return the manifest with its recordings where they are there."""
    datasets = [
        {**dataset, "path": paths.get(number, dataset["path"])} for number, dataset in enumerate(manifest.datasets)
    ]
    return dataclasses.replace(manifest, datasets=datasets)
