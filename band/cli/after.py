"""What the commands on finished runs share: their arguments, how a run is opened, how files and scores are told."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band.cli.common import console, print_json, print_lines, printable, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from band.train.run_model import Model
    from band.train.trials import Trials

KINDS = ("bits_per_spike", "co_bps", "fp_bps", "behavior_r2/", "within_condition_r2/", "deviation_r2/")
PIPE_WIDTH = 400  # columns, where there is no terminal to fit
RUN_HELP = "folder of a finished run: sweeps/NAME/runs/RUN_ID"


def add_run(parser: argparse.ArgumentParser, *, takes: str = "RUN", help: str = RUN_HELP) -> None:
    """Add the run, and what all these commands know."""
    parser.add_argument("run_folder", type=Path, metavar=takes, help=help)
    parser.add_argument("--threads", type=whole_number, default=1, metavar="N", help="cores to use (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; compute and write nothing")
    parser.add_argument("--json", action="store_true", help="print JSON; progress goes to stderr")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add `--data`, for commands that read the run's own recording."""
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="where its recording is; default: as result.json says"
    )


def add_into(parser: argparse.ArgumentParser, *, required: bool = True, help: str = "HDF5 file to write") -> None:
    """Add `--into` and `--force`."""
    parser.add_argument("--into", type=Path, required=required, metavar="FILE.h5", help=help)
    parser.add_argument("--force", action="store_true", help="replace what is there")


def open_run(args: argparse.Namespace) -> tuple[Model, Trials]:
    """Return the model of a run and its own recording.

    Raises:
        BandError: the run is not finished or damaged, its recording is not there or another one.
    """
    from band.train.run_model import own_trials

    model = open_alone(args)
    return model, own_trials(model, data=args.data, device=args.device)


def open_alone(args: argparse.Namespace) -> Model:
    """Return the model of a run.

    Raises:
        BandError: the run is not finished or damaged, or there is no such device.
    """
    from band.after.device import use
    from band.train.run_model import open_model

    use(args.device, threads=args.threads)
    return open_model(args.run_folder, device=args.device)


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """Yield what takes a step's name and the share done."""
    from band.cli.steps import Steps

    with Steps("per cent") as steps:
        yield lambda what, share: steps(what, min(99, int(share * 100)), 100)


def tell(args: argparse.Namespace, facts: Mapping[str, Any], rows: list[tuple[str, str]]) -> int:
    """Print facts as JSON, or rows as lines; return 0."""
    if args.json:
        print_json(dict(facts))
    else:
        print_lines(rows)
    return 0


def sizes(trials: Trials) -> dict[str, Any]:
    """Return how much there is to compute: trials of each split, bins, neurons, sessions."""
    names = ("train", "valid", "test")
    counts = {name: sum(len(session.split(name, 0)) for session in trials.sessions) for name in names}
    widths = trials.widths
    return {"trials": counts, "bins": widths.num_recon_bins, "neurons": list(widths.num_recon_neurons)}


def sizes_line(trials: Trials) -> str:
    """Return the same in words."""
    found = sizes(trials)
    counts = ", ".join(f"{name} {count}" for name, count in found["trials"].items())
    return f"{counts} trials of {found['bins']} bins, {' + '.join(map(str, found['neurons']))} neurons"


def print_table(title: str, columns: Iterable[str], rows: Iterable[tuple[str, list[str]]]) -> None:
    """Print a table with a name before each row."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None, box=None, pad_edge=False)
    table.add_column(Text(printable(title)), no_wrap=True)
    for column in columns:
        table.add_column(Text(printable(column)), justify="right", overflow="fold")
    for name, cells in rows:
        table.add_row(*(Text(printable(cell)) for cell in (name, *cells)))
    out = console()
    if not out.is_terminal:
        out.width = PIPE_WIDTH
    out.print(table)


def cell(value: float | None) -> str:
    """Return a score as it stands in a table."""
    return "-" if value is None else f"{value:.4f}"


def means(scores: Mapping[str, float | None], *, prefix: str = "") -> dict[str, float | None]:
    """Return the scores that a table shows: of behaviour the means over channels."""
    found = {}
    for name, value in scores.items():
        if not name.startswith(prefix):
            continue
        short = name[len(prefix) :]
        if short.startswith(KINDS) and ("/" not in short or short.endswith("/mean")):
            found[short.removesuffix("/mean")] = value
    return found
