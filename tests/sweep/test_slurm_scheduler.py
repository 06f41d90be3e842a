"""States of runs at a real Slurm: queued, held, running, requeued, cancelled, killed, forgotten, and no answer."""

from __future__ import annotations

import re
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sent_sweep import SentSweep
from slurm_lab.lab import Lab

from band.sweep import slurm_scheduler
from band.sweep.journal import append
from band.sweep.ledger import record
from band.sweep.manifest import read_manifest
from band.sweep.slurm_scheduler import SlurmScheduler
from band.sweep.status import take_survey

LONG = {"epochs": 10_000, "epoch_s": 0.05}
HOG = "exec python3 -c 'import time; kept = []\nwhile True: kept.append(bytearray(5_000_000)); time.sleep(0.1)'"


def began(sent: SentSweep, run: str) -> None:
    sent.lab.wait_for(lambda: "epoch" in sent.events(run), what=f"an epoch of {run}")


def test_one_sweep_whose_runs_are_each_in_another_state(slurm_lab: Lab, tmp_path: Path) -> None:
    expected = {
        "begin": "queued", "cancelled": "cancelled", "dead": "failed", "held": "held", "hog": "failed",
        "nowhere": "new", "planned": "planned", "requeued": "interrupted", "reused": "queued", "runs": "running",
        "unknown": "submit_unknown", "vanished": "queued",
    }  # fmt: skip
    sent = SentSweep(tmp_path, slurm_lab, sorted(expected), base=LONG)
    jobs = {run: sent.send(run) for run in ("runs", "requeued")}
    jobs["dead"] = sent.send("dead", script="no_such_python -m band.node.task {task}")
    jobs["hog"] = sent.send("hog", "--mem=60M", script=HOG)
    jobs["begin"] = sent.send("begin", "--begin=now+1hour")
    jobs["cancelled"] = sent.send("cancelled", "--begin=now+1hour")
    jobs["held"] = sent.send("held", release=False)
    sent.plan("planned")
    sent.intend("unknown")
    for run, job_id in (("vanished", "99999"), ("reused", jobs["runs"])):
        submission, _ = sent.intend(run)
        sent.note(submission, "queued", job_id=job_id)
        sent.note(submission, "released")
    slurm_lab.run(["scancel", f"{jobs['cancelled']}_0"], check=True)
    for run in ("runs", "requeued"):
        began(sent, run)
    slurm_lab.run(["scontrol", "requeue", f"{jobs['requeued']}_0"], check=True)
    slurm_lab.wait_for(lambda: slurm_lab.job_states()[f"{jobs['hog']}_0"] not in ("PENDING", "RUNNING", "COMPLETING"))
    before = sorted((path, path.stat().st_size) for path in sent.sweep.submissions.rglob("*"))

    found = sent.status()
    runs = found["runs"]
    assert {run: status["state"] for run, status in runs.items()} == expected
    assert sum(found["counts"].values()) == len(expected)
    assert runs["runs"]["job"] == f"{jobs['runs']}_0" and runs["runs"]["node"] in slurm_lab.nodes
    assert runs["runs"]["max_epochs"] == 10_000
    assert runs["begin"]["words"] == "PENDING (BeginTime)"
    assert (runs["hog"]["error"], runs["hog"]["end"]) == ("OutOfMemory", "OUT_OF_MEMORY")
    assert runs["dead"]["error"] == "Died" and runs["dead"]["words"] == "FAILED, exit code 127"
    assert runs["requeued"]["scheduled"] == "queued" and runs["requeued"]["words"].startswith("PENDING")
    later = sent.states(settle_s=0)
    assert later == {**expected, "vanished": "lost", "reused": "lost"}, "what left no trace is lost after a while"
    assert sorted((path, path.stat().st_size) for path in sent.sweep.submissions.rglob("*")) == before

    assert_explained(sent, jobs=jobs)
    slurm_lab.stop_controller()
    silent = sent.status()
    assert "squeue cannot reach the controller" in silent["slurm"]
    words = {run: (status["state"], status["words"]) for run, status in silent["runs"].items()}
    assert words["runs"] == ("running", "Slurm does not answer")
    assert words["begin"] == ("queued", "Slurm does not answer")
    assert words["held"] == ("held", "Slurm does not answer")
    assert words["unknown"][0] == "submit_unknown" and words["planned"][0] == "planned"
    slurm_lab.start_controller()
    assert sent.states()["runs"] == "running"


