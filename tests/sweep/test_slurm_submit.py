"""A submission to Slurm that is killed before or after each change of a file and each request to Slurm."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm
from local_sweep import make_sweep
from stepping import die_after, die_before, hooked, run_until_killed

from band.cli.sweep import dispatch
from band.errors import ClaimError
from band.run_dir import SweepDir
from band.slurm import cluster, command, jobs
from band.slurm.command import Answer, SlurmError
from band.sweep import hold, slurm_scheduler
from band.sweep.journal import append, planned_tasks, read_journals
from band.sweep.ledger import read_intents
from band.sweep.manifest import read_manifest
from band.sweep.schedulers import scheduler_for
from band.sweep.snapshot import take_snapshot
from band.sweep.status import take_survey

TEMPLATE = "#!/bin/bash\n#SBATCH --time=10\n#SBATCH --mem=1G\n"
RUNS = ("run-0", "run-1", "run-2")


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepDir:
    """A sweep of three runs beside a template, with the code's snapshot taken: its files are none of a submission's."""
    made = make_sweep(tmp_path, {run: {"seed": number} for number, run in enumerate(RUNS)})
    (tmp_path / "sbatch_templates").mkdir()
    (tmp_path / "sbatch_templates/fake.sh").write_text(TEMPLATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("BAND_SETTLE_S", "0")
    take_snapshot(made.sweep)
    return made.sweep


def install(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that asks Slurm ask this one."""
    monkeypatch.setattr(command, "ask", slurm.ask)
    monkeypatch.setattr(cluster, "ask", slurm.ask)
    monkeypatch.setattr(jobs, "queued", slurm.queued)
    monkeypatch.setattr(jobs, "accounted", slurm.accounted)
    monkeypatch.setattr(slurm_scheduler, "queued", slurm.queued)
    monkeypatch.setattr(slurm_scheduler, "accounted", slurm.accounted)
    monkeypatch.setattr(hold, "slurm_says_over", lambda attempt: False)


def submit(sweep: SweepDir) -> int:
    return dispatch(["submit", str(sweep.path), "--cluster", "fake", "--json"])


def states(sweep: SweepDir) -> dict[str, str]:
    survey = take_survey(sweep, read_manifest(sweep.path), scheduler=scheduler_for(sweep))
    return {run: status.state for run, status in survey.runs.items()}


def check_nothing_is_twice_and_nothing_forgotten(sweep: SweepDir, slurm: FakeSlurm) -> None:
    """Each task is in one released array with its calls and a closing job, or planned; Slurm has nothing else of it."""
    arrays = [array for array in read_journals(sweep) if not array.is_dead]
    assert {array.job_id for array in arrays} == set(slurm.arrays())
    queue = slurm.jobs()
    for array in arrays:
        assert array.is_sent and not queue[array.job_id]["is_held"] and queue[array.job_id]["name"] == array.token
        assert queue[array.job_id]["tasks"] == len(array.tasks)
        folder = sweep.submission(array.submission) / "submitit"
        assert all((folder / f"{array.job_id}_{n}_submitted.pkl").exists() for n in range(len(array.tasks)))
        closing = [job_id for job_id, job in queue.items() if job["name"] == f"{array.token}-closing"]
        assert closing == [array.closing_job_id]
    sent = [task for array in arrays for task in array.tasks]
    planned = [task for _, tasks in planned_tasks(read_intents(sweep), read_journals(sweep)) for task in tasks]
    members = {task: runs for intent in read_intents(sweep) for task, runs in intent.tasks.items()}
    runs = Counter(run for task in [*sent, *planned] for run in members[task])
    assert runs == Counter(RUNS)
    assert sorted(sent) == sorted(set(sent))


