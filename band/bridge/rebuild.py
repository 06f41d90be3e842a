"""The only calls of a foreign pickle that get an answer: tensors, and plain values, each by a function of ours."""

from __future__ import annotations

import struct
from typing import Any

from band.bridge.unpickle import Rebuild
from band.bridge.values import ITEM_BYTES, Name, Placeholder, Storage, StoredTensor
from band.errors import ForeignError

_DTYPES = {"torch.double": "float64", "torch.float": "float32", "torch.half": "float16", "torch.long": "int64"}
_NUMPY_SCALARS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}


def _tensor(arguments: list[Any]) -> StoredTensor:
    storage, offset, shape, stride = arguments[:4]
    return _stored_tensor(storage, storage.dtype, offset, shape, stride)


def _tensor_of_dtype(arguments: list[Any]) -> StoredTensor:
    storage, offset, shape, stride, _, _, dtype = arguments[:7]
    name = _DTYPES.get(dtype.text, dtype.text.removeprefix("torch."))
    return _stored_tensor(storage, name, offset, shape, stride)


def _stored_tensor(storage: Any, dtype: str, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    numbers = [offset, *shape, *stride]
    if not isinstance(storage, Storage) or dtype not in ITEM_BYTES or not all(type(n) is int for n in numbers):
        raise ForeignError("its pickle describes a tensor wrongly: it is damaged")
    return StoredTensor(storage=storage, dtype=dtype, offset=offset, shape=tuple(shape), stride=tuple(stride))


def _parameter(arguments: list[Any]) -> StoredTensor:
    if not isinstance(arguments[0], StoredTensor):
        raise ForeignError("its pickle has a parameter that is no tensor: it is damaged")
    return arguments[0]


def _typed_tensor(arguments: list[Any]) -> Any:
    function, _, inner = arguments[:3]
    if not (isinstance(function, Name) and function.text in _TENSORS and isinstance(inner, tuple)):
        raise ForeignError("its pickle rebuilds a tensor in a way that is not known: pickled code is not run")
    return _TENSORS[function.text](list(inner))


def _numpy_scalar(arguments: list[Any]) -> Any:
    kind, data = arguments
    code = kind.arguments[0] if isinstance(kind, Placeholder) and kind.name == "numpy.dtype" else None
    if code not in _NUMPY_SCALARS or not isinstance(data, bytes):
        return Placeholder("numpy.generic", tuple(arguments))
    try:
        return struct.unpack(f"<{_NUMPY_SCALARS[code]}", data)[0]
    except struct.error:
        raise ForeignError("its pickle has a NumPy number of the wrong size: it is damaged") from None


def _encoded(arguments: list[Any]) -> bytes:
    text, encoding = arguments
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ForeignError(f"it asks to encode text as {str(encoding)[:40]!r}: its pickle is damaged")
    return text.encode("latin1")


def _no_bytes(arguments: list[Any]) -> bytes:
    if arguments:
        raise ForeignError("its pickle makes bytes in a way that is not known: it is damaged")
    return b""


def _bytearray(arguments: list[Any]) -> bytes:
    data = _encoded(arguments) if len(arguments) == 2 else arguments[0] if arguments else b""
    if not isinstance(data, (bytes, bytearray)):
        raise ForeignError("its pickle makes bytes in a way that is not known: it is damaged")
    return bytes(data)


def _path(arguments: list[Any]) -> str:
    return "/".join(str(part) for part in arguments).replace("//", "/")


def _set(arguments: list[Any]) -> set[Any]:
    return set(_hashable(arguments[0] if arguments else ()))


def _frozen_set(arguments: list[Any]) -> frozenset[Any]:
    return frozenset(_hashable(arguments[0] if arguments else ()))


def _hashable(values: Any) -> list[Any]:
    if not all(isinstance(value, (str, int, float, bool, bytes, type(None), Name)) for value in values):
        raise ForeignError("its pickle has a set of more than texts and numbers")
    return list(values)


def _pairs(arguments: list[Any]) -> list[tuple[str, Any]]:
    """Return the pairs that an ordered dictionary of protocol 0 is made of; later protocols give none here."""
    pairs = arguments[0] if arguments else []
    if not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], (str, int)) for pair in pairs
    ):
        raise ForeignError("its pickle has a dictionary that is made of no pairs: it is damaged")
    return [tuple(pair) for pair in pairs]


_TENSORS: dict[str, Rebuild] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
# The only calls that a checkpoint gets answered, and each by a function of ours.
REBUILD: dict[str, Rebuild] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch.Size": lambda arguments: tuple(arguments[0]),
    "torch.device": lambda arguments: ":".join(str(part) for part in arguments),
    "collections.OrderedDict": lambda arguments: dict(_pairs(arguments)),
    "collections.defaultdict": lambda arguments: {},
    "collections.deque": lambda arguments: list(arguments[0]) if arguments else [],
    **{
        f"{module}.set": _set for module in ("builtins", "__builtin__")
    },  # the second: protocols before 3, as torch.save
    **{f"{module}.frozenset": _frozen_set for module in ("builtins", "__builtin__")},
    "__builtin__.bytes": _no_bytes,
    "__builtin__.bytearray": _bytearray,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _encoded,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    **{f"pathlib.{kind}": _path for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")},
    **{f"pathlib._local.{kind}": _path for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
}
