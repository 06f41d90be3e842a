"""`band-sweep report`: tables and figures of what a sweep has published, LFADS beside BAND on test."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from band.sweep.report import Report

FIGURES = "figures"
HELP = "tables and figures of a sweep's results, LFADS beside BAND"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `band-sweep report`."""
    parser.add_argument("sweep", metavar="NAME", help="a sweep's name, folder or YAML file")
    parser.add_argument("--metric", action="append", default=[], metavar="SCORE", help="show this score; repeatable")
    parser.add_argument("--sort", metavar="KEY", help="sort rows by a varied parameter or a score (best first)")
    parser.add_argument(
        "--choose-by", default="bits_per_spike", metavar="SCORE", help="score on valid that chooses among settings"
    )
    parser.add_argument(
        "--behavior",
        metavar="NAME,NAME",
        help="what the channels of behaviour are; two are taken as a velocity, x and y",
    )
    parser.add_argument("--no-figures", action="store_true", help="write results.csv alone")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Write the report's files into the sweep's folder, print its tables, and return the exit code.

    Raises:
        SweepError: there is no such sweep, nothing of it is published, or a score is not known.
    """
    from band.cli.common import console, print_json
    from band.page.build import write_page
    from band.sweep.collect import write_results
    from band.sweep.manifest import find_sweep
    from band.sweep.report import build_report
    from band.sweep.report_text import WIDTH, as_json, print_report

    folder = find_sweep(args.sweep)
    report = build_report(folder, metrics=args.metric, sort=args.sort, choose_by=args.choose_by)
    files = [write_results(report.collection)]
    target = files[0].parent
    if not args.no_figures:
        files += _draw(report, folder=target / FIGURES, behavior=args.behavior)
    files.append(write_page(report, folder=target, figures=files[1:]))
    if args.json:
        print_json({**as_json(report), "files": [str(path) for path in files]})
        return 0
    out = console()
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = WIDTH
    print_report(report, console=out)
    figures = ", ".join(dict.fromkeys(path.stem for path in files if path.parent.name == FIGURES))
    tables = ", ".join(path.name for path in files if path.parent == target)
    drawn = f" and, in {FIGURES}/ as PDF and PNG, {figures}" if figures else ""
    out.print(f"Wrote {tables}{drawn}\nto {target}", markup=False, soft_wrap=True)
    return 0


def _draw(report: Report, *, folder: Path, behavior: str | None) -> list[Path]:
    from band.sweep.figures import draw_figures
    from band.train.decoding import fit_decoder

    return draw_figures(
        report,
        folder=folder,
        behavior_names=[name.strip() for name in behavior.split(",")] if behavior else None,
        decode=lambda factors, behavior, new, is_over_trial: fit_decoder(
            factors, behavior, is_over_trial=is_over_trial
        ).decode(new),
    )
