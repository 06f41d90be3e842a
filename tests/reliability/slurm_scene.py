"""The reference sweep at a lab's Slurm, what a user types there, and what it must come to whatever befalls it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
from fake_trainer import expected_state
from slurm_lab.lab import Lab, LabError
from tiny import write_recording

from band.errors import BandError
from band.run_dir import SweepDir, read_events, verify
from band.sweep.journal import read_journals
from band.sweep.manifest import read_manifest
from reliability.shim import library

HELPERS = Path(__file__).parents[1] / "helpers"
EPOCHS = 8
SETTLE_S = 3
AGAIN_S = 3.0
QUIET_S = 4.0  # a closing job follows its array sooner
PATIENCE_S = 240.0  # until a queue that nobody disturbs any more is empty
ROUNDS = 8  # of the user's: look, and give the same command again
TRAINERS = {"fake": "hungry_trainer.py", "real": "paced_trainer.py"}
PACKS = {"fake": 5, "real": 10}
SWEEP = """datasets: [one.h5]
base:
  arch: {{gen_dim: 12, fac_dim: 6, con_dim: 6, co_dim: 2, ic_enc_dim: 8, ci_enc_dim: 8, ic_dim: 5}}
  hyper: {{kl_increase_epoch: 2}}
  train: {{batch_size: 8, max_epochs: {epochs}, posterior_samples: 3, stop_patience: 0, checkpoint_s: 1}}
