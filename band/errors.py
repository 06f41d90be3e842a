"""Errors that a user can mend: what is wrong, where, and what to do; commands print them without a traceback."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class BandError(Exception):
    """Root of the errors a user can mend; `exit_code` is what a command ends with."""

    exit_code = 1


class ConfigError(BandError):
    """A configuration value or sweep file breaks a rule: names the file, the full key, the rule and what was found."""


class DataError(BandError):
    """A recording breaks a rule: names the file, the key, the rule and what was found."""


class ShapeError(BandError):
    """Two arrays do not fit together: names both and their shapes."""


class ForeignError(BandError):
    """A file of another package cannot be taken over: names the file, the key, the rule, what was found, what to do."""


class SweepError(BandError):
    """A sweep folder or a request about one cannot be used as asked."""


class StageError(BandError):
    """A dataset could not be brought to the node, or differs from the one the sweep was generated for."""


class DeviceError(BandError):
    """A GPU is asked for where torch can use none."""


class PublishError(BandError):
    """A finished run could not be brought home, or differs from what its manifest says."""


class RankLost(BandError):
    """A process was killed that shares a search with this one; what is left of the search can go on."""


class ClaimError(BandError):
    """A task is held by another attempt that may still be alive."""

    exit_code = 4


class CodeMismatch(BandError):
    """The code that runs is not the code that was submitted."""

    exit_code = 78


class VersionMismatch(BandError):
    """A package that the trainer uses is not of the version that was there when the sweep was submitted."""

    exit_code = 78


class SchedulerError(BandError):
    """Slurm, submitit or ssh refused or did not answer."""

    exit_code = 3


class RemoteError(SchedulerError):
    """Another machine could not be reached, broke off, or lacks what is needed there."""


def did_you_mean(word: str, choices: Iterable[str], *, summary: str = "") -> str:
    """Return the end of an error about an unknown `word`: the nearest choice, or `summary` (all) where none is near."""
    known = list(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"choose from {summary or ', '.join(known)}"


def needed(package: str) -> Any:
    """Return an optional package, which has an extra of its own name.

    Raises:
        ConfigError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"{package} is needed for this and is not installed: pip install 'band-sweep[{package}]'"
        ) from None
