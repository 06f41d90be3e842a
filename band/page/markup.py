"""HTML that cannot be injected into: what is not made here as markup is text, and text is escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

from band.sweep.report import show

TALL = 16  # rows of a table above which its box scrolls
VOID = ("img", "input", "meta", "br", "col")


class Markup(str):
    """Text that is HTML already, made by `el` or `join`."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return any value as HTML: markup as it is, all else escaped, control characters made visible."""
    return value if isinstance(value, Markup) else Markup(html.escape(show(value), quote=True))


def join(*parts: object) -> Markup:
    """Return parts one after the other; None is left out, what is iterable is joined too."""
    found = []
    for part in parts:
        if part is None:  # a child that is not there
            continue
        if isinstance(part, Iterable) and not isinstance(part, str):
            found.append(join(*part))
        else:
            found.append(text(part))
    return Markup("".join(found))


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element; `class_` and `for_` are `class` and `for`, other underscores dashes; True is a bare attribute.

    Attributes that are None or False are left out.
    """
    words = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(attribute)
        elif value is not None and value is not False:
            words.append(f'{attribute}="{html.escape(show(value), quote=True)}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{join(*children)}</{name}>")


def json_block(identifier: str, value: Any) -> Markup:
    """Return data for scripts; no value can end the block or open a comment in it."""
    plain = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(identifier, quote=True)}">{plain}</script>')


def table(
    head: Iterable[object] | Markup, rows: Iterable[Iterable[object]], *, caption: str, numeric_from: int = 1
) -> Markup:
    """Return a table in a box that scrolls by itself; its first column names the rows.

    `head` are the heads of the columns, or whole rows of heads; columns from `numeric_from` on hold numbers.
    """
    body = []
    for row in rows:
        first, *rest = row
        cells = [el("td", cell, class_="number" if n + 1 >= numeric_from else None) for n, cell in enumerate(rest)]
        body.append(el("tr", el("th", first, scope="row"), *cells))
    if not isinstance(head, Markup):
        heads = [el("th", c, scope="col", class_="number" if n >= numeric_from else None) for n, c in enumerate(head)]
        head = el("tr", *heads)
    made = el("table", el("caption", caption), el("thead", head), el("tbody", *body))
    kind = "box tall" if len(body) > TALL else "box"
    return el("div", made, class_=kind, tabindex="0", role="region", aria_label=caption)
