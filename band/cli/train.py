"""`band-train`: one run of a sweep file in the foreground, with a progress bar; calling it again continues.

What is done with a trained run has a command of its own, looked up in a table as those of band-sweep are.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from typing import TYPE_CHECKING, Any

from band.cli.common import INTERRUPTED, fail, main_guard, print_json, printable, say, whole_number
from band.cli.parsers import make_parser, module_parser

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from band.cli.foreground import Foreground
    from band.run_dir import SweepDir
    from band.sweep.manifest import Run
    from band.sweep.plan import Plan

EXAMPLES = """examples:
  band-train experiments/mc_maze.yaml                                the base of a sweep file: LFADS
  band-train experiments/mc_maze.yaml hyper.behavior_weight=0.1      the same with behaviour: BAND
  band-train experiments/mc_maze.yaml behavior_weight=0.1 seed=3 data.num_folds=5 data.fold=2
  band-train experiments/mc_maze.yaml max_epochs=20 --json | jq .scores.test

what is done with a trained run: {commands}, each with --help

pair, seeds, folds and list of the file are left aside: what a run takes from them is set here, as seed=3. What grid,
zip and random vary must be set. Ctrl-C saves a checkpoint, and the same command continues from it. Results are kept
in sweeps/NAME.train beside the file, where band-sweep status and report find them too.

exit codes: 0 trained, 1 your input or the run failed, 2 usage, 4 another process trains it, 75 results wait on scratch,
130 interrupted"""
SHOWN = ("bits_per_spike", "co_bps", "fp_bps", "behavior_r2/", "within_condition_r2/", "deviation_r2/")
COMMANDS = {  # each with HELP, add_arguments(parser) and run(args)
    "adapt": "band.cli.adapt",
    "infer": "band.cli.infer",
    "sample": "band.cli.sample",
    "score": "band.cli.score",
    "ablate": "band.cli.ablate",
    "perturb": "band.cli.perturb",
    "decode": "band.cli.decode",
    "nlb": "band.cli.nlb",
    "check-causal": "band.cli.check_causal",
    "export": "band.cli.export",
    "import": "band.cli.import_run",
}
AXES = ("pair", "seeds", "folds", "grid", "zip", "random", "list", "exclude")  # left aside: one run has none of them


def main(argv: list[str] | None = None) -> int:
    """Run `band-train` with `argv` (default: the command line) and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in COMMANDS:
        return main_guard(lambda: dispatch(arguments))
    return main_guard(lambda: run(parser().parse_args(arguments), argv=arguments))


def dispatch(arguments: list[str]) -> int:
    """Run the command that `arguments` begin with."""
    module = importlib.import_module(COMMANDS[arguments[0]])
    made = module_parser(f"band-train {arguments[0]}", module)
    code: int = module.run(made.parse_args(arguments[1:]))
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = make_parser(
        "band-train",
        description="train one run of a sweep file in the foreground",
        examples=EXAMPLES.replace("{commands}", ", ".join(COMMANDS)),
    )
    made.add_argument("file", help="sweep file, as experiments/mc_maze.yaml")
    made.add_argument("sets", nargs="*", metavar="key=value", help="over the file, as hyper.lr=1e-3 or lr=1e-3")
    add_machine_arguments(made)
    return made


def add_machine_arguments(made: argparse.ArgumentParser) -> None:
    """Add what a run in the foreground is given of the machine."""
    made.add_argument("--threads", type=whole_number, default=1, metavar="N", help="cores to use (default: 1)")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if visible")
    made.add_argument("--json", action="store_true", help="print the result as JSON; progress goes to stderr")


def run(args: argparse.Namespace, *, argv: list[str]) -> int:
    """Train the run, show it, print its scores; return the exit code."""
    from band.cli.foreground import foreground
    from band.node.task import run_task
    from band.run_dir import SweepDir
    from band.sweep.plan import write_plan

    plan = plan_one(args.file, sets=args.sets)
    chosen, sweep = plan.manifest.runs[0], SweepDir(plan.folder)
    write_plan(plan)
    if chosen.id in plan.finished:
        say(f"{chosen.id} is trained already", file=sys.stderr)
        return report(sweep, run_id=chosen.id, as_json=args.json)
    task = make_task(sweep, plan=plan, chosen=chosen, threads=args.threads, device=args.device)
    say(_headline(plan, chosen=chosen), file=sys.stderr)
    with foreground(chosen.id) as shown:
        code = run_task(sweep.task(task).task_json, on_event=shown.take)
    if code == 0:
        return report(sweep, run_id=chosen.id, as_json=args.json)
    return _no_result(code, shown=shown, log=sweep.logs / f"{task}.*.log", again=f"band-train {shlex.join(argv)}")


def plan_one(file: str, *, sets: Sequence[str]) -> Plan:
    """Return the plan of a sweep of one run, which joins those that band-train has made of this file before.

    Raises:
        ConfigError: the file or a setting breaks a rule, or a field that the file varies is not set.
        DataError: the recording cannot be read.
    """
    from pathlib import Path

    from band.errors import ConfigError
    from band.sweep.axes import read_axes
    from band.sweep.document import read_document
    from band.sweep.fields import resolve_key
    from band.sweep.plan import make_plan
    from band.yaml_file import parse_setting

    given = set()
    for text in sets:
        key, node = parse_setting(text)
        given.add(resolve_key(key, source=node.source))
    open_keys: dict[str, str] = {}
    if Path(file).is_file():  # otherwise the plan says what is wrong
        axes = read_axes(read_document(Path(file), sets=sets)).product
        open_keys = {key: axis.origin for axis in axes for key in axis.keys if key not in given}
    if open_keys:
        named = ", ".join(f"{key} ({origin})" for key, origin in open_keys.items())
        example = " ".join(f"{key}=…" for key in open_keys)
        raise ConfigError(f"{file} varies {named}; band-train trains one run, so set them: band-train {file} {example}")
    left = [*AXES, *(["datasets"] if "data.path" in given else [])]
    name = f"{Path(file).stem}.train"
    return make_plan(file, sets=[*sets, *(f"{axis}=null" for axis in left)], name=name, limit=1)