def assert_explained(sent: SentSweep, *, jobs: dict[str, str]) -> None:
    """Check what `why` and `logs` say of the runs of that sweep."""
    waiting = " ".join(sent.band_sweep("why", "begin").split())
    assert "its time has not come" in waiting and "Slurm expects it to start" in waiting
    dead = " ".join(sent.band_sweep("why", "dead").split())
    assert re.search(r"Died: line \d+: no_such_python: command not found", dead) and "exit code 127" in dead
    assert "next: band-sweep logs demo dead" in dead
    assert "let go when its submission is complete" in " ".join(sent.band_sweep("why", "held").split())
    assert "no_such_python: command not found" in sent.band_sweep("logs", "dead")
    assert "no_such_python: command not found" in sent.band_sweep("logs", "dead", "--slurm")
    assert f"job {jobs['hog']}_0" in sent.band_sweep("why", "hog")
    assert "band-sweep reconcile" in sent.band_sweep("why", "unknown")
    text = sent.band_sweep("status", code=4)
    assert f"{jobs['begin']}_0 PENDING (BeginTime)" in text and "2 runs nobody" not in text


def test_a_job_that_slurm_takes_from_a_hung_node_is_never_shown_as_running(slurm_lab: Lab, tmp_path: Path) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a"], base=LONG)
    job = sent.send("a")
    began(sent, "a")
    assert sent.states() == {"a": "running"}
    node = slurm_lab.nodes[sent.status()["runs"]["a"]["node"]]
    node.stop()
    slurm_lab.run(["scontrol", "requeue", f"{job}_0"], check=True)
    assert slurm_lab.job_states()[f"{job}_0"] == "COMPLETING"
    assert sent.states() == {"a": "interrupted"}
    node.wake()
    slurm_lab.wait_for_job(f"{job}_0", "PENDING")
    assert sent.states() == {"a": "interrupted"}
    slurm_lab.wait_for_job(f"{job}_0", "RUNNING")
    assert sent.states() == {"a": "running"}


def test_a_run_whose_node_fails_is_queued_again_or_left_to_the_next_submit(slurm_lab: Lab, tmp_path: Path) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a", "b"], base=LONG)
    jobs = [sent.send("a", "--nodelist=c1"), sent.send("b", "--nodelist=c1", "--no-requeue")]
    for run in "ab":
        began(sent, run)
    slurm_lab.nodes["c1"].kill()
    slurm_lab.wait_for_job(f"{jobs[1]}_0", "NODE_FAIL")
    runs = sent.status()["runs"]
    assert (runs["a"]["state"], runs["a"]["scheduled"]) == ("interrupted", "queued")
    assert (runs["b"]["state"], runs["b"]["scheduled"], runs["b"]["end"]) == ("interrupted", "", "NODE_FAIL")
    assert "band-sweep submit demo" in sent.band_sweep("why", "b")


def test_what_is_cancelled_at_slurm_stays_so_until_it_is_retried(slurm_lab: Lab, tmp_path: Path) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a"], base=LONG)
    job = sent.send("a")
    began(sent, "a")
    slurm_lab.run(["scancel", f"{job}_0"], check=True)
    slurm_lab.wait_for_job(f"{job}_0", "CANCELLED")
    assert "interrupted" in sent.events("a"), "the supervisor saved a checkpoint"
    assert sent.states() == {"a": "cancelled"}
    assert "was cancelled at Slurm" in sent.band_sweep("why", "a")
    sent.band_sweep("retry", "a")
    assert sent.states() == {"a": "interrupted"}
    sent.send("a")
    slurm_lab.wait_for(lambda: sent.states() == {"a": "running"})


