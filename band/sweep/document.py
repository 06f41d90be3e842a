"""A sweep file as one document: includes below it, `--set` above it, `${…}` replaced, field names checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from band.config import SECTIONS
from band.errors import ConfigError, did_you_mean
from band.sweep.fields import BARE, FIELDS, coerce, flatten, mapping, resolve_key
from band.sweep.interpolate import Reference, Tie, interpolate, interpolate_alone
from band.yaml_file import Node, Source, kind_of, parse_setting, read_yaml

KEYS = (
    "name",
    "include",
    "base",
    "output",
    "pbt",
    "datasets",
    "grid",
    "zip",
    "list",
    "random",
    "seeds",
    "folds",
    "pair",
    "exclude",
    "pack",
    "cluster",
    "submit",
    "policy",
)
MERGED = ("base", "grid", "random", "pair", "cluster", "submit", "policy")  # key by key; the rest replace what is below
LIFTED = {"output", "pbt"}  # sections of the base that may stand beside it
MAX_INCLUDES = 16


@dataclass(frozen=True, kw_only=True)
class Document:
    """A sweep file read in full: `base` and `grid` are flat with full keys, nothing is expanded yet."""

    path: Path
    values: dict[str, Node]
    references: list[Reference]
    sets: tuple[str, ...]

    def get(self, key: str) -> Node:
        """Return the value of a top-level key, a None where it is absent."""
        return self.values.get(key) or Node(None, Source(str(self.path), 0, ""))

    def base(self) -> dict[str, Node]:
        """Return {full key: checked value} of the base."""
        return {key: field_value(key, node) for key, node in mapping(self.get("base"), where="base").items()}


def read_document(path: Path, *, sets: Sequence[str] = ()) -> Document:
    """Return the document of a sweep file.

    Args:
        path: a YAML file.
        sets: `key=value`, as given to --set; a field goes to the base, `grid.hyper.lr=[…]` to the grid.

    Raises:
        ConfigError: unreadable, an unknown key, a circle of includes, a reference that cannot be followed.
    """
    values = _load(path, above=())
    for text in sets:
        _set(values, text)
    values, references = interpolate(values)
    return Document(path=path, values=values, references=references, sets=tuple(sets))


def field_value(key: str, node: Node) -> Node:
    """Return the value of a field in its type; a relative path becomes absolute where it was written.

    Raises:
        ConfigError: a value of another type.
    """
    if isinstance(node.value, Tie):
        return node
    node = coerce(key, node)
    return Node(absolute(node), node.source) if key == "data.path" else node


def absolute(node: Node) -> str:
    """Return the path that `node` holds, relative to where it was written; empty stays empty.

    Raises:
        ConfigError: it has no home folder to begin with, or a zero byte.
    """
    if not node.value:
        return ""
    try:
        return str((Path(node.source.folder) / Path(node.value).expanduser()).resolve())
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{node.source}: data.path {node.value!r} is not a path: {error}") from None


def _load(path: Path, *, above: tuple[Path, ...]) -> dict[str, Node]:
    """Return the normalised document of `path` over what it includes; `above` are the files that include it."""
    here = path.resolve()
    if here in above or len(above) > MAX_INCLUDES:
        chain = " -> ".join(str(item) for item in (*above, here))
        raise ConfigError(f"{path}: includes itself, or more than {MAX_INCLUDES} deep: {chain}")
    document = read_yaml(path).value
    below: dict[str, Node] = {}
    for node in _as_list(document.pop("include", None)):
        node = interpolate_alone(node)
        if not isinstance(node.value, str) or not node.value:
            raise ConfigError(f"{node.source}: include must be a list of YAML files, found {kind_of(node)}")
        included = Path(absolute(node))
        if not included.is_file():
            raise ConfigError(f"{node.source}: include: {included} does not exist")
        _merge(below, _load(included, above=(*above, here)))
    _merge(below, _normalise(document))
    return below


def _as_list(node: Node | None) -> list[Node]:
    if node is None or node.value is None:
        return []
    return node.value if isinstance(node.value, list) else [node]


def _normalise(document: dict[str, Node]) -> dict[str, Node]:
    """Return the document with known keys only, `base` (taking in `output`, `pbt`) and `grid` flat with full keys."""
    for key, node in document.items():
        if key not in KEYS:
            raise ConfigError(f"{node.source}: {key} is not a key of a sweep file; {_hint(key)}")
    values = {key: node for key, node in document.items() if key not in LIFTED}
    for name in LIFTED & document.keys():
        section = document[name]
        below = mapping(values.get("base", Node(None, section.source)), where="base")
        if name in below:
            raise ConfigError(f"{section.source}: {name} is given twice, first in {below[name].source}")
        values["base"] = Node({**below, name: section}, values.get("base", section).source)
    for key in ("base", "grid"):
        if key in values:
            values[key] = Node(flatten(values[key], where=key), values[key].source)
    return values


def _hint(key: str) -> str:
    if key == "seed":
        return "write it as base.seed, or seeds for several"
    if key in SECTIONS or key in FIELDS or key in BARE:
        return f"write it under base, or under grid with a list of values: base.{key}"
    return did_you_mean(key, KEYS)


def _merge(below: dict[str, Node], above: dict[str, Node]) -> None:
    """Put the keys of `above` over those of `below`."""
    for key, node in above.items():
        under = below.get(key)
        if key in MERGED and under and isinstance(under.value, dict) and isinstance(node.value, dict):
            node = Node({**under.value, **node.value}, node.source)
        below[key] = node


def _set(values: dict[str, Node], text: str) -> None:
    """Put one `key=value` of a command line over the document."""
    key, node = parse_setting(text)
    head, _, rest = key.partition(".")
    if head in MERGED and rest:
        _merge(values, _normalise({head: Node({rest: node}, node.source)}))
    elif key in KEYS and key not in {"include", *LIFTED}:
        values.update(_normalise({key: node}))
    else:
        _merge(values, {"base": Node({resolve_key(key, source=node.source): node}, node.source)})
