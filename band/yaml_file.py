"""YAML as people write it: values that know the line they stand on, numbers as people write them, nothing executed.

Only the event stream of the parser is used, so no tag can construct anything. Scalars follow YAML 1.2: `1e-3` is a
number, `on`, `off`, `yes` and `no` are words that a switch understands, dates and times of day are words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from band.errors import ConfigError

MAX_BYTES = 16 * 2**20
MAX_VALUES = 2_000_000  # aliases counted as often as they are used
MAX_DEPTH = 32
MAX_DIGITS = 300  # int() of a longer text takes quadratic time
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
_WORDS |= {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT_TAG = "tag:yaml.org,2002:str"


class Source(NamedTuple):
    """Where a value was written: a file and its line, or a command line; `folder` is what its paths are relative to."""

    file: str
    line: int
    folder: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Node(NamedTuple):
    """A value and where it was written; `value` is a scalar, a list of nodes, or a dict of nodes."""

    value: Any
    source: Source


def plain(node: Node) -> Any:
    """Return the value of `node` without its sources."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def read_yaml(path: Path) -> Node:
    """Return the mapping that a YAML file holds; an empty file is an empty mapping.

    Raises:
        ConfigError: the file cannot be read, is not YAML, holds a key twice, a tag, or no mapping; names its line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: must be UTF-8 text, found byte {data[error.start]:#04x} at {error.start}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: must be under {MAX_BYTES >> 20} MiB")
    node = parse_yaml(text, file=str(path), folder=str(path.parent.absolute()))
    if node.value is None:
        return Node({}, node.source)
    if not isinstance(node.value, dict):
        raise ConfigError(f"{node.source}: must be a mapping of keys to values, found {kind_of(node)}")
    return node


def parse_yaml(text: str, *, file: str, folder: str, is_line: bool = False) -> Node:
    """Return the value written in `text`.

    Args:
        text: one YAML document.
        file: what errors name.
        folder: what relative paths in it are relative to.
        is_line: `text` is one line of a command, so errors and sources name no line.

    Raises:
        ConfigError: not YAML, a key twice, a tag, too deep or too large; names its line.
    """
    try:
        text.encode()
        return _Reader(text, file=file, folder=folder, is_line=is_line).document()
    except UnicodeEncodeError:
        raise ConfigError(f"{file}: must be UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        line = text.count("\n", 0, getattr(error, "position", 0)) if mark is None else mark.line
        where = file if is_line else f"{file}:{line + 1}"
        has_braces = "${" in "".join(text.splitlines()[line : line + 1])
        advice = "inside { } or [ ], ${…} needs quotes around it" if has_braces else "check indentation, colons, quotes"
        raise ConfigError(f"{where}: not YAML: {problem}; {advice}") from None


def parse_setting(text: str) -> tuple[str, Node]:
    """Return key and value of `key=value` as given on a command line; its paths are relative to the current folder.

    Raises:
        ConfigError: no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: must be key=value, as in hyper.lr=1e-3")
    return key.strip(), parse_yaml(value, file=f"--set {text}", folder=os.getcwd(), is_line=True)


def kind_of(node: Node) -> str:
    """Return what an error calls the value found."""
    if isinstance(node.value, dict):
        return "a mapping"
    return "a list" if isinstance(node.value, list) else repr(node.value)


def read_scalar(text: str) -> Any:
    """Return the number, truth value or None that an unquoted `text` is, else `text` itself."""
    word = text if text.lower() not in _WORDS else text.lower()
    if word in _WORDS:
        return _WORDS[word]
    if len(text) <= MAX_DIGITS and _INT.fullmatch(text):
        return int(text)
    return float(text) if len(text) <= MAX_DIGITS and _FLOAT.fullmatch(text) else text


class _Reader:
    """Builds nodes from the events of one document."""

    def __init__(self, text: str, *, file: str, folder: str, is_line: bool) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._file, self._folder, self._is_line = file, folder, is_line
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._count = 0

    def document(self) -> Node:
        next(self._events)
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            return Node(None, self._source(start))
        node = self._node(next(self._events), 0)
        next(self._events)
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise ConfigError(f"{self._source(after)}: must be one document, found a second")
        return node

    def _source(self, event: Any) -> Source:
        return Source(self._file, 0 if self._is_line else event.start_mark.line + 1, self._folder)

    def _node(self, event: Any, depth: int) -> Node:
        source, before = self._source(event), self._count
        self._count += 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"{source}: must not be nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, source)
        tag = event.tag
        if tag not in (None, "!", _TEXT_TAG):
            raise ConfigError(f"{source}: tags are not used here, found {tag!r}; write the plain value")
        if isinstance(event, yaml.ScalarEvent):
            if "\0" in event.value:
                raise ConfigError(f"{source}: text must not hold a zero byte, found {event.value!r}")
            node = Node(read_scalar(event.value) if event.implicit[0] else event.value, source)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Node(self._sequence(depth), source)
        else:
            node = Node(self._mapping(depth), source)
        if self._count > MAX_VALUES:
            raise ConfigError(f"{source}: holds more than {MAX_VALUES} values; use grid, zip or random instead")
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._count - before)
        return node

    def _alias(self, event: Any, source: Source) -> Node:
        if event.anchor not in self._anchors:
            raise ConfigError(f"{source}: alias *{event.anchor} has no anchor &{event.anchor} that ends before it")
        node, size = self._anchors[event.anchor]
        self._count += size
        if self._count > MAX_VALUES:
            raise ConfigError(f"{source}: aliases expand to more than {MAX_VALUES} values")
        return Node(node.value, source)

    def _sequence(self, depth: int) -> list[Node]:
        values = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._node(event, depth + 1))
        return values

    def _mapping(self, depth: int) -> dict[str, Node]:
        values: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            source = self._source(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise ConfigError(f"{source}: a key must be a word")
            key, is_merge = event.value, event.value == "<<" and event.implicit[0]
            node = self._node(next(self._events), depth + 1)
            if is_merge:
                merged = {**_merge_values(node), **merged}
            elif key in values:
                raise ConfigError(f"{source}: {key} is given twice, first in line {values[key].source.line or 1}")
            else:
                values[key] = Node(node.value, source)  # a block begins a line below its key
        return {**merged, **values} if merged else values


def _merge_values(node: Node) -> dict[str, Node]:
    """Return the keys that `<<: *anchor` or `<<: [*a, *b]` brings in; of two, the first given wins."""
    parts = node.value if isinstance(node.value, list) else [node]
    values: dict[str, Node] = {}
    for part in reversed(parts):
        if not isinstance(part.value, dict):
            raise ConfigError(f"{node.source}: << must be given a mapping, found {kind_of(part)}")
        values |= part.value
    return values
