"""`${…}` in sweep files: values of the file and the environment by OmegaConf, fields of each run by name.

`${base.hyper.lr}`, `${name}` and `${oc.env:HOME}` are replaced once, and nothing of another form is. `${hyper.lr}` or
`${seed}`, standing alone, is the value that the field has in each run, swept or not.
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
_OPENING = re.compile(r"\$\{")
_KEY = re.compile(r"\$\{\s*([A-Za-z_][\w.]*(?:\[[0-9]{1,6}\][\w.]*)*)\s*\}")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE|COOKIE|SESSION_?KEY", re.IGNORECASE)
MAX_TEXT = 4096  # characters of a text that refers to something
MAX_CHAIN = 64  # references from one to the next, and levels of what they refer to
MAX_STEPS = 5000  # references that are followed, those of what is referred to included
MAX_CHARACTERS = 1_000_000  # that texts come to
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
        _check_form(node)
        _resolve(node, None)
    values = _nested(document)
    _check_growth(found, values)
    context = _context(values)
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
    found = list(_texts(node))
    for text in found:
        _check_form(text)
    return _replace(node, _context({})) if found else node


def _texts(node: Node) -> Iterator[Node]:
    """Yield the nodes below `node` that hold `${`."""
    if isinstance(node.value, str):
        if "${" in node.value:
            yield node
    elif isinstance(node.value, (list, dict)):
        for child in node.value.values() if isinstance(node.value, dict) else node.value:
            yield from _texts(child)


def _check_form(node: Node) -> None:
    """Refuse what is not of the few forms that sweep files have, and what would write a secret into the results."""
    text = node.value
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{node.source}: a text with ${{…}} must have at most {MAX_TEXT} characters")
    for opening in _OPENING.finditer(text):
        variable = _ENVIRONMENT.match(text, opening.start())
        if variable and _SECRET.search(variable[1]):
            raise ConfigError(
                f"{node.source}: {variable[1]} has the name of a secret, which would be written beside the results; "
                "give what is meant under another name"
            )
        if not (variable or _KEY.match(text, opening.start())):
            raise ConfigError(
                f"{node.source}: {text!r} cannot be followed: "
                "must be ${key}, ${oc.env:NAME} or ${oc.env:NAME,default}"
            )


def _check_growth(found: list[Node], values: Mapping[str, Any]) -> None:
    """Refuse texts that refer to texts that refer to texts …, and come to more than any file could hold."""
    known: dict[int, tuple[int, int]] = {}

    def cost(value: Any, depth: int) -> tuple[int, int]:
        """Return how many references are followed for a value, and the characters that it comes to."""
        is_reference = isinstance(value, str) and "${" in value
        if not (is_reference or isinstance(value, (dict, list))):
            return 0, len(value) if isinstance(value, str) else 1
        if id(value) not in known:
            known[id(value)] = (
                (MAX_STEPS + 1, 0) if depth > MAX_CHAIN else (0, 0)
            )  # a circle is named where it is followed
            if is_reference:
                parts = [(1, len(value)), *(cost(_target(values, name), depth + 1) for name in _KEY.findall(value))]
            else:
                children = value.values() if isinstance(value, dict) else value
                parts = [cost(child, depth + 1) for child in children]
            if depth <= MAX_CHAIN:
                known[id(value)] = sum(steps for steps, _ in parts), sum(size for _, size in parts)
        return known[id(value)]

    steps, size = 0, 0
    for node in found:
        more = cost(node.value, 0)
        steps, size = steps + more[0], size + more[1]
        if steps > MAX_STEPS or size > MAX_CHARACTERS:
            raise ConfigError(
                f"{node.source}: what it refers to, with what that refers to, is more than can be followed"
            )


def _target(values: Any, name: str) -> Any:
    """Return what a name such as "base.hyper.lr" or "datasets[0]" stands for, None where there is no such."""
    for part in re.findall(r"[^.\[\]]+", name):
        if isinstance(values, dict):
            values = values.get(part)
        else:
            values = (
                values[int(part)] if isinstance(values, list) and part.isdecimal() and int(part) < len(values) else None
            )
    return values


def _nested(document: Mapping[str, Node]) -> dict[str, Any]:
    """Return the document as plain values, `base` nested by section."""
    values = {key: plain(node) for key, node in document.items()}
    nested: dict[str, Any] = {}
    for key, value in (values.get("base") or {}).items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return {**values, "base": nested}


def _context(values: Mapping[str, Any]) -> Any:
    """Return plain values as an OmegaConf container, ties marked as such."""
    from omegaconf import OmegaConf

    return OmegaConf.create(_mark(values))


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
