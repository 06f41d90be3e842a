"""Every way in which a job ends on a real Slurm, and what becomes of its runs: one scene with many tasks at once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import MEMORY_CGROUPS, expected_state
from proc import state_of
from slurm_job import PACED_TRAINER, SlurmTask, make_slurm_task, submit
from slurm_lab.lab import Lab
from tiny import Worker, config, write_recording, write_task

from band.config import RunConfig, to_dict
from band.files import append_line

LONG = {"epochs": 60, "epoch_s": 0.25, "checkpoint_every": 5}
GATED = {**LONG, "gated": True}
ENDLESS = {**LONG, "epochs": 100_000}
SHORT = {"epochs": 4, "epoch_s": 0.05}
REAL_EPOCHS = 50
REAL_STEP_S = 1.0  # a step as long as the gate is shut: four minutes would pass before such a run could end
PATIENCE_S = 300  # with a machine that does much else
SEGFAULT = [2, int(signal.SIGSEGV)]


def real_configs() -> dict[str, RunConfig]:
    train = {"max_epochs": REAL_EPOCHS, "checkpoint_s": 1.0}
    return {f"run{seed}": config(seed=seed, train=train) for seed in (0, 1)}


@dataclass
class Scene:
    """Tasks that have come to their ends, and the jobs that they were elements of."""

    lab: Lab
    tasks: dict[str, SlurmTask]
    jobs: dict[str, str]  # {name of a task: "12_3"}
    account: dict[str, list[tuple[str, str]]]  # {job: (state, exit code) of each of its starts}


class Director:
    """Sends tasks to the lab and waits for what they do."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.tasks: dict[str, SlurmTask] = {}
        self.jobs: dict[str, str] = {}

    def submit(self, *options: str, exports: dict[str, str] | None = None, **runs: dict) -> None:
        """Submit tasks of the fake trainer, {name: runs}, as one array."""
        for name, what in runs.items():
            self.tasks.setdefault(name, make_slurm_task(self.lab.home / name, what))
        self.send(list(runs), *options, exports=exports or {})

    def submit_real(self, recording: Path, name: str, *options: str, **exports: str) -> None:
        """Submit one task of the real trainer."""
        runs = {run: to_dict(what) for run, what in real_configs().items()}
        task = self.tasks[name] = make_slurm_task(self.lab.home / name, runs, recording=recording)
        exports = {"PACED_STEP_S": str(REAL_STEP_S), "PACED_WHILE": str(task.gate), **exports}
        self.send([name], *options, exports=exports, trainer=PACED_TRAINER)

    def send(self, names: list[str], *options: str, **how: Any) -> None:
        """Submit tasks that are there, as one array."""
        job = submit(self.lab, [self.tasks[name] for name in names], *options, **how)
        self.jobs |= {name: f"{job}_{index}" for index, name in enumerate(names)}

    def wait_for_checkpoint(self, *names: str) -> None:
        for name in names:
            self.lab.wait_for(
                lambda task=self.tasks[name]: task.events("mirrored"), timeout_s=PATIENCE_S, what=f"{name} at home"
            )

    def wait_for_state(self, names: list[str], *states: str) -> None:
        for name in names:
            self.lab.wait_for_job(self.jobs[name], *states, timeout_s=PATIENCE_S)

    def scene(self) -> Scene:
        """Return what has become of all, when Slurm's accounts are complete."""
        columns = ["--format=JobID%20,State%20,ExitCode", "--allocations", "--duplicates", "--parsable2", "--noheader"]

        def account() -> dict[str, list[tuple[str, str]]]:
            found: dict[str, list[tuple[str, str]]] = {}
            for line in self.lab.run(["sacct", *columns], check=True).stdout.splitlines():
                job, state, code = line.split("|")
                found.setdefault(job, []).append((state.split()[0], code))
            return found

        def is_complete() -> bool:
            seen = account()
            return all(job in seen and seen[job][-1][0] not in ("RUNNING", "PENDING") for job in self.jobs.values())

        self.lab.wait_for(is_complete, timeout_s=PATIENCE_S, what="the accounts")
        return Scene(self.lab, self.tasks, self.jobs, account())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("tiny") / "tiny.h5")


