"""What a foreign pickle may become: plain values, descriptions of tensors, names, and placeholders that do nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from band.errors import ForeignError

ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
MAX_DIMS = 8
MAX_EXPANDED = 2**20  # elements of a tensor that repeats fewer stored ones
MAX_DEPTH = 32
MAX_SHOWN = 10_000  # values that `plain` gives


@dataclass(frozen=True)
class Name:
    """A name that the file refers to, as `torch.float32`; nothing is imported for it."""

    text: str


@dataclass(eq=False)
class Placeholder:
    """Stands for an object of a class that is neither imported nor called; what the file says of it is kept as data."""

    name: str
    arguments: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    def attributes(self) -> dict[Any, Any]:
        """Return its attributes and, of a kind of mapping, its entries."""
        state = self.state if isinstance(self.state, dict) else {}
        return {**state, **self.entries}


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file."""

    dtype: str  # a key of ITEM_BYTES; "" where the tensor says
    key: str
    size: int  # elements, or bytes where dtype is ""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies in the file; nothing of it is read yet."""

    storage: Storage
    dtype: str
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # elements

    def __post_init__(self) -> None:
        held = self.storage.size if self.storage.dtype else self.storage.size // ITEM_BYTES[self.dtype]
        numbers = (self.offset, *self.shape, *self.stride)
        sane = len(self.shape) == len(self.stride) <= MAX_DIMS and all(0 <= n < 2**48 for n in numbers)
        if not sane:
            raise ForeignError(f"a tensor has shape {self.shape}, stride {self.stride}: the file is damaged")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        count = math.prod(self.shape)
        if count and (last >= held or count > max(held, MAX_EXPANDED)):
            raise ForeignError(
                f"a tensor of shape {self.shape}, stride {self.stride} at {self.offset} reaches beyond the {held} "
                f"elements of storage {self.storage.key!r}: the file is damaged"
            )


def attributes_of(value: Any) -> Mapping[Any, Any]:
    """Return the entries of a mapping or the attributes of a placeholder; none of anything else."""
    if isinstance(value, Placeholder):
        return value.attributes()
    return value if isinstance(value, dict) else {}


def plain(value: Any) -> Any:
    """Return `value` as JSON values: placeholders as their class and attributes, tensors as their shape.

    What is nested beyond 32 levels or more than 10 000 values, as in a file that refers to itself, becomes "…".
    """
    left = [MAX_SHOWN]

    def show(item: Any, depth: int) -> Any:
        left[0] -= 1
        if depth > MAX_DEPTH or left[0] < 0:
            return "…"
        if item is None or isinstance(item, (bool, str)):
            return item
        if isinstance(item, int):
            return item if abs(item) < 2**63 else "…"
        if isinstance(item, float):
            return item if math.isfinite(item) else str(item)
        if isinstance(item, Name):
            return item.text
        if isinstance(item, StoredTensor):
            return f"tensor {item.dtype} {list(item.shape)}"
        if isinstance(item, Placeholder):
            return {"class": item.name} | {str(k): show(v, depth + 1) for k, v in item.attributes().items()}
        if isinstance(item, dict):
            return {str(k): show(v, depth + 1) for k, v in item.items()}
        if isinstance(item, (list, tuple, set, frozenset)):
            return [show(v, depth + 1) for v in item]
        return str(item)[:200]

    return show(value, 0)
