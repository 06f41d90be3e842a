"""Faults of Slurm and of the processes at Slurm: each a function of the scene that returns what shows that it struck.

Evidence that comes later is a function, asked when the sweep is over; empty evidence: it has not struck. What a fault
breaks it mends itself, through `scene.later`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from proc import children_of, state_of
from slurm_lab.lab import Node

from reliability.slurm_scene import QUIET, Scene

Evidence = str | Callable[[], str]
Fault = Callable[[Scene], Evidence]
SLOW = "time limit shorter than the work"
CLOSING_KILLED = "closing job killed"
SUPERVISOR = "band.node.call"  # in the command lines of processes
LOST_ANSWER = "Batch job submission failed: Socket timed out on send/recv operation"

# --- the controller and the accounts ---


def controller_restarted(scene: Scene) -> Evidence:
    scene.lab.stop_controller()
    scene.later(scene.rng.uniform(0, 8), scene.lab.start_controller)
    return "slurmctld ended"


def controller_killed(scene: Scene) -> Evidence:
    scene.lab.kill_controller()
    scene.later(scene.rng.uniform(0, 4), scene.lab.start_controller)
    return "slurmctld was killed"


def controller_hung(scene: Scene) -> Evidence:
    scene.lab.pause_controller()
    scene.later(scene.rng.uniform(5, 25), scene.lab.start_controller)
    return "slurmctld is stopped" if _is_deaf(scene, "squeue") else ""


def accounts_down(scene: Scene) -> Evidence:
    scene.lab.stop_dbd()
    scene.later(scene.rng.uniform(5, 20), scene.lab.start_dbd)
    return "sacct does not answer" if _is_deaf(scene, "sacct") else ""


def accounts_absent(scene: Scene) -> Evidence:
    return _accounts(scene, 'echo "Slurm accounting storage is disabled" >&2; exit 1')


def accounts_lagging(scene: Scene) -> Evidence:
    return _accounts(scene, "exit 0")


def accounts_hanging(scene: Scene) -> Evidence:
    return _accounts(scene, "sleep 60; exit 1")


def job_ids_used_before(scene: Scene) -> Evidence:
    """The accounts have records of years ago under the very ids, of jobs that failed."""
    old = 'BEGIN { FS = OFS = "\\x1f" } { $2 = "FAILED"; $5 = $6 = $7 = "2019-01-01T00:00:00"; $NF = "old"; print }'
    return _accounts(scene, f'/usr/bin/sacct "$@" | awk \'{old}\'; exec /usr/bin/sacct "$@"')


def _accounts(scene: Scene, script: str) -> Evidence:
    """Have the accounts asked: the controller forgets what it knew, and they are as they are."""
    evidence = _while(scene, "sacct", script)
    queue_forgotten(scene)
    return evidence


def queue_forgotten(scene: Scene) -> Evidence:
    """The controller comes back without its state: it knows no job, and gives ids from the first on."""
    jobs = scene.jobs(*QUIET)
    scene.lab.kill_controller()
    for entry in (scene.lab.plan.root / "state").iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    scene.lab.start_controller()
    return f"forgot {', '.join(jobs)}" if jobs and not set(jobs) & set(scene.jobs(*QUIET)) else ""


def squeue_times_out(scene: Scene) -> Evidence:
    return _while(scene, "squeue", 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1')


def scontrol_times_out(scene: Scene) -> Evidence:
    """What was asked is done, but the answer is lost."""
    return _while(scene, "scontrol", '/usr/bin/scontrol "$@" >/dev/null; echo "Socket timed out" >&2; exit 1')


def _while(scene: Scene, command: str, script: str) -> Evidence:
    evidence = scene.wrap(command, script)
    scene.later(scene.rng.uniform(10, 25), lambda: scene.unwrap(command))
    return evidence


def _is_deaf(scene: Scene, command: str) -> bool:
    try:
        return bool(scene.lab.run([command, "--noheader"], timeout_s=2).returncode)
    except subprocess.TimeoutExpired:
        return True


# --- nodes ---


def node_killed(scene: Scene) -> Evidence:
    node = _busy_node(scene)
    node.kill()
    scene.later(scene.rng.uniform(2, 30), node.start)
    return f"{node.name} lost its power"


def node_hung(scene: Scene) -> Evidence:
    node = _busy_node(scene)
    node.stop()
    scene.later(scene.rng.uniform(5, 40), node.wake)
    return f"{node.name} is frozen"


def slurmd_killed(scene: Scene) -> Evidence:
    node = _busy_node(scene, Node.is_served)
    node.kill_slurmd()
    scene.later(scene.rng.uniform(1, 30), node.start)
    return f"the slurmd of {node.name} was killed"


def node_drained(scene: Scene) -> Evidence:
    return _said_of_node(scene, "DRAIN")


def node_down(scene: Scene) -> Evidence:
    return _said_of_node(scene, "DOWN")


def _said_of_node(scene: Scene, state: str) -> Evidence:
    states = scene.lab.node_states()
    node = _busy_node(scene, lambda node: states.get(node.name) in ("mixed", "allocated"))
    scene.lab.update_node(node.name, state)
    scene.later(scene.rng.uniform(3, 15), lambda: _try(scene, "update", f"NodeName={node.name}", "State=RESUME"))
    found = scene.lab.node_states().get(node.name, "")
    return f"{node.name}: {found}" if found.startswith(state.lower()) else ""


def _busy_node(scene: Scene, is_sound: Callable[[Node], bool] = lambda node: True) -> Node:
    busy = [node for node in scene.lab.nodes.values() if node.host.first.is_up() and _of_jobs(node)]
    return scene.rng.choice([node for node in busy if is_sound(node)])


def _of_jobs(node: Node) -> list[int]:
    return node.pids(environment="SLURM_JOB_ID=")


# --- what is done to jobs ---


def task_cancelled(scene: Scene) -> Evidence:
    return _scancel(scene, _some_job(scene, "RUNNING"))


def array_cancelled(scene: Scene) -> Evidence:
    return _scancel(scene, _some_job(scene, "RUNNING", "PENDING", closing=False).partition("_")[0])


def waiting_cancelled(scene: Scene) -> Evidence:
    return _scancel(scene, _some_job(scene, "PENDING"))


def _scancel(scene: Scene, job: str) -> Evidence:
    scene.lab.run(["scancel", job], check=True)
    return f"scancel {job}"


def task_requeued(scene: Scene) -> Evidence:
    return _requeue(scene, _some_job(scene, "RUNNING", closing=False))


def array_requeued(scene: Scene) -> Evidence:
    return _requeue(scene, _some_job(scene, "RUNNING", closing=False).partition("_")[0])


def _requeue(scene: Scene, job: str) -> Evidence:
    ran = set(scene.jobs("RUNNING", closing=False))
    scene.lab.run(["scontrol", "requeue", job])  # of an array it fails if one of its tasks waits, and does the rest
    gone = ran - set(scene.jobs("RUNNING", closing=False))
    return f"scontrol requeue {job}: {', '.join(sorted(gone))}" if gone else ""


def array_held(scene: Scene) -> Evidence:
    """Somebody holds what waits, closing jobs included, and lets it go later."""
    job = _some_job(scene, "PENDING").partition("_")[0]
    scene.lab.run(["scontrol", "hold", job], check=True)
    scene.later(scene.rng.uniform(3, 20), lambda: _try(scene, "release", job))
    return f"scontrol hold {job}"


def preempted(scene: Scene) -> Evidence:
    """Jobs of higher priority take every node, one after the other."""
    ran = set(scene.jobs("RUNNING", closing=False))
    for name in scene.lab.nodes:
        options = ("--partition=urgent", "--exclusive", "--mem=0", f"--nodelist={name}", "--output=/dev/null")
        scene.lab.sbatch(*options, wrap=f"sleep {scene.rng.uniform(0.5, 4):.1f}")
    lost: set[str] = set()
    end = time.monotonic() + 8
    while time.monotonic() < end and not lost:
        lost = ran & set(scene.jobs("PENDING", "COMPLETING"))
    return f"took the place of {', '.join(sorted(lost))}" if lost else ""


def time_limit_reached(scene: Scene) -> Evidence:
    job = scene.rng.choice(sorted(set(scene.jobs("RUNNING", closing=False)) - scene.limited))
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 2))
    scene.lab.run(["scontrol", "update", f"JobId={job}", f"EndTime={now}"], check=True)
    scene.limited.add(job)
    return lambda: _account(scene, job, "TIMEOUT")


def _account(scene: Scene, job: str, state: str) -> str:
    shown = scene.lab.run(["sacct", "--noheader", "--duplicates", "--allocations", "--format=State", f"--jobs={job}"])
    return f"{job}: {state}" if state in shown.stdout else ""


def _some_job(scene: Scene, *states: str, closing: bool = True) -> str:
    return scene.rng.choice(scene.jobs(*states, closing=closing))


def _try(scene: Scene, *arguments: str) -> None:
    scene.lab.run(["scontrol", *arguments], timeout_s=30)


# --- processes ---


def trainer_killed(scene: Scene) -> Evidence:
    return _kill(scene, "_trainer.py")


def supervisor_killed(scene: Scene) -> Evidence:
    return _kill(scene, SUPERVISOR)


def both_killed(scene: Scene) -> Evidence:
    victim = _some_process(scene, SUPERVISOR)
    children = children_of(victim)
    for pid in (victim, *children):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return f"killed {victim} and {len(children)} children" if children else ""


def stepd_killed(scene: Scene) -> Evidence:
    return _kill(scene, "slurmstepd")


def closing_killed(scene: Scene) -> Evidence:
    """A closing job runs once an array is over, so all that is being trained comes to its end for it."""
    scene.open()
    scene.lab.wait_for(lambda: scene.lab.pids(command="band.sweep.closing"), timeout_s=20)
    time.sleep(scene.rng.uniform(0, 0.8))
    return _kill(scene, "band.sweep.closing")


def trainer_hung(scene: Scene) -> Evidence:
    return _freeze(scene, "_trainer.py")


def supervisor_hung(scene: Scene) -> Evidence:
    return _freeze(scene, SUPERVISOR)


def submit_killed(scene: Scene) -> Evidence:
    return _kill_command(scene, scene.submission("--retry-failed", "--retry-cancelled"))


def status_killed(scene: Scene) -> Evidence:
    return _kill_command(scene, ["status", "reference"], within_s=0.6)


def reconcile_killed(scene: Scene) -> Evidence:
    return _kill_command(scene, ["reconcile", "reference"], within_s=0.6)


def two_submits(scene: Scene) -> Evidence:
    """Two shells give the same command at once."""
    words = scene.command(*scene.submission("--retry-failed", "--retry-cancelled"))
    both = [scene.lab.popen(words, cwd=scene.folder) for _ in range(2)]
    texts = ["".join(process.communicate(timeout=120)) for process in both]
    for text in texts:
        if "Traceback" in text:
            scene.outcome.add("wrong", text[-600:])
    return f"both ended, with {[process.returncode for process in both]}"


def _kill_command(scene: Scene, words: Sequence[str], *, within_s: float = 1.5) -> Evidence:
    with scene.lab.popen(scene.command(*words), cwd=scene.folder) as process:
        time.sleep(scene.rng.uniform(0.05, within_s))
        is_alive = process.poll() is None
        process.kill()
        process.communicate()
    return f"killed `{' '.join(words[:2])}`" if is_alive else ""


def _some_process(scene: Scene, command: str) -> int:
    return scene.rng.choice(scene.lab.pids(command=command, environment="" if "stepd" in command else "SLURM_JOB_ID="))


def _kill(scene: Scene, command: str) -> Evidence:
    pid = _some_process(scene, command)
    os.kill(pid, signal.SIGKILL)
    return f"killed {command} {pid}"


def _freeze(scene: Scene, command: str) -> Evidence:
    pid = _some_process(scene, command)
    if state_of(pid) == "T":
        raise LookupError(f"{pid} is stopped already")
    handle = os.pidfd_open(pid)

    def wake() -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        os.close(handle)

    signal.pidfd_send_signal(handle, signal.SIGSTOP)
    scene.later(scene.rng.uniform(2, 20), wake)
    return f"stopped {command}"


# --- while it is submitted ---


def sbatch_queues_and_says_it_did_not(scene: Scene) -> Evidence:
    return _once(scene, "sbatch", f'/usr/bin/sbatch "$@" >/dev/null; echo "sbatch: error: {LOST_ANSWER}" >&2; exit 1')


def sbatch_queues_and_hangs(scene: Scene) -> Evidence:
    return _once(scene, "sbatch", '/usr/bin/sbatch "$@" >/dev/null; sleep 60; exit 1')


def sbatch_queues_and_kills_who_asked(scene: Scene) -> Evidence:
    return _once(scene, "sbatch", '/usr/bin/sbatch "$@" >/dev/null; kill -KILL $PPID; exit 1')


def sbatch_refuses(scene: Scene) -> Evidence:
    return _once(
        scene, "sbatch", 'echo "sbatch: error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
    )


def release_lost(scene: Scene) -> Evidence:
    log = scene.lab.home / "killed-as-it-released"
    kill = f'if [ "$1" = release ]; then rm -f "$0"; echo "$*" >{log}; kill -KILL $PPID; exit 1; fi'
    scene.wrap("scontrol", f'{kill}; exec /usr/bin/scontrol "$@"')
    scene.later(90, lambda: scene.unwrap("scontrol"))
    return lambda: log.read_text() if log.exists() else ""


def minute_for_more(scene: Scene) -> Evidence:
    """Tasks take longer than their time limit."""
    template = scene.folder / "sbatch_templates" / "lab.sh"
    text = (
        template.read_text().replace("--time=10", "--time=1").replace(f'"epoch_s": {scene.epoch_s}', '"epoch_s": 1.6')
    )
    template.write_text(text.replace("PACED_STEP_S=1", "PACED_STEP_S=4"))

    def struck() -> str:
        reasons = [str(event["reason"]) for _, _, event in scene.events() if event["event"] == "interrupted"]
        return f"{reasons.count('time limit')} attempts gave way to it" if "time limit" in reasons else ""

    return struck


def _once(scene: Scene, command: str, script: str) -> Evidence:
    evidence = scene.wrap(command, f'rm -f "$0"\n{script}')
    scene.later(90, lambda: scene.unwrap(command))
    return evidence


SUBMITTING: dict[str, Fault] = {
    "`sbatch` queues, and reports a time-out": sbatch_queues_and_says_it_did_not,
    "`sbatch` queues, and hangs": sbatch_queues_and_hangs,
    "`sbatch` queues, and `submit` is killed before it hears": sbatch_queues_and_kills_who_asked,
    "`sbatch` finds no controller": sbatch_refuses,
    "`submit` killed as it releases": release_lost,
    SLOW: minute_for_more,
}
SLURM: dict[str, Fault] = {
    "controller restarted": controller_restarted,
    "controller killed": controller_killed,
    "controller hung": controller_hung,
    "slurmdbd down": accounts_down,
    "accounts absent": accounts_absent,
    "accounts lagging": accounts_lagging,
    "accounts hanging": accounts_hanging,
    "job ids used before, in the accounts": job_ids_used_before,
    "controller lost its state: job ids from 1 again": queue_forgotten,
    "`squeue` fails": squeue_times_out,
    "`scontrol` does it, and reports a time-out": scontrol_times_out,
    "node lost its power": node_killed,
    "node hung": node_hung,
    "slurmd killed": slurmd_killed,
    "node drained": node_drained,
    "node set down": node_down,
    "preemption storm": preempted,
    "time limit cut short": time_limit_reached,
    "task requeued": task_requeued,
    "array requeued": array_requeued,
    "array, or closing job, held": array_held,
    "`scancel` of a task": task_cancelled,
    "`scancel` of an array": array_cancelled,
    "`scancel` of what waits": waiting_cancelled,
    **SUBMITTING,
}
PROCESSES: dict[str, Fault] = {
    "trainer killed": trainer_killed,
    "trainer hung": trainer_hung,
    "supervisor killed": supervisor_killed,
    "supervisor hung": supervisor_hung,
    "supervisor and trainer killed": both_killed,
    "slurmstepd killed": stepd_killed,
    CLOSING_KILLED: closing_killed,
    "`submit` killed": submit_killed,
    "`status` killed": status_killed,
    "`reconcile` killed": reconcile_killed,
    "two `submit` at once": two_submits,
}
FAULTS: dict[str, tuple[str, Fault]] = {
    **{name: ("slurm", fault) for name, fault in SLURM.items()},
    **{name: ("processes at slurm", fault) for name, fault in PROCESSES.items()},
}
