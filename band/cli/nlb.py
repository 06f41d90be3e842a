"""`band-train nlb`: a run's rates as a submission to the Neural Latents Benchmark, and its scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band.cli.after import add_data, add_into, add_run, cell, open_run, progress, sizes, sizes_line, tell

if TYPE_CHECKING:
    from band.after.nlb import Part

HELP = "write a submission to the Neural Latents Benchmark, and score it as the benchmark's tools do"
EXAMPLES = """examples:
  band-train nlb sweeps/maze/runs/RUN                                                  scores alone
  band-train nlb RUN --name mc_maze_large --into submission.h5                         and the file
  band-train nlb RUN --name mc_maze_large --into submission.h5 --targets eval_data_val.h5 --eval valid --train train

Held-out neurons are those that the recording has in recon_data beyond encod_data, or of data.heldout_share; later bins
likewise. co-bps, vel R2, psth R2 and fp-bps are against --targets where that is given (the benchmark's own file), else
against this recording: PSTHs are then means of its smoothed counts.

exit codes: 0 done, 1 your input, 2 usage, 130 interrupted"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    add_data(parser)
    add_into(parser, required=False, help="submission file to write")
    parser.add_argument("--name", default="", metavar="DATASET", help="of the benchmark: mc_maze, mc_maze_large …")
    parser.add_argument("--train", default="train,valid", metavar="SPLIT,…", help="default: train,valid")
    parser.add_argument("--eval", default="test", metavar="SPLIT,…", help="default: test")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="the benchmark's file of targets")
    parser.add_argument("--psth-sd-ms", type=float, default=70.0, metavar="MS", help="smoothing of PSTHs (default: 70)")


def run(args: argparse.Namespace) -> int:
    """Write and score; return the exit code.

    Raises:
        BandError: the run or its recording cannot be used, or the benchmark has no place for it.
    """
    from band.after.infer import check_free
    from band.after.nlb import evaluate, group_name, submission
    from band.after.nlb_parts import write_submission
    from band.errors import ConfigError

    if (args.into or args.targets) and not args.name:
        raise ConfigError("--name must say which dataset of the benchmark this is, where a file of it is meant")
    if args.into:
        check_free(args.into, replace_file=args.force)
    model, trials = open_run(args)
    bin_ms = trials.sessions[0].recording.bin_ms
    group = group_name(args.name, bin_ms=bin_ms) if args.name else ""
    facts: dict[str, Any] = {"run_id": model.result["run_id"], "group": group, "written": False, **sizes(trials)}
    if args.dry_run:
        return tell(args, facts, [("would score", sizes_line(trials)), ("file", f"{args.into or 'none'}")])
    train, evaluated = _parts(args, model, trials)
    submitted = submission(train, evaluated)
    scores = evaluate(submitted, _targets(args, train, evaluated, group, bin_ms))
    if args.into:
        write_submission(args.into, group, submitted, replace_file=args.force)
    arrays = {name: list(values.shape) for name, values in submitted.items()}
    rows = [(name, cell(value)) for name, value in scores.items()]
    rows += [("written", f"{args.into}, group {group}")] if args.into else []
    return tell(args, {**facts, "written": bool(args.into), "arrays": arrays, "scores": scores}, rows)


def _parts(args: argparse.Namespace, model: Any, trials: Any) -> tuple[Part, Part]:
    from band.after.nlb_parts import part_of
    from band.after.published import posterior_of

    with progress() as on_progress:
        posterior, _ = posterior_of(model, trials, on_progress=on_progress)
    train, evaluated = (
        part_of(model, trials, posterior, splits=[s.strip() for s in given.split(",")])
        for given in (args.train, args.eval)
    )
    return train, evaluated


def _targets(args: argparse.Namespace, train: Part, evaluated: Part, group: str, bin_ms: float | None) -> Any:
    from band.after.nlb import targets
    from band.after.nlb_parts import read_targets

    if args.targets:
        return read_targets(args.targets, group)
    return targets(train, evaluated, psth_sd_bins=args.psth_sd_ms / (bin_ms or 10.0))
