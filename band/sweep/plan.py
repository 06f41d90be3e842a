"""What `generate` will write: the sweep file's runs beside those that are there, and what the rest will cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from band.errors import ConfigError, SweepError
from band.files import write_atomic
from band.run_dir import SweepDir, check_name
from band.sweep.document import Document, read_document
from band.sweep.fields import FIELDS
from band.sweep.grid import Expansion, expand
from band.sweep.manifest import SWEEPS, Manifest, Run, manifest_text, read_manifest
from band.sweep.policy import read_policy
from band.yaml_file import Node, kind_of, plain

OPTIONS = ("pack", "cluster", "submit", "policy")
MAX_NAME = 64


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the runs without a result will take, each alone on one core; memory is that of the largest task of one run.

    `seconds` and `home_bytes` are sums over `num_runs`.
    """

    num_runs: int = 0
    seconds: float = 0.0
    memory_bytes: int = 0
    home_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep before it is written: ids of runs that are new, were there, come back, and are retired by this."""

    folder: Path
    text: bytes
    manifest: Manifest
    expansion: Expansion
    new: list[str]
    kept: list[str]
    restored: list[str]
    retired: list[str]
    finished: set[str]
    cost: Cost

    @property
    def runs(self) -> list[Run]:
        """The runs that the sweep file asks for."""
        wanted = {*self.new, *self.kept, *self.restored}
        return [run for run in self.manifest.runs if run.id in wanted]


def make_plan(path: str | Path, *, sets: Sequence[str] = (), name: str | None = None, limit: int | None = None) -> Plan:
    """Return what generating the sweep file at `path` would write; writes nothing.

    Args:
        path: a sweep file; the sweep's folder is sweeps/NAME beside it.
        sets: `key=value` over the file.
        name: of the sweep, instead of the file's own `name` or, without that, its stem.
        limit: take the first so many runs only; nothing is retired then.

    Raises:
        ConfigError: the file breaks a rule.
        DataError: a recording cannot be read.
        SweepError: the folder belongs to another sweep file, or its manifest is damaged.
    """
    path = Path(path)
    _check_file(path)
    document = read_document(path, sets=sets)
    expansion = expand(document)
    sweep = SweepDir(path.parent / SWEEPS / _name(document, name))
    before = _before(sweep, source=path.name)
    wanted = expansion.runs[:limit]
    was_retired = {run.id: run.retired for run in before.runs} if before else {}
    finished = _finished(sweep)
    manifest = Manifest(
        name=sweep.name,
        base=expansion.base,
        datasets=list(expansion.datasets),
        runs=list(wanted),
        source=path.name,
        sets=tuple(sets),
        options=_options(document),
    )
    left = _left(before, wanted, manifest, is_retired=limit is None)
    manifest.runs.extend(left)
    return Plan(
        folder=sweep.path,
        text=path.read_bytes(),
        manifest=manifest,
        expansion=expansion,
        new=[run.id for run in wanted if run.id not in was_retired],
        kept=[run.id for run in wanted if was_retired.get(run.id) is False],
        restored=[run.id for run in wanted if was_retired.get(run.id)],
        retired=[run.id for run in left if run.retired and not was_retired[run.id]],
        finished=finished,
        cost=_cost(manifest, [run for run in wanted if run.id not in finished]),
    )


def write_plan(plan: Plan) -> None:
    """Write the sweep's two files, each whole; results and tasks in the folder are left as they are.

    Raises:
        OSError: the disk is full, read-only …; the manifest is then the old one.
    """
    sweep = SweepDir(plan.folder)
    sweep.path.mkdir(parents=True, exist_ok=True)
    write_atomic(sweep.sweep_yaml, plan.text)
    write_atomic(sweep.manifest, manifest_text(plan.manifest).encode())


def _check_file(path: Path) -> None:
    if path.is_file():
        return
    near = [path.with_suffix(".yaml"), Path("experiments") / path.with_suffix(".yaml").name]
    found = next((f"; did you mean {candidate}?" for candidate in near if candidate.is_file()), "")
    raise ConfigError(f"{path}: must be a sweep file (YAML), {'is a folder' if path.is_dir() else 'not found'}{found}")


def _name(document: Document, name: str | None) -> str:
    given = document.get("name")
    where = "--name" if name is not None else f"{given.source}: name"
    value = name if name is not None else (document.path.stem if given.value is None else given.value)
    try:
        checked = check_name(value, what=where)
    except SweepError as error:
        raise ConfigError(f"{error}; set name: in the file, or --name") from None
    if len(checked) > MAX_NAME:
        raise ConfigError(f"{where} must be at most {MAX_NAME} characters, found {len(checked)}")
    return checked


def _options(document: Document) -> dict[str, Any]:
    """Return the sections that later commands read, in so far as they can be checked here."""
    options = {key: document.values[key] for key in OPTIONS if key in document.values}
    pack = options.get("pack", Node("auto", document.get("pack").source))
    is_count = isinstance(pack.value, int) and not isinstance(pack.value, bool) and pack.value >= 1
    if not is_count and pack.value != "auto":
        raise ConfigError(f"{pack.source}: pack must be auto, or how many runs share a device, found {kind_of(pack)}")
    for key, kinds, wanted in (("cluster", (str, dict), "a name or a mapping"), ("submit", (dict,), "a mapping")):
        if key in options and not isinstance(options[key].value, kinds):
            raise ConfigError(f"{options[key].source}: {key} must be {wanted}, found {kind_of(options[key])}")
    if "policy" in options:
        read_policy((str(options["policy"].source), plain(options["policy"])))
    return {key: plain(node) for key, node in options.items()}


def _before(sweep: SweepDir, *, source: str) -> Manifest | None:
    """Return the manifest that is there, None where there is none."""
    if not sweep.manifest.exists():
        return None
    try:
        before = read_manifest(sweep.path)
    except SweepError as error:
        raise SweepError(f"{error}; move that file aside first, results beside it stay valid") from None
    if before.source != source:
        raise SweepError(f"{sweep.path} was generated from {before.source}, not {source}; give another name by --name")
    return before


def _left(before: Manifest | None, wanted: Sequence[Run], manifest: Manifest, *, is_retired: bool) -> list[Run]:
    """Return the runs that are there but not wanted, in terms of the new base; adds the recordings that they need."""
    if before is None:
        return []
    ids = {run.id for run in wanted}
    left = []
    for run in before.runs:
        if run.id not in ids:
            overrides = _difference(before.run_config(run), manifest.base)
            place = _place(before.datasets[run.dataset], manifest.datasets)
            left.append(Run(run.id, place, overrides, run.retired or is_retired))
    return left


def _difference(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the full keys at which `config` leaves `base`."""
    overrides = {}
    for key in FIELDS:
        section, _, name = key.rpartition(".")
        value = (config[section] if section else config)[name]
        if key != "data.path" and value != (base[section] if section else base)[name]:
            overrides[key] = value
    return overrides


