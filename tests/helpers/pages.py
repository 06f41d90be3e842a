"""Pages of docs/ as a test reads them: fenced blocks, and what the comments right above each say of it.

<!-- not run: REASON -->     nobody runs it here
<!-- tested: FILE -->        this test runs it
<!-- file: PATH -->          it is written to a file of the project
<!-- prints -->              each line of it is printed by the block before; … stands for anything
<!-- exit: CODE … -->        what the block ends with, where that is not 0
<!-- after: PAGE -->        once on a page: it goes on in the project that another page has left
<!-- on: PLACE -->           here (default), cluster: login node of a Slurm cluster, laptop: knows it by ssh
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MARK = re.compile(r"<!-- (not run|tested|file|prints|exit|on)(?:: (.*))? -->")
RUN = ("sh", "python")


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def fate(self) -> str:
        """What becomes of it in the tests; "" where nobody has said."""
        for mark in ("not run", "tested", "file", "prints"):
            if mark in self.marks:
                return mark
        return "run" if self.language in RUN else ""


def read_blocks(text: str) -> list[Block]:
    """Return the blocks of a page in order."""
    blocks: list[Block] = []
    marks: dict[str, str] = {}
    inside: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if inside is not None:
            if line == "```":
                blocks.append(Block(inside[0], inside[1], "\n".join(inside[2]) + "\n", marks))
                inside, marks = None, {}
            else:
                inside[2].append(line)
        elif line.startswith("```"):
            inside = (number, line[3:].strip(), [])
        elif mark := MARK.fullmatch(line):
            marks[mark[1]] = mark[2] or ""
        else:
            marks = {}
    assert inside is None, f"the block of line {inside[0]} has no end" if inside else ""
    return blocks


def page_before(page: str) -> str:
    """Return the page whose project a page goes on in, "" where it begins its own."""
    found = re.search(r"^<!-- after: (.*) -->$", (DOCS / page).read_text(), re.MULTILINE)
    return found[1] if found else ""


def prose(text: str) -> list[str]:
    """Return the lines of a page that stand in no block."""
    return re.sub(r"(?ms)^```.*?^```$", "", text).splitlines()


def pages() -> list[str]:
    """Return the names of all pages."""
    return sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page of docs/."""
    return read_blocks((DOCS / page).read_text())


def was_printed(expected: str, printed: str) -> list[str]:
    """Return the lines of `expected` that `printed` lacks; runs of blanks are as one."""
    said = " ".join(printed.split())
    missing = []
    for line in filter(None, map(str.strip, expected.splitlines())):
        pattern = ".*?".join(re.escape(" ".join(part.split())) for part in line.split("…"))
        if not re.search(pattern, said):
            missing.append(line)
    return missing
