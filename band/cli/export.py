"""`band-train export`: a trained model as TorchScript, or as a checkpoint that lfads-torch and BAND-torch load."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write a trained model as TorchScript, or as a checkpoint in the key layout of lfads-torch and BAND-torch"
EXAMPLES = """examples:
  band-train export RUN --out band.ts
  band-train export RUN --out day2.ts --session day2        of several sessions one
  band-train export RUN --out band.ckpt                   parameters under the names of lfads-torch and BAND-torch

In Python, with torch alone:
  model = torch.jit.load("band.ts")
  rates, factors, behavior, inputs = model(counts, ext_input)         (trial, bin, neuron), (trial, bin, 0)
A causal model (band-train check-causal) also takes data as they come:
  rates, factors, behavior, state = model.begin(segment, ext_input)    the first arch.ic_enc_seq_len bins
  rates, factors, behavior, state = model.step(counts_of_the_bin, ext_input_of_the_bin, state)

TorchScript is first compared with the trained model on trials of the recording, and refused if it differs.

A .ckpt keeps every bit of the parameters, so band-train import reads it back unchanged; the optimiser's state is not in
it. There: model.load_state_dict(torch.load("band.ckpt", weights_only=True)["state_dict"])
"""
BOUND = 1e-4  # of the largest value; the order of additions differs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="folder of a trained run")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to write: TorchScript, or a .ckpt"
    )
    parser.add_argument("--session", metavar="NAME", help="of a run of several sessions, whose neurons are meant")
    parser.add_argument("--data", type=Path, metavar="FILE", help="recording; default: the one RUN was trained on")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Export, compare, write."""
    from band.cli.common import print_json, print_lines
    from band.errors import BandError, ConfigError
    from band.files import write_atomic

    if args.out.exists() and not args.force:
        raise ConfigError(f"{args.out}: is there already; give another name, or --force to replace it")
    if args.out.suffix == ".ckpt":
        return _release(args)
    from band.train.script import export, serialised

    exported = export(args.run_folder, session=args.session, data=args.data)
    worst = max(exported.differences.values())
    if not worst <= BOUND:
        raise BandError(f"{args.run_folder}: the exported model differs from the trained one by {worst:.2g}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out, serialised(exported.module))
    if args.json:
        print_json({"path": str(args.out), "streams": exported.streams, "differences": exported.differences})
        return 0
    print_lines(
        [
            ("written", f"{args.out}"),
            ("differs", ", ".join(f"{name} {value:.1g}" for name, value in exported.differences.items())),
            ("streams", "yes: begin and step" if exported.streams else "no: not a causal model; see check-causal"),
        ]
    )
    return 0


def _release(args: argparse.Namespace) -> int:
    """Write the parameters in the layout of lfads-torch and BAND-torch."""
    from band.cli.common import print_json, print_lines
    from band.run_dir import read_result

    read_result(args.run_folder)  # says what is wrong with it before anything heavy is loaded
    from band.train.release import write_release

    args.out.parent.mkdir(parents=True, exist_ok=True)
    facts = write_release(args.run_folder, args.out)
    if args.json:
        print_json(facts)
    else:
        print_lines([("written", str(args.out)), ("holds", f"{facts['tensors']} tensors, {facts['values']} numbers")])
    return 0
