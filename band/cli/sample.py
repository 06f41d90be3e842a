"""`band-train sample`: draws of a run's posterior, one by one, in a file."""

from __future__ import annotations

import argparse
import math

from band.cli.after import add_data, add_into, add_run, open_run, progress, sizes, sizes_line, tell
from band.cli.common import whole_number

HELP = "draw from the posterior of a trained model, and keep every draw"
EXAMPLES = """examples:
  band-train sample sweeps/maze/runs/RUN --into draws.h5                     50 draws of the factors
  band-train sample RUN --into draws.h5 -n 200 --fields factors,output_params
  band-train sample RUN --into draws.h5 --data moved/maze.h5 --dry-run       how large the file would be

SPLIT_FIELD has the axes trial, draw, bin and channel. Draws are written as they are made, a chunk of trials at a time.
Fields: output_params (rates), factors, output_behavior_params, gen_inputs, gen_states, gen_init, con_states, co_means,
co_stds.

exit codes: 0 done, 1 your input, 2 usage, 130 interrupted"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    add_data(parser)
    add_into(parser)
    parser.add_argument("-n", "--samples", type=whole_number, default=50, metavar="N", help="draws (default: 50)")
    parser.add_argument("--fields", default="factors", metavar="NAME,…", help="what is kept (default: factors)")


def run(args: argparse.Namespace) -> int:
    """Draw and write; return the exit code.

    Raises:
        BandError: the run or its recording cannot be used, or the model has no such field.
    """
    from band.after.infer import check_free
    from band.after.sample import field_shapes, write_samples
    from band.cli.progress import size

    check_free(args.into, replace_file=args.force)
    model, trials = open_run(args)
    fields = [name.strip() for name in args.fields.split(",") if name.strip()]
    shapes = field_shapes(model, trials, fields=fields, num_samples=args.samples)
    if not args.dry_run:
        with progress() as on_progress:
            write_samples(
                model, trials, args.into, num_samples=args.samples, fields=fields, replace_file=args.force,
                on_progress=on_progress,
            )  # fmt: skip
    total = sum(math.prod(shape) for shape in shapes.values()) * (8 if model.config.train.dtype == "float64" else 4)
    facts = {
        "run_id": model.result["run_id"], "file": str(args.into), "written": not args.dry_run, "bytes": total,
        "arrays": {name: list(shape) for name, shape in shapes.items()}, **sizes(trials),
    }  # fmt: skip
    text = "  ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in shapes.items())
    verb = "would write" if args.dry_run else "written"
    rows = [(verb, f"{args.into}, {size(total)}"), ("holds", sizes_line(trials)), ("arrays", text)]
    return tell(args, facts, rows)
