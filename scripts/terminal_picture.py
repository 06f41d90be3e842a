"""Terminal recordings (asciicast, version 2) and screens as SVG: what a terminal showed, and nothing that it did not.

    python scripts/terminal_picture.py docs/img/recording.cast docs/img/recording.svg --speed 2
    python scripts/terminal_picture.py docs/img/watch.cast docs/img/watch.svg --still

A moving picture is a film strip: every screen below the one before, in a window that jumps from one to the next.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyte

FONT = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
CHARACTER, LINE, MARGIN, SIZE = 8.4, 18, 14, 14  # pixels
PAPER, INK, FAINT = "#10151c", "#d7dde5", "#8b97a6"
COLOURS = {
    "black": "#3b4654", "red": "#ff7b72", "green": "#6bd08a", "brown": "#e3b341", "blue": "#79b8ff",
    "magenta": "#d2a8ff", "cyan": "#56d4dd", "white": "#d7dde5",
}  # fmt: skip
BLANK = "\u00a0"  # a blank that no reader of XML takes for layout
SHORTEST_S = 0.15  # that a screen is shown at the least; what is gone sooner is left out
LONGEST_S = 2.5  # that nothing happens, of the recording's time
END_S = 6.0  # that the last screen is shown

Style = tuple[str, str, bool]  # ink, paper, bold
Row = tuple[tuple[int, str, Style], ...]  # column, text, style of each stretch
Picture = tuple[Row, ...]


class Screen(pyte.Screen):
    """A terminal in memory with the second screen that full-screen commands take and give back, and with faint text."""

    _first: Any = None

    def set_mode(self, *modes: int, **options: Any) -> None:
        """Turn to the second screen where that is asked for."""
        if options.get("private") and 1049 in modes:
            self._first = (copy.deepcopy(self.buffer), copy.copy(self.cursor))
            self.erase_in_display(2)
        super().set_mode(*modes, **options)

    def reset_mode(self, *modes: int, **options: Any) -> None:
        """Turn back."""
        super().reset_mode(*modes, **options)
        if options.get("private") and 1049 in modes and self._first is not None:
            buffer, self.cursor = self._first
            self.buffer.clear()
            self.buffer.update(buffer)
            self._first = None

    def select_graphic_rendition(self, *codes: int, **options: Any) -> None:
        """Take faint text for grey, which pyte does not know."""
        super().select_graphic_rendition(*codes, **options)
        if 2 in codes and 38 not in codes and 48 not in codes:
            self.cursor.attrs = self.cursor.attrs._replace(fg=FAINT.removeprefix("#"))
        if 22 in codes and self.cursor.attrs.fg == FAINT.removeprefix("#"):
            self.cursor.attrs = self.cursor.attrs._replace(fg="default")

    def picture(self) -> Picture:
        """Return what is to be seen."""
        return tuple(self._row(y) for y in range(self.lines))

    def _row(self, y: int) -> Row:
        cells = [(self.buffer[y][x].data, self._style(x, y)) for x in range(self.columns)]
        row, column = [], 0
        for style, run in groupby(cells, key=lambda cell: cell[1]):
            text = "".join(data for data, _ in run)
            shown = text if style[1] else text.rstrip()
            left = len(shown) - len(shown.lstrip()) if not style[1] else 0
            if shown[left:]:
                row.append((column + left, shown[left:], style))
            column += len(text)
        return tuple(row)

    def _style(self, x: int, y: int) -> Style:
        cell = self.buffer[y][x]
        ink, paper = _colour(cell.fg, INK), _colour(cell.bg, "")
        is_cursor = (x, y) == (self.cursor.x, self.cursor.y) and not self.cursor.hidden
        if cell.reverse != is_cursor:
            ink, paper = paper or PAPER, ink
        return ink, paper, cell.bold


def _colour(name: str, default: str) -> str:
    if name == "default":
        return default
    return COLOURS.get(name.removeprefix("bright"), f"#{name}" if len(name) == 6 else default)


def read_cast(path: Path) -> tuple[dict[str, Any], list[tuple[float, str]]]:
    """Return the header of a recording, and when what was printed."""
    header, *events = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return header, [(float(t), data) for t, kind, data in events if kind == "o"]


def screens(header: dict[str, Any], events: Sequence[tuple[float, str]]) -> Iterator[tuple[float, Picture]]:
    """Yield how long, in seconds, each screen of a recording was there, and the screen."""
    screen = Screen(int(header["width"]), int(header["height"]))
    stream = pyte.Stream(screen)
    shown, since = screen.picture(), 0.0
    last = 0.0
    for number, (t, data) in enumerate(events):
        stream.feed(data)
        last += min(t - (events[number - 1][0] if number else 0.0), LONGEST_S)
        following = events[number + 1][0] - t if number + 1 < len(events) else LONGEST_S
        if last + following - since < SHORTEST_S:
            continue
        now = screen.picture()
        if now != shown:
            if last > since:
                yield last - since, shown
            shown, since = now, last
    yield END_S, shown


def still(picture: Picture, *, columns: int) -> str:
    """Return one screen as SVG."""
    width, height = _size(columns, len(picture))
    rows = "".join(f'<g transform="translate(0 {y * LINE})">{_drawn(row)}</g>' for y, row in enumerate(picture) if row)
    return f'{_head(width, height)}<g transform="translate({MARGIN} {MARGIN})">{rows}</g></svg>\n'


def film(shown: Sequence[tuple[float, Picture]], *, columns: int, speed: float) -> str:
    """Return screens that follow each other as SVG that moves, or stands at the last where movement is not wanted."""
    lines = len(shown[0][1])
    width, height = _size(columns, lines)
    names: dict[Row, str] = {}
    for _, picture in shown:
        for row in filter(None, picture):
            names.setdefault(row, f"r{len(names)}")
    rows = "".join(f'<g id="{name}">{_drawn(row)}</g>' for row, name in names.items())
    total = sum(seconds for seconds, _ in shown[:-1]) / speed + END_S
    steps, frames, t = [], [], 0.0
    for number, (seconds, picture) in enumerate(shown):
        steps.append(f"{100 * t / total:.3f}%{{transform:translateY({-number * lines * LINE}px)}}")
        frames += [
            f'<use href="#{names[row]}" y="{(number * lines + y) * LINE}"/>' for y, row in enumerate(picture) if row
        ]
        t += seconds / speed
    end = -(len(shown) - 1) * lines * LINE
    style = (
        f"@keyframes film{{{''.join(steps)}}}#film{{transform:translateY({end}px);animation:film {total:.2f}s step-end "
        "infinite}@media (prefers-reduced-motion:reduce){#film{animation:none}}"
    )
    window = f'<svg x="{MARGIN}" y="{MARGIN}" width="{width - 2 * MARGIN}" height="{lines * LINE}">'
    body = f'<defs>{rows}</defs>{window}<g id="film">{"".join(frames)}</g></svg>'
    return f"{_head(width, height)}<style>{style}</style>{body}</svg>\n"


def _size(columns: int, lines: int) -> tuple[int, int]:
    return round(columns * CHARACTER) + 2 * MARGIN, lines * LINE + 2 * MARGIN


def _head(width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="{FONT}" font-size="{SIZE}" fill="{INK}">'
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>'
    )


def _pieces(row: Row) -> Iterator[tuple[int, str, Style]]:
    """Yield the stretches of a line, cut where the kind of character changes: another font may have other widths."""
    for column, text, style in row:
        for _, piece in groupby(enumerate(text), key=lambda entry: entry[1] != " " and ord(entry[1]) // 128):
            places, characters = zip(*piece, strict=True)
            yield column + places[0], "".join(characters), style


def _drawn(row: Row) -> str:
    """Return a line of text; each stretch has its place and length, whatever the font."""
    parts = []
    for column, text, (ink, paper, is_bold) in _pieces(row):
        x, length = column * CHARACTER, len(text) * CHARACTER
        if paper:
            parts.append(f'<rect x="{x:.1f}" width="{length:.1f}" height="{LINE}" fill="{paper}"/>')
        if not text.strip():
            continue
        look = f' fill="{ink}"' * (ink != INK) + ' font-weight="bold"' * is_bold
        shown = escape(text.replace(" ", BLANK))
        parts.append(f'<text x="{x:.1f}" y="{LINE - 4.5}" textLength="{length:.1f}"{look}>{shown}</text>')
    return "".join(parts)


def main() -> int:
    """Write the picture of a recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cast", type=Path, help="a recording")
    parser.add_argument("svg", type=Path, help="the picture")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times as fast it plays")
    parser.add_argument("--still", action="store_true", help="the last screen alone")
    args = parser.parse_args()
    header, events = read_cast(args.cast)
    shown = list(screens(header, events))
    columns = int(header["width"])
    svg = still(shown[-1][1], columns=columns) if args.still else film(shown, columns=columns, speed=args.speed)
    args.svg.write_text(svg, encoding="utf-8")
    print(f"{args.svg}: {len(shown)} screens, {len(svg.encode()) / 1024:.0f} KB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
