"""`band-train check-causal`: whether what a trained model says of a bin depends on input after it."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "change the future of the input and see whether the past of the output moves"
EXAMPLES = """examples:
  band-train check-causal experiments/sweeps/maze/runs/band1-s0-3fa9c04b1d
  band-train check-causal RUN --bins 10 20 30 --json

A controller that sees the past alone (arch.causal_con) does not make a model causal: its initial condition has seen the
whole trial. A segment of its own for the initial condition (arch.ic_enc_seq_len) does, for the bins after that segment;
for behaviour so does a decoder that sees the bins up to its own (arch.behavior_decoder bin or causal_lag).

exit codes: 0 what claims to be causal is, 1 it is not, or your input is wrong
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="folder of a trained run")
    parser.add_argument("--data", type=Path, metavar="FILE", help="recording; default: the one RUN was trained on")
    parser.add_argument("--bins", type=int, nargs="+", metavar="BIN", help="where the future begins; default: a few")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Check, print a line an output, and return 0 unless something is not what it claims to be."""
    from band.cli.common import print_json, print_lines
    from band.train.causality import check_run

    found = check_run(args.run_folder, data=args.data, bins=args.bins)
    broken = [one for one in found if one.claims and one.worst > 0]
    if args.json:
        print_json(
            {"outputs": [{"name": o.name, "claims": o.claims, "worst": o.worst, "bin": o.bin} for o in found],
             "is_as_claimed": not broken}
        )  # fmt: skip
        return 1 if broken else 0
    rows = []
    for one in found:
        moved = f"moves by {one.worst:.2g} (future from bin {one.bin})" if one.worst > 0 else "does not move at all"
        claim = "claims to be causal" if one.claims else f"not causal by design: {one.why}"
        rows.append((one.name, f"{moved}; {claim}" + ("  <- BROKEN" if one in broken else "")))
    print_lines(rows)
    return 1 if broken else 0
