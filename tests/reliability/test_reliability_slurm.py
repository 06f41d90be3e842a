"""A sweep at Slurm under several faults at once comes to what it comes to undisturbed; `make chaos` does more."""

from __future__ import annotations

import random
from pathlib import Path

from slurm_lab.lab import Lab

from reliability.slurm_scene import Scene, repeated
from reliability.slurm_sweeps import disturb, lab_of_three, shown

FAULTS = (
    "`sbatch` queues, and reports a time-out",
    "supervisor and trainer killed",
    "array requeued",
    "controller restarted",
    "`submit` killed",
    "`scancel` of what waits",
)


def test_sixty_runs_under_faults_of_slurm_and_of_their_processes_are_as_undisturbed(
    can_run_slurm: None, tmp_path: Path
) -> None:
    with lab_of_three(tmp_path / "lab") as lab:
        scene = Scene(lab, rng=random.Random(1), epoch_s=0.1)
        struck = shown(disturb(scene, FAULTS))
        assert sum(bool(words) for _, words in struck) >= 4, struck
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
