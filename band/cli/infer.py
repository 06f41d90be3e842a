"""`band-train infer`: posterior means and spreads of a new recording, from a run folder alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from band.cli.after import add_into, add_run, open_alone, progress, sizes, sizes_line, tell
from band.cli.common import whole_number

HELP = "posterior means and spreads of another recording of the same neurons, by a trained model"
EXAMPLES = """examples:
  band-train infer sweeps/maze/runs/RUN day2.h5 --into day2_outputs.h5
  band-train infer RUN chops.h5 --into outputs.h5 --level full        states of generator and controller too
  band-train infer RUN sessions.h5 --into outputs/                    one file a session: outputs_SESSION.h5
  band-train infer RUN day2.h5 --dry-run --json

The recording has the model's neurons in the model's order, and its bins. Splits are those of the file. Behaviour may
be missing. The file has the names of lfads-torch, and what the encoders saw beside what became of it.

exit codes: 0 done, 1 your input, 2 usage, 130 interrupted"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    parser.add_argument("data", type=Path, metavar="DATA", help="the recording, an HDF5 file")
    add_into(parser, required=False, help="HDF5 file to write, or a folder for one a session; default: outputs of DATA")
    parser.add_argument("--level", choices=("factors", "full"), default="factors", help="full: states too")
    parser.add_argument("--samples", type=whole_number, metavar="N", help="draws; default: as the run's own outputs")


def run(args: argparse.Namespace) -> int:
    """Compute and write; return the exit code.

    Raises:
        BandError: the run or the recording cannot be used, or they do not fit together.
    """
    from band.after.infer import check_free, infer, target_files
    from band.train.run_model import new_trials

    into = args.into or args.data.with_name(f"{args.data.stem}.outputs.h5")
    model = open_alone(args)
    trials = new_trials(model, args.data, device=args.device)
    paths = target_files(into, trials)
    for path in paths:
        check_free(path, replace_file=args.force)
    if not args.dry_run:
        with progress() as on_progress:
            infer(
                model, trials, into, level=args.level, num_samples=args.samples, replace_files=args.force,
                on_progress=on_progress,
            )  # fmt: skip
    files = [str(path) for path in paths]
    facts = {"run_id": model.result["run_id"], "files": files, "written": not args.dry_run, **sizes(trials)}
    verb = "would write" if args.dry_run else "written"
    return tell(args, facts, [(verb, ", ".join(files)), ("holds", sizes_line(trials))])
