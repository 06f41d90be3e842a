"""The manifest of a sweep: one line for the sweep, then one line a run with what sets it apart from the base."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from band.config import RunConfig, to_dict
from band.errors import SweepError
from band.run_dir import check_name
from band.sweep.identity import LEGACY

SCHEMA = 1
MANIFEST = "manifest.jsonl"
SWEEPS = "sweeps"
_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a sweep: its id, the index of its dataset, and the full keys at which it leaves the base."""

    id: str
    dataset: int
    overrides: Mapping[str, Any]
    retired: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A sweep as generated, as band/README.md has it.

    `base` is a full configuration, `source` the name of the sweep file, `sets` what --set was given, `options` the
    sections of the file that later commands read: cluster, submit, pack.
    """

    name: str
    base: Mapping[str, Any]
    datasets: list[dict[str, Any]]
    runs: list[Run]
    source: str = ""
    sets: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def run_config(self, run: Run) -> dict[str, Any]:
        """Return the full configuration of `run` as nested plain values, with `data.path` that of its dataset."""
        config = {name: dict(part) if isinstance(part, Mapping) else part for name, part in self.base.items()}
        config["data"]["path"] = self.datasets[run.dataset]["path"]
        for key, value in run.overrides.items():
            section, _, name = key.rpartition(".")
            (config[section] if section else config)[name] = value
        return config

    def active(self) -> list[Run]:
        """Return the runs that are not retired."""
        return [run for run in self.runs if not run.retired]


def find_sweep(name_or_path: str | Path) -> Path:
    """Return the folder of a sweep given as a path, as NAME in ./sweeps or ./experiments/sweeps, or as its YAML file.

    Raises:
        SweepError: no such folder has a manifest; says where it was looked for.
    """
    given = Path(name_or_path)
    tried = [given, Path(SWEEPS) / given, Path("experiments") / SWEEPS / given]
    if given.suffix in (".yaml", ".yml"):
        tried = [given.parent / SWEEPS / given.stem]
    for folder in tried:
        if (folder / MANIFEST).is_file():
            return folder.resolve()
    looked = ", ".join(str(folder / MANIFEST) for folder in tried)
    raise SweepError(
        f"no sweep {str(name_or_path)!r}: looked for {looked}; write one with `band-sweep generate FILE.yaml`"
    )


def read_manifest(folder: str | Path) -> Manifest:
    """Return the manifest of the sweep in `folder`.

    Raises:
        SweepError: there is none, or a line of it is not what `generate` writes; names file and line.
    """
    path = Path(folder) / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SweepError(f"{path} does not exist; write it with `band-sweep generate FILE.yaml`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} cannot be read: {error}") from None
    return parse_manifest(text, path=path)


def parse_manifest(text: str, *, path: Path) -> Manifest:
    """Return the manifest written in `text`; `path` is what errors name.

    Raises:
        SweepError: a line is not what `generate` writes; names file and line.
    """
    lines = text.splitlines()
    number = 1
    try:
        head = json.loads(lines[0])
        if head["kind"] != "sweep" or head["schema"] > SCHEMA:
            raise SweepError(f"{path}:1: schema {head['schema']} of a {head['kind']}; this band reads up to {SCHEMA}")
        digest = _is(str, head.pop("digest"))
        manifest = Manifest(
            name=_name(head["name"]),
            base=_base(head["base"]),
            datasets=[_dataset(dataset) for dataset in head["datasets"]],
            runs=[],
            source=_is(str, head.get("source", "")),
            sets=tuple(_is(str, text) for text in head.get("set", ())),
            options=_is(dict, head.get("options", {})),
        )
        for line in lines[1:]:
            number += 1
            manifest.runs.append(_run(json.loads(line), manifest))
        number = 1
        is_whole = digest == _digest(head, lines[1:])
    except (SweepError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        problem = str(error) if isinstance(error, SweepError) else f"{type(error).__name__}: {error}"
        raise SweepError(f"{path}:{number}: not a line of a manifest ({problem}); generate the sweep again") from None
    if not is_whole:
        raise SweepError(f"{path} is not what its own digest says: it was altered or is damaged; generate it again")
    return manifest


def _is(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{str(value)[:80]!r} should be {kind.__name__}")
    return value


def _name(name: Any) -> str:
    """Return the name of a sweep: that of any folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise TypeError(f"{str(name)[:80]!r} is no name of a sweep")
    return name


def _value(value: Any) -> Any:
    """Return the value of a field: text, a finite number, a truth value or none."""
    if not (value is None or isinstance(value, (str, int, float))) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise TypeError(f"{str(value)[:80]!r} is no value of a field")
    return value


def _base(base: Any) -> dict[str, Any]:
    """Return a configuration of two levels; fields that did not exist yet have the values of what was done then."""
    for part in _is(dict, base).values():
        for value in part.values() if isinstance(part, dict) else (part,):
            _value(value)
    complete = dict(base)
    for section, fields in to_dict(RunConfig()).items():
        if isinstance(fields, dict):
            older = {name: LEGACY.get(f"{section}.{name}", value) for name, value in fields.items()}
            complete[section] = {**older, **_is(dict, base.get(section, {}))}
        else:
            complete.setdefault(section, LEGACY[section])
    return complete


def _dataset(dataset: Any) -> dict[str, Any]:
    _is(str, _is(dict, dataset)["path"])
    _is(str, dataset["digest"])
    return dict(dataset)


def _run(row: Any, manifest: Manifest) -> Run:
    overrides, is_retired = _is(dict, row["overrides"]), _is(bool, row["retired"])
    run = Run(check_name(row["id"], what="run id"), _is(int, row["dataset"]), overrides, is_retired)
    if not 0 <= run.dataset < len(manifest.datasets):
        raise IndexError(f"there is no dataset {run.dataset}")
    for key, value in run.overrides.items():
        section = key.rpartition(".")[0]
        if isinstance(manifest.base.get(section or key), Mapping) != bool(section):
            raise KeyError(key)
        _value(value)
    return run


def manifest_text(manifest: Manifest) -> str:
    """Return the text that `parse_manifest` reads back."""
    head = {
        "kind": "sweep",
        "schema": SCHEMA,
        "name": manifest.name,
        "source": manifest.source,
        "set": list(manifest.sets),
        "options": manifest.options,
        "base": manifest.base,
        "datasets": manifest.datasets,
    }
    lines = []
    for run in manifest.runs:
        row = {"id": run.id, "dataset": run.dataset, "overrides": run.overrides, "retired": run.retired}
        lines.append(_encode({"kind": "run", **row}))
    return "\n".join([_encode({**head, "digest": _digest(head, lines)}), *lines]) + "\n"


def _digest(head: Mapping[str, Any], lines: Iterable[str]) -> str:
    """Return the sha256 over the first line, without its digest, and the lines of the runs."""
    digest = hashlib.sha256(_encode(head).encode())
    for line in lines:
        digest.update(b"\n" + line.encode())
    return digest.hexdigest()
