"""`band-sync`: brings results home over ssh, sends recordings out, and says how far a sweep is on another machine."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NamedTuple

from band.cli.common import main_guard
from band.cli.parsers import make_parser


class Command(NamedTuple):
    """Where a command lives, the one line that says what it does, and examples."""

    module: str
    help: str
    examples: str


COMMANDS = {
    "pull": Command(
        "band.cli.sync_pull",
        "bring home what is new and done; verified, continued where it stopped",
        """\
  band-sync pull informatics:experiments/sweeps/maze          # what is new and done
  band-sync pull maze                                         # the same from then on: home knows where it is from
  band-sync pull maze --what results,metrics --watch 10m      # again and again, without the large files
  band-sync pull maze --where hyper.behavior_weight=0,0.1 --where seed=0
  band-sync pull maze 'band0.1-*' --what all --bwlimit 2M
  band-sync pull maze --delete-remote-after-verify            # asks; then their result.json alone stays there""",
    ),
    "push": Command(
        "band.cli.sync_push",
        "send files out; verified, never over something else",
        """\
  band-sync push datasets/x.h5 informatics:datasets/
  band-sync push datasets/*.h5 informatics:/scratch/me/ --bwlimit 10M""",
    ),
    "status": Command(
        "band.cli.sync_status",
        "say how far a sweep is where it runs, and what of it is at home",
        """\
  band-sync status informatics:experiments/sweeps/maze        # runs `band-sweep status` there; needs no copy
  band-sync status maze --json""",
    ),
    "disconnect": Command(
        "band.cli.sync_disconnect",
        "close the connection that is kept for ten minutes",
        "  band-sync disconnect informatics",
    ),
}
EPILOG = """\
HOST is what `ssh HOST` takes; ~/.ssh/config says how it is reached. One connection is opened, asking for a second
factor once, and kept for ten minutes. Exit codes: 0 done, 1 your input, 2 usage, 3 ssh, 4 partial."""


def main(argv: list[str] | None = None) -> int:
    """Run `band-sync` with `argv` (default: the command line) and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return main_guard(lambda: dispatch(arguments))


def dispatch(arguments: list[str]) -> int:
    """Run the command that `arguments` begin with; usage errors and --help end in SystemExit as argparse does it."""
    if not arguments or arguments[0] not in COMMANDS:
        overview = _parser(
            "band-sync", "Bring results home, send recordings out, look at a sweep elsewhere.", _all_examples()
        )
        commands = overview.add_subparsers(metavar="COMMAND", required=True)
        for name, command in COMMANDS.items():
            commands.add_parser(name, help=command.help)
        overview.parse_args(arguments)
    module = importlib.import_module(COMMANDS[arguments[0]].module)
    code: int = module.run(parser(arguments[0]).parse_intermixed_args(arguments[1:]))
    return code


def parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    command = COMMANDS[name]
    made = _parser(f"band-sync {name}", command.help, command.examples)
    importlib.import_module(command.module).add_arguments(made)
    return made


def _parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    return make_parser(prog, description=description, examples=f"examples:\n{examples}\n\n{EPILOG}")


def _all_examples() -> str:
    return "\n".join(command.examples.split("\n")[0] for command in COMMANDS.values())


if __name__ == "__main__":
    raise SystemExit(main())
