"""Why Slurm lets a job wait: its reasons, as `man squeue` lists them, in words, each with what can be done."""

from __future__ import annotations

import re
from typing import NamedTuple


class Meaning(NamedTuple):
    """What a reason means, and what to do; no remedy where waiting is all there is."""

    words: str
    remedy: str = ""


_LET_GO = (
    "`sinfo -R` says which nodes are out of order; the next band-sweep submit lets it go, as does scontrol release"
    " {job}"
)
_OWN_LIMIT = "it starts as others of one's jobs end; a higher limit is the administrators' to give"
# The first whose pattern begins the reason holds.
_MEANINGS = {
    r"Priority": ("jobs of higher priority are ahead of it in this partition", ""),
    r"Resources": ("it is next, but the nodes that it fits on are taken", ""),
    r"None|$": ("Slurm has not looked at it yet", ""),
    r"JobArrayTaskLimit": (
        "as many tasks of its array run as --max-parallel allows",
        "to let more run at once: scontrol update JobId={array} ArrayTaskThrottle=N",
    ),
    r"JobHeldUser": ("it is held by its user", "to let it go: scontrol release {job}"),
    r"JobHeldAdmin": ("it is held by the administrators", "ask them why; only they can release it"),
    r"launch failed requeued held": ("Slurm could not start it, queued it again and holds it", _LET_GO),
    r"JobHoldMaxRequeue": ("its node lost it so often that Slurm holds it", _LET_GO),
    r"job requeued in held state": (
        "somebody had it queued again and held",
        "to let it go: scontrol release {job}",
    ),
    r"DependencyNeverSatisfied": (
        "what it waits for ended otherwise than it asks for, so it never starts",
        "take it away, scancel {job}, and submit again",
    ),
    r"Dependency": ("it waits for another job to end", ""),
    r"BeginTime": ("its time has not come: --begin, or the pause after Slurm queued it again", ""),
    r"ReqNodeNotAvail|NodeDown": (
        "a node that it asks for is down, drained or reserved",
        "without --nodelist or in another --partition it may start; `sinfo -R` says why nodes are down",
    ),
    r"ReservationDeleted": ("its reservation is gone", "submit it without --reservation"),
    r"Reservation": ("it waits for its reservation to begin", ""),
    r"PartitionTimeLimit": ("it asks for more time than the partition allows", "give a shorter --time"),
    r"PartitionNodeLimit": ("it asks for more nodes than the partition lets a job have", "give another --partition"),
    r"PartitionDown|PartitionInactive": ("the partition starts no jobs now", "give another --partition"),
    r"BadConstraints": ("no node has what it asks for", "correct --constraint, --gres, --mem or --cpus-per-task"),
    r"Licenses": ("it waits for a licence", ""),
    r"Invalid(?:Account|QOS)|(?:QOS|Account)NotAllowed": (
        "its account or QOS may not be used here",
        "`sacctmgr show assoc user=$USER format=account,partition,qos` lists yours: --account, --qos",
    ),
    r"(?:QOS|Assoc)\w*Submit": ("more jobs are queued than one may have", _OWN_LIMIT),
    r"MaxMemPerLimit": ("it asks for more memory a node or CPU than allowed", "give less by --mem"),
    r"QOSMin": ("it asks for less than its QOS demands of a job", "ask for more, or give another --qos"),
    r"(?:QOS|Assoc)\w*(?:Wall|Time|Minutes)": (
        "it asks for more time than its account or QOS allows, or has left",
        "give a shorter --time; `sshare` and `sacctmgr show qos` show what is left",
    ),
    r"(?:QOS|Assoc)Grp": (
        "the account or QOS, all of its users together, uses as much as it may",
        "it starts as their jobs end; or give another --account or --qos",
    ),
    r"(?:QOS|Assoc)\w*Job": ("as many of one's jobs run as may run at once", _OWN_LIMIT),
    r"QOS|Assoc": ("one's jobs use as much (CPUs, GPUs, memory) as a limit of the account or QOS allows", _OWN_LIMIT),
    r"Prolog|Cleaning": ("its node is being prepared", ""),
    r"DeadLine": ("its deadline is past", "submit it without --deadline"),
    r"SchedDefer|InactiveLimit|SystemFailure|BurstBuffer": ("the scheduler has put it off", ""),
}


def meaning(reason: str, *, job: str = "") -> Meaning:
    """Return what a reason means and what to do about it; for one never heard of, Slurm's own word."""
    for pattern, (words, remedy) in _MEANINGS.items():
        if re.match(pattern, reason.replace("_", " "), re.IGNORECASE):
            return Meaning(words, remedy.format(job=job, array=job.partition("_")[0]))
    return Meaning(f"Slurm says {reason}", f"`scontrol show job {job}` says more")
