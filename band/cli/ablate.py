"""`band-train ablate`: what a trained model tells with inferred or external inputs switched off."""

from __future__ import annotations

import argparse

from band.cli.after import add_data, add_run, cell, means, open_run, print_table, progress, sizes, sizes_line, tell
from band.cli.common import print_json

HELP = "score a trained model with its inferred inputs, all its inputs, or one channel of them switched off"
EXAMPLES = """examples:
  band-train ablate sweeps/maze/runs/RUN                    without inferred inputs (noci), and without all inputs
  band-train ablate RUN --channel 0 --channel 2             and without either of these channels alone
  band-train ablate RUN --channel all --json | jq '.scores.test'

Two read-outs of each: intact, fitted on what the whole model gives, and refitted, on what the ablated one gives.

exit codes: 0 done, 1 your input, 2 usage, 130 interrupted"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    add_data(parser)
    parser.add_argument(
        "--channel", action="append", default=[], metavar="K", help="of the controller's output, or all; repeatable"
    )
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="shown; default: test")


def run(args: argparse.Namespace) -> int:
    """Ablate, score and print; return the exit code.

    Raises:
        BandError: the run or its recording cannot be used, or the controller has no such channel.
    """
    from band.after.rescore import ablate
    from band.errors import ConfigError

    model, trials = open_run(args)
    arch = model.config.arch
    if not arch.co_dim and not trials.widths.ext_input_dim:
        raise ConfigError(f"{args.run_folder}: this model has no inputs that could be switched off")
    channels = _channels(args.channel, co_dim=arch.co_dim)
    if args.dry_run:
        facts = {"written": False, "channels": channels, **sizes(trials)}
        return tell(args, facts, [("would score", sizes_line(trials)), ("channels", ", ".join(map(str, channels)))])
    with progress() as on_progress:
        scores = ablate(model, trials, channels=channels, on_progress=on_progress)
    if args.json:
        print_json({"run_id": model.result["run_id"], "channels": channels, "scores": scores})
        return 0
    shown = scores[args.split]
    names = [n for n in ("noci", "all_inputs_off", *(f"channel{c}_off" for c in channels)) if _has(shown, n)]
    columns = {"as it is": means(shown), **{name: means(shown, prefix=f"{name}/") for name in names}}
    rows = list(dict.fromkeys(row for found in columns.values() for row in found))
    print_table(f"{args.split} score", columns, [(row, [cell(f.get(row)) for f in columns.values()]) for row in rows])
    return 0


def _has(scores: dict[str, float | None], name: str) -> bool:
    return any(key.startswith(f"{name}/") for key in scores)


def _channels(given: list[str], *, co_dim: int) -> list[int]:
    from band.errors import ConfigError

    if "all" in given:
        return list(range(co_dim))
    for text in given:
        if not text.isdecimal() or int(text) >= co_dim:
            raise ConfigError(f"--channel must be all, or in 0 … {co_dim - 1}, the controller's outputs, got {text!r}")
    return sorted({int(text) for text in given})
