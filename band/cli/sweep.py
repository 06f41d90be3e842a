"""`band-sweep`: looks a command up in a table and imports that command's module alone."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import NamedTuple

from band import __version__
from band.cli.common import main_guard, say
from band.cli.parsers import EXIT_CODES, module_parser


class Command(NamedTuple):
    """Where a command lives, and the one line that says what it does; the same as its module's HELP."""

    module: str
    help: str


COMMANDS = {
    "init": Command("band.cli.init", "ask a few questions, and write a cluster's template, a sweep and a check"),
    "generate": Command("band.cli.generate", "expand and check a sweep file, say what will run, write the sweep"),
    "import": Command(
        "band.cli.import_config",
        "turn a configuration of lfads-torch or BAND-torch into a sweep file",
    ),
    "calibrate": Command(
        "band.cli.calibrate", "measure here how many runs to train together, for each shape of a sweep"
    ),
    "submit": Command("band.cli.submit", "run what is not yet done of a sweep"),
    "status": Command("band.cli.status", "say how far a sweep is, run by run; changes nothing"),
    "watch": Command("band.cli.watch", "watch a sweep on the whole terminal; in a pipe, plain lines"),
    "logs": Command("band.cli.logs", "show what runs printed"),
    "why": Command("band.cli.why", "say why a run waits or failed, and what to type next"),
    "cancel": Command("band.cli.cancel", "stop runs that are queued or running"),
    "retry": Command("band.cli.retry", "queue failed runs again"),
    "reconcile": Command(
        "band.cli.reconcile", "find what Slurm has of a sweep, and finish what a submission left undone"
    ),
    "throttle": Command("band.cli.throttle", "change how many array tasks of a sweep run at once at Slurm"),
    "rescue": Command("band.cli.rescue", "fetch finished runs from nodes that could not write home"),
    "collect": Command("band.cli.collect", "write the table of results, a row a run"),
    "report": Command(
        "band.cli.report", "tables, figures and a page of results, LFADS beside BAND; of several sweeps too"
    ),
    "export": Command(
        "band.cli.export_runs", "hand runs on to TensorBoard, Weights & Biases or MLflow, without a network"
    ),
    "cluster": Command("band.cli.cluster", "show partitions, free CPUs and GPUs, and one's own jobs and share"),
    "completion": Command("band.cli.completion", "print what completes commands, sweeps and runs in bash, zsh or fish"),
    "doctor": Command(
        "band.cli.doctor", "check that a cluster does what band needs, on this machine and on a compute node"
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run `band-sweep` with `argv` (default: the command line) and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return main_guard(lambda: dispatch(arguments))


def dispatch(arguments: list[str]) -> int:
    """Run the command that `arguments` begin with; usage errors and --help end in SystemExit as argparse does it."""
    name = arguments[0] if arguments else "--help"
    if name not in COMMANDS:
        return _no_command(name, has_arguments=bool(arguments))
    module = importlib.import_module(COMMANDS[name].module)
    parser = module_parser(f"band-sweep {name}", module)
    args = parser.parse_args(arguments[1:])
    args.parser, args.words = parser, arguments[1:]  # as given, for a command that has another machine run it
    code: int = module.run(args)
    return code


def _no_command(name: str, *, has_arguments: bool) -> int:
    """Answer --help, --version, nothing at all, or an unknown command."""
    if name == "--version":
        say(f"band-sweep {__version__}")
        return 0
    if name in ("-h", "--help"):
        say(_overview())
        return 0 if has_arguments else 2
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}"
    say(f"error: band-sweep has no command {name!r}; {hint}", file=sys.stderr)
    return 2


def _overview() -> str:
    lines = [f"  {name:<11} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: band-sweep COMMAND …",
            "",
            *lines,
            "",
            "examples:",
            "  band-sweep init                                      # asks; writes a template and a sweep",
            "  band-sweep generate experiments/mc_maze.yaml && band-sweep submit mc_maze",
            "  band-sweep watch mc_maze",
            "",
            'band-sweep COMMAND --help says more; COMMAND --json prints one document with "schema" and "command".',
            "exit codes:",
            *(f"  {code:<3}  {words}" for code, words in EXIT_CODES.items()),
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
