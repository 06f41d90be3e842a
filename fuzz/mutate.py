"""Bytes as changes: of valid documents, so that what is behind a parser is reached as often as the parser itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e300, float("inf"), float("-inf"), float("nan")),
    *(2**31, 2**53, 2**63, -(2**63), 2**64, 10**40, 10**400, 1e-320),
    *("", " ", "0", "-1", "1e3", "²", "٣", "nan", "a", "..", ".", "/", "../../x", "/etc/passwd", "-rf", "~", "~root"),
    *("\x1b[31m", "\x1b]0;x\x07", "\r\n", "\n", "a\nb", "\0", "\u202e", "\ud800", "𝕏", "é", "[red]x[/red]", "[/]"),
    *("</script><script>", "<b>&amp;", "'\"`$(id)`;|&", "=1+1", "@x", "%n%s", "{0}", "$HOME", "${seed}", "x" * 5000),
    *("${oc.env:HOME}", "${oc.decode:1}", "${base.seed}", "module:Class", "os:system", "2024-01-01T00:00:00", "N/A"),
    *([], {}, [[]], [None], [1, "a"], {"a": 1}, {"": {}}, [[[[[[]]]]]], {"a": {"a": {"a": {}}}}, [{}], ["a"] * 300),
)
MOST_CHANGES = 12


def places_of(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Return every (container, key) below a value, breadth unbounded, in order."""
    found = [] if found is None else found
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        places_of(value[key], found)
    return found


def changed(document: Any, data: bytes, *, others: Sequence[Any] = ()) -> Any:
    """Return a copy of a document in which something is replaced, removed, doubled, moved or renamed.

    Args:
        document: plain values.
        data: which places, and what becomes of them: four bytes a change.
        others: values that fit somewhere, beside ODD.
    """
    document = [copy.deepcopy(document)]
    values = [*ODD, *others]
    for start in range(0, min(len(data), 4 * MOST_CHANGES) - 3, 4):
        kind, first, second, third = data[start : start + 4]
        places = places_of(document)
        if not places:
            break
        container, key = places[(first * 256 + second) % len(places)]
        value = copy.deepcopy(values[third % len(values)])
        if kind % 8 < 4:
            container[key] = value
        elif kind % 8 == 4:
            del container[key]
        elif kind % 8 == 5 and isinstance(container, dict):
            container[_name(value)] = container.pop(key)
        elif kind % 8 == 5:
            container.append(copy.deepcopy(container[key]))
        elif kind % 8 == 6:
            other, name = places[third % len(places)]
            container[key] = copy.deepcopy(other[name]) if name in range(len(other)) or name in other else value
        else:
            container[key] = [container[key]] if third % 2 else {_name(value): container[key]}
    return document[0] if document else None


def _name(value: Any) -> str:
    return value if isinstance(value, str) else str(value)[:50]


def encoded(value: Any) -> bytes:
    """Return JSON that has what no JSON of ours has: numbers beyond all floats, NaN, lone surrogates."""
    return json.dumps(value).replace("-Infinity", "-1e999").replace("Infinity", "1e999").encode()


def spliced(seeds: Sequence[bytes], data: bytes) -> bytes:
    """Return a seed in which pieces are overwritten, removed, doubled or brought from another, as the bytes say."""
    if not data:
        return seeds[0]
    text = bytearray(seeds[data[0] % len(seeds)])
    for start in range(1, min(len(data), 5 * MOST_CHANGES + 1) - 4, 5):
        kind, high, low, size, value = data[start : start + 5]
        place = (high * 256 + low) % (len(text) + 1)
        end = place + size % 16
        if kind % 5 == 0:
            text[place:end] = bytes([value]) * (size % 4 + 1)
        elif kind % 5 == 1:
            del text[place:end]
        elif kind % 5 == 2:
            text[place:place] = text[place : place + size]
        elif kind % 5 == 3 and place < len(text):
            text[place] ^= 1 << value % 8
        else:
            other = seeds[value % len(seeds)]
            begin = (low * 256 + high) % (len(other) + 1)
            text[place:end] = other[begin : begin + size]
    return bytes(text)
