"""The fields that a run has, as a sweep file may name them, and the values that they take."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from band.config import SECTIONS, RunConfig
from band.errors import ConfigError, did_you_mean
from band.search import Space, read_space, space_text
from band.yaml_file import Node, Source, kind_of, plain, read_scalar

SIZES_OF_DATA = ("encod_data_dim", "recon_data_dim", "encod_seq_len", "recon_seq_len", "behavior_dim", "ext_input_dim")
SPACE = "pbt.space"  # the one field that is a mapping
SWITCHES = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a run: full key, annotated type without None, whether None is allowed, default."""

    key: str
    kind: str
    is_optional: bool
    default: Any


def _fields() -> dict[str, Field]:
    found = {}
    parts = [(f"{name}.", kind) for name, kind in SECTIONS.items()] + [("", RunConfig)]
    for prefix, kind in parts:
        for entry in dataclasses.fields(kind):
            if entry.name not in SECTIONS or prefix:
                base, _, rest = str(entry.type).partition(" | ")
                key = prefix + entry.name
                found[key] = Field(key=key, kind=base, is_optional=rest == "None", default=entry.default)
    return found


FIELDS = _fields()


def _bare_names() -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for key in FIELDS:
        names.setdefault(key.rpartition(".")[2], []).append(key)
    return names


BARE = _bare_names()


def resolve_key(text: str, *, source: Source) -> str:
    """Return the full key, as `hyper.lr`, of a field given by that or by its unambiguous name alone.

    Raises:
        ConfigError: there is no such field, it is a section, or several sections have it.
    """
    if text in FIELDS:
        return text
    keys = BARE.get(text, [])
    if len(keys) == 1:
        return keys[0]
    if keys:
        raise ConfigError(f"{source}: {text} stands in several sections; write {' or '.join(keys)}")
    if text in SECTIONS:
        first = next(key for key in FIELDS if key.startswith(f"{text}."))
        raise ConfigError(f"{source}: {text} is a section; name one of its fields, as in {first}")
    if text.rpartition(".")[2] in SIZES_OF_DATA:
        raise ConfigError(f"{source}: {text} is read from the recording; leave it out")
    section = text.partition(".")[0]
    if section in SECTIONS:
        hint = did_you_mean(text, (key for key in FIELDS if key.startswith(f"{section}.")))
    else:
        hint = did_you_mean(text, [*FIELDS, *BARE], summary=f"the fields of {', '.join(SECTIONS)} and seed")
    raise ConfigError(f"{source}: {text} is not a field of a run; {hint}")


def flatten(node: Node, *, where: str) -> dict[str, Node]:
    """Return {full key: node} of a mapping whose keys are dotted, nested under their section, or bare.

    Args:
        node: a mapping; None stands for an empty one.
        where: what errors call it, as "grid".

    Raises:
        ConfigError: not a mapping, an unknown field, or one field named twice.
    """
    flat: dict[str, Node] = {}
    for text, child in _pairs(node, where=where):
        key = resolve_key(text, source=child.source)
        if key in flat:
            raise ConfigError(f"{child.source}: {where}.{key} is given twice, first in {flat[key].source}")
        flat[key] = child
    return flat


def _pairs(node: Node, *, where: str) -> list[tuple[str, Node]]:
    pairs: list[tuple[str, Node]] = []
    for text, child in mapping(node, where=where).items():
        if text in SECTIONS and (child.value is None or isinstance(child.value, dict)):
            inner = mapping(child, where=f"{where}.{text}")
            pairs += [(name if name in FIELDS else f"{text}.{name}", value) for name, value in inner.items()]
        else:
            pairs.append((text, child))
    return pairs


def mapping(node: Node, *, where: str) -> dict[str, Node]:
    """Return the entries of a mapping, of None no entries.

    Raises:
        ConfigError: something else.
    """
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise ConfigError(f"{node.source}: {where} must be a mapping of keys to values, found {kind_of(node)}")
    return node.value


def coerce(key: str, node: Node) -> Node:
    """Return `node` with its value in the type of the field `key`: 1 for 1.0, yes and on for a switch.

    Text that reads as a number is one where a number is due, since that is how environment variables give them.

    Raises:
        ConfigError: the value is of another type, or not finite.
    """
    field, value = FIELDS[key], node.value
    if key == SPACE and isinstance(value, dict):
        return _space(node)
    if isinstance(value, str) and field.kind != "str":
        value = SWITCHES.get(value.lower(), value) if field.kind == "bool" else read_scalar(value)
    if value is None and field.is_optional:
        return Node(None, node.source)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if field.kind == "int" and is_number and int(value) == value:
        return Node(int(value), node.source)
    if field.kind == "float" and is_number and abs(value) < 1e300:
        return Node(float(value) + 0.0, node.source)  # + 0.0: minus zero is zero
    if (field.kind == "bool" and isinstance(value, bool)) or (field.kind == "str" and isinstance(value, str)):
        return Node(value, node.source)
    wanted = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}[field.kind]
    hint = "; values to sweep stand under grid" if isinstance(node.value, list) else ""
    raise ConfigError(f"{node.source}: {key} must be {wanted}, found {kind_of(node)}{hint}")


def _space(node: Node) -> Node:
    """Return a search space as the text that a configuration keeps; errors name the line of the hyperparameter."""
    merged: Space = {}
    for key, child in flatten(node, where=SPACE).items():
        try:
            merged |= read_space({key: plain(child)}, where=SPACE)
        except ConfigError as error:
            raise ConfigError(f"{child.source}: {error}") from None
    return Node(space_text(merged), node.source)
