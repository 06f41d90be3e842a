"""`band-data chop` and `band-data merge`: a recording that runs on as overlapping windows, and outputs put together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from band.cli.common import print_json, print_lines
from band.cli.steps import Steps

CHOP = "cut a recording that runs on, or trials of different lengths, into windows that overlap"
CHOP_EXAMPLES = """\
examples:
  band-data chop session.h5 --out chops.h5 --window 600ms --overlap 0.5      half of each window is the next one's too
  band-data chop session.h5 --out chops.h5 --window 60bins --overlap 20bins
  band-data chop trials.h5 --out chops.h5 --window 500ms --overlap 100ms     each trial is a stretch of its own

Missing samples are NaN. Windows lie on the recording's clock, which the file keeps; splits leave out what overlaps.
"""
MERGE = "put a run's outputs for the windows together on the clock of the recording"
MERGE_EXAMPLES = """\
examples:
  band-data merge outputs.h5 --chopped chops.h5 --out merged.h5
  band-data merge outputs.h5 --chopped chops.h5 --out merged.h5 --trim 50ms  edges count only where nothing else is

Bins that several windows cover are their weighted mean. A spread is that of the mixture of its windows: their own
spreads, and how far their means lie apart. Bins that no window of the outputs covers are NaN.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    form = argparse.RawDescriptionHelpFormatter
    chop = commands.add_parser("chop", help=CHOP, description=CHOP, epilog=CHOP_EXAMPLES, formatter_class=form)
    chop.add_argument("file", type=Path, metavar="FILE", help="continuous recording, or trials in our layout")
    chop.add_argument("--window", required=True, metavar="LENGTH", help="of a window: 600ms or 60bins")
    chop.add_argument(
        "--overlap", default="0", metavar="LENGTH", help="of neighbours: 300ms, 30bins, or a share below 1"
    )
    tail = "end of a stretch: a last window that ends with it (default), or one that is padded"
    chop.add_argument("--tail", choices=("shift", "pad"), default="shift", help=tail)
    chop.add_argument("--bin-ms", type=float, help="width of a bin; default: the file's attribute")
    chop.set_defaults(run=_chop)
    merge = commands.add_parser("merge", help=MERGE, description=MERGE, epilog=MERGE_EXAMPLES, formatter_class=form)
    merge.add_argument("file", type=Path, metavar="OUTPUTS", help="outputs.h5 of a run")
    merge.add_argument(
        "--chopped", type=Path, metavar="FILE", help="what band-data chop wrote; default: OUTPUTS itself"
    )
    merge.add_argument("--session", default="", metavar="NAME", help="which one, where OUTPUTS holds several")
    merge.add_argument("--trim", default="0bins", metavar="LENGTH", help="of each edge: 50ms or 5bins; default: none")
    merge.set_defaults(run=_merge)
    for command in (chop, merge):
        command.add_argument("--out", type=Path, required=True, metavar="FILE", help="HDF5 file to write")
        command.add_argument("--force", action="store_true", help="replace what is there")
        command.add_argument("--dry-run", action="store_true", help="say what would be written; write nothing")
        command.add_argument("--json", action="store_true", help="print JSON")


def _chop(args: argparse.Namespace) -> int:
    from band.data.chop import chop_file, write_chopped

    _refuse(args, args.file)
    chopped = chop_file(args.file, window=args.window, overlap=args.overlap, tail=args.tail, bin_ms=args.bin_ms)
    if not args.dry_run:
        with Steps("writing") as steps:
            write_chopped(args.out, chopped, replace=args.force, on_step=steps)
    counts = chopped.counts()
    sizes = {name: list(shape) for name, shape in chopped.shapes().items()}
    splits = ", ".join(f"{split} {count}" for split, count in counts.items())
    length = f"{chopped.windows.num_bins} bins, {chopped.overlap_bins} of them shared with the next"
    rows = [("windows", f"{splits}; of {length}"), ("segments", f"{len(chopped.recording.split)}")]
    return _tell(args, sizes, chopped.size_bytes(), rows, {"windows": counts, "segments": len(chopped.recording.split)})


def _merge(args: argparse.Namespace) -> int:
    from band.data.hdf5 import write_hdf5
    from band.data.merge import merge_file

    _refuse(args, args.file, args.chopped)
    merged = merge_file(args.file, chopped=args.chopped, session=args.session, trim=args.trim)
    if not args.dry_run:
        with Steps("writing") as steps:
            write_hdf5(args.out, merged.arrays, attributes=merged.attributes, replace=args.force, on_step=steps)
    sizes = {name: list(values.shape) for name, values in sorted(merged.arrays.items())}
    num_bins = len(merged.arrays["clock_ms"])
    bare = int((merged.arrays["split"] == "").sum())
    rows = [("clock", f"{num_bins} bins" + (f", {bare} of them in no window of the outputs" if bare else ""))]
    if merged.left_out:
        rows.append(("left out", f"{', '.join(merged.left_out)}: no value a bin"))
    total = sum(values.nbytes for values in merged.arrays.values())
    return _tell(args, sizes, total, rows, {"bins": num_bins, "uncovered": bare, "left_out": list(merged.left_out)})


def _refuse(args: argparse.Namespace, *sources: Path | None) -> None:
    """Refuse to write over a source, or over what is there, before anything is read."""
    from band.errors import DataError

    if any(source is not None and source.resolve() == args.out.resolve() for source in sources):
        raise DataError(f"{args.out}: is the file that is read; give another name to --out")
    if args.out.exists() and not args.force:
        raise DataError(f"{args.out}: is there already; give another name, or --force to replace it")


def _tell(
    args: argparse.Namespace,
    shapes: dict[str, list[int]],
    total: int,
    rows: list[tuple[str, str]],
    facts: dict[str, Any],
) -> int:
    from band.cli.progress import size

    if args.json:
        found = {"path": str(args.out), "written": not args.dry_run, "arrays": shapes, "uncompressed_bytes": total}
        print_json({**found, **facts})
        return 0
    text = "  ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in shapes.items())
    verb = "would write" if args.dry_run else "written"
    print_lines([(verb, f"{args.out}, {size(total)} before compression"), *rows, ("arrays", text)])
    return 0
