"""`band-sweep submit`: runs what is not yet done of a sweep, and follows it."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from typing import Any

from band.cli.common import INTERRUPTED, fail, print_json, say, whole_number
from band.cli.progress import Watch, duration, plural, show, size
from band.cli.slurm_options import add_submit_options
from band.run_dir import SweepDir
from band.sweep import populations
from band.sweep.control import retry, stop_queue
from band.sweep.local import QUEUE_LOG, one_at_a_time, queue_claim, start_queue
from band.sweep.manifest import find_sweep, read_manifest
from band.sweep.pack import AUTO, Packed, most_members, room_for, short_of_memory
from band.sweep.request import LOCAL, cluster_of
from band.sweep.resources import detect
from band.sweep.schedulers import scheduler_for
from band.sweep.status import Survey
from band.sweep.submit import Plan, plan, write

HELP = "run what is not yet done of a sweep"
EXAMPLES = """\
examples:
  band-sweep submit mc_maze                                  # here, or as the sweep file says
  band-sweep submit mc_maze --cluster mycluster --dry-run    # the script, the arrays, the hours
  band-sweep submit mc_maze --cluster mycluster --partition gpu --time 4:00:00 --canary
  band-sweep submit mc_maze --host informatics --cluster mycluster"""
LONG_S = 1800.0  # of a plan from which on it is worth half a minute to know how many runs to train together
COUNT: dict[str, Any] = {"type": whole_number, "default": 0, "metavar": "N"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("sweep", metavar="NAME", help="name, folder or YAML file of a generated sweep")
    parser.add_argument(
        "--cluster",
        default="",
        help="where to run: local, or a template of sbatch_templates/ (default: as the sweep file or "
        "~/.config/band/config.yaml says, else local)",
    )
    parser.add_argument(
        "--host",
        default="",
        metavar="HOST[:PATH]",
        help="send all it needs by ssh, into folder PATH there, and submit there",
    )
    parser.add_argument("--detach", action="store_true", help="return at once; the work goes on without a terminal")
    parser.add_argument("--jobs", **COUNT, help="tasks at once (default: as many as fit)")
    parser.add_argument("--threads", **COUNT, help="cores a task (default: 1; with --jobs, an even share)")
    parser.add_argument(
        "--pack",
        type=_pack,
        metavar="N",
        help="train at most N runs together; auto: as many as pay; default: by the file",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: GPUs where visible")
    parser.add_argument("--limit", **COUNT, help="take up only the first N open runs")
    parser.add_argument("--retry-failed", action="store_true", help="take up failed runs again")
    parser.add_argument("--retry-cancelled", action="store_true", help="take up cancelled runs again")
    parser.add_argument("--dry-run", action="store_true", help="say what would run; write nothing")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON and do not follow the sweep")
    add_submit_options(parser)


def _pack(text: str) -> int:
    return 0 if text == AUTO else whole_number(text)


def run(args: argparse.Namespace) -> int:
    """Plan, write, start and, on this machine, follow; 0 when every run is published or all is sent, 4 when not."""
    sweep = SweepDir(find_sweep(args.sweep))
    if args.host:
        from band.cli import submit_host

        return submit_host.run(args, sweep=sweep)
    cluster = cluster_of(read_manifest(sweep.path), given=args.cluster)
    if cluster != LOCAL:
        from band.cli import submit_slurm

        return submit_slurm.run(args, sweep=sweep, cluster=cluster)
    with contextlib.nullcontext() if args.dry_run else one_at_a_time(sweep):
        started = _plan_and_start(args, sweep=sweep)
    return started if isinstance(started, int) else _follow(sweep, stops=started)


def _plan_and_start(args: argparse.Namespace, *, sweep: SweepDir) -> int | list[int]:
    """Return the exit code where there is nothing to follow, else where Ctrl-C is counted."""
    watch = Watch(sweep, scheduler=scheduler_for(sweep))
    survey = watch.look()
    again = [state for state in ("failed", "cancelled") if getattr(args, f"retry_{state}")]
    if again and not args.dry_run and retry(sweep, survey, runs=survey.in_state(*again)):
        survey = watch.look()
    room = room_for(detect(), jobs=args.jobs, threads=args.threads, device=args.device)
    members = most_members(survey.manifest, given=args.pack)
    adopt = queue_claim(sweep) is None
    planned = plan(survey, sweep=sweep, room=room, members=members, limit=args.limit, adopt=adopt)
    if not (members or args.dry_run) and measured(planned, survey=survey, quiet=args.json):
        planned = plan(survey, sweep=sweep, room=room, members=members, limit=args.limit, adopt=adopt)
    if args.json:
        print_json(_plan_json(planned, survey=survey))
    else:
        say(_plan_text(planned, survey=survey))
    if args.dry_run:
        return 0
    return _start(planned, sweep=sweep, survey=survey, follow=not (args.detach or args.json))


def measured(planned: Plan, *, survey: Survey, quiet: bool) -> bool:
    """Measure how many runs to train together where much is to be done and that is not known; return whether it was."""
    if planned.walltime_s < LONG_S:
        return False
    room, runs = planned.room, [run for task in planned.new for run in task.runs]
    shapes = populations.shapes_in(survey.manifest, runs, device=room.device, threads=room.threads)
    found = False
    for key, (run, config, count) in shapes.items():
        if count == 1 or populations.paying(key) is not None:
            continue
        if not quiet:
            how = "once for this machine; --pack N: not at all"
            say(f"measuring how many runs like {run.id} to train together ({how})", file=sys.stderr)
        path, most = str(survey.manifest.datasets[run.dataset]["path"]), min(count, room.max_members)
        rates = dict(
            populations.measure(config, path, device=room.device, threads=room.threads, most=most, seconds=1.0)
        )
        with contextlib.suppress(OSError):  # a cache that cannot be written keeps nobody from submitting
            if rates:
                populations.keep(key, rates)
                found = True
    return found


def _start(planned: Plan, *, sweep: SweepDir, survey: Survey, follow: bool) -> int | list[int]:
    if not planned.runs:
        if queue_claim(sweep) is not None:
            return fail(f"{_queue_line(sweep)}: it has all of this already", code=4)
        return 0 if survey.is_complete else 4
    intent = write(planned, sweep=sweep, manifest=survey.manifest)
    stops = _catch_interrupts(sweep) if follow else [0]
    has_started = queue_claim(sweep) is None and start_queue(sweep, submission=intent.number)
    if not has_started:
        say(f"{_queue_line(sweep)}: it takes these runs up", file=sys.stderr)
        return 4
    if not follow:
        log = sweep.submission(intent.number) / QUEUE_LOG
        say(f"running on its own; to follow it: band-sweep status {sweep.name} --watch   (log: {log})", file=sys.stderr)
        return 0
    return stops


def _follow(sweep: SweepDir, *, stops: list[int]) -> int:
    if stops[0]:
        stop_queue(sweep)  # the signal came before there was a queue to stop
    watch = Watch(sweep, scheduler=scheduler_for(sweep))
    survey = show(watch, until=lambda: queue_claim(sweep) is None)
    return _verdict(sweep, survey=survey, was_stopped=bool(stops[0]))


def _catch_interrupts(sweep: SweepDir) -> list[int]:
    """From now on Ctrl-C asks the queue to stop, and a second Ctrl-C leaves at once; return where they are counted."""
    stops = [0]

    def on_signal(number: int, frame: object) -> None:
        stops[0] += 1
        if stops[0] > 1:
            raise KeyboardInterrupt
        stop_queue(sweep)
        say("\nstopping: running tasks save a checkpoint first; Ctrl-C again leaves them to it", file=sys.stderr)

    for caught in (signal.SIGINT, signal.SIGTERM):
        signal.signal(caught, on_signal)
    return stops


def _verdict(sweep: SweepDir, *, survey: Survey, was_stopped: bool) -> int:
    published, asked = len(survey.in_state("published")), len(survey.manifest.active())
    say(f"{sweep.name}: {published} of {plural(asked, 'run')} published")
    if survey.is_complete:
        say(f"next: band-sweep report {sweep.name}")
        return 0
    if survey.in_state("failed"):
        say(f"{plural(len(survey.in_state('failed')), 'run')} failed: band-sweep status {sweep.name} says why")
    if survey.in_state("running"):
        say(f"the queue has ended before its work; {plural(len(survey.in_state('running')), 'run')} of it still run")
    if len(survey.in_state("failed", "cancelled", "published", "retired")) < len(survey.runs):
        say(f"to continue: band-sweep submit {sweep.name}")
    return INTERRUPTED if was_stopped else 4


def _queue_line(sweep: SweepDir) -> str:
    claim = queue_claim(sweep)
    if claim is None:
        return "a queue was already working on this sweep"
    return f"a queue is already working on this sweep (process {claim.attempt.pid} on {claim.attempt.host})"


def _plan_text(planned: Plan, *, survey: Survey) -> str:
    name, counts = survey.manifest.name, survey.counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines = [f"{name}: {plural(len(survey.runs), 'run')} ({states})"]
    if not planned.runs:
        return "\n".join([*lines, _nothing(survey)])
    room = planned.room
    where = plural(len(room.gpus), "GPU") if room.gpus else f"{plural(room.threads, 'core')} each"
    tasks = [f"{plural(len(planned.new), 'new task')} of {_members(planned.new)}"] if planned.new else []
    tasks += [f"{plural(len(planned.continued), 'task')} continued"] if planned.continued else []
    lines.append(f"{plural(len(planned.runs), 'run')} to train: {', '.join(tasks)}; {room.slots} at once, {where}")
    memory = sum(sorted((task.memory_bytes for task in planned.new), reverse=True)[: room.slots])
    lines.append(
        f"about {duration(planned.walltime_s)} ({duration(planned.seconds)} of one core), "
        + (f"{size(memory)} of memory, " if memory else "")
        + f"{size(planned.home_bytes)} of results"
    )
    if short := short_of_memory(planned.new):
        lines.append(short)
    return "\n".join(lines)


def _members(tasks: list[Packed]) -> str:
    counts = sorted({len(task.runs) for task in tasks})
    return plural(counts[0], "run") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"


def _nothing(survey: Survey) -> str:
    name = survey.manifest.name
    if survey.is_complete:
        return f"nothing to do: every run is published; see band-sweep report {name}"
    hints = [f"--retry-{state}" for state in ("failed", "cancelled") if survey.in_state(state)]
    hint = f"; band-sweep submit {name} {' '.join(hints)} takes them up again" if hints else ""
    return f"nothing to start{hint}"


def _plan_json(planned: Plan, *, survey: Survey) -> dict[str, Any]:
    return {
        "sweep": survey.manifest.name,
        "states": survey.counts(),
        "runs": list(planned.runs),
        "new_tasks": [[run.id for run in task.runs] for task in planned.new],
        "continued_tasks": {task: list(runs) for task, runs in planned.continued.items()},
        "slots": planned.room.slots,
        "threads": planned.room.threads,
        "device": planned.room.device,
        "walltime_s": planned.walltime_s,
        "core_s": planned.seconds,
        "home_bytes": planned.home_bytes,
    }
