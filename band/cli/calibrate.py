"""`band-sweep calibrate`: measures how large a population pays for each shape of a sweep; `pack: auto` takes it."""

from __future__ import annotations

import argparse
import sys

from band.cli.common import print_json, say, whole_number
from band.cli.progress import plural

HELP = "measure here how many runs to train together, for each shape of a sweep"
EXAMPLES = """\
The device must be the one the sweep will train on: on a cluster, run it in a job
(srun --gpus=1 band-sweep calibrate maze); what it finds is kept in ~/.cache/band.

examples:
  band-sweep calibrate maze
  band-sweep calibrate maze --device cuda --most 128"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a sweep")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    parser.add_argument("--threads", type=whole_number, default=1, help="of a task on the CPU (default: 1)")
    parser.add_argument("--most", type=whole_number, default=64, help="largest population to try (default: 64)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of training for each size (default: 2)")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure each shape and keep what was found.

    Raises:
        SweepError: there is no such sweep, or a shape cannot be trained here.
    """
    from band.sweep import populations
    from band.sweep.manifest import find_sweep, read_manifest
    from band.sweep.pack import room_for
    from band.sweep.resources import detect

    manifest = read_manifest(find_sweep(args.sweep))
    device = room_for(detect(), device=args.device).device
    shown = []
    found = populations.shapes_in(manifest, manifest.active(), device=device, threads=args.threads)
    for key, (run, config, _) in found.items():
        if not args.json:
            say(f"shape of {run.id}, on {device}:", flush=True)
        rates: dict[int, float] = {}
        path = str(manifest.datasets[run.dataset]["path"])
        for members, rate in populations.measure(
            config, path, device=device, threads=args.threads, most=args.most, seconds=args.seconds
        ):
            rates[members] = rate
            if not args.json:
                say(f"  {members:4d} together: {rate:8.1f} member-steps/s", flush=True)
        if not rates:
            say(f"{run.id}: not even one run fits the memory of {device}", file=sys.stderr)
            return 1
        populations.keep(key, rates)
        best = populations.best_size(rates)
        shown.append({"run": run.id, "device": device, "rates": {str(m): r for m, r in rates.items()}, "members": best})
        if not args.json:
            say(f"  pack: auto trains {plural(best, 'run')} of it together")
    if args.json:
        print_json({"sweep": manifest.name, "shapes": shown})
    return 0
