"""`band-data`: look at a recording, check it, import it, chop it into windows, or simulate one whose truth is known."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band.cli import data_chop, data_import, data_join
from band.cli.common import main_guard, print_json, print_lines, printable, say, set_command
from band.cli.parsers import Help, make_parser, subparsers

if TYPE_CHECKING:
    import numpy as np

EXAMPLES = """\
examples:
  band-data inspect recording.h5                 one screen: shapes, rates, conditions, what adjoins or overlaps
  band-data inspect recording.h5 --bin-ms 10     rates in Hz where the file does not say its bin width
  band-data check recording.h5 --folds 5         exit code 0 if it can be trained on in five folds, else what is wrong
  band-data simulate reach reach.h5              reaches with mid-flight corrections, what BAND is for
  band-data simulate reach control.h5 --no-corrections
  band-data simulate lorenz lorenz.h5 --seed 1   the Lorenz benchmark, with known rates
  band-data import maze.nwb --out maze.h5 --bin-ms 10 --align move_onset_time --window -250 450
  band-data join monday.h5 tuesday.h5 --out week.h5       for one model of several sessions
  band-data chop session.h5 --out chops.h5 --window 600ms --overlap 0.5
  band-data merge outputs.h5 --chopped chops.h5 --out merged.h5
"""

MARKS = {
    "latents": "deviation R² of velocity on test, by ridge on the true latents: the ceiling",
    "smoother": "the same by a linear smoother of spikes that knows condition and loadings: about what spikes can tell",
    "spikes": "the same by ridge on smoothed spikes, bin by bin",
    "plan_neural_share": "share of the log rates' variance that the plan makes within conditions",
    "correction_neural_share": "share of the log rates' variance that corrections make",
    "correction_deviation_share": "share of the velocity's variance within conditions that corrections make",
    "within_share": "share of the velocity's variance that lies within conditions",
}


def main(argv: list[str] | None = None) -> int:
    """Run `band-data` and return its exit code: 0 ok, 1 the file or a value breaks a rule, 2 wrong usage."""
    args = parser().parse_args(argv)
    set_command(f"band-data {args.command}")
    return main_guard(lambda: int(args.run(args)))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with those of its commands."""
    made = make_parser("band-data", description=__doc__.strip().split(": ", 1)[1], examples=EXAMPLES)
    names = "inspect | check | simulate | import | join | chop | merge"
    commands = made.add_subparsers(required=True, metavar=names, dest="command", prog="band-data")
    inspect = commands.add_parser("inspect", help="show on one screen what a recording holds")
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.add_argument("--bin-ms", type=float, help="width of a time bin in ms; default: the file's attribute bin_ms")
    inspect.set_defaults(run=_inspect)
    check = commands.add_parser("check", help="check that recordings can be trained on")
    check.add_argument("files", type=Path, nargs="+", metavar="FILE")
    check.add_argument("--split", default="auto", help="rule to try: auto, shipped, stratified, blocked, grouped")
    check.add_argument("--folds", type=int, default=1, metavar="K", help="try every one of K folds")
    check.add_argument("--group-key", default="", help="array with a group label a trial, for grouped")
    check.set_defaults(run=_check)
    _add_simulate(commands.add_parser("simulate", help="write a recording whose truth is known"))
    data_import.add(commands)
    data_join.add(commands)
    data_chop.add(commands)
    for command in (inspect, check):
        command.add_argument("--json", action="store_true", help="print JSON")
    for name, own in subparsers(made).items():
        own.formatter_class = Help
        own.description = own.description or next(c.help for c in commands._choices_actions if c.dest == name)
        own.epilog = own.epilog or examples_of(name)
    return made


def examples_of(name: str) -> str:
    """Return those of EXAMPLES that show one command."""
    lines = EXAMPLES.split("\n")
    return "\n".join([lines[0], *(line for line in lines if line.startswith(f"  band-data {name} "))])


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=("lorenz", "reach"))
    parser.add_argument("out", type=Path, metavar="OUT", help="HDF5 file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--conditions", type=int, dest="num_conditions", metavar="N", help="default: 8, lorenz 65")
    parser.add_argument("--trials", type=int, nargs=3, metavar=("TRAIN", "VALID", "TEST"), help="of each condition")
    parser.add_argument("--neurons", type=int, dest="num_neurons", metavar="N")
    parser.add_argument("--bins", type=int, dest="num_bins", metavar="N")
    parser.add_argument("--rate", type=float, dest="mean_rate_hz", metavar="HZ", help="mean rate before modulation")
    parser.add_argument("--small", action="store_true", help="reach: a size that trains in about a minute")
    parser.add_argument("--no-corrections", action="store_true", help="reach: the control, equal in all else")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_simulate)


