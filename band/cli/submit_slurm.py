"""`band-sweep submit --cluster NAME`: sends what is not yet done to Slurm, and returns."""

from __future__ import annotations

import argparse
import shlex
import sys
import time

from band.cli.common import fail, print_json, say
from band.cli.progress import duration, plural, size
from band.cli.slurm_options import canary_s, options_of
from band.run_dir import SweepDir
from band.slurm.command import SlurmError
from band.slurm.jobs import label_of
from band.sweep.closing import close
from band.sweep.control import retry
from band.sweep.hold import hold
from band.sweep.manifest import read_manifest
from band.sweep.pack import most_members
from band.sweep.pending import meaning
from band.sweep.request import Request, make_request
from band.sweep.schedulers import scheduler_for
from band.sweep.slurm_plan import SlurmPlan, as_json, expected, make_plan, script_of, send
from band.sweep.slurm_submit import Fed
from band.sweep.space import space
from band.sweep.status import Survey, take_survey

HOLD_WAIT_S = 30.0
UNKNOWN = "no run is lost or sent twice: band-sweep reconcile finds out what Slurm has"


def run(args: argparse.Namespace, *, sweep: SweepDir, cluster: str) -> int:
    """Plan, write and send; 0 when all is sent or done, 3 when Slurm refuses."""
    request = make_request(
        read_manifest(sweep.path),
        cluster=cluster,
        sbatch=options_of(args),
        max_parallel=args.max_parallel,
        canary_s=canary_s(args),
        allow_versions=args.allow_version_difference,
    )
    if args.dry_run:
        return _dry_run(args, sweep=sweep, request=request)
    with hold(sweep, wait_s=HOLD_WAIT_S) as claim:
        for line in close(sweep, claim=claim):
            say(line, file=sys.stderr)
        survey = _look_again(args, sweep=sweep)
        for line in held_lines(survey):
            say(line, file=sys.stderr)
        made = _plan(args, sweep=sweep, survey=survey, request=request)
        if not args.json:
            say(plan_text(made, survey=survey, sweep=sweep))
        if not made.plan.runs:
            code, words = _nothing(survey, name=sweep.name)
            say(words, file=sys.stderr if args.json else sys.stdout)
            if args.json:
                print_json({**as_json(made), "submission": "", "sent": [], "waiting": []})
            return code
        try:
            intent, fed = send(made, sweep=sweep, survey=survey, claim=claim)
        except SlurmError as error:
            return fail(f"{error}\n{UNKNOWN}" if error.kind == "timeout" else str(error), code=error.exit_code)
    if args.json:
        sent = [{"array": array.number, "job_id": array.job_id, "tasks": list(array.tasks)} for array in fed.arrays]
        print_json({**as_json(made), "submission": intent.number, "sent": sent, "waiting": fed.planned})
    else:
        say(_sent_text(fed, name=sweep.name))
    return 0 if fed.arrays or not fed.planned else 4


def _look(sweep: SweepDir) -> Survey:
    return take_survey(sweep, read_manifest(sweep.path), scheduler=scheduler_for(sweep))


def _look_again(args: argparse.Namespace, *, sweep: SweepDir) -> Survey:
    """Return the sweep's state, after what was asked for is to be tried again."""
    survey = _look(sweep)
    again = [state for state in ("failed", "cancelled") if getattr(args, f"retry_{state}")]
    return _look(sweep) if again and retry(sweep, survey, runs=survey.in_state(*again)) else survey


def _plan(args: argparse.Namespace, *, sweep: SweepDir, survey: Survey, request: Request) -> SlurmPlan:
    members = most_members(survey.manifest, given=args.pack)
    return make_plan(survey, sweep=sweep, request=request, members=members, limit=args.limit)


def _dry_run(args: argparse.Namespace, *, sweep: SweepDir, request: Request) -> int:
    survey = _look(sweep)
    made = _plan(args, sweep=sweep, survey=survey, request=request)
    script = script_of(made, sweep=sweep) if made.plan.runs else ""
    start = expected(script) if script else None
    if args.json:
        t = None if start is None or isinstance(start, str) else start.t
        refusal = start if isinstance(start, str) else ""
        print_json({**as_json(made), "script": script, "expected_start_t": t, "refusal": refusal})
        return 3 if refusal else 0
    say(plan_text(made, survey=survey, sweep=sweep))
    if not script:
        return 0
    say("\noptions of sbatch, and where each comes from:")
    width = max((len(name) for name in made.request.sbatch), default=0)
    for name, option in made.request.sbatch.items():
        shown = option.value if isinstance(option.value, str) else shlex.quote(str(option.value))
        say(f"  --{name:<{width}}  {shown:<20}  {option.origin}")
    say(f"\nthe script of the first array:\n\n{script}")
    if isinstance(start, str):
        return fail(f"Slurm would refuse it: {start}", code=3)
    if start is not None:
        say(f"expected start: {_clock(start.t)} on {start.nodes} ({start.partition})")
    say("nothing was written or sent")
    return 0