@pytest.mark.parametrize(("death", "most"), [(die_after, 10_000), (die_before, 3)], ids=["no limit", "a hidden limit"])
def test_a_submission_killed_anywhere_is_brought_to_order_by_the_next(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: object, most: int
) -> None:
    for number in itertools.count():
        for folder in ("tasks", "submissions", "logs"):
            shutil.rmtree(sweep.path / folder, ignore_errors=True)
        slurm = FakeSlurm(tmp_path / "slurm.json", most=most)
        install(slurm, monkeypatch)
        was_killed = run_until_killed(lambda: submit(sweep), number=number, death=death)  # type: ignore[arg-type]
        assert set(states(sweep).values()) <= {"new", "held", "queued", "planned", "submit_unknown"}
        submit(sweep)
        check_nothing_is_twice_and_nothing_forgotten(sweep, slurm)
        jobs_before = set(slurm.jobs())
        submit(sweep)
        assert set(slurm.jobs()) == jobs_before, "submitting again sends nothing"
        if not was_killed:
            break
    assert number > 30


class Cut(FakeSlurm):
    """A Slurm that does what one command asks, and whose answer is lost."""

    def __init__(self, path: Path, *, command: str, times: int = 1) -> None:
        super().__init__(path)
        self.command, self.times = command, times

    def run(self, argv: Sequence[str], *, timeout_s: float = 20.0) -> str:
        answer = super().run(argv, timeout_s=timeout_s)
        if self.times and self.command in argv:
            self.times -= 1
            raise SlurmError(f"{argv[0]}: Socket timed out on send/recv operation", kind="timeout")
        return answer


@pytest.mark.parametrize(("lost", "code"), [("sbatch", 3), ("release", 3)])
def test_a_lost_answer_leaves_jobs_held_until_they_are_found_by_their_name(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, code: int
) -> None:
    slurm = Cut(tmp_path / "slurm.json", command=lost)
    install(slurm, monkeypatch)
    assert submit(sweep) == code
    assert set(states(sweep).values()) == {"submit_unknown" if lost == "sbatch" else "queued"}
    monkeypatch.setenv("BAND_SETTLE_S", "600")
    assert dispatch(["reconcile", str(sweep.path)]) == 0
    check_nothing_is_twice_and_nothing_forgotten(sweep, slurm)
    assert len(slurm.arrays()) == 1 and set(states(sweep).values()) == {"queued"}


