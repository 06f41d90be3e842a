"""Why a run is where it is: one paragraph, and the next command to type."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from band.run_dir import SweepDir
from band.slurm.command import SlurmError
from band.slurm.jobs import show, unix_time
from band.sweep.failures import Standout, signature, standouts
from band.sweep.fold import AttemptFold, by_task
from band.sweep.ledger import CANARY, read_intents
from band.sweep.pending import meaning
from band.sweep.policy import REHEARSED, failure_class
from band.sweep.slurm_scheduler import HELD_BY_US
from band.sweep.status import RunStatus, Survey


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What is known of why a run is in its state."""

    run: str
    state: str
    text: str  # the paragraph
    command: str  # the next one to type, "" where there is nothing to do
    failure: str = ""  # its class: "out_of_memory" …
    error: str = ""
    message: str = ""
    job: str = ""
    node: str = ""
    attempts: int = 0
    end: str = ""  # Slurm's word for how the job ended
    reason: str = ""  # Slurm's word for why it waits
    expected_start_t: float | None = None


def explain(survey: Survey, run: str, *, sweep: SweepDir) -> Explanation:
    """Return why a run is in its state; Slurm is asked once more only about a job that waits."""
    status = survey.runs[run]
    attempts = [fold for fold in by_task(survey.folds.values()).get(status.task, []) if not fold.is_hearsay]
    case = _Case(survey, run, status=status, sweep=sweep, attempts=attempts)
    shown = case.shown() if case.waits() else {}
    sentences, command = _SENTENCES[status.state](case, shown)
    first, *others = [sentence for sentence in sentences if sentence]
    return Explanation(
        run=run,
        state=status.state,
        text=" ".join([f"{first}.", *(f"{sentence[0].upper()}{sentence[1:]}." for sentence in others)]),
        command=command,
        failure=failure_class(status.error) if status.state == "failed" else "",
        error=status.error,
        message=status.message,
        job=status.job,
        node=status.node,
        attempts=len(attempts),
        end=status.end,
        reason=shown.get("Reason", ""),
        expected_start_t=unix_time(shown.get("StartTime", "")),
    )


@dataclass(frozen=True)
class _Case:
    survey: Survey
    run: str
    status: RunStatus
    sweep: SweepDir
    attempts: Sequence[AttemptFold]

    @property
    def name(self) -> str:
        return self.survey.manifest.name

    def waits(self) -> bool:
        return bool(self.status.job) and self.status.scheduled in ("queued", "held")

    def shown(self) -> Mapping[str, str]:
        """Return what the controller says of the job, nothing where it does not answer."""
        job_id, _, index = self.status.job.partition("_")
        try:
            return show(job_id, int(index) if index else None, timeout_s=10.0)
        except SlurmError:
            return {}

    def canaries(self) -> list[str]:
        """Return the runs that have to end well before this one is sent."""
        intents = [intent for intent in read_intents(self.sweep) if self.status.task in intent.tasks]
        ahead = intents[-1].options.get(CANARY) or [] if intents else []
        return [run for task in ahead for run in intents[-1].tasks[task]]

    def number_of_attempts(self) -> str:
        count = len(self.attempts)
        return f"it has been tried {count} times" if count > 1 else ""

    def progress(self) -> str:
        if not self.status.max_epochs:
            return ""
        step = max((fold.checkpoint_step for fold in self.attempts), default=-1)
        saved = f"; the newest checkpoint is of step {step}" if step >= 0 else "; there is no checkpoint yet"
        verb = "is at" if self.status.state == "running" else "came to"
        return f"it {verb} epoch {self.status.epoch} of {self.status.max_epochs}{saved}"

    def where(self) -> str:
        job = f"job {self.status.job}" if self.status.job else f"task {self.status.task}"
        return job + (f" on {self.status.node}" if self.status.node else "")


Told = tuple[list[str], str]


def _waiting(case: _Case, shown: Mapping[str, str]) -> list[str]:
    """Return what Slurm has to say of a job that waits."""
    status = case.status
    if status.scheduled == "running":
        return [f"its task runs as {case.where()} and has yet to come to it"]
    if not status.job:
        return ["it waits in the queue of this machine"]
    if not shown:
        return [f"it is job {status.job}; {status.words}"]
    reason = shown.get("Reason", "").replace("_", " ")
    found = meaning(shown.get("Reason", ""), job=status.job)
    partition = f" of partition {shown['Partition']}" if shown.get("Partition") else ""
    since = unix_time(shown.get("SubmitTime", ""))
    sentences = [
        f"job {status.job} waits in the queue{partition}" + (f" since {_clock(since)}" if since else ""),
        f"Slurm's reason is {reason}: {found.words}",
        _expected(unix_time(shown.get("StartTime", ""))),
    ]
    return [*sentences, found.remedy]


def _expected(start_t: float | None) -> str:
    if start_t is None:
        return "Slurm expects no start yet"
    minutes = max(start_t - time.time(), 0) / 60
    return f"Slurm expects it to start at {_clock(start_t)}, in {minutes:.0f} min"


def _clock(t: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(t))


def _queued(case: _Case, shown: Mapping[str, str]) -> Told:
    return [f"{case.run} is queued", *_waiting(case, shown)], f"band-sweep status {case.name} --watch"


