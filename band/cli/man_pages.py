"""Manual pages of every command, made of its parser: `python -m band.cli.man_pages FOLDER`, or `make man`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from band import __version__
from band.cli.common import main_guard, say
from band.cli.parsers import EXIT_CODES, TOOLS, all_parsers, summaries

ABOUT = {
    "band-sweep": "train LFADS and BAND over seeds, folds and settings, on this machine or a Slurm cluster",
    "band-train": "train one run in the foreground, and work with trained runs",
    "band-data": "look at recordings, check, import and simulate them",
    "band-sync": "bring results home over ssh, and send recordings out",
}


def main(argv: list[str] | None = None) -> int:
    """Write all pages into the folder that is given; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m band.cli.man_pages", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="below it man1/ is made, as `man` looks for it")
    return main_guard(lambda: write(parser.parse_args(argv).folder))


def write(folder: Path) -> int:
    """Write all pages into `folder`/man1."""
    place = folder / "man1"
    place.mkdir(parents=True, exist_ok=True)
    made = pages()
    for name, text in made.items():
        (place / name).write_text(text, encoding="utf-8")
    say(f"{len(made)} pages in {place}")
    return 0


def pages() -> dict[str, str]:
    """Return {file name: page}: one for each tool, and one for each of its commands."""
    parsers = all_parsers()
    made = {f"{tool}.1": tool_page(tool, parsers.get(tool)) for tool in TOOLS}
    for name, parser in parsers.items():
        if name not in TOOLS:
            made[f"{name.replace(' ', '-')}.1"] = "\n".join(_page(name, parser)) + "\n"
    return made


def tool_page(tool: str, parser: argparse.ArgumentParser | None) -> str:
    """Return the page of a tool: what its commands are."""
    lines = _head(tool, ABOUT[tool])
    lines += [".SH SYNOPSIS", f".B {_roff(tool)}", ".I COMMAND", "[options]"]
    lines += [".SH COMMANDS"]
    for name, help in summaries(tool).items():
        lines += [".TP", f".BR {_roff(tool)}\\-{_roff(name)} (1)", _text(help)]
    if parser is not None and not any(isinstance(a, argparse._SubParsersAction) for a in parser._actions):
        lines += [".SH WITHOUT A COMMAND", *list(_arguments(parser)), *_examples(parser)]
    return "\n".join([*lines, *_exit_status()]) + "\n"


def _page(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    tool, _, command = name.partition(" ")
    yield from _head(f"{tool}-{command}", (parser.description or "").split("\n")[0])
    usage = " ".join(parser.format_usage().split()).removeprefix(f"usage: {name}").strip()
    yield from (".SH SYNOPSIS", f".B {_roff(name)}", _text(usage))
    yield from (".SH DESCRIPTION", _text(parser.description or ""))
    yield from (".SH ARGUMENTS AND OPTIONS", *_arguments(parser), *_examples(parser), *_exit_status())
    yield from (".SH SEE ALSO", f".BR {_roff(tool)} (1)")


def _head(name: str, about: str) -> list[str]:
    title = f'.TH "{_roff(name.upper())}" 1 "" "band {__version__}" "BAND sweep"'
    return [title, ".SH NAME", f"{_roff(name)} \\- {_text(about)}"]


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, (argparse._SubParsersAction, argparse._HelpAction)):
            continue
        help = (action.help or "") % {**vars(action), "prog": parser.prog} if action.help else ""
        yield ".TP"
        yield f".B {_roff(_invocation(action))}"
        yield _text(help) or "\\&"


def _invocation(action: argparse.Action) -> str:
    named = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    metavar = action.metavar or named
    value = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    if not action.option_strings:
        return value
    return ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")


def _examples(parser: argparse.ArgumentParser) -> list[str]:
    lines = (parser.epilog or "").strip("\n").split("\n")
    if not any(lines):
        return []
    shown = [_roff(line) if line else "" for line in lines if line != "examples:"]
    return [".SH EXAMPLES", ".nf", *(f"\\&{line}" for line in shown), ".fi"]


def _exit_status() -> list[str]:
    lines = [".SH EXIT STATUS"]
    for code, words in EXIT_CODES.items():
        lines += [".TP", f".B {code}", _text(words)]
    return lines


def _text(text: str) -> str:
    """Return running text that begins no request."""
    made = _roff(" ".join(text.split()))
    return f"\\&{made}" if made[:1] in (".", "'") else made


def _roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


if __name__ == "__main__":
    sys.exit(main())