@pytest.fixture(scope="module")
def scene(shared_slurm_lab: Lab, recording: Path) -> Iterator[Scene]:
    """One job for each ending that leaves both nodes alive."""
    lab = shared_slurm_lab
    lab.reset()
    with lab.configured(SlurmctldParameters="preempt_send_user_signal", KillWait=20):
        director = Director(lab)
        director.submit_real(recording, "limited", "--time=1")
        director.submit_real(recording, "again")
        preempt(director, recording)
        director.submit("--mem=400", hog={"a": {**ENDLESS, "hog_at": 6}})
        director.submit(
            undisturbed={"a": LONG, "b": SHORT},
            raises={"a": SHORT, "b": {**SHORT, "raise_at": 2}},
            segfaults={"a": SHORT, "b": {**SHORT, "signal_at": SEGFAULT}},
            lacks={"a": SHORT, "b": {**SHORT, "hog_at": 2, "hog_limit_bytes": 150_000_000}},
        )
        director.submit(last_but_one={"a": SHORT}, requeued={"a": GATED, "b": SHORT})
        director.submit(cancelled={"a": ENDLESS}, spared={"a": SHORT})
        director.submit(all_cancelled={"a": ENDLESS}, all_cancelled_too={"a": ENDLESS})
        director.submit(trimmed={"a": GATED, "b": GATED})
        shun(director)
        director.submit(exports={"BAND_CODE": "0" * 64}, other_code={"a": SHORT})
        director.submit_real(recording, "other_versions", BAND_VERSIONS='{"python": "2.7.18", "torch": ""}')
        bar(director)
        act(director)
        wait_for_ends(director)
        yield director.scene()


def preempt(director: Director, recording: Path) -> None:
    """Have three jobs preempted: one with no grace, two with some, of which one asks to be told of it."""
    lab = director.lab
    director.submit_real(recording, "preempted", "--partition=preemptible", "--gres=gpu:2", "--nodelist=c1")
    grace = ["--partition=graceful", "--gres=gpu:1", "--nodelist=c2"]
    director.submit_real(recording, "warned", *grace, "--signal=B:USR2@60")
    director.submit(*grace, unwarned={"a": GATED})
    director.wait_for_checkpoint("preempted", "warned", "unwarned")
    for node in ("c1", "c2"):
        lab.sbatch("--partition=urgent", "--gres=gpu:2", f"--nodelist={node}", wrap="sleep 1")


def shun(director: Director) -> None:
    """Submit a task at which two attempts have died without a word on each node."""
    task = director.tasks["shunned"] = make_slurm_task(director.lab.home / "shunned", {"a": SHORT})
    for number, host in enumerate(["c1", "c1", "c2", "c2"]):
        name = f"j{number}-r0"
        event = {"t": float(number), "event": "claimed", "claim": number, "attempt": name, "host": host}
        append_line_in(task.sweep.event_file("0000", attempt=name), event)
    director.send(["shunned"])