def _held(case: _Case, shown: Mapping[str, str]) -> Told:
    if HELD_BY_US in case.status.words:
        said = f"job {case.status.job} is let go when its submission is complete"
        return [f"{case.run} is held by band-sweep", said], f"band-sweep reconcile {case.name}"
    return [f"{case.run} is held", *_waiting(case, shown)], f"band-sweep status {case.name}"


def _planned(case: _Case, shown: Mapping[str, str]) -> Told:
    if case.status.end:
        return [f"{case.run} is planned to go on", case.status.words], f"band-sweep status {case.name}"
    promise = "it is sent to Slurm when there is room: by the closing job of an array before it, or by the next submit"
    if canaries := case.canaries():
        promise = f"it follows when the canary of its submission has ended well: {', '.join(canaries)}"
    words = case.status.words.partition("\n")[0]
    refusal = f"sbatch has refused it so far: {words}" if words else ""
    return [f"{case.run} is planned", promise, refusal], f"band-sweep submit {case.name}"


def _interrupted(case: _Case, shown: Mapping[str, str]) -> Told:
    last = case.attempts[-1] if case.attempts else None
    reason = f"its last attempt broke off: {last.interruption}" if last and last.interruption else ""
    if not reason and case.status.end:
        reason = f"Slurm ended its last attempt: {case.status.words}"
    said = [f"{case.run} is interrupted", reason, case.progress(), case.number_of_attempts()]
    if case.status.scheduled:
        return [*said, *_waiting(case, shown)], f"band-sweep status {case.name} --watch"
    if last and last.interruption == REHEARSED:
        said.append(f"it goes on beside the rest once every canary has ended well: {', '.join(case.canaries())}")
        return said, f"band-sweep status {case.name}"
    return [*said, "nobody has it now"], f"band-sweep submit {case.name}"


def _running(case: _Case, shown: Mapping[str, str]) -> Told:
    eta = case.status.eta_s
    left = f"at most {math.ceil(eta / 60)} min are left" if eta is not None else ""
    said = [f"{case.run} runs as {case.where()}", case.progress(), left]
    said += [f"Slurm says {case.status.words}" if case.status.words not in ("", "RUNNING") else ""]
    return said, f"band-sweep logs {case.name} {case.run} -f"


def _failed(case: _Case, shown: Mapping[str, str]) -> Told:
    status = case.status
    kind = failure_class(status.error).replace("_", " ")
    first = status.message.strip().split("\n")[0].rstrip(".")
    said = [f"{case.run} failed ({kind}) as {case.where()}: {status.error}: {first}", case.progress()]
    said += [case.number_of_attempts()]
    said += [f"Slurm's word for the end of its job is {status.words}" if status.end and not status.blamed else ""]
    alike = [run for run in case.survey.in_state("failed") if signature(case.survey.runs[run]) == signature(status)]
    others = "1 other run" if len(alike) == 2 else f"{len(alike) - 1} other runs"
    said += [f"{others} failed in the same way" if len(alike) > 1 else ""]
    said += [f"{found.failed} of {found.runs} runs with {found.key} {found.value} failed" for found in _own(case)]
    return said, f"band-sweep logs {case.name} {case.run}"


def _own(case: _Case) -> list[Standout]:
    """Return the values that stand out among failures and that this run has."""
    return [found for found in standouts(case.survey) if case.run in found.members]


def _cancelled(case: _Case, shown: Mapping[str, str]) -> Told:
    who = f"its job {case.status.job} was cancelled at Slurm" if case.status.blamed else "band-sweep cancel was given"
    return [f"{case.run} is cancelled: {who}", case.progress()], f"band-sweep retry {case.name} {case.run}"


def _lost(case: _Case, shown: Mapping[str, str]) -> Told:
    said = f"{case.run} is lost: {case.where()} left no last word, and Slurm says {case.status.words or 'nothing'}"
    return [said, case.progress()], f"band-sweep submit {case.name}"


def _unsynced(case: _Case, shown: Mapping[str, str]) -> Told:
    said = (
        f"{case.run} is finished, but still on {case.status.node or 'its node'}: home could not be written from there"
    )
    return [said], f"band-sweep rescue {case.name}"


def _submit_unknown(case: _Case, shown: Mapping[str, str]) -> Told:
    said = "whether Slurm took its job is not known: sbatch gave no answer; it starts only after it was found"
    return [f"{case.run} was submitted", said], f"band-sweep reconcile {case.name}"


def _published(case: _Case, shown: Mapping[str, str]) -> Told:
    said = f"{case.run} is published ({case.status.outcome or 'outcome unknown'})"
    return [said, case.number_of_attempts()], f"band-sweep report {case.name}"


def _retired(case: _Case, shown: Mapping[str, str]) -> Told:
    return [f"{case.run} is no longer in the sweep file; what it had come to is kept"], ""


def _new(case: _Case, shown: Mapping[str, str]) -> Told:
    return [f"{case.run} has not been submitted, or may be submitted again"], f"band-sweep submit {case.name}"


_SENTENCES = {
    "published": _published,
    "unsynced": _unsynced,
    "running": _running,
    "interrupted": _interrupted,
    "queued": _queued,
    "held": _held,
    "planned": _planned,
    "cancelled": _cancelled,
    "failed": _failed,
    "lost": _lost,
    "submit_unknown": _submit_unknown,
    "retired": _retired,
    "new": _new,
}
