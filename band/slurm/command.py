"""One way to run a command of Slurm: clean environment, time limit, and what a failure says about the outcome."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from band.errors import SchedulerError

# All that Slurm's commands and daemons read from, or leave in, the environment; what a user or an outer job
# has there must not change a request.
STRAY = re.compile(r"(SLURM|SLURMD|SLURM_STEP|SBATCH|SQUEUE|SACCT|SACCTMGR|SALLOC|SRUN|SINFO|SCONTROL|SPRIO|SSHARE)_")
LOOK_S = 0.25  # between two looks at what a command that goes on has said
KEPT = ("SLURM_CONF", "SLURM_JWT")  # where the cluster is, and who is asking: neither changes a job

# Read on Slurm 22.05, in the library's list of errors. A request that was refused by a controller that answered did
# nothing; one that did not reach the controller neither; of all others the outcome is unknown.
_UNKNOWN = re.compile(
    r"Socket timed out|\((?:receive|send|shutdown) failure\)|Zero Bytes were transmitted|Connection reset|Broken pipe"
    r"|Transport endpoint|Message (?:send|receive) failure|Unexpected message|Insane message length|zero length message"
    r"|message length < 0|send entire message|Header lengths are longer|Communication shutdown failure"
    r"|Unspecified error"
)
_UNREACHABLE = re.compile(
    r"Unable to contact slurm controller \(connect failure\)|Unable to contact|Connection refused|No route to host"
    r"|Network is unreachable|Communication connection failure|Unable to connect to database"
    r"|controller in standby|Unable to resolve|Connection timed out"
)
_PREFIX = re.compile(r"^(?:s[a-z]+: )?(?:error: |fatal: )?(?:slurm_\w+(?: error)?: )?")
_NO_CLUSTER = re.compile(r"establish a configuration source|Unable to process configuration|/slurm\.conf: No such file")
_FULL = re.compile(r"(?:unable to accept job|job queue full), sleeping and retrying")
_FULL_REMEDY = "the controller's queue is full (MaxJobCount), with the jobs of all users; try again later"
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled|not running a supported accounting_storage plugin")
_REMEDIES = (
    (r"[Ii]nvalid partition", "`band-sweep cluster` lists the partitions; give one with --partition"),
    (r"No partition specified", "this cluster has no default partition; `band-sweep cluster` lists them: --partition"),
    (r"account/partition combination", "`sacctmgr show assoc user=$USER` lists your accounts; give one with --account"),
    (r"Invalid qos", "`sacctmgr show assoc user=$USER format=account,qos` lists yours; give one with --qos"),
    (r"violates accounting/QOS policy", "a limit of your account or QOS: fewer jobs at once, or smaller ones"),
    (r"QOS\w+Limit|Assoc\w+Limit", "a limit of your account or QOS: fewer jobs at once, or smaller ones"),
    (
        r"Requested time limit is invalid",
        "`band-sweep cluster` shows the partition's longest time; give a shorter --time",
    ),
    (r"node configuration is not available", "no node of that partition has as many CPUs, memory or GPUs as asked for"),
    (r"generic resource|Invalid GRES", "`band-sweep cluster` shows what GPUs the nodes have; correct --gres or --gpus"),
    (r"Memory (?:specification|required)", "`band-sweep cluster` shows the memory of the nodes; give less by --mem"),
    (r"Invalid feature", "`band-sweep cluster` shows the features of the nodes; correct --constraint"),
    (r"Invalid job array", "the array is longer than MaxArraySize; `scontrol show config` shows it"),
    (r"[Ii]nvalid wckey", "leave out --wckey, or give one that `sacctmgr show wckey user=$USER` lists"),
    (r"permission denied", "the job or partition is not yours to use; `band-sweep cluster` lists what is"),
    (
        r"authentication error|Munge",
        "munge here does not agree with the controller's: tell the administrators",
    ),
    (r"Incompatible versions", "Slurm's commands here differ from the controller's: use the cluster's own login node"),
)


class SlurmError(SchedulerError):
    """A command of Slurm that failed.

    `kind` says what is known of the outcome: "absent" (no such command, or no cluster configured) and "unreachable"
    (nobody answered): nothing was done; "timeout" (no answer in time, or it was cut off): it may or may not have been
    done; "refused" (all else): Slurm said no. `no_accounting`: the cluster keeps no accounts.
    """

    def __init__(self, message: str, *, kind: str, no_accounting: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.no_accounting = no_accounting


class Answer(NamedTuple):
    """What a command that ended well printed."""

    stdout: str
    stderr: str


def environment() -> dict[str, str]:
    """Return the environment for asking: nothing stray, English, times in unix seconds, array ranges in full.

    Where squeue knows ARRAY_UNIQUE, it would else show a task that was requeued or held among those that never started.
    """
    answers = {"LC_ALL": "C.UTF-8", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "SQUEUE_ARRAY_UNIQUE": "1"}
    return job_environment() | answers


def job_environment() -> dict[str, str]:
    """Return the caller's environment without what would change a job: what sbatch may hand on to it."""
    return {name: value for name, value in os.environ.items() if name in KEPT or not STRAY.match(name)}


