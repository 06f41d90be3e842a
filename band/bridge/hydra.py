"""Hydra's YAML files of lfads-torch and BAND-torch, composed as those packages do it; nothing is instantiated."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from band.errors import ForeignError
from band.yaml_file import Node, read_scalar, read_yaml

GROUPS = ("model", "datamodule", "callbacks", "trainer", "logger", "posterior_sampling")
_REFERENCE = re.compile(r"\$\{([^${}]+)\}")
MAX_HOPS = 20  # of a reference to a reference


def read_config(paths: Sequence[Path]) -> dict[str, Node]:
    """Return the composed configuration, {group or key: node}, references replaced.

    Args:
        paths: files of one group each (a model, a datamodule …), or one that composes them: by its `defaults`, whose
            files lie in folders beside it, or in full, as Hydra saves it with a run. Later files go over earlier ones.

    Raises:
        ConfigError: a file is no YAML.
        ForeignError: a file is of no known kind, or names one that is not there.
    """
    composed: dict[str, Node] = {}
    for path in paths:
        _merge(composed, _sections(path))
    return {key: _resolved(node, composed) for key, node in composed.items()}


def _sections(path: Path) -> dict[str, Node]:
    """Return what a file says, under the name of its group if it is of one."""
    document = read_yaml(path)
    values: dict[str, Node] = document.value
    if "defaults" in values or any(isinstance(values[g].value, dict) for g in ("model", "trainer") if g in values):
        below = _defaults(values.get("defaults"), path)
        _merge(below, {key: node for key, node in values.items() if key != "defaults"})
        return below
    target = str(values["_target_"].value).lower() if "_target_" in values else ""
    if "datamodule" in target or {"data_path", "data_paths", "datafile_pattern", "batch_keys"} & set(values):
        return {"datamodule": document}
    if "encod_seq_len" in values or target.endswith((".lfads", ".band")):
        return {"model": document}
    if path.parent.name in GROUPS:
        return {path.parent.name: document}
    raise ForeignError(
        f"{path}: must be a model (with encod_seq_len), a datamodule (with data_paths or datafile_pattern), or a file "
        f"with defaults or a trainer, found {', '.join(list(values)[:6]) or 'nothing'}"
    )


def _defaults(node: Node | None, path: Path) -> dict[str, Node]:
    """Return what the `defaults` of a file bring in, {group: file} each, from the folders beside it."""
    below: dict[str, Node] = {}
    for entry in (node.value or []) if node is not None else []:
        if not isinstance(entry.value, dict):
            continue  # _self_: this file goes over what it names
        for group, name in entry.value.items():
            file = path.parent / str(group) / f"{name.value}.yaml"
            if not file.is_file():
                raise ForeignError(f"{entry.source}: defaults name {group}: {name.value}, but there is no {file}")
            _merge(below, {str(group): read_yaml(file)})
    return below


def _merge(below: dict[str, Node], above: dict[str, Node]) -> None:
    for key, node in above.items():
        under = below.get(key)
        if under is not None and isinstance(under.value, dict) and isinstance(node.value, dict):
            merged = dict(under.value)
            _merge(merged, node.value)
            node = Node(merged, node.source)
        below[key] = node


def _resolved(node: Node, root: dict[str, Node]) -> Node:
    if isinstance(node.value, dict):
        return Node({key: _resolved(child, root) for key, child in node.value.items()}, node.source)
    if isinstance(node.value, list):
        return Node([_resolved(child, root) for child in node.value], node.source)
    for _ in range(MAX_HOPS):
        if not (isinstance(node.value, str) and _REFERENCE.search(node.value)):
            return node
        node = _replaced(node, root)
    raise ForeignError(f"{node.source}: {node.value!r} refers to itself")


def _replaced(node: Node, root: dict[str, Node]) -> Node:
    """Return a scalar with its innermost references replaced."""
    alone = _REFERENCE.fullmatch(node.value)
    if alone:
        found = _referred(alone[1], node, root)
        return found if isinstance(found.value, (dict, list)) else Node(found.value, node.source)
    text = _REFERENCE.sub(lambda match: str(_referred(match[1], node, root).value), node.value)
    return Node(text, node.source)


def _referred(reference: str, node: Node, root: dict[str, Node]) -> Node:
    kind, colon, rest = reference.partition(":")
    if kind == "relpath":
        return Node(str(_package_folder(Path(node.source.file)) / rest), node.source)
    if kind == "oc.env":
        name, _, default = rest.partition(",")
        return Node(read_scalar(os.environ.get(name.strip(), default.strip())), node.source)
    found: Node | None = None if colon else Node(root, node.source)
    for part in reference.split("."):
        inner = found.value if found is not None else None
        if isinstance(inner, list) and part.isdecimal() and int(part) < len(inner):
            found = inner[int(part)]
        else:
            found = inner.get(part) if isinstance(inner, dict) else None
    if found is None:
        raise ForeignError(
            f"{node.source}: ${{{reference}}} refers to what is in none of the given files; give that too"
        )
    return found


def _package_folder(file: Path) -> Path:
    """Return what their paths are relative to: the folder that holds `configs`, else that of the file."""
    here = file.absolute()
    return next((folder.parent for folder in here.parents if folder.name == "configs"), here.parent)