def test_of_two_jobs_of_one_submission_one_is_kept(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = Cut(tmp_path / "slurm.json", command="sbatch")
    install(slurm, monkeypatch)
    submit(sweep)
    (script,) = sweep.submissions.glob("*/array.1.sh")
    slurm.run(["sbatch", str(script)])
    assert len(slurm.arrays()) == 2
    dispatch(["reconcile", str(sweep.path)])
    assert list(slurm.arrays()) == ["100"]
    check_nothing_is_twice_and_nothing_forgotten(sweep, slurm)


def test_a_job_that_turns_up_after_it_was_taken_for_lost_is_cancelled_and_never_runs(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, found = FakeSlurm(tmp_path / "lost.json"), FakeSlurm(tmp_path / "found.json")
    install(Cut(tmp_path / "lost.json", command="sbatch"), monkeypatch)
    submit(sweep)
    install(found, monkeypatch)
    monkeypatch.setenv("BAND_SETTLE_S", "600")
    submit(sweep)
    assert set(states(sweep).values()) == {"submit_unknown"} and not found.jobs(), "too early to say"
    monkeypatch.setenv("BAND_SETTLE_S", "0")
    submit(sweep)
    check_nothing_is_twice_and_nothing_forgotten(sweep, found)
    state = found.load()
    state["jobs"]["90"] = lost.load()["jobs"]["100"]
    found.path.write_text(json.dumps(state))
    dispatch(["reconcile", str(sweep.path)])
    assert "90" not in found.jobs()
    check_nothing_is_twice_and_nothing_forgotten(sweep, found)


def test_what_somebody_cancels_before_its_release_stays_cancelled_until_it_is_retried(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = Cut(tmp_path / "slurm.json", command="sbatch")
    install(slurm, monkeypatch)
    submit(sweep)
    slurm.run(["scancel", "100"])
    submit(sweep)
    assert not slurm.jobs() and set(states(sweep).values()) == {"cancelled"}
    dispatch(["retry", str(sweep.path), "--cancelled"])
    submit(sweep)
    check_nothing_is_twice_and_nothing_forgotten(sweep, slurm)
    assert set(states(sweep).values()) == {"queued"}


def test_a_submit_that_was_taken_for_dead_as_it_wrote_its_tasks_requests_nothing_when_it_goes_on(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json")
    install(slurm, monkeypatch)
    others: list[int] = []

    def be_stopped(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if name == "replace" and Path(args[1]).name == "task.json" and not others:
            others.append(-1)
            with monkeypatch.context() as patch:
                patch.setattr(hold, "_is_over", lambda sweep, claim: True)
                others[0] = submit(sweep)
        return call()

    with hooked(be_stopped), pytest.raises(ClaimError, match="taken over by another process"):
        submit(sweep)
    assert others == [0]
    check_nothing_is_twice_and_nothing_forgotten(sweep, slurm)
    assert submit(sweep) == 0
    check_nothing_is_twice_and_nothing_forgotten(sweep, slurm)


def hold_for(reason: str, slurm: FakeSlurm, *, job_id: str = "100") -> None:
    state = slurm.load()
    state["jobs"][job_id] |= {"is_held": True, "held_for": reason}
    slurm.path.write_text(json.dumps(state))


@pytest.mark.parametrize("reason", ["launch failed requeued held", "JobHoldMaxRequeue"])
def test_what_slurm_itself_holds_is_let_go_by_the_next_submit_once(
    sweep: SweepDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reason: str,
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json")
    install(slurm, monkeypatch)
    dispatch(["submit", str(sweep.path), "--cluster", "fake", "--pack", "1"])
    assert slurm.released == ["100"]
    hold_for(reason, slurm)
    assert set(states(sweep).values()) == {"held"}
    capsys.readouterr()
    assert submit(sweep) == 0
    assert slurm.released == ["100", "100_[0-2]"] and set(states(sweep).values()) == {"queued"}
    said = capsys.readouterr().err
    assert f"released job 100_[0-2], which Slurm held ({reason})" in said and "3 runs of it queued or running" in said
    assert submit(sweep) == 0 and len(slurm.released) == 2
    check_nothing_is_twice_and_nothing_forgotten(sweep, slurm)


@pytest.mark.parametrize("reason", ["launch failed requeued held", "JobHoldMaxRequeue"])
def test_a_closing_job_that_slurm_itself_holds_is_let_go_and_cancelled_where_there_is_nothing_left_to_close(
    sweep: SweepDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reason: str,
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json")
    install(slurm, monkeypatch)
    submit(sweep)
    hold_for(reason, slurm, job_id="101")
    capsys.readouterr()
    assert submit(sweep) == 0 and slurm.released == ["100", "101"] and slurm.cancelled == []
    assert f"released its closing job 101, which Slurm held ({reason})" in capsys.readouterr().err
    append(sweep, "0001", array=1, step="closed")  # by another closing job, or a submit
    hold_for("JobHeldUser", slurm, job_id="101")
    submit(sweep)
    assert slurm.cancelled == []
    hold_for(reason, slurm, job_id="101")
    submit(sweep)
    assert slurm.released == ["100", "101"] and slurm.cancelled == ["101"]
    assert f"cancelled its closing job 101, which Slurm held ({reason})" in capsys.readouterr().err
    submit(sweep)
    assert slurm.cancelled == ["101"]


@pytest.mark.parametrize("reason", ["JobHeldUser", "JobHeldAdmin", "job requeued in held state"])
def test_what_somebody_holds_stays_held_and_submit_says_how_to_let_it_go(
    sweep: SweepDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reason: str,
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json")
    install(slurm, monkeypatch)
    dispatch(["submit", str(sweep.path), "--cluster", "fake", "--pack", "1"])
    hold_for(reason, slurm)
    capsys.readouterr()
    assert submit(sweep) == 4
    said = capsys.readouterr().err
    assert slurm.released == ["100"] and set(states(sweep).values()) == {"held"}
    assert f"job 100_[0-2] is held, Slurm's reason is {reason}" in said and "queued or running" not in said
    assert ("ask them why" if reason == "JobHeldAdmin" else "scontrol release 100_[0-2]") in said
    assert "3 runs of it held" in said


def test_what_slurm_does_not_let_go_is_said(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json")
    install(slurm, monkeypatch)
    submit(sweep)
    hold_for("JobHoldMaxRequeue", slurm)

    def run(argv: Sequence[str], **options: float) -> str:
        if "release" in argv:
            raise SlurmError("scontrol: Access/permission denied", kind="refused")
        return slurm.run(argv)

    monkeypatch.setattr(command, "ask", lambda argv, **options: Answer(run(argv), ""))
    assert submit(sweep) == 4
    assert "stays held (JobHoldMaxRequeue): scontrol: Access/permission denied" in capsys.readouterr().err


def test_a_refusal_for_good_is_passed_on_and_the_next_submit_may_ask_otherwise(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json")
    install(slurm, monkeypatch)
    monkeypatch.setattr(slurm, "sbatch", refuse)
    assert submit(sweep) == 3
    assert "invalid partition specified" in capsys.readouterr().err
    assert set(states(sweep).values()) == {"new"} and not slurm.jobs()
    monkeypatch.undo()
    install(slurm, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert submit(sweep) == 0
    check_nothing_is_twice_and_nothing_forgotten(sweep, slurm)


def refuse(state: object, argv: object) -> str:
    raise SlurmError("sbatch: invalid partition specified: moon", kind="refused")


@pytest.mark.parametrize(("given", "expected"), [("2", ["0-2%2"]), ("3", ["0-2%3"]), ("9", ["0-2%9"])])
def test_max_parallel_is_the_throttle_of_the_array(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: list[str]
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json")
    install(slurm, monkeypatch)
    dispatch(["submit", str(sweep.path), "--cluster", "fake", "--max-parallel", given, "--pack", "1"])
    assert [job["array"] for job in slurm.arrays().values()] == expected


def test_calls_of_an_array_that_was_taken_back_go_when_the_sweep_is_over(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json", most=3)
    install(slurm, monkeypatch)
    dispatch(["submit", str(sweep.path), "--cluster", "fake", "--pack", "1"])
    dead, sent, *_ = read_journals(sweep)
    assert dead.is_dead and sent.is_sent, "there was no room for a closing job"
    calls = sweep.submission("0001") / "submitit"
    submit(sweep)
    assert list(calls.glob(f"{sent.job_id}_*"))
    dispatch(["cancel", str(sweep.path), "--all"])
    submit(sweep)
    assert set(states(sweep).values()) == {"cancelled"} and not calls.exists()


def arrays_of(slurm: FakeSlurm) -> list[str]:
    return [job["array"] for job in slurm.arrays().values()]


def test_arrays_are_no_longer_than_the_cluster_allows_and_together_run_no_more_than_was_asked_for(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json", longest=2)
    install(slurm, monkeypatch)
    command_line = ["submit", str(sweep.path), "--cluster", "fake", "--pack", "1", "--max-parallel"]
    assert dispatch([*command_line, "2"]) == 0
    assert arrays_of(slurm) == ["0-1%2"] and sorted(states(sweep).values()) == ["planned", "queued", "queued"]
    assert dispatch(["throttle", str(sweep.path), "3"]) == 0
    assert arrays_of(slurm) == ["0-1%3", "0-0%1"] and set(states(sweep).values()) == {"queued"}
    assert dispatch(["throttle", str(sweep.path), "2"]) == 0
    assert arrays_of(slurm) == ["0-1%1", "0-0%1"]
    check_nothing_is_twice_and_nothing_forgotten(sweep, slurm)


def test_cancelling_takes_from_slurm_what_has_nothing_left_and_from_the_plan_the_rest(
    sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = FakeSlurm(tmp_path / "slurm.json", most=3)
    install(slurm, monkeypatch)
    assert dispatch(["submit", str(sweep.path), "--cluster", "fake", "--pack", "1"]) == 0
    assert sorted(states(sweep).values()) == ["planned", "planned", "queued"]
    sent, (queued,) = len(read_journals(sweep)), [array for array in read_journals(sweep) if array.is_sent]
    assert dispatch(["cancel", str(sweep.path), "--all"]) == 0
    assert set(states(sweep).values()) == {"cancelled"}
    slurm.most = 100
    dispatch(["reconcile", str(sweep.path)])
    assert slurm.cancelled[-1] == f"{queued.job_id}_0" and len(read_journals(sweep)) == sent
