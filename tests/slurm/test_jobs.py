"""Jobs as a real Slurm has them, and as it has written them elsewhere."""

from __future__ import annotations

import os
import time

import pytest
from slurm_lab.lab import Lab

from band.slurm import jobs
from band.slurm.jobs import Job, accounted, array_tasks, key_values, queued, show, unix_time

TOKEN = "band-maze-0001-1-9f3a2c"
QUIET = ("--output=/dev/null", "--mem=50M")


def states(lab: Lab, **wanted: str) -> dict[str, str]:
    """Return {job or task: state} of what the queue holds, under the names it is asked with."""
    return {job.label: job.state for job in queued(**wanted)}


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("N/A", [None]),
        ("", [None]),
        ("7", [7]),
        ("0-3", [0, 1, 2, 3]),
        ("5-20:5%4", [5, 10, 15, 20]),
        ("1,3,7-9%2", [1, 3, 7, 8, 9]),
        ("1-3,9,...", [1, 2, 3, 9]),
    ],
)
def test_ranges_of_an_array_are_read_task_by_task(text: str, tasks: list[int | None]) -> None:
    assert array_tasks(text) == tasks


def test_times_are_read_as_unix_seconds_or_as_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unix_time("1795497242") == 1795497242.0
    assert unix_time("2026-11-24T05:14:02") == time.mktime((2026, 11, 24, 5, 14, 2, 0, 0, -1))
    assert [unix_time(text) for text in ("N/A", "Unknown", "None", "")] == [None] * 4


def test_a_line_of_scontrol_is_read_whatever_stands_in_its_paths() -> None:
    line = "JobId=9 JobName=a b JobState=RUNNING Reason=None CPUs/Task=1 Command=/tmp/x JobState=DEAD y WorkDir=/a b"
    assert key_values(line) == {
        "JobId": "9", "JobName": "a b", "JobState": "RUNNING", "Reason": "None", "CPUs/Task": "1",
        "Command": "/tmp/x", "WorkDir": "/a b",
    }  # fmt: skip


def test_a_state_that_is_not_known_is_not_over() -> None:
    assert jobs.is_over("OUT_OF_MEMORY") and not jobs.is_over("COMPLETING") and not jobs.is_over("INVENTED_IN_2031")
    assert not jobs.OVER & jobs.ACTIVE


def test_each_task_of_an_array_is_a_job_of_its_own_also_where_it_waits(lab: Lab) -> None:
    job = lab.sbatch(*QUIET, f"--job-name={TOKEN}", "--array=0-30:3%2", wrap="sleep 100")
    other = lab.sbatch(*QUIET, "--hold", "--job-name=held|\x1f, 'quoted'", "--time=1-12:00:00", wrap="true")
    lab.wait_for(lambda: sum(state == "RUNNING" for state in states(lab).values()) == 2)
    found = {found.label: found for found in queued(name=TOKEN)}
    assert set(found) == {f"{job}_{task}" for task in range(0, 31, 3)}
    running, waiting = found[f"{job}_0"], found[f"{job}_30"]
    assert (running.state, running.nodes, running.restarts, running.time_limit_s) == ("RUNNING", "c1", 0, 3600)
    assert running.start_t is not None and abs(running.start_t - time.time()) < 60
    assert running.end_t == running.start_t + 3600 and running.submit_t is not None
    assert (waiting.state, waiting.reason, waiting.nodes) == ("PENDING", "JobArrayTaskLimit", "")
    (held,) = [found for found in queued() if found.job_id == other]
    assert (held.name, held.reason) == ("held|\x1f, 'quoted'", "JobHeldUser") and held.time_limit_s == 36 * 3600
    assert held.array_task is None and held.user == running.user == "root"
    assert queued(name="band-maze-0001-1") == []
    assert show(job, 0)["JobState"] == "RUNNING" and show(job, 30)["Reason"] == "JobArrayTaskLimit"
    assert show(job, 1) == show("99999") == {}
    going = {f"{job}_0", f"{job}_3"}
    lab.wait_for(lambda: {entry.label for entry in accounted([job]) if entry.state == "RUNNING"} == going)
    assert {entry.label for entry in accounted([job])} == set(found)
    assert {found.label for found in accounted([f"{job}_3"])} == {f"{job}_3"}
    named = {found.label for found in accounted([], names=[TOKEN], since_t=running.submit_t)}
    assert named == going, "by name the accounts show only what could have started"
    assert f"{job}_0" in {found.label for found in accounted([job], since_t=time.time() + 3600)}, "clocks differ"


