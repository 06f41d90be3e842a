"""What became of each key of a foreign configuration, in one line each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from band.bridge.values import plain

KEPT, READ, DROPPED, UNSUPPORTED = "kept", "read from the recording", "dropped", "unsupported"


@dataclass(frozen=True, kw_only=True)
class Fate:
    """One key: theirs, its value, what became of it; ours with its value where it was kept, and why where not."""

    key: str
    value: Any
    became: str
    ours: str = ""
    to: Any = None
    why: str = ""
    where: str = ""  # file and line
    is_model: bool = False  # unsupported, and the model would compute something else without it

    def line(self) -> str:
        """Return the fate in words."""
        value = "" if isinstance(self.value, (dict, list)) else f" = {self.value}"
        ours = f" as {self.ours} = {self.to}" if self.ours else ""
        return f"{self.key}{value}: {self.became}{ours}{f'; {self.why}' if self.why else ''}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without what is empty."""
        values = {**asdict(self), "value": plain(self.value), "to": plain(self.to)}
        return {key: value for key, value in values.items() if value not in ("", None, False) or key == "value"}


def kept(key: str, value: Any, ours: str, to: Any, why: str = "", where: str = "") -> Fate:
    """Return the fate of a key that has one of ours."""
    return Fate(key=key, value=value, became=KEPT, ours=ours, to=to, why=why, where=where)


def dropped(key: str, value: Any, why: str, where: str = "") -> Fate:
    """Return the fate of a key that nothing here needs."""
    return Fate(key=key, value=value, became=DROPPED, why=why, where=where)


def unsupported(key: str, value: Any, why: str, where: str = "", *, is_model: bool = False) -> Fate:
    """Return the fate of a key that asks for something that is not done here."""
    return Fate(key=key, value=value, became=UNSUPPORTED, why=why, where=where, is_model=is_model)