def test_without_accounts_the_queue_and_the_events_are_enough(
    slurm_lab_without_accounting: Lab, tmp_path: Path
) -> None:
    lab = slurm_lab_without_accounting
    sent = SentSweep(tmp_path, lab, ["a", "b", "c", "d"], base=LONG)
    jobs = {run: sent.send(run) for run in "abc"}
    for run in "abc":  # of a task that was cancelled before it began, Slurm shows the array alone
        began(sent, run)
    lab.run(["scancel", f"{jobs['c']}_0"], check=True)
    lab.wait_for_job(f"{jobs['c']}_0", "CANCELLED")
    submission, _ = sent.intend("d")
    sent.note(submission, "queued", job_id="99999")
    sent.note(submission, "released")
    assert sent.states() == {"a": "running", "b": "running", "c": "cancelled", "d": "queued"}
    found = sent.status(settle_s=0)["runs"]
    assert {run: status["state"] for run, status in found.items()} == {
        "a": "running", "b": "running", "c": "cancelled", "d": "lost",
    }  # fmt: skip
    assert found["d"]["words"] == "gone from Slurm's queue, no accounts are kept"


def test_accounts_tell_what_the_queue_has_forgotten_and_make_nothing_lost_before_its_time(
    tmp_path: Path, lab_folder: Path
) -> None:
    if shutil.which("slurmdbd") is None:
        pytest.skip("no Slurm here: apt-get install slurm-wlm slurmdbd slurm-wlm-mysql-plugin munge mariadb-server")
    with Lab(lab_folder, nodes=1) as lab:
        sent = SentSweep(tmp_path, lab, ["a", "b", "c"], base=LONG)
        jobs = {"a": sent.send("a"), "b": sent.send("b", script="exit 3"), "c": sent.send("c", "--begin=now+1hour")}
        lab.run(["scancel", jobs["c"]], check=True)
        began(sent, "a")
        accounts = ["sacct", "-X", "--noheader", "--parsable2", "--format=state", "--jobs", ",".join(jobs.values())]
        lab.wait_for(lambda: lab.run(accounts).stdout.split("\n")[:3] == ["RUNNING", "FAILED", "CANCELLED by 0"])
        lab.stop_dbd()
        lab.stop_controller()
        lab.nodes["c1"].kill()
        for state in (lab.plan.root / "state").glob("job_state*"):
            state.unlink()
        lab.start_controller()
        assert not lab.run(["squeue", "--states=all", "--noheader"]).stdout
        assert sent.status()["runs"]["a"]["words"].startswith("gone from Slurm's queue, Slurm's accounts do not answer")
        lab.start_dbd()
        assert lab.run(accounts).stdout.startswith("RUNNING"), "they do not know yet"
        assert sent.states() == {"a": "running", "b": "failed", "c": "cancelled"}, "its last sign is seconds old"
        assert sent.states(settle_s=0) == {"a": "lost", "b": "failed", "c": "cancelled"}


def test_ten_thousand_runs_at_slurm_are_looked_at_in_half_a_second(slurm_lab: Lab, tmp_path: Path) -> None:
    runs = [f"run-{number:05d}" for number in range(10_000)]
    sent = SentSweep(tmp_path, slurm_lab, runs)
    tasks = {f"{n // 8 + 1:04d}": runs[n : n + 8] for n in range(0, len(runs), 8)}
    number = record(sent.sweep, "submit", runs=runs, tasks=tasks, scheduler="slurm").number
    for array, begin in enumerate((0, 625), start=1):
        members = list(tasks)[begin : begin + 625]
        append(sent.sweep, number, array=array, step="intent", token=f"band-{array}", tasks=members, script="a.sh")
        job = slurm_lab.sbatch("--hold", f"--array=0-{len(members) - 1}", f"--job-name=band-{array}", wrap="true")
        for step in ({"step": "queued", "job_id": job}, {"step": "released"}):
            append(sent.sweep, number, array=array, **step)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = sent.band_sweep("status", code=4)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "held            10000   10000 PENDING (JobHeldUser)" in text
    # CPU time, squeue's own with it: the machine may have other things to do meanwhile.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def spy_on(command: str, folder: Path, *, first: str = "") -> Callable[[], int]:
    """Put a command before Slurm's own of that name that notes each call; return how many there were so far."""
    real = shutil.which(command, path="/usr/local/bin:/usr/bin:/bin")
    assert real is not None
    folder.mkdir(exist_ok=True)
    (folder / command).write_text(f'#!/bin/sh\necho call >> {folder}/{command}.calls\n{first}\nexec {real} "$@"\n')
    (folder / command).chmod(0o755)
    calls = folder / f"{command}.calls"
    return lambda: len(calls.read_text().splitlines()) if calls.exists() else 0


