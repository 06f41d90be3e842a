"""Our YAML from what a foreign configuration became: each value with the key it comes from beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from band.bridge.fates import UNSUPPORTED, Fate
from band.bridge.pbt import Pbt

SECTIONS = ("data", "arch", "hyper", "train", "output")
WIDTH = 110


def sweep_text(fates: Sequence[Fate], *, sources: Sequence[str], extra: dict[str, Any] | None = None) -> str:
    """Return a sweep file of one run.

    Args:
        fates: of every key; of two that are kept as the same key the later holds.
        sources: names of the files they come from.
        extra: {our full key: value} that come from elsewhere.
    """
    chosen = {fate.ours: fate for fate in fates if fate.ours}
    lines = [
        f"# From {', '.join(_comment(source) for source in sources)}: a configuration of lfads-torch or BAND-torch."
    ]
    undone = [fate for fate in fates if fate.became == UNSUPPORTED]
    lines += [f"# {_comment(fate.line())[:WIDTH]}" for fate in undone]
    lines += ["base:"]
    for section in SECTIONS:
        entries = [(key, fate.to, fate.key) for key, fate in chosen.items() if key.startswith(f"{section}.")]
        entries += [(key, value, "") for key, value in (extra or {}).items() if key.startswith(f"{section}.")]
        lines += [f"  {section}:"] if entries else []
        lines += [_entry(key.partition(".")[2], value, theirs, indent=4) for key, value, theirs in entries]
    if "seed" in chosen:
        lines.append(_entry("seed", chosen["seed"].to, "seed", indent=2))
    return "\n".join(lines) + "\n"


def pbt_text(pbt: Pbt, *, source: str, base: str | None) -> str:
    """Return a search as a sweep file.

    Args:
        pbt: what was read.
        source: name of the script it comes from.
        base: name of the sweep file with the rest of the configuration; None where there is none.
    """
    lines = [f"# From {_comment(source)}: population-based training."]
    lines += [f"# {_comment(f.line())[:WIDTH]}" for f in pbt.fates if f.became == UNSUPPORTED]
    lines += [f"include: {scalar(base)}"] if base else []
    lines += [f"base: {{train: {{monitor: {pbt.monitor}}}}}"] if pbt.monitor else []
    lines += ["pbt:"]
    for name, value, default in (
        ("members", pbt.members, 20),
        ("every_epochs", pbt.every_epochs, 25),
        ("burn_in_epochs", pbt.first_epoch, 0),
        ("selection", pbt.selection, ""),
        ("stop_generations", pbt.stop_patience, 0),
        ("stop_ratio", pbt.stop_ratio, 5e-4),
    ):
        note = "  # the script does not say" if value is None else ""
        lines.append(f"  {name}: {scalar(default if value is None else value)}{note}")
    lines += ["  space:"]
    for key, param in pbt.params.items():
        fields = {name: value for name, value in vars(param.ours(key)).items() if value is not None}
        lines.append(f"    {key}: {{{', '.join(f'{name}: {scalar(value)}' for name, value in fields.items())}}}")
    return "\n".join(lines) + "\n"


def _entry(name: str, value: Any, theirs: str, *, indent: int) -> str:
    text = f"{' ' * indent}{name}: {scalar(value)}"
    return f"{text}  # {_comment(theirs)}" if theirs else text


def scalar(value: Any) -> str:
    """Return a value as YAML that reads back as it is."""
    return json.dumps(value) if not isinstance(value, float) else repr(value)


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