def test_a_task_that_was_requeued_or_held_is_not_lost_among_those_that_never_started(lab: Lab) -> None:
    job = lab.sbatch(*QUIET, "--array=0-9%3", wrap="sleep 100")
    lab.wait_for(lambda: sum(state == "RUNNING" for state in states(lab).values()) == 3)
    lab.run(["scontrol", "requeue", f"{job}_0"], check=True)
    lab.run(["scontrol", "requeuehold", f"{job}_1"], check=True)
    lab.run(["scontrol", "hold", f"{job}_9"], check=True)

    def waiting() -> dict[int | None, Job]:
        return {found.array_task: found for found in queued() if found.job_id == job and found.state in jobs.WAITING}

    lab.wait_for(lambda: {0, 1} <= set(waiting()))
    found = waiting()
    assert found[1].reason == "job requeued in held state" and found[9].reason.startswith("JobHeld")
    assert [found[task].restarts for task in (0, 1, 9)] == [1, 1, 0]
    assert show(job, 1)["Restarts"] == "1"
    first, *_ = accounted([f"{job}_0"])
    assert first.state == "REQUEUED", "the accounts have a record for each start"


def test_how_a_job_ended_is_told_by_the_queue_and_by_the_accounts_alike(lab: Lab) -> None:
    ends = {
        lab.sbatch(*QUIET, wrap="true"): ("COMPLETED", 0, 0),
        lab.sbatch(*QUIET, wrap="exit 75"): ("FAILED", 75, 0),
        lab.sbatch(*QUIET, wrap="kill -SEGV $$"): ("FAILED", 0, 11),
        (cancelled := lab.sbatch(*QUIET, wrap="sleep 100")): ("CANCELLED", 0, 0),  # the queue adds signal 15
        (waited := lab.sbatch(*QUIET, "--begin=now+1hour", wrap="true")): ("CANCELLED", 0, 0),
    }
    lab.wait_for(lambda: states(lab)[cancelled] == "RUNNING")
    lab.run(["scancel", cancelled, waited], check=True)
    lab.wait_for(lambda: all(jobs.is_over(states(lab)[job]) for job in ends))

    def told(found: list[Job]) -> dict[str, tuple[str, int, int]]:
        signals = {job.job_id: 0 if job.state == "CANCELLED" else job.exit_signal for job in found}
        return {job.job_id: (job.state, job.exit_code, signals[job.job_id]) for job in found if job.job_id in ends}

    assert told(queued()) == ends
    lab.wait_for(lambda: told(accounted(list(ends))) == ends, what="the accounts agree")


def test_a_preempted_job_waits_again_and_its_first_record_says_why(lab: Lab) -> None:
    victim = lab.sbatch(*QUIET, "--partition=preemptible", "--exclusive", "--nodelist=c1", wrap="sleep 100")
    lab.wait_for(lambda: states(lab)[victim] == "RUNNING")
    lab.sbatch(*QUIET, "--partition=urgent", "--exclusive", "--nodelist=c1", wrap="sleep 100")
    lab.wait_for(lambda: states(lab)[victim] == "PENDING")
    lab.wait_for(lambda: [job.state for job in accounted([victim])] == ["PREEMPTED", "PENDING"])
    preempted, waiting = accounted([victim])
    assert preempted.submit_t is not None and preempted.nodes == "c1"
    assert waiting.submit_t is not None and waiting.submit_t >= preempted.submit_t
    (now,) = [job for job in queued() if job.job_id == victim]
    assert now.restarts == 1 and now.partition == "preemptible"


def test_tasks_left_waiting_in_even_steps_are_all_there(lab: Lab) -> None:
    job = lab.sbatch(*QUIET, "--hold", "--array=0-17", wrap="true")
    left = {"5", "17"}
    gone = [f"{job}_{task}" for task in range(18) if str(task) not in left]
    lab.run(["scancel", *gone], check=True)
    assert {found.label for found in queued() if found.state == "PENDING"} == {f"{job}_{task}" for task in left}


def test_other_peoples_jobs_are_shown_on_request_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    job = lab.sbatch(*QUIET, "--hold", wrap="true")
    monkeypatch.setattr(os, "getuid", lambda: 65534)  # whose jobs are asked for; the lab has one user
    assert job not in {found.job_id for found in queued()}
    assert job in {found.job_id for found in queued(all_users=True)}
    assert job in {found.job_id for found in queued(user="root")}
