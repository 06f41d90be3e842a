"""Named options of the configuration: those of the package by a word, those of a user by `module:Class`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from band.errors import ConfigError


def named_option(name: str, built_in: Mapping[str, str], *, key: str, base: type[Any]) -> type[Any]:
    """Return the class that `name` stands for.

    Args:
        name: a word of `built_in`, or `module:Class` of a module that can be imported.
        built_in: {word: "module:Class"}.
        key: of the configuration, for messages.
        base: what the class must derive from.

    Raises:
        ConfigError: no such word, no such module or class, or the class is of another kind or lacks a method.
    """
    path = built_in.get(name, name)
    module, _, attribute = path.partition(":")
    if not attribute:
        raise ConfigError(f"{key} must be one of {', '.join(built_in)}, or module:Class of your own, got {name!r}")
    found = _imported(module, attribute, key)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{key}: {name} must be a class derived from {base.__module__}.{base.__name__}")
    if inspect.isabstract(found):
        raise ConfigError(f"{key}: {name} lacks {', '.join(sorted(found.__abstractmethods__))}")
    return found


@cache
def _imported(module: str, attribute: str, key: str) -> Any:
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key}: {module}:{attribute} cannot be imported ({error}); put its folder on PYTHONPATH, on the nodes too"
        ) from None