def make_task(sweep: SweepDir, *, plan: Plan, chosen: Run, threads: int, device: str) -> str:
    """Return the name of the run's task; it is written where the run has none yet."""
    from band.sweep import submit
    from band.sweep.ledger import read_ledger
    from band.sweep.pack import pack, room_for
    from band.sweep.resources import detect

    room = room_for(detect(), jobs=1, threads=threads, device=device)
    tasks = {task: runs for task, runs in read_ledger(sweep).tasks.items() if chosen.id in runs}
    request = submit.Plan(
        new=[] if tasks else pack(plan.manifest, [chosen], room=room, members=1),
        continued=tasks,
        runs=(chosen.id,),
        room=room,
        seconds=plan.cost.seconds,
        home_bytes=plan.cost.home_bytes,
    )
    return next(iter(submit.write(request, sweep=sweep, manifest=plan.manifest).tasks))


def report(sweep: SweepDir, *, run_id: str, as_json: bool) -> int:
    """Print the scores of a published run; return 0, or 1 if it diverged."""
    from band.run_dir import read_result

    folder = sweep.run(run_id)
    result = read_result(folder)
    has_diverged = result["training"]["outcome"] == "diverged"
    if as_json:
        keys = ("run_id", "training", "scores", "split", "config")
        print_json({"folder": str(folder), **{key: result.get(key) for key in keys}})
    else:
        say(
            printable(
                "\n".join(
                    [_training_line(result["training"]), *_score_lines(result["scores"]), f"all of it in {folder}"]
                )
            )
        )
    return fail(f"{run_id} diverged: {result['training'].get('reason')}") if has_diverged else 0


def _training_line(training: Mapping[str, Any]) -> str:
    parts = [f"{training.get('epochs')} epochs", f"stopped by {training.get('stopped_by')}"]
    return ", ".join([*parts, f"best epoch {training.get('best_epoch')}", f"{training.get('seconds', 0.0):.0f} s"])


def _score_lines(scores: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Return a table of the means over channels; what is not informative stands in brackets."""
    splits = [split for split in ("train", "valid", "test") if split in scores]
    names = dict.fromkeys(name for split in splits for name in scores[split])
    means = [name for name in names if "/" not in name or name.endswith("/mean")]
    shown = [name for prefix in SHOWN for name in means if name.startswith(prefix)]
    width = max((len(name.removesuffix("/mean")) for name in shown), default=0)
    lines = [" " * width + "".join(f"{split:>11}" for split in splits)]
    for name in shown:
        cells = "".join(f"{_cell(name, scores[split]):>11}" for split in splits)
        lines.append(f"{name.removesuffix('/mean'):<{width}}{cells}".rstrip())
    lines.append("the epoch was chosen on valid" if "valid" in splits else "")
    if any("(" in line for line in lines):
        lines.append("(…): not informative, for want of variance or trials within conditions")
    return [line for line in lines if line]


def _cell(name: str, scores: Mapping[str, float | None]) -> str:
    value = scores.get(name)
    if value is None:
        return "- "
    within = name.startswith(("within_condition_r2/", "deviation_r2/"))
    return f"({value:.4f})" if within and not scores.get("within_condition_informative", 1) else f"{value:.4f} "


def _headline(plan: Plan, *, chosen: Run) -> str:
    from band.cli.progress import duration

    config = plan.manifest.run_config(chosen)
    weight = config["hyper"]["behavior_weight"]
    model = f"BAND, behaviour weight {weight:g}" if weight else "LFADS"
    left_aside = [
        axis.origin for axis in plan.expansion.axes.every() if axis.origin == "datasets" and len(axis.points) > 1
    ]
    note = f"\nof the datasets the first is taken, {config['data']['path']}; data.path=… chooses" if left_aside else ""
    return printable(
        f"{chosen.id}: {model}, seed {config['seed']}, at most {config['train']['max_epochs']} epochs, "
        f"about {duration(plan.cost.seconds)} on one core; Ctrl-C saves and stops{note}"
    )


def _no_result(code: int, *, shown: Foreground, log: Path, again: str) -> int:
    """Say why there is no result and what to do; return the exit code."""
    if shown.failure:
        message = f"{shown.failure['error']}: {shown.failure['message']}"
        return fail(f"{message}\nwhat the trainer printed: {log}\nto go on from the last checkpoint: {again}")
    if "runs" in shown.interruption:
        where = f"{shown.interruption['path']} on {shown.interruption['host']}"
        return fail(
            f"the sweep's folder cannot be written; the finished run is kept in {where}\nto bring it home: {again}",
            code=code,
        )
    if shown.interruption:
        say(
            f"stopped at epoch {shown.epoch} ({shown.interruption['reason']}), saved; to continue: {again}",
            file=sys.stderr,
        )
        return INTERRUPTED
    return code


if __name__ == "__main__":
    raise SystemExit(main())
