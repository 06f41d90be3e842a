"""How every command line is parsed and explained: help that fits a screen, and all parsers in one table."""

from __future__ import annotations

import argparse
import importlib
import shutil
import textwrap
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from band.cli import common

WIDEST = 98  # columns of help, however wide the terminal
TOOLS = ("band-sweep", "band-train", "band-data", "band-sync")
EXIT_CODES = {
    0: "done",
    1: "your input: a file, a value or a name",
    2: "usage: a command or an option that there is not",
    3: "Slurm or ssh refused or did not answer",
    4: "partial: some of it is not done, or another process has it",
    70: "a fault of ours; BAND_DEBUG=1 shows where",
    130: "Ctrl-C",
}


class Help(argparse.RawDescriptionHelpFormatter):
    """Help with a usage line that names what must be given alone, and without what `brief` was said of."""

    def __init__(self, prog: str) -> None:
        """Fit the terminal."""
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns - 2, WIDEST))

    def _format_usage(self, usage: str | None, actions: Iterable[argparse.Action], groups: Any, prefix: Any) -> str:
        if usage is None:
            words = ["%(prog)s"]
            for action in actions:
                if not action.option_strings:
                    words.append(self._format_args(action, self._get_default_metavar_for_positional(action)))
                elif action.required:
                    value = self._format_args(action, self._get_default_metavar_for_optional(action))
                    words.append(f"{action.option_strings[-1]} {value}".rstrip())
            begin = " " * len(f"usage: {self._prog} ")
            rest = textwrap.wrap(
                " ".join([*words[1:], "[options]"]), max(self._width - len(begin), 20), break_on_hyphens=False
            )
            usage = f"%(prog)s {(chr(10) + begin).join(rest)}"
        return super()._format_usage(usage, actions, groups, prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join((indent + line).rstrip() for line in fitted(text, width=width))

    def _format_action(self, action: argparse.Action) -> str:
        return "" if is_brief(action) else super()._format_action(action)


def fitted(text: str, *, width: int) -> list[str]:
    """Return a text folded into the width: paragraphs as such, examples as commands with their comments beside them."""
    lines: list[str] = []
    examples: list[tuple[str, str]] = []
    paragraph: list[str] = []

    def close() -> None:
        lines.extend(textwrap.wrap(" ".join(paragraph), width, break_on_hyphens=False))
        lines.extend(_columns(examples, width=width))
        paragraph.clear()
        examples.clear()

    for line in text.strip("\n").split("\n"):
        command, _, comment = line.strip().partition("  ")
        if line.startswith("      ") and examples:  # what goes on from the line before
            before, said = examples[-1]
            is_command = before.endswith("\\")
            examples[-1] = (f"{before[:-1]}{line.strip()}", said) if is_command else (before, f"{said} {line.strip()}")
        elif line.startswith("  "):
            lines.extend(textwrap.wrap(" ".join(paragraph), width, break_on_hyphens=False))
            paragraph.clear()
            examples.append((command, comment.strip()))
        else:
            if examples or not line or line.endswith(":"):
                close()
            paragraph.append(line)
            if not line or line.endswith(":"):
                lines.extend(paragraph)
                paragraph.clear()
    close()
    return lines


def _columns(examples: list[tuple[str, str]], *, width: int) -> list[str]:
    """Return examples, their comments in one column where that leaves room, below them where it does not."""
    column = max((len(command) for command, said in examples if said and len(command) <= width * 3 // 5), default=0) + 4
    lines = []
    for command, said in examples:
        folded = textwrap.wrap(command, width - 4, subsequent_indent="    ", break_on_hyphens=False) or [""]
        lines += [f"  {part}" + (" \\" if part is not folded[-1] else "") for part in folded]
        beside = textwrap.wrap(said, max(width - column, 20))
        if beside and len(folded) == 1 and len(command) + 4 <= column:
            lines[-1] = f"{lines[-1]:<{column}}{beside.pop(0)}"
            lines += [" " * column + part for part in beside]
        else:
            lines += textwrap.wrap(said, width, initial_indent="      ", subsequent_indent="      ")
    return lines


def brief(action: argparse.Action) -> None:
    """Leave an option out of the list of options: the group that it belongs to tells of it."""
    action.is_brief = True  # type: ignore[attr-defined]


def is_brief(action: argparse.Action) -> bool:
    """Return whether an option is left out of the help's list."""
    return getattr(action, "is_brief", False) or isinstance(action, argparse._HelpAction)


def make_parser(prog: str, *, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of a command, and remember its name for what it prints as JSON."""
    common.set_command(prog)
    return argparse.ArgumentParser(prog=prog, description=description, epilog=examples, formatter_class=Help)


def module_parser(prog: str, module: ModuleType) -> argparse.ArgumentParser:
    """Return the parser of a command that has a module of its own: HELP, EXAMPLES, add_arguments(parser)."""
    parser = make_parser(prog, description=module.HELP, examples=getattr(module, "EXAMPLES", ""))
    module.add_arguments(parser)
    return parser


def all_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return {"band-sweep submit": its parser, …} of every command of every tool; this imports them all.

    `band-train` and `band-data` themselves are in it; `band-sweep` and `band-sync`, which do nothing without a command,
    are not.
    """
    from band.cli import data, sweep, sync, train

    found = {}
    for name, command in sweep.COMMANDS.items():
        found[f"band-sweep {name}"] = module_parser(f"band-sweep {name}", importlib.import_module(command.module))
    found["band-train"] = train.parser()
    for name, place in train.COMMANDS.items():
        found[f"band-train {name}"] = module_parser(f"band-train {name}", importlib.import_module(place))
    found["band-data"] = data.parser()
    for name, parser in subparsers(found["band-data"]).items():
        found[f"band-data {name}"] = parser
    for name in sync.COMMANDS:
        found[f"band-sync {name}"] = sync.parser(name)
    return found


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return {name: parser} of the commands that a parser itself has."""
    own = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: made for action in own for name, made in action.choices.items()}


def summaries(tool: str) -> dict[str, str]:
    """Return {command: one line} of a tool."""
    prefix = f"{tool} "
    return {
        name.removeprefix(prefix): (parser.description or "").split("\n")[0]
        for name, parser in all_parsers().items()
        if name.startswith(prefix)
    }
