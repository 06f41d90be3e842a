"""`band-data join`: recordings of one session each into one file, for one model of all of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from band.cli.common import print_json, print_lines
from band.cli.steps import Steps

JOIN = "put recordings of one session each into one file, for one model of all of them"
EXAMPLES = """\
examples:
  band-data join monday.h5 tuesday.h5 --out week.h5
  band-data join days/*.h5 --out days.h5 --dry-run                 say what would be written
  band-data join a/data.h5 b/data.h5 --out both.h5 --names a b     where files have one name

A sweep of the new file sets arch.readin_dim, the number of channels that the neurons of every session are mapped to;
arch.readin=pcr_trained starts these maps by principal-component regression on the conditions that sessions share.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser("join", help=JOIN, description=JOIN, epilog=EXAMPLES, formatter_class=form)
    command.add_argument("files", type=Path, nargs="+", metavar="FILE", help="recording in our layout")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="HDF5 file to write")
    command.add_argument(
        "--names", nargs="+", metavar="NAME", default=[], help="of the sessions; default: of the files"
    )
    command.add_argument("--force", action="store_true", help="replace what is there")
    command.add_argument("--dry-run", action="store_true", help="say what would be written; write nothing")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_join)


def _join(args: argparse.Namespace) -> int:
    from band.data.sessions import join
    from band.errors import DataError

    if args.out.exists() and not args.force:
        raise DataError(f"{args.out}: is there already; give another name, or --force to replace it")
    with Steps("writing") as steps:
        made = join(args.files, args.out, names=args.names, replace=args.force, is_dry=args.dry_run, on_step=steps)
    if args.json:
        sessions = [
            {"name": n, "trials": t, "neurons": w}
            for n, t, w in zip(made.names, made.trials, made.neurons, strict=True)
        ]
        found = {"path": str(args.out), "written": not args.dry_run, "sessions": sessions}
        print_json({**found, "without_behavior": list(made.without_behavior)})
        return 0
    rows = [("would write" if args.dry_run else "written", str(args.out))]
    rows += [(n, f"{t} trials, {w} neurons") for n, t, w in zip(made.names, made.trials, made.neurons, strict=True)]
    if made.without_behavior:
        rows.append(("no behaviour", f"{', '.join(made.without_behavior)}: NaN, which is masked"))
    print_lines([*rows, ("next", f"arch.readin_dim in a sweep of {args.out}; see band-data join --help")])
    return 0
