"""Pictures of terminals in README and docs are what recordings show, drawn as a terminal does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pages import DOCS, ROOT

SCRIPT = ROOT / "scripts/terminal_picture.py"
SVG = "{http://www.w3.org/2000/svg}"
IMAGES = DOCS / "img"
DRAWN = re.findall(r"terminal_picture.py docs/img/(\w+)\.cast docs/img/\1\.svg (.*)", (ROOT / "Makefile").read_text())
MOST_BYTES = 500_000


def draw(cast: Path, to: Path, *options: str) -> ElementTree.Element:
    subprocess.run([sys.executable, SCRIPT, cast, to, *options], check=True, capture_output=True, timeout=60)
    return ElementTree.parse(to).getroot()


def write_cast(path: Path, *events: tuple[float, str]) -> Path:
    lines = [{"version": 2, "width": 12, "height": 3}, *([t, "o", data] for t, data in events)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def lines_of(group: ElementTree.Element) -> list[tuple[float, str]]:
    """Return (place, text) of what a line of a picture has."""
    return [(float(text.get("x", "0")), (text.text or "").replace("\u00a0", " ")) for text in group.iter(f"{SVG}text")]


def test_a_still_shows_the_last_screen_with_colours_where_they_stand(tmp_path: Path) -> None:
    cast = write_cast(
        tmp_path / "a.cast", (0.1, "gone\r\n"), (0.2, "\x1b[2J\x1b[H\x1b[?25la \x1b[1;31m<red>\x1b[0m  b")
    )
    (row,) = draw(cast, tmp_path / "a.svg", "--still").findall(f".//{SVG}g/{SVG}g")
    assert lines_of(row) == [(0, "a"), (16.8, "<red>"), (75.6, "b")]  # columns of 8.4
    red = row.findall(f"{SVG}text")[1]
    assert red.get("fill") == "#ff7b72" and red.get("font-weight") == "bold"


def test_a_film_jumps_from_screen_to_screen_in_time_and_a_second_screen_gives_the_first_back(tmp_path: Path) -> None:
    cast = write_cast(
        tmp_path / "a.cast", (0.0, "\x1b[?25lone"), (1.0, "\x1b[?1049h\x1b[Htwo"), (3.0, "\x1b[?1049l"), (60.0, "!")
    )
    root = draw(cast, tmp_path / "a.svg", "--speed", "2")
    rows = {f"#{group.get('id')}": lines_of(group) for group in root.findall(f".//{SVG}defs/{SVG}g")}
    uses = [(float(use.get("y", "0")) / 18 / 3, rows[use.get("href", "")]) for use in root.iter(f"{SVG}use")]
    assert uses == [(n, [(0, text)]) for n, text in enumerate(["one", "two", "one", "one!"])]
    style = root.findtext(f"{SVG}style") or ""
    steps = [float(share) for share in re.findall(r"([\d.]+)%\{", style)]
    total = float(re.findall(r"film ([\d.]+)s", style)[0])
    assert [round(total * share / 100, 2) for share in steps] == [0, 0.5, 1.5, 2.75]  # a minute's wait is cut to 2.5 s


def test_every_recording_in_the_docs_is_drawn_by_make_pictures() -> None:
    assert sorted(name for name, _ in DRAWN) == sorted(path.stem for path in IMAGES.glob("*.cast"))


@pytest.mark.parametrize(("name", "options"), DRAWN)
def test_a_picture_in_the_docs_is_what_its_recording_shows(name: str, options: str, tmp_path: Path) -> None:
    draw(IMAGES / f"{name}.cast", tmp_path / "drawn.svg", *options.split())
    committed = (IMAGES / f"{name}.svg").read_bytes()
    assert committed == (tmp_path / "drawn.svg").read_bytes(), f"make pictures draws docs/img/{name}.svg anew"
    assert len(committed) < MOST_BYTES
    said = (IMAGES / f"{name}.cast").read_text()
    assert not re.findall(r"/(?:tmp|root|work|usr|opt)/[\w/.-]+", said), "a path of the machine that recorded it"
    assert any(f"img/{name}.svg" in page.read_text() for page in [ROOT / "README.md", *DOCS.glob("*.md")])
