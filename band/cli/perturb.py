"""`band-train perturb`: a push on the controller's output, and how factors, rates and behaviour answer."""

from __future__ import annotations

import argparse

from band.cli.after import add_data, add_into, add_run, open_run, progress, sizes, sizes_line, tell
from band.cli.common import whole_number

HELP = "push an inferred input at a chosen bin, and write what a trained model does with and without"
EXAMPLES = """examples:
  band-train perturb sweeps/maze/runs/RUN --channel 0 --at 20 --size 1 --into push.h5
  band-train perturb RUN --channel 1 --at 20 --bins 3 --size -0.5 --into push.h5 --json

SPLIT_factors, SPLIT_output_params … are without, SPLIT_pushed_factors … with the push, by the same draws of the
posterior. The size is in units of the inferred input; what that is in standard deviations of it is printed. The
controller sees the pushed factors and may answer.

exit codes: 0 done, 1 your input, 2 usage, 130 interrupted"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    add_data(parser)
    add_into(parser)
    parser.add_argument("--channel", type=int, required=True, metavar="K", help="of the controller's output")
    parser.add_argument("--at", type=int, required=True, metavar="BIN", help="first bin that is pushed")
    parser.add_argument("--bins", type=whole_number, default=1, metavar="N", help="bins that are pushed (default: 1)")
    parser.add_argument("--size", type=float, required=True, metavar="X", help="of the push")


def run(args: argparse.Namespace) -> int:
    """Push, write and print; return the exit code.

    Raises:
        BandError: the run or its recording cannot be used, or there is no such channel or bin.
    """
    from band.after.infer import check_free
    from band.after.perturb import Push, perturb, push_tensor, transient, write_perturbed

    check_free(args.into, replace_file=args.force)
    model, trials = open_run(args)
    push = Push(channel=args.channel, at_bin=args.at, size=args.size, num_bins=args.bins)
    push_tensor(push, trials, model)  # says what is wrong with it before anything is computed
    facts = {"run_id": model.result["run_id"], "file": str(args.into), "written": not args.dry_run, **sizes(trials)}
    if args.dry_run:
        return tell(args, facts, [("would write", str(args.into)), ("holds", sizes_line(trials))])
    with progress() as on_progress:
        found = perturb(model, trials, push, on_progress=on_progress)
    write_perturbed(args.into, found, trials, push, replace_file=args.force)
    answer = transient(found, push)
    half = answer["half_bins"]
    left = "more than half of it is left at the end" if half is None else f"half of it is left {half} bins later"
    size = "" if answer["size_in_sd"] is None else f" ({answer['size_in_sd']:.2f} standard deviations)"
    rows = [
        ("written", str(args.into)),
        ("push", f"{args.size:g}{size} on channel {args.channel}, {args.bins} bins from bin {args.at} on"),
        ("answer", f"factors are {answer['peak']:.4g} apart at most, in bin {answer['peak_bin']}; {left}"),
    ]
    return tell(args, {**facts, "response": answer}, rows)
