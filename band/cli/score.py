"""`band-train score`: the scores of an old run, computed anew, whole or by condition and epoch."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from band.cli.after import add_data, add_run, cell, means, open_run, print_table, progress, sizes, sizes_line, tell
from band.cli.common import print_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping

HELP = "compute the scores of a trained model anew, whole or broken down by condition or epoch"
EXAMPLES = """examples:
  band-train score sweeps/maze/runs/RUN                  every split; says if anything differs from result.json
  band-train score RUN --by cond                         test, a row a condition
  band-train score RUN --by cond --by epoch --split valid
  band-train score RUN --json | jq .scores.test

--by takes a key of the recording with a label a trial, or a bin: train_cond, train_epoch … Read-outs are fitted on
the whole of train; scores of a label are those of its trials, or bins, alone.

exit codes: 0 done, 1 your input, 2 usage, 130 interrupted"""
TOLERANCE = 1e-6  # beyond it a score counts as another


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    add_data(parser)
    parser.add_argument("--by", action="append", default=[], metavar="KEY", help="break down by this label; repeatable")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="of --by; default: test")


def run(args: argparse.Namespace) -> int:
    """Score and print; return the exit code.

    Raises:
        BandError: the run or its recording cannot be used, or there are no such labels.
    """
    from band.after.rescore import breakdown, labels_of, score

    model, trials = open_run(args)
    for key in args.by:
        for session in trials.sessions:
            labels_of(session, key, args.split)
    if args.dry_run:
        return tell(args, {"written": False, **sizes(trials)}, [("would score", sizes_line(trials))])
    with progress() as on_progress:
        scores, posterior = score(model, trials, on_progress=on_progress)
        broken = {key: breakdown(model, trials, posterior, by=key, split=args.split) for key in args.by}
    changed = changed_scores(model.result["scores"], scores)
    if args.json:
        print_json({"run_id": model.result["run_id"], "scores": scores, "by": broken, "changed": changed})
        return 0
    if not broken:
        print_scores(scores)
    for key, found in broken.items():
        print_breakdown(key, found)
    was = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
    same = (
        "equal to the scores in result.json" if model.result["scores"] else "result.json has no scores to compare with"
    )
    say(f"differs from result.json: {was}" if changed else same)
    return 0


def changed_scores(
    before: Mapping[str, Mapping[str, float | None]], now: Mapping[str, Mapping[str, float | None]]
) -> list[str]:
    """Return the names, SPLIT/NAME, of scores that both have and that differ by more than rounding."""
    pairs = {
        f"{split}/{name}": (value, now[split][name])
        for split, scores in before.items()
        for name, value in scores.items()
        if name in now.get(split, {})
    }
    return sorted(name for name, (one, two) in pairs.items() if _differ(one, two))


def _differ(one: float | None, two: float | None) -> bool:
    if one is None or two is None:
        return one is not two
    return abs(one - two) > TOLERANCE * max(1.0, abs(one))


def print_scores(scores: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print the means over channels of every split."""
    by_split = {split: means(found) for split, found in scores.items()}
    names = dict.fromkeys(name for found in by_split.values() for name in found)
    rows = [(name, [cell(found.get(name)) for found in by_split.values()]) for name in names]
    print_table("score", by_split, rows)


def print_breakdown(key: str, found: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print the means over channels of every label."""
    by_label = {label: means(scores) for label, scores in found.items()}
    names = list(dict.fromkeys(name for scores in by_label.values() for name in scores))
    print_table(key, names, [(label, [cell(scores.get(n)) for n in names]) for label, scores in by_label.items()])
