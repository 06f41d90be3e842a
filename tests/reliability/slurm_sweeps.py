"""The reference sweep run again and again at a real Slurm, each time under other faults, by a seed."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from slurm_lab.lab import QUICK_FAILURE, Lab, LabError

from reliability.ledger import Injection, Ledger
from reliability.slurm_faults import CLOSING_KILLED, FAULTS, SLOW, SUBMITTING, Evidence
from reliability.slurm_scene import Outcome, Scene, signature

NODES, CPUS = 3, 2
PARTITIONS = ("normal", "preemptible", "graceful")
LIMITS = (-1, -1, 6)  # jobs that a user may have queued
MEAN_PAUSE_S = 1.0
RUNS_S = 10.0  # how long to wait before a fault for something to run …
PATIENCE_S = 45.0  # … and for something that it can strike
NUM_FAULTS = 12
REAL_EVERY = 4  # sweeps, one is of the real trainer …
APART_EVERY = 2  # … and one with nodes that are apart: for so long they see of home what they saw before …
LATE_S = 2.0
SKEWS_S = {"c1": 240.0, "c3": -240.0}  # … and their clocks are off


def lab_of_three(folder: Path, *, apart: bool = False) -> Lab:
    """Return the lab that the sweeps run on; if `apart`, its nodes see changes of home late, as clients of NFS do."""
    return Lab(folder, nodes=NODES, cpus=CPUS, settings=QUICK_FAILURE, home_seen_late_s=LATE_S if apart else 0)


def schedule(rng: random.Random, *, count: int, only: Collection[str] = ()) -> list[str]:
    """Draw faults: at first perhaps one at the submission, then any; last those that need the end of an array.

    Args:
        rng: draws them.
        count: how many; each at most once, but where there are only few.
        only: draw from these; empty: from all.
    """
    submitting = [name for name in SUBMITTING if name in (only or FAULTS)]
    others = [name for name in FAULTS if name in (only or FAULTS) and name not in SUBMITTING]
    first = [rng.choice(submitting)] if submitting and (only or rng.random() < 0.7) else []
    times = -(-count // len(others)) if others else 0
    rest = rng.sample(others * times, min(count - len(first), len(others) * times))
    return first + sorted(rest, key=CLOSING_KILLED.__eq__)


def disturb(scene: Scene, names: Sequence[str]) -> list[tuple[str, Evidence]]:
    """Run the sweep under faults, mend everything, and let the user give the command again; return the evidence."""
    found: list[tuple[str, Evidence]] = []
    waiting = list(names)
    if waiting and waiting[0] in SUBMITTING:
        found.append((waiting[0], _inject(scene, waiting.pop(0))))
    scene.type(*scene.submission())
    for name in waiting:
        scene.pass_time(scene.rng.expovariate(1 / MEAN_PAUSE_S))
        found.append((name, _strike(scene, name)))
    scene.pass_time(scene.rng.uniform(0, 5))
    scene.settle_debts()
    mend(scene.lab)
    scene.open()
    scene.recover()
    return found


def _see_to_it_that_something_runs(scene: Scene) -> None:
    if not scene.jobs("RUNNING", "PENDING", waits_for_others=False):
        scene.type(*scene.submission("--retry-failed", "--retry-cancelled"))
    end = time.monotonic() + RUNS_S
    while time.monotonic() < end and not scene.jobs("RUNNING", closing=False):
        scene.pass_time(0.3)


def _strike(scene: Scene, name: str) -> Evidence:
    """Inject a fault as soon as there is something that it can strike."""
    end = time.monotonic() + PATIENCE_S
    while True:
        _see_to_it_that_something_runs(scene)
        try:
            return _inject(scene, name)
        except (LabError, LookupError, OSError, subprocess.TimeoutExpired) as error:
            if time.monotonic() > end:
                scene.notes.append(f"nothing to strike for {name}: {error!r}"[:300])
                return ""  # it does not count
        scene.pass_time(0.5)


def _inject(scene: Scene, name: str) -> Evidence:
    return FAULTS[name][1](scene)


def shown(found: Sequence[tuple[str, Evidence]]) -> list[tuple[str, str]]:
    """Return (fault, what shows that it struck), once the sweep is over."""
    return [(name, evidence if isinstance(evidence, str) else evidence()) for name, evidence in found]


def mend(lab: Lab) -> None:
    """Have everything of the lab up again; jobs live on."""
    lab._revive()
    for name, state in lab.node_states().items():
        if state not in ("idle", "mixed", "allocated"):
            lab.run(["scontrol", "update", f"NodeName={name}", "State=RESUME"])
    lab.wait_for(lab.is_up, timeout_s=90, what="all nodes to be up")


def sweep_by_seed(
    lab: Lab,
    seed: str,
    *,
    trainer: str,
    undisturbed: Mapping[str, Any] | None,
    only: Collection[str] = (),
    skews_s: Mapping[str, float] | None = None,
    count: int = NUM_FAULTS,
    seeds: int = 30,
) -> tuple[list[tuple[str, str]], Outcome, Scene]:
    """Run one sweep under faults in an empty lab; return (fault, evidence) of each, and what came of it."""
    rng = random.Random(seed)
    lab.reset()
    partition = rng.choice(PARTITIONS)
    scene = Scene(lab, rng=rng, trainer=trainer, partition=partition, seeds=seeds, skews_s=skews_s or {})
    names = schedule(rng, count=count, only=only)
    lab.set_limits(max_submit=-1 if SLOW in names else rng.choice(LIMITS))
    found = disturb(scene, names)
    evidence = shown(found)
    return evidence, scene.judge(undisturbed if undisturbed is not None else scene.undisturbed()), scene


def real_undisturbed(lab: Lab) -> dict[str, Any]:
    """Return what the real trainer's runs come to when nobody disturbs them."""
    lab.reset()
    scene = Scene(lab, rng=random.Random(0), trainer="real")
    scene.type(*scene.submission())
    scene.recover()
    return {folder.name: signature(folder) for folder in scene.sweep.runs.glob("[!.]*")}


