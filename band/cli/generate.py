"""`band-sweep generate`: expands and checks a sweep file, says what will run, and writes the sweep."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from band.cli.common import print_json, printable, say, whole_number

if TYPE_CHECKING:
    from band.sweep.axes import Axis
    from band.sweep.plan import Plan

HELP = "expand and check a sweep file, say what will run, write the sweep"
EXAMPLES = """\
examples:
  band-sweep generate experiments/mc_maze.yaml --dry-run     # what would run, for how long, with what memory
  band-sweep generate experiments/mc_maze.yaml
  band-sweep generate mc_maze.yaml --name more --set seeds=5 --set 'grid.cd_rate=[0.3, 0.5]'"""
VALUES_SHOWN = 8
INDENT = " " * 13


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("file", help="sweep file, as experiments/mc_maze.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="over the file: a field, as hyper.lr=1e-3, or a section, as seeds=5 or grid.hyper.lr=[1e-3,4e-3]",
    )
    parser.add_argument("--name", help="of the sweep; default: the file's own name, else that of the file")
    parser.add_argument("--limit", type=whole_number, metavar="N", help="generate the first N runs only; retires none")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, write nothing")
    parser.add_argument("--json", action="store_true", help="say it as JSON")


def run(args: argparse.Namespace) -> int:
    """Generate a sweep; return 0."""
    from band.sweep.plan import make_plan, write_plan

    plan = make_plan(args.file, sets=args.set, name=args.name, limit=args.limit)
    if not args.dry_run:
        write_plan(plan)
    if args.json:
        print_json(summary(plan, is_dry_run=args.dry_run))
    else:
        say(printable(describe(plan, is_dry_run=args.dry_run)))
    return 0


def summary(plan: Plan, *, is_dry_run: bool) -> dict[str, Any]:
    """Return what is printed with --json."""
    runs = plan.runs
    return {
        "name": plan.manifest.name,
        "folder": str(plan.folder),
        "is_dry_run": is_dry_run,
        "num_runs": len(runs),
        "num_lfads": _num_lfads(plan),
        "new": plan.new,
        "kept": plan.kept,
        "restored": plan.restored,
        "retired": plan.retired,
        "finished": [run.id for run in runs if run.id in plan.finished],
        "axes": [
            {"origin": axis.origin, "keys": axis.keys, "num_points": len(axis.points)}
            for axis in plan.expansion.axes.every()
        ],
        "num_excluded": plan.expansion.excluded,
        "duplicates": plan.expansion.duplicates,
        "notes": plan.expansion.notes,
        "cost": vars(plan.cost),
        "datasets": plan.expansion.datasets,
    }


def describe(plan: Plan, *, is_dry_run: bool) -> str:
    """Return what is printed for people."""
    from band.sweep.request import LOCAL, cluster_of

    total, lfads = len(plan.runs), _num_lfads(plan)
    lines = [f"{plan.manifest.name}: {_many(total, 'run')}, {lfads} LFADS and {total - lfads} BAND", ""]
    lines += _axes_table(plan)
    lines += [_row("recording", _recording(plan, place)) for place in range(len(plan.expansion.datasets))]
    if plan.expansion.excluded:
        lines.append(_row("excluded", _many(plan.expansion.excluded, "combination")))
    for reason, count in plan.expansion.duplicates.items():
        lines.append(_row("same run", f"{_many(count, 'combination')} of one that is there already: {reason}"))
    lines += [_row("note", note) for note in plan.expansion.notes]
    lines += ["", _row("will take", _cost(plan)), _row("sweep", _changes(plan))]
    if is_dry_run:
        return "\n".join([*lines, _row("written", "nothing, as --dry-run asks")])
    lines += [_row("written", str(plan.folder))]
    where = " --cluster local" if cluster_of(plan.manifest) == LOCAL else ""
    return "\n".join([*lines, _row("next", f"band-sweep submit {plan.manifest.name}{where}")])


def _num_lfads(plan: Plan) -> int:
    base = plan.manifest.base["hyper"]["behavior_weight"]
    return sum(not run.overrides.get("hyper.behavior_weight", base) for run in plan.runs)


def _row(title: str, text: str) -> str:
    return f"  {title:<10} {text}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _axes_table(plan: Plan) -> list[str]:
    rows = [(axis.origin, str(len(axis.points)), _axis(axis)) for axis in plan.expansion.axes.every()]
    width = max((len(count) for _, count, _ in rows), default=0)
    lines = [_row(origin, f"{count:>{width}} x {text}") for origin, count, text in rows]
    return [*lines, ""] if lines else []


def _axis(axis: Axis) -> str:
    """Return the fields of an axis, and its values where one field is all it sets."""
    keys = axis.keys
    if len(keys) > 1 or axis.origin == "random":
        return ", ".join(keys)
    values = [point[keys[0]].value for point in axis.points]
    shown = [_value(value) for value in values[:VALUES_SHOWN]]
    more = "" if len(values) <= VALUES_SHOWN else f", … {_value(values[-1])}"
    return f"{keys[0]}: {', '.join(shown)}{more}"


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _recording(plan: Plan, place: int) -> str:
    from band.sizes import sizes_of
    from band.sweep.checks import split_sizes

    entry = plan.expansion.datasets[place]
    config = next((plan.manifest.run_config(run) for run in plan.runs if run.dataset == place), None)
    if config is None:
        return f"{entry['path']}: in none of these runs"
    sizes, split = sizes_of(config, entry["shapes"]), split_sizes(config["data"], entry["shapes"])
    sessions = entry["shapes"].get("sessions", {})
    neurons = "+".join(str(shape[2]) for shape in sessions.values()) or str(sizes.neurons)
    parts = [f"{len(sessions)} sessions"] if sessions else []
    parts += [f"{sizes.bins} bins", f"{neurons} neurons"]
    parts += [f"{sizes.behavior} behaviour channels"] if sizes.behavior else ["no behaviour"]
    parts += [f"{sizes.external} external inputs"] if sizes.external else []
    trials = "about {train:.0f} trials train, {valid:.0f} choose, {test:.0f} test".format(**split)
    return f"{entry['path']}\n{INDENT}{', '.join(parts)}; {trials}"


def _cost(plan: Plan) -> str:
    import shutil

    cost = plan.cost
    if not cost.num_runs:
        return "nothing: every run is finished"
    each = cost.seconds / cost.num_runs
    folder = next(parent for parent in [plan.folder, *plan.folder.absolute().parents] if parent.is_dir())
    free = shutil.disk_usage(folder).free
    room = f", MORE than the {_bytes(free)} free" if cost.home_bytes > free else f" of {_bytes(free)} free"
    return (
        f"about {_time(cost.seconds)} on one core ({_time(each)} a run, each alone), "
        f"{_bytes(cost.memory_bytes)} of memory a run, {_bytes(cost.home_bytes)} at home{room}"
    )


def _changes(plan: Plan) -> str:
    parts = [f"{len(plan.new):,} new"]
    for title, ids in (("kept", plan.kept), ("back from retirement", plan.restored), ("retired", plan.retired)):
        parts += [f"{len(ids):,} {title}"] if ids else []
    finished = sum(run.id in plan.finished for run in plan.runs)
    parts += [f"{finished:,} finished"] if finished else []
    stay = sum(identity in plan.finished for identity in plan.retired)
    parts += [f"results of {stay:,} retired stay"] if stay else []
    return ", ".join(parts)


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size or (unit == "h" and seconds >= size):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
