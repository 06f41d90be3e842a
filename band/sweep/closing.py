"""What is done when an array is over: failures told apart, the policy applied, the next tasks sent, all of it tidied.

A closing job does it, `afterany` on each array: `python -m band.sweep.closing SWEEP SUBMISSION ARRAY`; so does whoever
submits again. Killed anywhere, the next to come does the rest, and nothing twice.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from band.attempts import Claim
from band.errors import BandError, SchedulerError
from band.run_dir import SweepDir
from band.slurm.command import SlurmError
from band.slurm.user_config import read_user_config
from band.sweep.collect import collect, write_results
from band.sweep.conclude import Closing, due, unsettled
from band.sweep.hold import hold
from band.sweep.hook import is_over, tell_once
from band.sweep.journal import append, read_journals, standing
from band.sweep.ledger import read_intents
from band.sweep.manifest import read_manifest
from band.sweep.processes import held_claim
from band.sweep.reconcile import reconcile
from band.sweep.schedulers import scheduler_for
from band.sweep.slurm_script import FOLDER
from band.sweep.slurm_submit import feed
from band.sweep.status import Survey, take_survey

HOLD_WAIT_S = 1200.0  # for another closing job, or a submit, to finish
POLL_S = 2.0


def close(sweep: SweepDir, *, claim: Claim) -> list[str]:
    """Do all that is due of a sweep at Slurm: adopt or drop, judge, send again, feed, tidy, collect, tell.

    Args:
        sweep: the sweep's folder.
        claim: the hold on its submissions.

    Returns:
        What was done, and what could not be, a line each.

    Raises:
        ClaimError: the hold was lost.
        SchedulerError: Slurm does not answer, or refuses what is to be sent.
        OSError: the sweep's folder cannot be written.
    """
    said = list(reconcile(sweep, claim=claim))
    survey = look(sweep)
    for array in due(sweep, survey):
        said += Closing(sweep, claim=claim, survey=survey, array=array).conclude()
        survey = look(sweep)
    fed = feed(sweep, claim=claim, survey=survey)
    said += [f"array {array.submission}/{array.number}: {len(array.tasks)} tasks queued" for array in fed.arrays]
    said += fed.messages
    return [*said, *finish(sweep, look(sweep))]


def look(sweep: SweepDir) -> Survey:
    """Return the sweep's state.

    Raises:
        SchedulerError: Slurm does not answer: what is over is not known then.
    """
    scheduler = scheduler_for(sweep)
    survey = take_survey(sweep, read_manifest(sweep.path), scheduler=scheduler)
    if trouble := scheduler.slurm.trouble:
        raise SchedulerError(trouble)
    return survey


def finish(sweep: SweepDir, survey: Survey) -> list[str]:
    """When a sweep is over: write its table, tidy up, and tell whoever is to be told; return it in words."""
    if not is_over(survey) or not survey.ledger.tasks:
        return []
    said = []
    remove_calls(sweep)
    for task, runs in survey.ledger.tasks.items():  # copies of checkpoints that an attempt was cut off from removing
        is_done = all(survey.runs[run].state == "published" for run in runs if run in survey.runs)
        if is_done and held_claim(sweep.task(task).path) is None:
            with suppress(OSError):
                for copy in sweep.task(task).path.glob("population.*.pt"):
                    copy.unlink()
    try:
        if survey.in_state("published"):
            said.append(f"results: {write_results(collect(sweep.path))}")
    except (BandError, OSError, LookupError, TypeError) as error:  # a result by other means must not hinder the rest
        said.append(f"no table of results: {error!r}")
    try:
        config = read_user_config()
        settings = {"hook": config.hook, "webhook": config.webhook, "mail": config.mail}
    except (BandError, OSError) as error:
        return [*said, f"nobody was told that the sweep is over: {error}"]
    return said + tell_once(sweep, survey, settings=settings)


def remove_calls(sweep: SweepDir) -> None:
    """Remove what submitit left for tasks of submissions with nothing at Slurm, such as calls of arrays taken back."""
    journals = read_journals(sweep)
    for number in {array.submission for array in journals} - {a.submission for a in journals if not a.is_closed}:
        folder = sweep.submission(number) / FOLDER
        with suppress(OSError):
            for call in folder.iterdir():
                call.unlink()
            folder.rmdir()


def wait_until_settled(sweep: SweepDir, *, submission: str, array: int) -> None:
    """Wait until home shows how each task of an array ended, or until it must have.

    Raises:
        SchedulerError: Slurm does not answer.
    """
    while True:
        found = [a for a in read_journals(sweep) if (a.submission, a.number) == (submission, array)]
        places = standing(read_intents(sweep), read_journals(sweep))
        if not found or not unsettled(found[0], places=places, survey=look(sweep)):
            return
        time.sleep(POLL_S)


def say(message: str) -> None:
    """Put a line with the time into the job's log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), message, flush=True)


def main(arguments: list[str]) -> int:
    """Close an array, and all else that is due."""
    folder, submission, array = arguments
    sweep = SweepDir(Path(folder))
    try:
        wait_until_settled(sweep, submission=submission, array=int(array))
        with hold(sweep, wait_s=HOLD_WAIT_S) as claim:
            try:
                for line in close(sweep, claim=claim):
                    say(line)
            except SlurmError as error:
                append(sweep, submission, array=int(array), step="closing_refused", message=str(error))
                raise
    except BandError as error:
        say(f"error: {error}; band-sweep submit {sweep.name} does the rest")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