def test_one_call_of_each_command_is_enough_for_all_tasks(slurm_lab: Lab, tmp_path: Path) -> None:
    runs = [f"run-{number}" for number in range(30)]
    sent = SentSweep(tmp_path, slurm_lab, runs)
    for number, run in enumerate(runs):
        submission, _ = sent.intend(run)
        sent.note(submission, "queued", job_id=str(90_000 + number))
        sent.note(submission, "released")
    queue, accounts = spy_on("squeue", tmp_path / "bin"), spy_on("sacct", tmp_path / "bin")
    path = f"{tmp_path / 'bin'}:{slurm_lab.environment['PATH']}"
    assert set(sent.states(settle_s=0, PATH=path).values()) == {"lost"}
    assert (queue(), accounts()) == (1, 1)


def test_whoever_watches_asks_slurm_the_more_seldom_the_slower_it_is(
    slurm_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a"])
    sent.send("a", "--begin=now+1hour")
    calls = spy_on("squeue", tmp_path / "bin", first="sleep 0.1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{slurm_lab.environment['PATH']}")
    monkeypatch.setenv("SLURM_CONF", slurm_lab.environment["SLURM_CONF"])
    scheduler = SlurmScheduler(sent.sweep)
    begun = time.monotonic()
    while time.monotonic() < begun + 5.7:
        assert scheduler.task_states(["0001"])["0001"].state == "queued"
        time.sleep(0.05)
    assert calls() == 2, "every five seconds"
    slow = spy_on("squeue", tmp_path / "bin", first="sleep 1")
    asked = slow()
    scheduler = SlurmScheduler(sent.sweep)
    begun = time.monotonic()
    while time.monotonic() < begun + 6.5:
        scheduler.task_states(["0001"])
        time.sleep(0.05)
    assert slow() == asked + 1, "every twenty seconds, where an answer takes one"


def test_a_queue_that_does_not_answer_in_time_is_not_waited_for(
    slurm_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a"])
    sent.send("a", "--begin=now+1hour")
    spy_on("squeue", tmp_path / "bin", first="sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{slurm_lab.environment['PATH']}")
    monkeypatch.setenv("SLURM_CONF", slurm_lab.environment["SLURM_CONF"])
    monkeypatch.setattr(slurm_scheduler, "TIMEOUT_S", 0.5)
    scheduler = SlurmScheduler(sent.sweep)
    survey = take_survey(sent.sweep, read_manifest(sent.sweep.path), scheduler=scheduler)
    assert (survey.runs["a"].state, survey.runs["a"].words) == ("queued", "Slurm does not answer")
    assert scheduler.trouble == "squeue did not answer within 0.5 s"


def test_events_that_are_younger_than_the_queues_last_answer_stand_above_it(
    slurm_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a", "b"], base=LONG)
    job = sent.send("a", "--begin=now+1hour")
    sent.send("b", "--begin=now+1hour")
    monkeypatch.setenv("SLURM_CONF", slurm_lab.environment["SLURM_CONF"])
    monkeypatch.setattr(slurm_scheduler, "ASK_COSTS", 10_000)
    monkeypatch.setattr(slurm_scheduler, "MIN_ASK_S", 0.1)
    scheduler = SlurmScheduler(sent.sweep)

    def look() -> list[str]:
        runs = take_survey(sent.sweep, read_manifest(sent.sweep.path), scheduler=scheduler).runs
        return [f"{status.state}: {status.words}" for status in runs.values()]

    before = look()
    assert all(said.startswith("queued: PENDING") for said in before)
    slurm_lab.run(["scontrol", "update", f"jobid={job}", "starttime=now"], check=True)
    began(sent, "a")
    first, second = look()
    assert first.startswith("running: PENDING") and first.endswith(" s ago")
    assert second == before[1], "of which there are no events"
