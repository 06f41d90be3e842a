"""What the doctor's observations mean for band: pure functions from what was seen to findings with a remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from band.slurm.cluster import Start
from band.slurm.command import SlurmError

WELL = "well"
NOTE = "note"  # works; good to know
DEGRADED = "degraded"  # works, but slower or with less comfort
BROKEN = "broken"  # jobs will fail
UNKNOWN = "unknown"  # could not be looked at

HOME_UNWRITABLE = 75  # exit codes of the job's script
NO_ENVIRONMENT = 72
MIN_FREE_BYTES = 1 << 30
MAX_SKEW_S = 10.0
OLDEST_PYTHON = "3.10"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: str
    what: str
    seen: str = ""  # how it was seen, in the system's own words where it has any
    means: str = ""  # for band
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the job asked for and where it was sent from."""

    cpus: int
    gpus: int
    home: str  # the folder on the shared home
    versions: Mapping[str, str]  # of python and torch on the login side
    sent_t: tuple[float, float]  # unix seconds by the login side's clock, before and after sbatch


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How Slurm says a job ended."""

    job_id: str
    state: str
    exit_code: int
    node: str
    submit_t: float | None
    start_t: float | None
    end_t: float | None
    restarts: int
    words: str  # the last lines of its output


def no_slurm(error: SlurmError) -> Finding:
    """Return the finding where a command of Slurm is missing or nobody answers it."""
    is_absent = error.kind == "absent"
    return Finding(
        check="slurm",
        level=BROKEN,
        what="no Slurm on this machine" if is_absent else "Slurm does not answer",
        seen=str(error),
        means="nothing can be submitted from here",
        mend="log in to the cluster's login node and run this there; on one machine: band-sweep submit NAME"
        if is_absent
        else "try again in a minute; `scontrol ping` says whether the controller is up",
    )


def accounting(has_accounting: bool | None, *, answer: str) -> Finding:
    """Return whether Slurm remembers jobs that are over; `answer` is why sacct does not say so."""
    if not answer:
        return Finding(check="accounting", level=WELL, what="sacct answers")
    return Finding(
        check="accounting",
        level=NOTE,
        what="Slurm's accounts do not answer" if has_accounting else "Slurm keeps no accounts of jobs that are over",
        seen=answer,
        means="works: what becomes of a task is read from its own events, and for some minutes from squeue; a task "
        "that was killed without a word is lost instead of 'out of memory' or 'time limit'",
        mend="nothing to do; an administrator can set up slurmdbd, or start it again",
    )


def taken(start: Start | None, *, now: float) -> Finding:
    """Return the finding where sbatch takes what the template asks for."""
    when = f"; the small job would start in {max(start.t - now, 0) / 60:.0f} min" if start else ""
    return Finding(check="template", level=WELL, what=f"sbatch takes what it asks for{when}")


def refused(error: SlurmError, *, template: str, partition: str, partitions: Sequence[str]) -> Finding:
    """Return the finding where sbatch refuses what the template asks for."""
    seen = str(error).partition("\n")[0]
    if partition and "invalid partition" in seen.lower():
        return Finding(
            check="template",
            level=BROKEN,
            what=f"the template asks for partition {partition!r}, which this cluster does not have",
            seen=seen,
            means="every submit will be refused",
            mend=f"in {template}: #SBATCH --partition={partitions[0] if partitions else 'NAME'}"
            + (f"; there are {', '.join(partitions)}" if partitions else "; `sinfo -s` lists them"),
        )
    return Finding(
        check="template",
        level=BROKEN,
        what="sbatch refuses what the template asks for",
        seen=seen,
        means="every submit will be refused",
        mend=f"correct the #SBATCH lines of {template}",
    )


def not_run(state: str, *, reason: str, waited_s: float) -> Finding:
    """Return the finding where the job did not get to an end in time."""
    waits = state in ("PENDING", "CONFIGURING")
    return Finding(
        check="job",
        level=UNKNOWN,
        what=f"the small job {'has not started' if waits else 'was not over'} in {waited_s:.0f} s and was cancelled",
        seen=f"{state} ({reason})" if reason else state,
        means="what a compute node is like is not known",
        mend="a busy cluster: try again with --timeout 3600, or with a partition for short jobs: --partition NAME",
    )


def no_word(ended: Ended, *, asked: Asked) -> Finding:
    """Return why a job that is over has left no observations."""
    seen = f"job {ended.job_id} on {ended.node or 'no node'}: {ended.state}, exit code {ended.exit_code}"
    if ended.exit_code == HOME_UNWRITABLE:
        return Finding(
            check="home",
            level=BROKEN,
            what=f"{asked.home} cannot be written from {ended.node}",
            seen=seen,
            means="no result and no checkpoint would come home",
            mend="keep sweeps in a folder that the nodes share and may write: run this there, or give it with --home",
        )
    seen += f": {ended.words}" if ended.words else ""
    if ended.exit_code == NO_ENVIRONMENT or ended.state == "FAILED":
        return Finding(
            check="environment",
            level=BROKEN,
            what=f"the template's set-up brings no Python {OLDEST_PYTHON} or newer on {ended.node}",
            seen=seen,
            means="every task will fail as it starts",
            mend="correct the set-up lines of the template; the environment must lie where the nodes see it",
        )
    return Finding(
        check="job",
        level=BROKEN,
        what=f"the small job ended as {ended.state}",
        seen=seen,
        means="tasks may end like this too",
        mend="`scontrol show job` and the administrators may know why; try --exclude with that node",
    )


def on_the_node(facts: Mapping[str, Any], *, asked: Asked, ended: Ended) -> list[Finding]:
    """Return the findings from what the first job has seen."""
    return [
        *_home(facts["home"], asked=asked, node=facts["host"]),
        _environment(facts, asked=asked),
        _scratch(facts["scratch"], node=facts["host"]),
        _cpus(facts["cpus"], asked=asked),
        *_gpus(facts, asked=asked),
        _commands(facts["slurm"], node=facts["host"]),
        _clock(facts, asked=asked, ended=ended),
    ]


def _home(home: Mapping[str, Any], *, asked: Asked, node: str) -> list[Finding]:
    free = home["free_bytes"]
    room = "" if free is None else f", {_size(free)} free"
    found = [Finding(check="home", level=WELL, what=f"{asked.home} can be written from {node}{room}")]
    if home["error"]:
        found.append(
            Finding(
                check="rename",
                level=BROKEN,
                what="exclusive creation or renaming does not work on this home",
                seen=home["error"],
                means="claims and publishing rest on it: two attempts could publish the same run",
                mend="keep sweeps on another shared file system (NFS, Lustre, GPFS and BeeGFS have it): --home DIR",
            )
        )
    elif not home["refuses_to_replace"]:
        found.append(
            Finding(
                check="rename",
                level=NOTE,
                what="home has no rename that refuses to replace",
                seen="renameat2 with RENAME_NOREPLACE is not supported there (as on NFS)",
                means="works: an ordinary rename serves, which never replaces a folder that holds a result",
                mend="nothing to do",
            )
        )
    else:
        found.append(Finding(check="rename", level=WELL, what="exclusive creation and renaming work on home"))
    return found


def _environment(facts: Mapping[str, Any], *, asked: Asked) -> Finding:
    trainer = facts["trainer"]
    where = facts["python"]["executable"]
    if not facts["submitit"]:
        return Finding(
            check="environment",
            level=BROKEN,
            what=f"{where} on {facts['host']} has no submitit",
            seen=f"Python {facts['python']['version']}, no package of that name",
            means="every task will fail as it starts",
            mend=f"{where} -m pip install submitit; or let the template activate the right environment",
        )
    if trainer["error"]:
        return Finding(
            check="environment",
            level=BROKEN,
            what="the trainer cannot be started on the node",
            seen=f"{' '.join(trainer['command'])}: {trainer['error']}",
            means="every task will fail as it starts training",
            mend="correct BAND_TRAINER and the image in the template"
            if trainer["command"][0] != where
            else f"{where} -m pip install . in the checkout; or let the template activate the right environment",
        )
    return _versions(trainer, asked=asked)


def _versions(trainer: Mapping[str, Any], *, asked: Asked) -> Finding:
    there = {name: trainer["versions"].get(name, "not known") for name in asked.versions}
    if there == asked.versions:
        words = ", ".join(f"{name} {version}" for name, version in there.items())
        return Finding(check="environment", level=WELL, what=f"{words}, by {trainer['command'][0]}")
    differ = [name for name in there if there[name] != asked.versions[name]]
    return Finding(
        check="versions",
        level=BROKEN,
        what=f"{', '.join(differ)} on the node: not the version of the login side",
        seen="; ".join(f"{name} {there[name]} there, {asked.versions[name]} here" for name in differ),
        means="tasks refuse to start, so that one sweep is not trained by two versions",
        mend="submit from the environment that the template activates; or submit with --allow-version-difference",
    )


def _scratch(scratch: Mapping[str, Any], *, node: str) -> Finding:
    path, free = scratch["path"], scratch["free_bytes"]
    means = "works: recordings are read and checkpoints written at home, which is slower and burdens it"
    mend = "name a folder on the node's own disk in the template: export BAND_SCRATCH=/disk/scratch/$USER/band"
    if scratch["error"]:
        what = f"no scratch on {node} can be used"
        return Finding(check="scratch", level=DEGRADED, what=what, seen=scratch["error"], means=means, mend=mend)
    if free is not None and free < MIN_FREE_BYTES:
        return Finding(
            check="scratch",
            level=DEGRADED,
            what=f"scratch {path} on {node} is nearly full",
            seen=f"{_size(free)} free",
            means=means,
            mend=f"make room there, or {mend}",
        )
    room = "" if free is None else f", {_size(free)} free"
    return Finding(check="scratch", level=WELL, what=f"{path} on {node}{room}")


def _cpus(cpus: int, *, asked: Asked) -> Finding:
    if cpus >= asked.cpus:
        return Finding(check="cpus", level=WELL, what=f"{cpus} visible, {asked.cpus} asked for")
    return Finding(
        check="cpus",
        level=DEGRADED,
        what="fewer CPUs than asked for",
        seen=f"{cpus} visible (sched_getaffinity), --cpus-per-task={asked.cpus}",
        means="works: trainers share cores and are slower than estimated",
        mend=f"ask for what is given (#SBATCH --cpus-per-task={cpus}), or for whole cores: --hint=nomultithread",
    )


def _gpus(facts: Mapping[str, Any], *, asked: Asked) -> list[Finding]:
    trainer = facts["trainer"]
    if asked.gpus == 0 or trainer["error"]:
        return []
    if trainer["gpus"]:
        return [Finding(check="gpus", level=WELL, what=f"{trainer['gpus']} visible, {asked.gpus} asked for")]
    given = facts["cuda_visible_devices"]
    build = f"for CUDA {trainer['cuda']}" if trainer["cuda"] else "built without CUDA"
    return [
        Finding(
            check="gpus",
            level=BROKEN,
            what="no GPU visible though asked for",
            seen=f"torch {trainer['versions'].get('torch')} ({build}) finds none, CUDA_VISIBLE_DEVICES is "
            + ("not set" if given is None else repr(given)),
            means="training on a GPU will fail as it starts",
            mend="install a torch built for CUDA into that environment"
            if not trainer["cuda"]
            else "check the driver with nvidia-smi in a job there; in a container: apptainer exec --nv",
        )
    ]


def _commands(commands: Mapping[str, str], *, node: str) -> Finding:
    missing = {name: words for name, words in commands.items() if words}
    if not missing:
        return Finding(check="slurm on the node", level=WELL, what=f"{', '.join(commands)} work on {node}")
    means = {
        "sbatch": "no closing job: retries, later chunks and the table wait for another `band-sweep submit NAME`",
        "scontrol": "a task cannot have itself requeued: it is continued when submitted again",
        "squeue": "a task cannot ask whether another attempt is over, and waits for it",
    }
    return Finding(
        check="slurm on the node",
        level=DEGRADED,
        what=f"{', '.join(missing)} cannot be called from {node}",
        seen="; ".join(dict.fromkeys(missing.values())),
        means="works: " + "; ".join(means[name] for name in missing),
        mend="put Slurm's commands on the PATH in the template; if the site forbids them, nothing to do",
    )


def _clock(facts: Mapping[str, Any], *, asked: Asked, ended: Ended) -> Finding:
    """Return whether clocks agree: by bounds, as nobody tells how long a message took."""
    before, after = asked.sent_t
    skews = {}
    if ended.submit_t is not None:  # Slurm's times are whole seconds, rounded down
        skews["the controller's clock against this machine's"] = _excess(
            ended.submit_t - after, ended.submit_t + 1 - before
        )
    if ended.start_t is not None and ended.end_t is not None:
        skews[f"the clock of {facts['host']} against the controller's"] = _excess(
            facts["t_end"] - ended.end_t - 1, facts["t"] - ended.start_t
        )
    wrong = {name: skew for name, skew in skews.items() if abs(skew) > MAX_SKEW_S}
    if not wrong:
        what = f"clocks agree within {MAX_SKEW_S:.0f} s" if skews else "Slurm told no times"
        return Finding(check="clock", level=WELL if skews else UNKNOWN, what=what)
    return Finding(
        check="clock",
        level=DEGRADED,
        what="clocks differ: " + "; ".join(f"{name}: {skew:+.0f} s" for name, skew in wrong.items()),
        seen="times of the small job, by each side's clock",
        means="works: but times shown are wrong by that much, and tasks may be called lost too early",
        mend="tell the administrators: the machines need NTP (chrony)",
    )


def _excess(low: float, high: float) -> float:
    """Return the number nearest to 0 in [low, high]: what a clock is off at least."""
    return max(low, 0.0) + min(high, 0.0)


def not_again(error: SlurmError) -> Finding:
    """Return the finding where sbatch takes no second job for the same node."""
    return Finding(
        check="scratch outlives",
        level=UNKNOWN,
        what="no second job could be sent to the same node",
        seen=str(error),
        means="whether scratch outlives a job, and jobs can be requeued, is not known",
        mend="run this again; limits on how many jobs one may have count too",
    )


def ignored(warning: str) -> Finding:
    """Return the finding for a line of the template that looks as if it counted."""
    return Finding(
        check="template lines",
        level=NOTE,
        what="a line of the template does not count",
        seen=warning,
        means="works without it",
        mend="move it above the first command, or take it out",
    )


def afterwards(facts: Mapping[str, Any], *, scratch: Mapping[str, Any], ended: Ended) -> list[Finding]:
    """Return the findings from the second job on the same node."""
    if not facts:
        return [
            Finding(
                check="scratch outlives",
                level=UNKNOWN,
                what="the second job left no word",
                seen=f"job {ended.job_id}: {ended.state}, exit code {ended.exit_code}: {ended.words}",
                means="whether scratch outlives a job, and jobs can be requeued, is not known",
                mend="run this again",
            )
        ]
    return [*_outlives(facts, scratch=scratch), _requeue(facts, ended=ended)]


def _outlives(facts: Mapping[str, Any], *, scratch: Mapping[str, Any]) -> list[Finding]:
    if scratch["error"]:
        return []
    if facts["mark"] and not scratch["is_volatile"]:
        return [Finding(check="scratch outlives", level=WELL, what="what one job leaves there, the next one finds")]
    return [
        Finding(
            check="scratch outlives",
            level=DEGRADED,
            what=f"scratch {scratch['path']} does not outlive a job",
            seen="it bears the name of the job, or is mounted for it"
            if scratch["is_volatile"]
            else "a second job on the same node did not find the file that the first one had left",
            means="works: each job copies its recordings anew; where home cannot be written when a job ends, its "
            "unpublished results are gone",
            mend="if the node has a disk that is not wiped between jobs: export BAND_SCRATCH=/that/disk/$USER/band",
        )
    ]


def _requeue(facts: Mapping[str, Any], *, ended: Ended) -> Finding:
    if ended.restarts > 0:
        return Finding(check="requeue", level=WELL, what="a job can requeue itself")
    return Finding(
        check="requeue",
        level=DEGRADED,
        what="Slurm does not requeue the job",
        seen=facts["requeue"] or f"scontrol requeue was granted, but the job is {ended.state}",
        means="works: what is preempted or reaches its time limit is kept, and continued by a closing job or by "
        "`band-sweep submit NAME`, not by Slurm",
        mend="ask for a partition or QOS whose jobs may be requeued, or the administrators; else nothing to do",
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
