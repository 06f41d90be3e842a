"""`band-sweep doctor`: looks whether a cluster does what band needs, on this machine and on a compute node."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from band.cli.common import console, print_json, printable, say
from band.cli.slurm_options import add_options, options_of

if TYPE_CHECKING:
    from band.sweep.doctor import Report
    from band.sweep.doctor_findings import Finding

HELP = "check that a cluster does what band needs, on this machine and on a compute node"
EXAMPLES = """\
examples:
  band-sweep doctor --cluster mycluster                      # here and, by two small jobs, on a compute node
  band-sweep doctor --cluster mycluster --partition gpu --gres gpu:1
  band-sweep doctor --no-job"""
COLOURS = {"well": "green", "note": "cyan", "degraded": "yellow", "broken": "bold red", "unknown": "magenta"}
TIMEOUT_S = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--cluster", default="", metavar="NAME", help="name or file of the cluster's template")
    parser.add_argument(
        "--home", type=Path, default=Path(), metavar="DIR", help="where sweeps would lie (default: here)"
    )
    parser.add_argument("--no-job", action="store_true", help="look at this machine only; send no job")
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_S,
        metavar="S",
        help=f"seconds the two small jobs may take, waiting included (default: {TIMEOUT_S:.0f})",
    )
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    add_options(parser.add_argument_group("over what the template asks for"))


def run(args: argparse.Namespace) -> int:
    """Print what was found; 0 all well or only notes, 3 Slurm did not do as asked, 4 other findings."""
    from band.sweep.doctor import examine

    report = examine(
        args.cluster,
        options=options_of(args),
        home=args.home,
        timeout_s=args.timeout,
        with_job=not args.no_job,
        say=_say,
    )
    if args.json:
        values = {"findings": [asdict(finding) for finding in report.findings], "exit_code": report.exit_code}
        print_json({"template": report.template, **values, "facts": report.facts})
    else:
        _show(report)
    return report.exit_code


def _say(words: str) -> None:
    say(printable(words), file=sys.stderr, flush=True)


def _show(report: Report) -> None:
    """Print the findings as a table: what is well in a line, all else with how it was seen and what mends it."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        words = Text(printable(finding.what))
        for line in _details(finding):
            words.append(f"\n{line}", style="dim")
        table.add_row(Text(finding.level, style=COLOURS[finding.level]), finding.check, words)
    console().print(f"template {printable(report.template)}", markup=False)
    console().print(table)


def _details(finding: Finding) -> list[str]:
    words = {"seen": finding.seen, "for band": finding.means, "to mend": finding.mend}
    return [f"{name}: {printable(text)}" for name, text in words.items() if text]
