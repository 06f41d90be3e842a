"""A sweep at Slurm under several faults at once comes to what it comes to undisturbed; `make chaos` does more."""

from __future__ import annotations

import random
import time
from pathlib import Path

from slurm_lab.lab import Lab

from reliability.slurm_faults import CLOSING_KILLED
from reliability.slurm_scene import Scene, is_of_later, repeated
from reliability.slurm_sweeps import SKEWS_S, disturb, lab_of_three, schedule, shown

FAULTS = (
    "`sbatch` queues, and reports a time-out",
    "supervisor and trainer killed",
    "array requeued",
    "controller restarted",
    "`submit` killed",
    "`scancel` of what waits",
)


def test_sixty_runs_under_faults_of_slurm_and_of_their_processes_are_as_undisturbed(
    can_run_slurm: None, lab_folder: Path
) -> None:
    begun = time.time()
    with lab_of_three(lab_folder, apart=True) as lab:
        scene = Scene(lab, rng=random.Random(1), epoch_s=0.1, skews_s=SKEWS_S)
        struck = shown(disturb(scene, FAULTS))
        assert sum(bool(words) for _, words in struck) >= 4, struck
        assert {host for _, host, _ in scene.events()} > set(SKEWS_S)
        assert all(begun < event["t"] < time.time() for _, _, event in scene.events()), (
            "clocks are as off as they should"
        )
        outcome = scene.judge(scene.undisturbed())
        assert len(scene.undisturbed()) == 60 and not outcome.notes, "\n".join([*outcome.notes, *scene.said])


def test_the_judge_sees_what_is_lost_changed_and_left_behind(slurm_lab: Lab) -> None:
    scene = Scene(slurm_lab, rng=random.Random(1), seeds=1, epoch_s=0.1)
    scene.type(*scene.submission())
    scene.recover()
    wanted = scene.undisturbed()
    assert not scene.judge(wanted).notes
    slurm_lab.sbatch("--hold", wrap="true")
    first, second = wanted
    outcome = scene.judge({**wanted, first: {}, "third": {}})
    assert (outcome.lost, outcome.wrong, outcome.duplicated) == (1, 2, 0), outcome.notes
    assert second not in "".join(outcome.notes)


def test_a_start_from_before_a_checkpoint_that_was_at_home_or_on_its_node_is_work_lost() -> None:
    def start(step: int, host: str) -> list[str]:
        first = [{"event": "claimed", "t": 1.0}, {"event": "checkpoint", "t": 2.0, "step": 5, "runs": ["a"]}]
        first += [
            {"event": "mirrored", "t": 3.0, "step": 5},
            {"event": "checkpoint", "t": 4.0, "step": 9, "runs": ["a"]},
        ]
        again = [{"event": "claimed", "t": 5.0}, {"event": "started", "t": 6.0, "step": step, "runs": ["a"]}]
        return list(repeated([*(("1", "c1", event) for event in first), *(("1", host, event) for event in again)]))

    assert not start(9, "c1") and not start(5, "c2")
    assert start(5, "c1") and start(0, "c2")


def test_a_run_counts_as_published_twice_only_if_its_folder_was_put_in_place_again(tmp_path: Path) -> None:
    def bring() -> float:
        (tmp_path / "incoming").mkdir()
        (tmp_path / "incoming").replace(tmp_path / "run")
        time.sleep(0.02)
        return time.time()

    first = bring()
    time.sleep(0.02)
    assert not is_of_later(tmp_path / "run", t=first)
    assert bring() > first and is_of_later(tmp_path / "run", t=first)


def test_a_schedule_draws_from_what_was_asked_for_and_ends_with_what_ends_the_sweep() -> None:
    few = ("trainer hung", CLOSING_KILLED, FAULTS[0])
    for seed in range(20):
        first, *rest = schedule(random.Random(seed), count=9, only=few)
        assert first == FAULTS[0] and rest == sorted(rest, key=CLOSING_KILLED.__eq__)
        assert len(rest) == 8 and 3 <= rest.count("trainer hung") <= 5
        drawn = schedule(random.Random(seed), count=12)
        assert len(set(drawn)) == 12 and CLOSING_KILLED not in drawn[:-1]