def plan_text(made: SlurmPlan, *, survey: Survey, sweep: SweepDir) -> str:
    """Return what a plan asks, in a few lines."""
    name, counts = survey.manifest.name, survey.counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines = [f"{name}: {plural(len(survey.runs), 'run')} ({states})"]
    if made.plan.runs:
        where = f"{made.request.cluster}, Slurm {made.limits.version}"
        lines.append(f"{plural(len(made.plan.runs), 'run')} to train in {plural(made.tasks, 'array task')} on {where}")
        lines.append(_limits_line(made))
        hours = f"{made.task_hours:.1f} task-hours"
        if made.request.gpus:
            hours += f", {made.task_hours * made.request.gpus:.1f} GPU-hours"
        lines.append(f"about {duration(made.walltime_s)} if {made.plan.room.slots} run at once; {hours} in all")
        home = space(sweep.path)
        lines.append(
            f"{size(made.plan.home_bytes)} of results; {size(home.num_bytes)} {home.limit} in {sweep.path.parent}"
        )
    return "\n".join([*lines, *(f"warning: {line}" for line in made.warnings)])


def _limits_line(made: SlurmPlan) -> str:
    limits, sent = made.limits, sum(made.arrays)
    known = {"tasks an array": limits.max_array_size, "jobs of yours": limits.max_submit_jobs}
    words = ", ".join(f"{value} {what}" for what, value in known.items() if value is not None)
    line = f"limits: {words or 'hidden'}; {made.queue.own} of yours queued"
    rest = made.tasks - sent
    return f"{line}; {sent} tasks now, {rest} later by closing jobs" if rest else line


def _clock(t: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(t))


def _held(survey: Survey) -> list[str]:
    """Return the runs that wait until somebody releases their job, which is no business of ours."""
    held = {task for task, found in survey.scheduled.items() if found.state == "held" and found.reason}
    return [run for run in survey.in_state("held", "interrupted") if survey.runs[run].task in held]


def held_lines(survey: Survey) -> list[str]:
    """Return for each array of which tasks are held, and each reason of Slurm's, how to let them go."""
    groups: dict[tuple[str, str], set[int]] = {}
    for run in _held(survey):
        found = survey.scheduled[survey.runs[run].task]
        job_id, _, index = found.job.partition("_")
        groups.setdefault((job_id, found.reason), set()).add(int(index))
    lines = []
    for (job_id, reason), tasks in groups.items():
        job = label_of(job_id, tasks)
        words, remedy = meaning(reason, job=job)
        lines.append(f"job {job} is held, Slurm's reason is {reason}: {words}; {remedy}")
    return lines


def _nothing(survey: Survey, *, name: str) -> tuple[int, str]:
    """Return the exit code, and why there is nothing to send."""
    if survey.is_complete:
        return 0, f"nothing to do: every run is published; see band-sweep report {name}"
    held = _held(survey)
    waiting = len(survey.in_state("running", "queued", "held", "planned", "submit_unknown", "interrupted")) - len(held)
    if waiting:
        return 0, f"nothing to send: {plural(waiting, 'run')} of it queued or running; see band-sweep status {name}"
    if held:
        return 4, f"nothing to send: {plural(len(held), 'run')} of it held; see band-sweep status {name}"
    if survey.in_state("unsynced"):
        return 4, f"nothing to send: finished runs wait on their node; band-sweep rescue {name} brings them home"
    return 4, "nothing to send; --retry-failed and --retry-cancelled take failed and cancelled runs up again"


def _sent_text(fed: Fed, *, name: str) -> str:
    lines = [f"job {array.job_id}: {plural(len(array.tasks), 'task')}" for array in fed.arrays]
    if fed.planned:
        lines.append(f"{plural(len(fed.planned), 'task')} planned: {fed.reason}")
        if not fed.arrays:
            lines.append(f"no closing job will send them: give band-sweep submit {name} again later")
    return "\n".join([*lines, *fed.messages, f"next: band-sweep status {name} --watch"])