def run(argv: Sequence[str], *, timeout_s: float = 20.0) -> str:
    """Return what a command of Slurm prints; see `ask`."""
    return ask(argv, timeout_s=timeout_s).stdout


def ask(argv: Sequence[str], *, timeout_s: float = 20.0) -> Answer:
    """Run a command of Slurm and return what it prints.

    `sbatch` hands its environment on to the job and so gets the caller's own (`job_environment`), all others that of
    `environment`.

    Raises:
        SlurmError: it is absent, does not answer in time, or ends with another code than 0.
    """
    environ = job_environment() if argv[0] == "sbatch" else environment()
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    try:
        process = subprocess.Popen(argv, env=environ, stdin=none, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise SlurmError(f"{argv[0]} cannot be run here ({error.strerror}): {_NO_SLURM}", kind="absent") from None
    with process:
        try:
            output = _wait(process, command=argv[0], timeout_s=timeout_s)
        except BaseException:
            process.kill()
            raise
    answer = Answer(*(stream.decode("utf-8", "replace") for stream in output))
    if process.returncode != 0:
        raise failure(argv[0], words=answer.stderr.strip() or answer.stdout.strip(), code=process.returncode)
    return answer


def _wait(process: subprocess.Popen[bytes], *, command: str, timeout_s: float) -> tuple[bytes, bytes]:
    """Return what a command prints until it ends.

    Raises:
        SlurmError: it does not end in time, or it is sbatch, was refused for a queue that is full, and tries again.
    """
    began = looked = time.monotonic()
    while True:
        try:
            return process.communicate(timeout=min(LOOK_S, max(began + timeout_s - looked, 0.0)))
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode("utf-8", "replace").strip()
        before, looked = looked, time.monotonic()
        # It sleeps for a second before it asks again: until then nothing can have been queued.
        if _FULL.search(said) and looked - before < 2 * LOOK_S:
            raise SlurmError(f"{command}: {_shortened(said)}: {_FULL_REMEDY}", kind="refused")
        if looked - began >= timeout_s:
            words = f"; it said: {_shortened(said)}" if said else ""
            raise SlurmError(f"{command} did not answer within {timeout_s:g} s{words}", kind="timeout")


_NO_SLURM = "is this the login node of a cluster? Without one, `band-sweep submit NAME` runs on this machine"


def failure(command: str, *, words: str, code: int) -> SlurmError:
    """Return the error for a command that printed `words` and ended with `code` (negative: by a signal)."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return SlurmError(f"{command} was ended by {name} before it answered", kind="timeout")
    short = _shortened(words) or f"exit code {code}"
    if _NO_CLUSTER.search(words):
        return SlurmError(f"{command} finds no cluster: set SLURM_CONF; {_NO_SLURM}", kind="absent")
    if _NO_ACCOUNTING.search(words):
        return SlurmError(f"{command}: {short}", kind="refused", no_accounting=True)
    if _UNKNOWN.search(words):
        return SlurmError(f"{command} got no answer: {short}", kind="timeout")
    if _UNREACHABLE.search(words):
        who = "slurmdbd" if command in ("sacct", "sacctmgr") else "the controller"
        return SlurmError(f"{command} cannot reach {who}: {short}; try again later", kind="unreachable")
    remedies = [remedy for pattern, remedy in _REMEDIES if re.search(pattern, words)]
    return SlurmError(f"{command}: {short}" + (f"\n  {remedies[0]}" if remedies else ""), kind="refused")


def _shortened(words: str) -> str:
    """Return Slurm's own words in one line, without the names of commands and functions that stand before them."""
    lines = [_PREFIX.sub("", line.strip()) for line in words.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))