pair: {{behavior_weight: [0.5]}}
seeds: {seeds}
"""
TEMPLATE = """#!/bin/bash
#SBATCH --time=10
#SBATCH --mem=500M
#SBATCH --cpus-per-task=1
#SBATCH --partition={partition}
unset LD_PRELOAD CHAOS_SKEW_S  # as whoever submitted it had them
case $(hostname) in
{clocks}
esac
export PATH={wrappers}:$PATH
export PYTHONPATH={helpers}
export BAND_SCRATCH=/disk/scratch/band BAND_SETTLE_S={settle} BAND_KERNELS=plain
export BAND_TRAINER="{python} {helpers}/{trainer}" FAKE_LEDGER={home}/epochs PACED_STEP_S=1 PACED_WHILE={home}/gate
export FAKE_CONFIG='{{"epoch_s": {epoch_s}, "checkpoint_every": 2, "gated": true, "paced": true}}'
"""
# What a job sees of the time, but for that of files, is so many seconds off; munge bears five minutes.
CLOCK = "{node}) export LD_PRELOAD={library} CHAOS_SKEW_S={skew_s:g} ;;"
QUIET = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")


@dataclass
class Outcome:
    """What a sweep came to, beside what it would have come to undisturbed."""

    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str, *, count: int = 1) -> None:
        """Note something that is not as it should be."""
        setattr(self, kind, getattr(self, kind) + count)
        self.notes.append(f"{kind}: {what}")


@dataclass
class Scene:
    """One sweep in the home of a lab."""

    lab: Lab
    rng: random.Random
    trainer: str = "fake"
    partition: str = "normal"
    seeds: int = 30  # pairs of runs
    epoch_s: float = 0.4  # of a run of the fake trainer's
    skews_s: Mapping[str, float] = field(default_factory=dict)  # by how much clocks of nodes are ahead
    said: list[str] = field(default_factory=list)  # what commands printed
    notes: list[str] = field(default_factory=list)  # worth telling, and not wrong
    outcome: Outcome = field(default_factory=Outcome)
    limited: set[str] = field(default_factory=set)  # jobs whose time limit was cut short: each counts once
    debts: list[tuple[float, Callable[[], Any]]] = field(default_factory=list)  # when faults end, and how

    def __post_init__(self) -> None:
        self.folder = self.lab.home / "project"
        self.wrappers = self.lab.home / "wrappers"  # first in everybody's PATH
        self.sweep = SweepDir(self.folder / "sweeps" / "reference")
        self.gate = self.lab.home / "gate"  # while it is there, the fake trainer ends no run, and the real one is slow
        for folder in (self.folder / "sbatch_templates", self.wrappers):
            folder.mkdir(parents=True)
        write_recording(self.folder / "one.h5")
        (self.folder / "reference.yaml").write_text(SWEEP.format(epochs=EPOCHS, seeds=self.seeds))
        words = {"partition": self.partition, "wrappers": self.wrappers, "helpers": HELPERS, "settle": SETTLE_S}
        clocks = [CLOCK.format(node=n, library=library(), skew_s=s) for n, s in self.skews_s.items()]
        words |= {
            "clocks": "\n".join(clocks),
            "python": sys.executable,
            "trainer": TRAINERS[self.trainer],
            "home": self.lab.home,
            "epoch_s": self.epoch_s,
        }
        (self.folder / "sbatch_templates" / "lab.sh").write_text(TEMPLATE.format(**words))
        self.type("generate", "reference.yaml")

    # --- what a user does ------------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `band-sweep` on the login host."""
        path = f"PATH={self.wrappers}:{self.lab.environment['PATH']}"
        return ["env", path, f"BAND_SETTLE_S={SETTLE_S}", sys.executable, "-m", "band.cli.sweep", *arguments]

    def submission(self, *more: str) -> list[str]:
        """Return the words of the submission, which is given again and again."""
        return ["submit", "reference", "--cluster", "lab", "--pack", str(PACKS[self.trainer]), *more]

    def type(self, *arguments: str) -> tuple[int, str]:
        """Run `band-sweep` and return its exit code and all that it printed."""
        try:
            done = self.lab.run(self.command(*arguments), cwd=self.folder, timeout_s=200)
        except subprocess.TimeoutExpired:
            self.outcome.add("wrong", f"`{' '.join(arguments)}` hung")
            return -1, ""
        text = done.stdout + done.stderr
        self.said.append(f"$ {' '.join(arguments)} -> {done.returncode}\n{text}")
        if "Traceback" in text or done.returncode == 70:
            self.outcome.add("wrong", f"`{' '.join(arguments)}` ended with {done.returncode}: {text[-600:]}")
        return done.returncode, text

    def recover(self) -> None:
        """Look, and give the same command again, until all is done."""
        for _ in range(ROUNDS):
            self.type(*self.submission("--retry-failed", "--retry-cancelled"))
            self._wait_for_quiet()
            code, _ = self.type("status", "reference")
            if code == 0 and all(array.is_closed for array in read_journals(self.sweep)):
                return
            self._let_go()
            time.sleep(SETTLE_S + 1)
        self.outcome.add("wrong", f"not done after {ROUNDS} rounds")

    def _let_go(self) -> None:
        """Release what somebody holds, as `submit` says; a controller that forgot a release leaves it so, too."""
        for line in self.lab.run(["squeue", "--noheader", "--format=%i|%r"]).stdout.splitlines():
            job, reason = line.split("|", 1)
            if reason.startswith("JobHeld"):
                self.lab.run(["scontrol", "release", job])
                self.notes.append(f"{job} was held ({reason}), and released by hand")

    def _wait_for_quiet(self) -> None:
        """Wait until Slurm has nothing to do but what is held, or waits for what is held."""
        quiet_since = time.monotonic()
        end = quiet_since + PATIENCE_S
        while time.monotonic() < quiet_since + QUIET_S:
            if self.jobs(*QUIET, waits_for_others=False):
                quiet_since = time.monotonic()
            if time.monotonic() > end:
                self.outcome.add("wrong", f"the queue does not empty: {self.lab._situation()}")
                return
            time.sleep(0.5)

    # --- what faults need ------------------------------------------------------------------------------------------

    def jobs(self, *states: str, closing: bool = True, waits_for_others: bool = True) -> list[str]:
        """Return the sweep's jobs such as "12_3" in one of the states that are not held; none without an answer."""
        shown = self.lab.run(["squeue", "--noheader", "--array", "--format=%i|%T|%r|%j"], timeout_s=60).stdout
        found = []
        for line in shown.splitlines():
            job, state, reason, name = line.split("|", 3)
            is_held = "held" in reason.lower() or (reason == "Dependency" and not waits_for_others)
            if state in states and not is_held and (closing or not name.endswith("-closing")):
                found.append(job)
        return found

    def keep_some_work(self) -> None:
        """Shut the gate once half of the runs are published; to the real trainer, which is done sooner, at once."""
        if self.trainer == "real" or len(list(self.sweep.runs.glob("[!.]*"))) >= self.seeds:
            self.gate.touch()

    def open(self) -> None:
        """Let all that is being trained come to its end."""
        self.gate.unlink(missing_ok=True)

    def later(self, seconds: float, undo: Callable[[], Any]) -> None:
        """Have a fault end then, or when all of them end."""
        self.debts.append((time.monotonic() + seconds, undo))

    def pass_time(self, seconds: float) -> None:
        """Let time go by, in which faults end that are over."""
        end = time.monotonic() + seconds
        while True:
            self.keep_some_work()
            self.settle_debts(until=time.monotonic())
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.2))

    def settle_debts(self, *, until: float = float("inf")) -> None:
        """End the faults that are due, oldest first; what cannot end yet does so later, or when all is mended."""
        for debt in sorted((debt for debt in self.debts if debt[0] <= until), key=lambda debt: debt[0]):
            self.debts.remove(debt)
            try:
                debt[1]()
            except LabError as error:  # a controller does not start without accounts that it has never seen
                self.notes.append(f"a fault ends later: {str(error)[-200:]}")
                if until < float("inf"):
                    self.later(AGAIN_S, debt[1])

    def wrap(self, command: str, script: str) -> Callable[[], str]:
        """Put a script in the place of one of Slurm's commands; return what tells whether anybody has called it."""
        path, log = self.wrappers / command, self.lab.home / f"called-{command}-{self.rng.getrandbits(32):x}"
        made = path.with_name(f".{command}")
        made.write_text(f'#!/bin/bash\necho "$PPID $*" >>{log}\n{script}\n')
        made.chmod(0o755)
        made.rename(path)
        return lambda: log.read_text().splitlines()[0][:200] if log.exists() else ""

    def unwrap(self, command: str) -> None:
        """Let the command be itself again."""
        (self.wrappers / command).unlink(missing_ok=True)

    # --- what must be so in the end --------------------------------------------------------------------------------

    def judge(self, undisturbed: Mapping[str, Any]) -> Outcome:
        """Compare what is there with what would be there undisturbed, {run: signature}."""
        found = {}
        for folder in self.sweep.runs.glob("[!.]*"):
            try:
                verify(folder)
                found[folder.name] = signature(folder)
            except BandError as error:
                self.outcome.add("wrong", f"{folder.name} is damaged: {error}")
        for run in sorted(set(undisturbed) - set(found)):
            self.outcome.add("lost", f"{run} is not published")
        for run in sorted(set(found) - set(undisturbed)):
            self.outcome.add("wrong", f"{run} was never asked for")
        for run in sorted(set(found) & set(undisturbed)):
            if found[run] != undisturbed[run]:
                self.outcome.add("wrong", f"{run} is other than undisturbed")
        said: dict[str, list[float]] = {}
        for event in [event for _, _, event in self.events() if event["event"] == "published"]:
            said.setdefault(event["run"], []).append(event["t"])
        for run in [run for run, times in said.items() if len(times) > 1]:
            if run not in found or is_of_later(self.sweep.run(run), t=min(said[run])):
                self.outcome.add("duplicated", f"{run} was published again")
            else:
                self.notes.append(f"{run} was published once; {len(said[run])} attempts with these very bytes said so")
        for what in [*repeated(self.events()), *self._left()]:
            self.outcome.add("lost" if what.startswith("work") else "wrong", what)
        return self.outcome

    def events(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (task, host, event) of all streams, those of a stream in their order; times are the login host's."""
        found = []
        for path in sorted(self.sweep.events.glob("*.jsonl")):
            host = ""
            for event in read_events(path)[0]:
                host = event.get("host", host) if event["event"] == "claimed" else host
                true_t = event["t"] - self.skews_s.get(host, 0.0)
                found.append((path.name.partition(".")[0], host, {**event, "t": true_t}))
        return found

    def _left(self) -> Iterator[str]:
        """Yield what lies where nothing should be left."""
        queue = self.lab.run(["squeue", "--noheader", "--format=%i %T %r %j"]).stdout
        yield from (f"left in the queue: {line}" for line in queue.splitlines())
        for pid in self.lab.pids(environment="SLURM_JOB_ID="):
            try:
                yield f"a process is left: {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}"
            except (FileNotFoundError, ProcessLookupError):
                yield "a process was left"
        yield from (f"on scratch: {folder}" for folder in self._left_on_scratch())
        yield from (f"left on its way in: {path.name}" for path in self.sweep.incoming.glob("*"))
        yield from (f"left at home: {path}" for path in self.sweep.tasks.glob("*/population.*"))
        yield from (f"left of submitit: {path}" for path in self.sweep.submissions.glob("*/submitit/*"))

    def _left_on_scratch(self) -> Iterator[Path]:
        """Yield what lies on a node of a task whose runs had all been published when another task ended well there."""
        published, ended = dict[str, float](), dict[str, float]()
        for task, host, event in self.events():
            if event["event"] == "published":
                published[task] = max(event["t"], published.get(task, 0.0))
            if event["event"] == "ended" and event["code"] == 0:
                ended[host] = max(event["t"], ended.get(host, 0.0))
        for name, node in self.lab.nodes.items():
            for folder in node.scratch.glob("band/work/*/*"):
                if published.get(folder.name.partition(".")[0], 0.0) < ended.get(name, 0.0) - 2:
                    yield folder
                else:
                    self.notes.append(f"on {name}, which no later attempt came to: {folder.name}")

    def undisturbed(self) -> dict[str, Any]:
        """Return what the fake trainer's runs must come to, by another formula than its own."""
        runs = [run.id for run in read_manifest(self.sweep.path).runs]
        recording = (self.folder / "one.h5").read_bytes()
        return {run: {"metrics": ["state", expected_state(run, epochs=EPOCHS)], "outputs": recording} for run in runs}


def is_of_later(folder: Path, *, t: float) -> bool:
    """Return whether a folder was put where it is after the time at which somebody said that he had put it there.

    Who hung, wakes up and finds its very bytes published says so once more: that is no second publication.
    """
    return folder.stat().st_ctime > t  # a rename changes the time of status, and nothing else does


def signature(folder: Path) -> dict[str, Any]:
    """Return what of a published run must be the same, to the bit, however it came about."""
    if not (folder / "model.pt").exists():  # the fake trainer's
        return {
            "metrics": (folder / "metrics.csv").read_text().split(),
            "outputs": (folder / "outputs.h5").read_bytes(),
        }
    result = json.loads((folder / "result.json").read_text())
    training = {key: value for key, value in result["training"].items() if key != "seconds"}
    arrays: dict[str, bytes] = {}
    with h5py.File(folder / "outputs.h5") as file:
        file.visititems(
            lambda name, item: arrays.update({name: item[()].tobytes()}) if hasattr(item, "shape") else None
        )
    model = (folder / "model.pt").read_bytes()
    return {
        "training": training,
        "scores": result["scores"],
        "metrics": (folder / "metrics.csv").read_bytes(),
        "outputs": arrays,
        "model": model,
    }


def repeated(events: list[tuple[str, str, dict[str, Any]]]) -> Iterator[str]:
    """Yield each start of a trainer from before a checkpoint that it could have had."""
    claimed: dict[str, float] = {}
    for task, host, event in events:
        if event["event"] == "claimed":
            claimed[task] = event["t"]
        if event["event"] != "started":
            continue
        t, runs, best, where = claimed.get(task, event["t"]), set(event["runs"]), -1, ""
        members: dict[int, set[str]] = {}
        for other, place, known in events:
            if other != task or known["t"] >= t:
                continue
            if known["event"] == "checkpoint":
                members[known["step"]] = set(known["runs"])
            has = known["event"] == "mirrored" or (known["event"] == "checkpoint" and place == host)
            if has and known["step"] > best and runs <= members.get(known["step"], set()):
                best, where = known["step"], "home" if known["event"] == "mirrored" else host
        if event["step"] < best:
            yield f"work: task {task} went on from step {event['step']}, though {where} had step {best}"
