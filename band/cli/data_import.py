"""`band-data import`: recordings of other formats become recordings of ours."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band.cli.common import print_json, print_lines
from band.cli.steps import Steps

if TYPE_CHECKING:
    from band.data.importers.imported import Imported
    from band.data.importers.loose import Naming
    from band.data.importers.plan import Wishes

HELP = "bring recordings of lfads-torch, BAND-torch, NWB, MATLAB or NumPy into our layout"
EXAMPLES = """\
examples:
  band-data import 'sessions/*.h5' --out datasets      lfads-torch, BAND-torch; fold files become one
  band-data import maze.nwb --out maze.h5 --bin-ms 10 --align move_onset_time --window -250 450 \\
      --behavior hand_vel --lag-ms 80 --cond trial_type,trial_version
  band-data import trials.mat --out t.h5 --bin-ms 10 --array encod_data=spikes --axes channel,bin,trial
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "import", help=HELP, description=HELP, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="files, or quoted patterns of names")
    parser.add_argument("--out", type=Path, required=True, help="FILE.h5 for one recording, else a folder")
    parser.add_argument("--format", default="auto", help="lfads, nwb, matlab, numpy; default: told for each file")
    parser.add_argument("--bin-ms", type=float, help="width of a bin in ms; needed for spike times")
    _add_cut(parser.add_argument_group("spike times (NWB; `spike_times` in MATLAB and NumPy files)"))
    arrays = parser.add_argument_group("arrays of MATLAB and NumPy files")
    arrays.add_argument("--array", action="append", default=[], metavar="KEY=NAME", help="our KEY is called NAME there")
    arrays.add_argument("--axes", default="trial,bin,channel", help="the file's order of axes; default: %(default)s")
    arrays.add_argument("--times-in", choices=("s", "ms"), default="s", help="unit of times; default: %(default)s")
    parser.add_argument("--attribution", metavar="TEXT", help="whom to name wherever the recording is shown")
    parser.add_argument("--likelihood", default="poisson", help="whose support counts must lie in, or none")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be written: shapes, bytes; write nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_import)


def _add_cut(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--align", default="start_time", metavar="COLUMN", help="event of the trials; default: %(default)s"
    )
    group.add_argument(
        "--window", type=float, nargs=2, metavar=("BEGIN", "END"), help="ms around it; default: whole trials"
    )
    group.add_argument("--continuous", action="store_true", help="as it runs on, to be cut by band-data chop")
    group.add_argument("--behavior", action="append", default=[], metavar="SIGNAL", help="may be given several times")
    group.add_argument("--ext-input", action="append", default=[], metavar="SIGNAL", help="may be given several times")
    group.add_argument("--lag-ms", type=float, default=0.0, help="behaviour is read this much after the spikes")
    group.add_argument("--cond", default="", metavar="COLUMN,…", help="columns that together are the condition")
    group.add_argument("--keep", action="append", default=[], metavar="COLUMN=VALUE", help="leave other trials out")
    group.add_argument("--split-column", default="split", metavar="COLUMN", help="train, val, test; default: split")
    group.add_argument("--all-units", action="store_true", help="encode held-out neurons too")


def _import(args: argparse.Namespace) -> int:
    from band.data.importers.plan import import_files

    facts: list[dict[str, Any]] = []
    with Steps("importing") as steps:
        for path, imported, size in import_files(
            args.sources, args.out, wishes=_wishes(args), replace=args.force, is_rehearsal=args.dry_run, on_step=steps
        ):
            facts.append(_facts(path, imported, size, is_written=not args.dry_run))
    if args.json:
        print_json({"files": facts})
    else:
        for fact in facts:
            print_lines(_lines(fact))
    return 0


def _wishes(args: argparse.Namespace) -> Wishes:
    from band.data.importers.plan import Wishes
    from band.data.importers.session import Cut

    cut = Cut(
        bin_ms=args.bin_ms if args.bin_ms is not None else Cut.bin_ms,
        align=args.align,
        window_ms=tuple(args.window) if args.window else None,
        is_continuous=args.continuous,
        behavior=tuple(args.behavior),
        ext_input=tuple(args.ext_input),
        lag_ms=args.lag_ms,
        cond=tuple(name for name in args.cond.split(",") if name),
        keep=tuple(args.keep),
        split=args.split_column,
        hold_out=not args.all_units,
    )
    return Wishes(
        format=args.format,
        bin_ms=args.bin_ms,
        cut=cut,
        naming=_naming(args),
        attributes={"attribution": args.attribution} if args.attribution else {},
        likelihood=None if args.likelihood == "none" else args.likelihood,
    )


def _naming(args: argparse.Namespace) -> Naming:
    from band.data.importers.loose import Naming
    from band.errors import ConfigError

    names = {}
    for wish in args.array:
        key, _, name = wish.partition("=")
        if not (key and name):
            raise ConfigError(f"--array must be KEY=NAME, such as encod_data=spikes, got {wish}")
        names[key] = name
    return Naming(names=names, axes=tuple(args.axes.split(",")), times_in=args.times_in)


def _facts(path: Path, imported: Imported, size: int, *, is_written: bool) -> dict[str, Any]:
    return {
        "path": str(path),
        "written": is_written,
        "sources": [str(source) for source in imported.sources],
        "format": imported.format,
        "bin_ms": imported.bin_ms,
        "arrays": {name: list(values.shape) for name, values in sorted(imported.arrays.items())},
        "size_bytes": size,
        "uncompressed_bytes": imported.size_bytes,
        "notes": list(imported.notes),
        "attributes": json.loads(json.dumps(imported.attributes, default=str)),
    }


def _lines(fact: dict[str, Any]) -> list[tuple[str, str]]:
    from band.cli.progress import size

    verb = "written" if fact["written"] else "would write"
    sizes = f"{size(fact['size_bytes'])} ({size(fact['uncompressed_bytes'])} before compression)"
    width = f", bins of {fact['bin_ms']:g} ms" if fact["bin_ms"] else ", bin width unknown (--bin-ms gives it)"
    shapes = "  ".join(f"{name} {'×'.join(map(str, shape)) or '1'}" for name, shape in fact["arrays"].items())
    rows = [(verb, f"{fact['path']}, {sizes}"), ("from", f"{', '.join(fact['sources'])} ({fact['format']}){width}")]
    return [*rows, ("arrays", shapes), *(("note", note) for note in fact["notes"])]
