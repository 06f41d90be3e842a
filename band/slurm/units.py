"""Times and memory as Slurm writes and reads them."""

from __future__ import annotations

import math
import re

UNLIMITED = ("UNLIMITED", "INFINITE", "-1")
_TIME = re.compile(r"(?:([0-9]{1,9})-)?([0-9]{1,12})(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?")
_MEMORY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGTP]?)B?", re.IGNORECASE)
_SUFFIXES = ("", "K", "M", "G", "T", "P")


def time_s(text: str) -> int | None:
    """Return a time limit in seconds; None if it is unlimited or no time.

    Slurm reads "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", "days-hours:minutes" and
    "days-hours:minutes:seconds", and writes the third and the last, and the second for less than an hour.
    """
    match = _TIME.fullmatch(text.strip())
    if not match:
        return None
    days, first, second, third = (None if group is None else int(group) for group in match.groups())
    if days is not None:
        return ((days * 24 + int(first or 0)) * 60 + (second or 0)) * 60 + (third or 0)
    if third is not None:
        return (int(first or 0) * 60 + int(second or 0)) * 60 + third
    return int(first or 0) * 60 + (second or 0)


def time_text(seconds: float) -> str:
    """Return seconds as `--time` takes them, "1-12:00:00", rounded up to whole minutes: Slurm does so anyway."""
    minutes = max(math.ceil(seconds / 60), 1)
    days, rest = divmod(minutes, 24 * 60)
    clock = f"{rest // 60:02}:{rest % 60:02}:00"
    return f"{days}-{clock}" if days else clock


def memory_bytes(text: str) -> int | None:
    """Return memory as `--mem` takes it ("4000" are megabytes, "4G", "1T") in bytes; None if it is none."""
    match = _MEMORY.fullmatch(text.strip())
    if not match:
        return None
    return math.ceil(float(match[1]) * 2.0 ** (10 * _SUFFIXES.index(match[2].upper() or "M")))


def memory_text(size_bytes: float) -> str:
    """Return bytes as `--mem` takes them, in megabytes, rounded up."""
    return f"{max(math.ceil(size_bytes / 2**20), 1)}M"