def bench(ledger: Ledger, *, folder: Path, seed: int, until: float, only: Collection[str] = ()) -> None:
    """Run sweeps until that time; every fault of a sweep is charged with what the sweep came to.

    Args:
        ledger: where that is written down.
        folder: for the labs.
        seed: of the schedule.
        until: start no sweep after this time.monotonic().
        only: names of functions of `slurm_faults`, such as "trainer_hung": draw from these; empty: from all.
    """
    only = [name for name, (_, fault) in FAULTS.items() if fault.__name__ in only]
    real: dict[str, Any] | None = None
    for number in range(10**6):
        if time.monotonic() > until:
            return
        name = f"{seed}.{number}"
        trainer = "real" if number % REAL_EVERY == REAL_EVERY - 1 else "fake"
        apart = number % APART_EVERY == APART_EVERY - 1
        place = folder / "lab"  # one for all: what the real trainer publishes names its recording
        with lab_of_three(place, apart=apart) as lab:
            if trainer == "real" and real is None:
                real = real_undisturbed(lab)
            begun = time.monotonic()
            evidence, outcome, scene = sweep_by_seed(
                lab,
                name,
                trainer=trainer,
                undisturbed=real if trainer == "real" else None,
                only=only,
                skews_s=SKEWS_S if apart else None,
            )
        kind = f"{trainer}, {scene.partition}{', nodes apart' if apart else ''}"
        print(f"{name} ({kind}): {time.monotonic() - begun:.0f} s", flush=True)
        for fault, words in evidence:
            print(f"    {'hit ' if words else 'miss'} {fault}: {words}", flush=True)
        for note in scene.notes:
            print(f"    note {note}", flush=True)
        for note in outcome.notes:
            print(f"  ! {note}", flush=True)
        for fault, words in evidence:
            ledger.add(
                Injection(
                    kind=FAULTS[fault][0],
                    fault=fault,
                    seed=name,
                    hit=bool(words),
                    lost=outcome.lost,
                    duplicated=outcome.duplicated,
                    wrong=outcome.wrong,
                    note="; ".join(outcome.notes)[:2000],
                )
            )
        if outcome.notes:
            kept = ledger.path.parent / f"chaos-slurm-{name}"
            shutil.copytree(scene.sweep.events, kept, dirs_exist_ok=True)
            (kept / "commands.log").write_text("\n".join(scene.said))
        shutil.rmtree(place)