def _inspect(args: argparse.Namespace) -> int:
    from band.data.inspect import inspect, lines

    found = inspect(args.file, bin_ms=args.bin_ms)
    if args.json:
        print_json(found)
    else:
        print_lines(lines(found))
    return 0


def _check(args: argparse.Namespace) -> int:
    from band.config import DataConfig
    from band.data.recording import open_recording
    from band.data.splits import make_split
    from band.errors import BandError

    results: list[dict[str, Any]] = []
    for path in args.files:
        try:
            recording = open_recording(path)
            for fold in range(args.folds):
                split_args = {"split": args.split, "num_folds": args.folds, "group_key": args.group_key}
                split = make_split(recording, DataConfig(path=str(path), fold=fold, **split_args))
            results.append({"path": str(path), "ok": True, "trials": recording.num_trials, "split": split.how})
        except BandError as error:
            results.append({"path": str(path), "ok": False, "problem": str(error)})
    if args.json:
        print_json({"recordings": results})
    for result in [] if args.json else results:
        if result["ok"]:
            say(printable(f"ok: {result['path']}: {result['trials']} trials; {result['split']}"))
        else:
            say(printable(f"error: {result['problem']}"), file=sys.stderr)
    return 0 if all(result["ok"] for result in results) else 1


def _simulate(args: argparse.Namespace) -> int:
    from band.data.digest import dataset_digest
    from band.data.hdf5 import write_hdf5
    from band.errors import DataError

    if args.out.exists() and not args.force:
        raise DataError(f"{args.out}: is there already; give another name, or --force to replace it")
    arrays, attributes, rows = _lorenz(args) if args.task == "lorenz" else _reach(args)
    write_hdf5(args.out, arrays, attributes=attributes)
    shapes = {key.removeprefix("train_"): list(v.shape) for key, v in arrays.items() if key.startswith("train_")}
    facts = {"path": str(args.out), "digest": dataset_digest(args.out), "train_shapes": shapes, **dict(rows)}
    if args.json:
        print_json(facts)
    else:
        text = [(f"{value:.3f}", MARKS[name]) for name, value in rows]
        trials = ", ".join(f"{split} {len(arrays[f'{split}_cond'])}" for split in ("train", "valid", "test"))
        num_bins, num_neurons = arrays["train_recon_data"].shape[1:]
        size = f"{trials} trials of {num_bins} bins ({attributes['bin_ms']:g} ms), {num_neurons} neurons"
        print_lines([("written", str(args.out)), ("holds", size), *text])
    return 0


Simulated = tuple[dict[str, "np.ndarray"], dict[str, "str | float"], list[tuple[str, float]]]


def _sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the sizes that were given; the others keep their defaults."""
    names = ("num_conditions", "num_neurons", "num_bins", "mean_rate_hz")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {**given, **({"trials_per_condition": tuple(args.trials)} if args.trials else {})}


def _attributes(about: str, bin_ms: float, task: dict[str, Any]) -> dict[str, str | float]:
    return {"bin_ms": bin_ms, "about": f"simulated: {about}", "task": json.dumps(task)}


def _lorenz(args: argparse.Namespace) -> Simulated:
    from dataclasses import asdict

    from band.data.simulate import LorenzTask, simulate_lorenz
    from band.errors import ConfigError

    if args.small or args.no_corrections:
        raise ConfigError("--small and --no-corrections belong to the reach task; leave them out, or simulate reach")
    task = LorenzTask(seed=args.seed, **_sizes(args))
    attributes = _attributes("Lorenz benchmark", task.bin_ms, asdict(task))
    return simulate_lorenz(task), attributes, []


def _reach(args: argparse.Namespace) -> Simulated:
    from dataclasses import asdict, replace

    from band.data.ceilings import ceilings
    from band.data.simulate import ReachTask, simulate_reach, small_reach

    task = ReachTask(seed=args.seed, has_corrections=not args.no_corrections)
    task = replace(small_reach(task) if args.small else task, **_sizes(args))
    arrays = simulate_reach(task)
    marks = ceilings(task)
    attributes = _attributes("reaches", task.bin_ms, asdict(task))
    return arrays, attributes, [(name, round(value, 4)) for name, value in asdict(marks).items()]


if __name__ == "__main__":
    raise SystemExit(main())
