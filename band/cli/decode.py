"""`band-train decode`: baseline decoders of behaviour on spikes, factors and inferred inputs, in one table."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from band.cli.after import add_data, add_run, cell, open_run, print_table, progress, tell
from band.cli.common import print_json, whole_number

if TYPE_CHECKING:
    from band.after.baselines import Case, Row, Settings

HELP = "decode behaviour by ridge, Wiener filter and a small RNN, from spikes, factors and inferred inputs"
EXAMPLES = """examples:
  band-train decode sweeps/maze/runs/RUN              a table: what the model adds over decoding directly
  band-train decode datasets/maze.h5                  a recording alone: decoders on its spikes
  band-train decode RUN --decoders ridge,wiener --lags=-100:200:50 --json

ridge: bin by bin, spikes smoothed by a Gaussian; ridge_trial: whole trials to whole trials; wiener: 150 ms before,
at the best lag (a positive one: neurons before behaviour); rnn: a bidirectional GRU that reads the whole trial;
own: the model's own decoder. Alpha, smoothing and lag are chosen by leaving out groups of train trials, the RNN stops
by a part of train held back. direction: share of reaches decoded to their own condition's target among all targets,
the first two channels of behaviour taken as a velocity. `valid` chose the model's epoch; test chose nothing.

exit codes: 0 done, 1 your input, 2 usage, 130 interrupted"""
MAX_LAGS = 1000
SHOWN = {
    "behavior_r2/mean": "R²", "within_condition_r2/mean": "within cond.", "deviation_r2/mean": "deviation",
    "target_direction_accuracy": "direction",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser, takes="RUN|DATA", help="folder of a finished run, or a recording")
    add_data(parser)
    parser.add_argument("--decoders", default="ridge,ridge_trial,wiener,rnn", metavar="NAME,…", help="default: all")
    parser.add_argument("--lags", metavar="FROM:TO:STEP", help="of the Wiener filter, in ms (default: -50:150:25)")
    parser.add_argument("--taps", type=whole_number, metavar="N", help="stretches of 25 ms it reads (default: 6)")
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="reported; default: test")
    parser.add_argument("--seed", type=int, default=0, help="of the RNN (default: 0)")
    parser.add_argument("--bin-ms", type=float, help="DATA: width of a bin; default: the file's attribute")


def run(args: argparse.Namespace) -> int:
    """Fit, score and print; return the exit code.

    Raises:
        BandError: the run or recording cannot be used, or there is nothing to decode.
    """
    settings = _settings(args)
    with progress() as on_progress:
        cases = _cases(args, on_progress)
        counts = {split: sum(len(case.observed[split].spikes) for case in cases) for split in ("train", args.split)}
        if not args.dry_run:
            from band.after.baselines import decode_case

            found = [
                (case, list(decode_case(case, settings, split=args.split, on_progress=on_progress))) for case in cases
            ]
    if args.dry_run:
        what = ", ".join(f"{decoder} on {read}" for read in cases[0].inputs for decoder in settings.decoders)
        facts = {"written": False, "trials": counts, "would_fit": what.split(", ")}
        return tell(args, facts, [("would fit", what), ("trials", f"{counts['train']} to fit on")])
    if args.json:
        rows = [_as_json(row, session=case.name) for case, rows_ in found for row in rows_]
        print_json({"split": args.split, "trials": counts, "rows": rows})
        return 0
    for case, rows_ in found:
        _print(case, rows_, split=args.split)
    return 0


def _cases(args: argparse.Namespace, on_progress: Any) -> list[Case]:
    from band.after.cases import cases_of_recording, cases_of_run
    from band.config import DataConfig

    if args.run_folder.is_file():
        from band.after.device import use

        use(args.device, threads=args.threads)
        return cases_of_recording(args.run_folder, DataConfig(path=str(args.run_folder), bin_ms=args.bin_ms))
    model, trials = open_run(args)
    return cases_of_run(model, trials, on_progress=on_progress)


def _settings(args: argparse.Namespace) -> Settings:
    from band.after.baselines import DECODERS, Settings
    from band.errors import ConfigError

    decoders = tuple(name.strip() for name in args.decoders.split(","))
    if unknown := [name for name in decoders if name not in DECODERS]:
        raise ConfigError(f"--decoders must be of {', '.join(DECODERS)}, got {unknown[0]!r}")
    settings = Settings(decoders=decoders, seed=args.seed)
    if args.lags is not None:
        settings = replace(settings, lags_ms=_lags(args.lags))
    return settings if args.taps is None else replace(settings, taps=args.taps)


def _lags(text: str) -> tuple[float, ...]:
    from band.errors import ConfigError

    try:
        first, last, step = (float(part) for part in text.split(":"))
        lags = tuple(first + k * step for k in range(int((last - first) / step + 1e-9) + 1))
    except (ValueError, ZeroDivisionError):
        lags = ()
    if not 1 <= len(lags) <= MAX_LAGS:
        raise ConfigError(f"--lags must be FROM:TO:STEP in ms, as --lags=-50:150:25, got {text!r}")
    return lags


def _as_json(row: Row, *, session: str) -> dict[str, Any]:
    name = {"session": session} if session else {}
    return {**name, "input": row.read, "decoder": row.decoder, "chosen": row.chosen, "scores": row.scores}


def _print(case: Case, rows: list[Row], *, split: str) -> None:
    columns = [name for name in SHOWN if any(name in row.scores for row in rows)]
    cells = [
        (f"{row.decoder} on {row.read}", [*(cell(row.scores.get(n)) for n in columns), _chosen(row)]) for row in rows
    ]
    title = f"{split}{', ' * bool(case.name)}{case.name}"
    print_table(title, [*(SHOWN[name] for name in columns), "chosen on train"], cells)


def _chosen(row: Row) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in row.chosen.items())