def append_line_in(path: Path, event: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    append_line(path, event)


def bar(director: Director) -> None:
    """Submit a task whose results home does not take."""
    task = director.tasks["unsynced"] = make_slurm_task(director.lab.home / "unsynced", {"a": SHORT})
    task.sweep.runs.mkdir()
    for node in director.lab.nodes.values():
        node.protect(task.sweep.runs)
    director.send(["unsynced"], "--time=1")


def act(director: Director) -> None:
    """Do to the tasks what their names say."""
    lab, jobs, tasks = director.lab, director.jobs, director.tasks

    def cancel_a_run() -> None:
        tasks["trimmed"].task_json.with_name("skip.json").write_text('{"runs": ["b"]}')
        lab.run(["scancel", "--batch", "--signal=USR2", jobs["trimmed"]], check=True)

    array = jobs["all_cancelled"].partition("_")[0]
    actions = {
        ("requeued",): lambda: lab.run(["scontrol", "requeue", jobs["requeued"]], check=True),
        ("again",): lambda: lab.run(["scontrol", "requeue", jobs["again"]], check=True),
        ("cancelled",): lambda: lab.run(["scancel", jobs["cancelled"]], check=True),
        ("all_cancelled", "all_cancelled_too"): lambda: lab.run(["scancel", array], check=True),
        ("trimmed",): cancel_a_run,
    }

    shut = {"limited", "preempted", "warned", "again", "unwarned", "requeued", "trimmed"}

    def is_done() -> bool:
        for names in [names for names in actions if all(tasks[name].events("mirrored") for name in names)]:
            actions.pop(names)()
        for name in [name for name in shut if tasks[name].endings() or len(tasks[name].events("started")) > 1]:
            shut.remove(name)
            tasks[name].gate.unlink()
        return not (actions or shut)

    lab.wait_for(is_done, timeout_s=PATIENCE_S, what="tasks that were disturbed")


def wait_for_ends(director: Director) -> None:
    """Wait until every task has come to its end."""
    done = ["limited", "preempted", "warned", "again", "undisturbed", "requeued", "spared", "last_but_one"]
    director.wait_for_state([*done, "trimmed", "shunned"], "COMPLETED")
    director.wait_for_state(["unwarned"], "COMPLETED", "TIMEOUT")
    director.wait_for_state(["unsynced"], "FAILED")


def assert_finished_alone(scene: Scene, name: str, **epochs: int) -> None:
    """Assert that a continued task came to what an undisturbed one comes to, in two starts, and left nothing."""
    task = scene.tasks[name]
    assert {run: task.state(run) for run in task.published()} == {
        run: expected_state(run, epochs=count) for run, count in epochs.items()
    }
    assert len(task.attempts()) == 2 and task.checkpoints_home() == []
    trained = task.trained()
    assert set(trained) == {f"{run} {epoch}" for run, count in epochs.items() for epoch in range(count)}


def test_an_undisturbed_job_finds_the_nodes_scratch_and_ends_with_0(scene: Scene) -> None:
    task = scene.tasks["undisturbed"]
    assert scene.account[scene.jobs["undisturbed"]] == [("COMPLETED", "0:0")]
    assert task.state("a") == expected_state("a", epochs=60)
    (claimed,) = task.events("claimed")
    assert claimed["scratch"] == "/disk/scratch/root/band" and claimed["volatile"] is False
    (staged,) = task.events("staged")
    assert staged["source"] == "scratch" and staged["path"].startswith("/disk/scratch/root/band/data/")
    assert [event["code"] for event in task.events("ended")] == [0]


@pytest.mark.parametrize(
    ("name", "error"), [("raises", "RuntimeError"), ("segfaults", "SIGSEGV"), ("lacks", "OutOfMemory")]
)
def test_a_trainer_that_fails_fails_alone(scene: Scene, name: str, error: str) -> None:
    if name == "lacks" and not (MEMORY_CGROUPS / "cgroup.procs").exists():
        pytest.skip(f"no cgroups of version 1 at {MEMORY_CGROUPS}")
    task = scene.tasks[name]
    (failed,) = task.events("failed")
    assert (failed["runs"], failed["error"]) == (["b"], error)
    assert list(task.published()) == ["a"] and task.endings() == []
    assert scene.account[scene.jobs[name]] == [("FAILED", "1:0")]


def test_a_step_that_is_killed_for_memory_leaves_its_checkpoint_at_home_and_no_word(scene: Scene) -> None:
    task = scene.tasks["hog"]
    ((state, _),) = scene.account[scene.jobs["hog"]]
    assert state in ("FAILED", "OUT_OF_MEMORY"), "which of them depends on what did the killing"
    assert "exceeded memory limit" in task.log()
    assert task.events("ended") == [] and task.checkpoints_home()


def test_what_is_cancelled_stays_cancelled_with_its_checkpoint_at_home(scene: Scene) -> None:
    for name in ("cancelled", "all_cancelled", "all_cancelled_too"):
        assert [state for state, _ in scene.account[scene.jobs[name]]] == ["CANCELLED"]
        task = scene.tasks[name]
        assert task.endings() == [("SIGTERM", False)] and [event["code"] for event in task.events("ended")] == [4]
        assert max(event["step"] for event in task.events("mirrored")) == task.events("checkpoint")[-1]["step"]
        assert task.checkpoints_home()
    assert scene.account[scene.jobs["spared"]] == [("COMPLETED", "0:0")]


def test_a_job_requeued_by_hand_goes_on_and_its_neighbours_are_left_alone(scene: Scene) -> None:
    assert [state for state, _ in scene.account[scene.jobs["requeued"]]] == ["REQUEUED", "COMPLETED"]
    assert scene.account[scene.jobs["last_but_one"]] == [("COMPLETED", "0:0")]
    assert scene.tasks["requeued"].endings() == [("requeued", True)]
    assert_finished_alone(scene, "requeued", a=60, b=4)


def test_a_preemption_without_notice_loses_nothing(scene: Scene) -> None:
    """At the end of its grace such a job is requeued or, if slurmctld looks at time limits just then, timed out."""
    task = scene.tasks["unwarned"]
    states = [state for state, _ in scene.account[scene.jobs["unwarned"]]]
    if states == ["TIMEOUT"]:
        assert task.endings() == [("SIGTERM", False)] and task.checkpoints_home()
        job = submit(scene.lab, [task])
        scene.lab.wait_for_job(f"{job}_0", "COMPLETED")
    else:
        assert states == ["PREEMPTED", "COMPLETED"] and task.endings() == [("requeued", True)]
    assert_finished_alone(scene, "unwarned", a=60)


def test_runs_cancelled_under_way_are_left_at_a_checkpoint_and_the_others_go_on_in_the_same_attempt(
    scene: Scene,
) -> None:
    task = scene.tasks["trimmed"]
    assert scene.account[scene.jobs["trimmed"]] == [("COMPLETED", "0:0")]
    assert list(task.published()) == ["a"] and task.state("a") == expected_state("a", epochs=60)
    assert [event["runs"] for event in task.events("started")] == [["a", "b"], ["a"]]
    trained = task.trained()
    assert len(trained) == len(set(trained)) and 0 < sum(epoch.startswith("b ") for epoch in trained) < 60
    assert task.checkpoints_home(), "what b has come to is kept"


def test_a_node_on_which_attempts_died_without_a_word_is_left_once(scene: Scene) -> None:
    task, job = scene.tasks["shunned"], scene.jobs["shunned"]
    assert [state for state, _ in scene.account[job]] == ["REQUEUED", "COMPLETED"]
    first, second = [event for event in task.events("claimed") if "pid" in event]
    (left,) = task.events("interrupted")
    assert (left["left"], left["requeued"]) == (first["host"], True)
    assert scene.lab.job(job)["ExcNodeList"] == first["host"] != second["host"]
    assert task.state("a") == expected_state("a", epochs=4)


@pytest.mark.parametrize(("name", "error"), [("other_code", "CodeMismatch"), ("other_versions", "VersionMismatch")])
def test_other_code_or_versions_than_were_submitted_are_refused_with_78(scene: Scene, name: str, error: str) -> None:
    task = scene.tasks[name]
    assert scene.account[scene.jobs[name]] == [("FAILED", "78:0")]
    (failed,) = task.events("failed")
    assert failed["error"] == error and failed["runs"] == [
        run["id"] for run in json.loads(task.task_json.read_text())["runs"]
    ]
    assert task.events("ended")[-1]["code"] == 78 and task.trained() == []
    assert name == "other_code" or ("python is" in failed["message"] and "not 2.7.18" in failed["message"])


def test_a_home_that_refuses_until_the_deadline_ends_with_75_and_the_node_keeps_the_run(scene: Scene) -> None:
    task, lab = scene.tasks["unsynced"], scene.lab
    assert scene.account[scene.jobs["unsynced"]] == [("FAILED", "75:0")]
    (interrupted,) = task.events("interrupted")
    assert interrupted["reason"] == "home cannot be written" and interrupted["runs"] == ["a"]
    assert interrupted["requeued"] is False and interrupted["volatile"] is False
    waited_s = task.events("ended")[0]["t"] - task.events("claimed")[0]["t"]
    assert 35 < waited_s < 60
    place = lab.nodes[interrupted["host"]].scratch / Path(interrupted["path"]).relative_to("/disk/scratch")
    assert (place / "0/runs/a/result.json").exists()
    for node in lab.nodes.values():
        node.repair()
    before = task.trained()
    job = submit(lab, [task], f"--nodelist={interrupted['host']}")
    lab.wait_for_job(f"{job}_0", "COMPLETED")
    assert task.state("a") == expected_state("a", epochs=4) and task.trained() == before
    assert not place.exists()


@pytest.mark.parametrize(
    ("name", "states", "endings"),
    [
        ("preempted", ["PREEMPTED", "COMPLETED"], [("requeued", True)]),
        ("warned", ["REQUEUED", "COMPLETED"], [("preemption", True)]),
        ("again", ["REQUEUED", "COMPLETED"], [("requeued", True)]),
        ("limited", ["REQUEUED", "COMPLETED"], [("time limit", True)]),
    ],
)
def test_the_real_trainer_continues_to_the_very_bits_of_an_undisturbed_run(
    scene: Scene, recording: Path, tmp_path: Path, name: str, states: list[str], endings: list[tuple[str, bool]]
) -> None:
    task = scene.tasks[name]
    assert [state for state, _ in scene.account[scene.jobs[name]]] == states
    assert task.endings() == endings
    starts = [event["step"] for event in task.events("started")]
    assert starts[0] == 0 and starts[1] == max(event["step"] for event in task.attempts()[0] if "step" in event)
    assert_as_undisturbed(task, recording=recording, folder=tmp_path)


def assert_as_undisturbed(task: SlurmTask, *, recording: Path, folder: Path) -> None:
    """Assert that a task of the real trainer came to the bits of a training that nobody disturbed."""
    configs = real_configs()
    worker = Worker(write_task(folder, recording, configs), folder / "work", recording, list(configs))
    assert worker.wait() == 0
    assert sorted(task.published()) == sorted(configs)
    for run, published in task.published().items():
        for file in ("metrics.csv", "model.pt"):
            assert (published / file).read_bytes() == (folder / "work/runs" / run / file).read_bytes()


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file under a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_of_a_lost_node_nothing_is_lost_and_what_it_does_on_waking_changes_nothing_published(
    slurm_lab: Lab, recording: Path, tmp_path: Path
) -> None:
    lab, director = slurm_lab, Director(slurm_lab)
    with lab.configured(SlurmdTimeout=5):
        lab.run(["scontrol", "update", "NodeName=c2", "State=DRAIN", "Reason=test"], check=True)
        director.submit_real(recording, "lost")
        director.submit(alive={"a": GATED})
        director.wait_for_checkpoint("lost", "alive")
        director.submit(frozen={"a": LONG})  # the last, and so stopped long before it could end
        director.wait_for_checkpoint("frozen")
        frozen, alive, lost = (director.tasks[name] for name in ("frozen", "alive", "lost"))
        lab.run(["scontrol", "update", "NodeName=c2", "State=RESUME"], check=True)
        asleep = lab.nodes["c1"].pids(job=director.jobs["frozen"])
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        lab.nodes["c1"].kill_slurmd()
        for task in (alive, lost):
            lab.wait_for(task.endings, timeout_s=PATIENCE_S, what="the attempt on the lost node to give way")
            task.gate.unlink()
        lab.wait_for(frozen.published, timeout_s=PATIENCE_S, what="the second attempt at the frozen task")
        director.wait_for_state(["frozen", "alive", "lost"], "COMPLETED")
        before = tree(frozen.sweep.runs)
        stopped = [pid for pid in asleep if state_of(pid) == "T"]  # and not what was about to end as it was stopped
        assert len(stopped) >= 2, "supervisor and trainer"
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        lab.wait_for(frozen.endings, timeout_s=PATIENCE_S, what="the frozen attempt to give way")
        lab.wait_for(lambda: not lab.nodes["c1"].pids(job=director.jobs["frozen"]), what="its processes to end")
        lab.nodes["c1"].start()
    assert_moved_once(director)
    assert_as_undisturbed(lost, recording=recording, folder=tmp_path)
    assert tree(frozen.sweep.runs) == before and not frozen.sweep.superseded.exists()


def assert_moved_once(director: Director) -> None:
    """Assert that each task went from the lost node to the other, once, and that its first attempt gave way."""
    frozen, alive, lost = (director.tasks[name] for name in ("frozen", "alive", "lost"))
    for task in (frozen, alive, lost):
        assert task.endings() == [("another attempt holds the task", False)]
        assert [event["host"] for event in task.events("claimed")] == ["c1", "c2"]
    for task in (frozen, alive):
        assert task.state("a") == expected_state("a", epochs=60)
        assert [event["run"] for event in task.events("published")] == ["a"]
    assert sorted(event["run"] for event in lost.events("published")) == ["run0", "run1"]
    accounts = director.scene().account
    assert [[state for state, _ in accounts[job]] for job in director.jobs.values()] == [["NODE_FAIL", "COMPLETED"]] * 3