def _place(entry: dict[str, Any], datasets: list[dict[str, Any]]) -> int:
    for place, other in enumerate(datasets):
        if other["digest"] == entry["digest"]:
            return place
    datasets.append(entry)
    return len(datasets) - 1


def _finished(sweep: SweepDir) -> set[str]:
    try:
        return {name for name in os.listdir(sweep.runs) if not name.startswith(".")}
    except FileNotFoundError:
        return set()


def _cost(manifest: Manifest, runs: Sequence[Run]) -> Cost:
    """Return the cost of `runs`, estimated once for each distinct set of what it depends on."""
    from band.sweep.estimate import PROCESS_BYTES, Estimate, estimate

    known: dict[tuple[Any, ...], Estimate] = {}
    seconds, memory, home = 0.0, 0, 0
    idle = ("data.fold", "data.split_seed", "seed")
    for run in runs:
        cheap = {k: v for k, v in run.overrides.items() if k not in idle and not k.startswith("hyper.")}
        key = (run.dataset, *cheap.items())
        if key not in known:
            known[key] = estimate(manifest.run_config(run), manifest.datasets[run.dataset]["shapes"])
        cost = known[key]
        seconds, home = seconds + cost.seconds, home + cost.home_bytes
        memory = max(memory, PROCESS_BYTES + cost.memory_bytes)
    return Cost(num_runs=len(runs), seconds=seconds, memory_bytes=memory, home_bytes=home)
