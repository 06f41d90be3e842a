"""`band-train export`: a finished run as a file that other packages read."""

from __future__ import annotations

import argparse
from pathlib import Path

from band.cli.common import main_guard, print_json, printable

EXAMPLES = """examples:
  band-train export experiments/sweeps/mc_maze/runs/band0.1-s0-3fa9c04b1d band.ckpt

There: model.load_state_dict(torch.load("band.ckpt", weights_only=True)["state_dict"]). The parameters keep every bit;
the optimiser's state is not in it. `band-train import` reads it back unchanged.
exit codes: 0 written, 1 your input, 2 usage"""


def main(argv: list[str]) -> int:
    """Run `band-train export` and return its exit code."""
    return main_guard(lambda: run(parser().parse_args(argv)))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="band-train export",
        description="Write a finished run in the key layout of lfads-torch and BAND-torch.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    made.add_argument("out", type=Path, metavar="OUT.ckpt", help="file to write")
    made.add_argument("--force", action="store_true", help="replace OUT if it is there")
    made.add_argument("--dry-run", action="store_true", help="check; write nothing")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def run(args: argparse.Namespace) -> int:
    """Write the file and say what is in it; return the exit code."""
    from band.errors import ForeignError
    from band.run_dir import read_result

    read_result(args.run)  # says what is wrong with it before anything heavy is loaded
    if args.out.suffix != ".ckpt":
        raise ForeignError(f"{args.out}: must end in .ckpt, the one format there is")
    if args.out.exists() and not args.force:
        raise ForeignError(f"{args.out}: is there already; give another name, or --force to replace it")
    from band.train.release import describe, write_release

    facts = describe(args.run) if args.dry_run else write_release(args.run, args.out)
    if args.json:
        print_json(facts)
    else:
        where = "nothing is written" if args.dry_run else f"written: {args.out}"
        print(printable(f"{facts['parameters']} tensors, {facts['values']} numbers; {where}"))
    return 0
