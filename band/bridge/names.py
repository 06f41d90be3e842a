"""Which names a foreign pickle may mention, and which of them are classes: decided by the name alone."""

from __future__ import annotations

from typing import Any

from band.bridge.values import Name
from band.errors import ForeignError

_KEYS = (str, int, float, bool, bytes, type(None))  # hashing these costs no recursion
# Modules whose functions run code or touch the machine: no model is made of them, so a file that names one is refused.
_DANGEROUS = {
    "os", "nt", "posix", "posixpath", "ntpath", "subprocess", "sys", "shutil", "socket", "ssl", "importlib", "imp",
    "runpy", "ctypes", "_ctypes", "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "code", "codeop", "pty",
    "commands", "popen2", "marshal", "types", "operator", "_operator", "inspect", "ast", "gc", "pdb", "bdb",
    "timeit", "trace", "profile", "cProfile", "webbrowser", "multiprocessing", "asyncio", "threading", "_thread",
    "signal", "tempfile", "glob", "fileinput", "zipimport", "pkgutil", "pydoc", "pip", "ensurepip", "venv",
    "urllib", "http", "ftplib", "smtplib", "requests", "builtins", "__builtin__",
}  # fmt: skip
_TYPES = {
    "long", "unicode", "basestring", "xrange",  # what Python 3 calls some of the others in protocols before 3
    "set", "frozenset", "list", "dict", "tuple", "complex", "bytearray", "slice", "range", "object", "int", "float",
    "str", "bool", "bytes",
}  # fmt: skip
# Classes and makers of values that begin with a small letter.
_MADE_BY_CALL = {
    "functools.partial", "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct", "datetime.datetime", "datetime.date", "datetime.timedelta",
    "datetime.timezone",
}  # fmt: skip


def checked_key(value: Any) -> Any:
    """Return a key of a dictionary, or member of a set, that is safe to hash."""
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, (*_KEYS, Name)) for part in parts):
        raise ForeignError(f"its pickle has {shown(value)} as a key, where texts and numbers are read")
    return value


def checked_name(module: str, name: str) -> Name:
    """Return a name of the file, unless its module is one that runs code."""
    top = module.split(".")[0]
    if top in _DANGEROUS and not (module in ("builtins", "__builtin__") and name in _TYPES):
        raise ForeignError(f"it names {shown(Name(f'{module}.{name}'))}: pickled code is not run")
    return Name(f"{module}.{name}")


def is_class(name: Name) -> bool:
    """Return whether calling `name` makes an object, as far as a name can tell: classes begin with a capital."""
    last = name.text.rpartition(".")[2].lstrip("_")
    return last[:1].isupper() or name.text in _MADE_BY_CALL


def arguments_of(value: Any) -> list[Any]:
    """Return the arguments of what would be a call."""
    if not isinstance(value, tuple):
        raise ForeignError("its pickle is damaged: arguments that are no tuple")
    return list(value)


def shown(value: Any) -> str:
    """Return what an error calls a value of the file."""
    text = value.text if isinstance(value, Name) else f"a value of type {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}…"
