"""What a GPU does again and again, captured once as a CUDA graph: its thousands of kernels then cost one launch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
WARM_UP = 2  # calls as they are, by which libraries have their handles and kernels are compiled


class Captured(Generic[Result]):
    """Calls of one function of tensors of fixed shapes, in tuples, lists and dataclasses; it may also change tensors.

    On a GPU the third call is recorded and, as every later one, replayed: the function itself is not called any more,
    and the tensors of its result are overwritten by the next call. On a CPU, or with BAND_GRAPHS=off, each call is a
    call. The function is not kept, so that the memory of a graph goes with the last name of what had it recorded.
    """

    def __init__(self, *, device: torch.device) -> None:
        """Take the device that does all that the function does."""
        self._device = device
        self._is_wanted = device.type == "cuda" and os.environ.get("BAND_GRAPHS") != "off"
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, function: Callable[..., Result], *inputs: Any) -> Result:
        """Call the function, the same each time; tensors may lie on the CPU."""
        self._calls += 1
        if not self._is_wanted or self._calls <= WARM_UP:
            return function(*_moved(inputs, self._device, {}))
        if self._graph is None:
            self._capture(function, inputs)
        else:
            for held, value in zip(self._held, _tensors(inputs), strict=True):
                held.copy_(value, non_blocking=True)
        assert self._graph is not None
        self._graph.replay()
        return self._result

    def _capture(self, function: Callable[..., Result], inputs: tuple[Any, ...]) -> None:
        copies: dict[int, Tensor] = {}
        arguments = _moved(inputs, self._device, copies, copy=True)
        self._held = [copies[id(value)] for value in _tensors(inputs)]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = function(*arguments)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _moved(value: Any, device: torch.device, known: dict[int, Tensor], *, copy: bool = False) -> Any:
    """Return the same with every tensor on the device; what was one tensor stays one."""
    if isinstance(value, Tensor):
        if id(value) not in known:
            known[id(value)] = value.to(device, copy=copy)
        return known[id(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _moved(getattr(value, f.name), device, known, copy=copy) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(part, device, known, copy=copy) for part in value)
    return value
