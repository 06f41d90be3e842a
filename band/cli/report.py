"""`band-sweep report`: tables, figures and a page of what sweeps have published, LFADS beside BAND on test."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from band.sweep.report import Report

FIGURES = "figures"
HELP = "tables, figures and a page of results, LFADS beside BAND; of several sweeps too"
EXAMPLES = """\
examples:
  band-sweep report mc_maze
  band-sweep report mc_maze --metric co_bps --sort lr
  band-sweep report mc_maze --no-figures --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `band-sweep report`."""
    parser.add_argument(
        "sweeps", metavar="NAME", nargs="+", help="a sweep's name, folder or YAML file; several are compared"
    )
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
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FOLDER",
        help="where the files go; default: report/ in the sweep's folder, of several report/A+B in the first one's",
    )
    parser.add_argument("--no-figures", action="store_true", help="write no figures as PDF and PNG")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Write the report's files, print its tables, and return the exit code.

    Raises:
        SweepError: there is no such sweep, nothing of it is published, or a score is not known.
    """
    from band.cli.common import console, print_json
    from band.sweep import parquet
    from band.sweep.manifest import find_sweep
    from band.sweep.report import build_report
    from band.sweep.report_text import WIDTH, as_json, print_report

    folders = [find_sweep(sweep) for sweep in args.sweeps]
    report = build_report(*folders, metrics=args.metric, sort=args.sort, choose_by=args.choose_by)
    files = _write(report, args=args)
    if args.json:
        print_json({**as_json(report), "files": [str(path) for path in files]})
        return 0
    out = console()
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = WIDTH
    print_report(report, console=out)
    target = files[0].parent
    figures = {path.stem for path in files if path.parent.name == FIGURES}
    named = ", ".join(path.name for path in files if path.parent == target)
    drawn = f" and {len(figures)} figures ({FIGURES}/*.pdf and *.png)" if figures else ""
    out.print(f"Wrote {named}{drawn}\nto {target}", markup=False, soft_wrap=True)
    if not parquet.is_available():
        out.print(parquet.MISSING, markup=False, soft_wrap=True)
    return 0


def _write(report: Report, *, args: argparse.Namespace) -> list[Path]:
    """Write table, figures and page and return their paths, the table first."""
    from band.page.build import write_page
    from band.sweep import parquet
    from band.sweep.collect import RESULTS, write_results

    collection = report.collection
    target = collection.folder / Path(RESULTS).parent
    if len(collection.folders) > 1:
        target = target / collection.name
    files = [write_results(collection, into=args.into or target)]
    target = files[0].parent.absolute()
    if parquet.is_available():
        files.append(parquet.write_parquet(target / parquet.NAME, collection.runs))
    figures = [] if args.no_figures else _draw(report, folder=target / FIGURES, behavior=args.behavior)
    return [*files, write_page(report, folder=target, figures=figures), *figures]


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
