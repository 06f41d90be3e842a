"""`${…}` in sweep files: values of the file and the environment by OmegaConf, fields of each run by name.

`${base.hyper.lr}`, `${name}` and `${oc.env:HOME}` are replaced once. `${hyper.lr}` or `${seed}`, standing alone, is
the value that the field has in each run, swept or not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from band.config import SECTIONS
from band.errors import ConfigError
from band.sweep.fields import resolve_key
from band.yaml_file import Node, Source, plain

_TIE = re.compile(rf"\$\{{\s*((?:{'|'.join(SECTIONS)})\.\w+|seed)\s*\}}")
_BASE = re.compile(r"\$\{\s*base\.([\w.]+)\s*\}")
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env:\s*([A-Za-z_]\w*)")
_MISSING = re.compile(r"Environment variable '(\w+)' not found")
_MARK = "\0"  # no YAML text can hold it


class Tie(NamedTuple):
    """A value that is that of another field of the same run."""

    key: str

    def __str__(self) -> str:
        return f"${{{self.key}}}"


class Reference(NamedTuple):
    """A place where the base value of a field is referred to."""

    key: str
    source: Source


def interpolate(document: Mapping[str, Node]) -> tuple[dict[str, Node], list[Reference]]:
    """Return the document with every `${…}` replaced, and where it referred to fields of the base.

    Args:
        document: top-level keys; `base`, where there is one, flat with full keys.

    Raises:
        ConfigError: a reference to nothing, to itself, or to an environment variable that is not set.
    """
    found = [node for child in document.values() for node in _texts(child)]
    if not found:
        return dict(document), []
    for node in found:
        _resolve(node, None)
    context = _context(document)
    references = [
        Reference(resolve_key(key, source=node.source), node.source)
        for node in found
        for key in _BASE.findall(node.value)
    ]
    return {key: _replace(node, context) for key, node in document.items()}, references


def interpolate_alone(node: Node) -> Node:
    """Return `node` with its `${oc.env:…}` replaced, where nothing of the file can be referred to.

    Raises:
        ConfigError: a reference that cannot be followed.
    """
    return _replace(node, _context({})) if any(_texts(node)) else node


def _texts(node: Node) -> Iterator[Node]:
    """Yield the nodes below `node` that hold `${`."""
    if isinstance(node.value, str):
        if "${" in node.value:
            yield node
    elif isinstance(node.value, (list, dict)):
        for child in node.value.values() if isinstance(node.value, dict) else node.value:
            yield from _texts(child)


def _context(document: Mapping[str, Node]) -> Any:
    """Return the document as an OmegaConf container, `base` nested by section and ties marked as such."""
    from omegaconf import OmegaConf

    values = {key: plain(node) for key, node in document.items()}
    nested: dict[str, Any] = {}
    for key, value in (values.get("base") or {}).items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return OmegaConf.create(_mark({**values, "base": nested}))


def _mark(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mark(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_mark(child) for child in value]
    tie = _TIE.fullmatch(value) if isinstance(value, str) else None
    return _MARK + tie[1] if tie else value


def _replace(node: Node, context: Any) -> Node:
    if isinstance(node.value, dict):
        return Node({key: _replace(child, context) for key, child in node.value.items()}, node.source)
    if isinstance(node.value, list):
        return Node([_replace(child, context) for child in node.value], node.source)
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    tie = _TIE.fullmatch(node.value)
    value = Tie(tie[1]) if tie else _resolve(node, context)
    return _wrap(value, _source_of(node))


def _source_of(node: Node) -> Source:
    """Return the source of a text; a path that an environment variable begins is relative to the current folder."""
    named = _ENVIRONMENT.match(node.value)
    is_from_shell = named is not None and named[1] in os.environ
    return node.source._replace(folder=os.getcwd()) if is_from_shell else node.source


def _resolve(node: Node, context: Any) -> Any:
    """Return what a text refers to in `context`; with None, only see that it can be parsed."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        probe = OmegaConf.create({"value": node.value}, parent=context)
        value = None if context is None else probe.value
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{node.source}: {node.value!r} cannot be followed: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    variable = _MISSING.search(str(error))
    if variable:
        name = variable[1]
        return f"the environment has no {name}; set it, or give a default as in ${{oc.env:{name},default}}"
    return str(error).splitlines()[0] if str(error) else "it refers to itself"


def _wrap(value: Any, source: Source) -> Node:
    """Return plain values as nodes that all come from `source`."""
    if isinstance(value, dict):
        return Node({str(key): _wrap(child, source) for key, child in value.items()}, source)
    if isinstance(value, list):
        return Node([_wrap(child, source) for child in value], source)
    if isinstance(value, str) and value.startswith(_MARK):
        value = Tie(value[1:])
    return Node(value, source)
