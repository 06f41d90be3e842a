"""What `band-sweep logs` shows: the failure, the attempt, the job's own output, and all that still comes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from local_sweep import LocalSweep, make_sweep
from sent_sweep import SentSweep
from slurm_lab.lab import Lab

from band.run_dir import EventWriter
from band.sweep.ledger import new_task, record
from band.sweep.printed import Tail, job_of

TRACE = "Traceback (most recent call last):\n  File {name}\nValueError: {name} is bad"


def tried(sweep: LocalSweep, attempt: str, *, runs: list[str], failed: list[str], task: str = "") -> str:
    """Write an attempt at a task of these runs: its log, and the events of the runs that failed; return the task."""
    if not task:
        task = new_task(sweep.sweep)
        record(sweep.sweep, "submit", runs=runs, tasks={task: runs})
    sweep.sweep.logs.mkdir(exist_ok=True)
    traces = [line for run in failed for line in ("before", TRACE.format(name=run), "after")]
    lines = [f"{attempt} line {number}" for number in range(50)]
    sweep.sweep.log_file(task, attempt=attempt).write_text("\n".join([*lines, *traces, "the end\n"]))
    events = EventWriter(sweep.sweep.event_file(task, attempt=attempt))
    events.write("claimed", claim=0, attempt=attempt, host="c1", pid=1)
    events.write("started", runs=runs, step=0)
    for run in failed:
        trace = TRACE.format(name=run)
        events.write("failed", runs=[run], error="ValueError", message=f"{run} is bad", traceback=trace)
    events.write("ended", code=1)
    return task


def test_each_failed_run_is_opened_at_its_own_traceback(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}, "c": {}})
    tried(sweep, "one", runs=["a", "b", "c"], failed=["a", "b"])
    shown = sweep.band_sweep("logs", "a", "b")
    first, second = shown.split("== task 0001, attempt one on c1")[1:]
    for part, run in ((first, "a"), (second, "b")):
        lines = part.strip().split("\n")[1:]
        assert lines[lines.index("before", 3) + 1 : -1] == TRACE.format(name=run).split("\n")
        assert len(lines) == 5 + 3 + 1 and lines[-1] == f"{run} failed: ValueError: {run} is bad"
    assert sweep.band_sweep("logs", "--task", "1").count("failed: ValueError") == 2
    assert "one line 0" in sweep.band_sweep("logs", "a", "--all")
    assert "one line 0" in sweep.band_sweep("logs", "c"), "a run that did not fail is shown whole"


def test_the_last_attempt_is_shown_and_the_others_on_request(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {}})
    task = tried(sweep, "one", runs=["a"], failed=["a"])
    tried(sweep, "two", runs=["a"], failed=[], task=task)
    assert "two line 0" in sweep.band_sweep("logs", "a") and "one line 0" not in sweep.band_sweep("logs", "a")
    assert "one line 0" in sweep.band_sweep("logs", "a", "--attempt", "1")
    both = sweep.band_sweep("logs", "a", "--all-attempts")
    assert 0 < both.index("one line 0") < both.index("two line 0")
    assert "has had 2 attempts" in sweep.band_sweep("logs", "a", "--attempt", "3", code=1)
    assert "never a Slurm job" in sweep.band_sweep("logs", "a", "--slurm", code=1)


def test_a_tail_survives_rotation_truncation_and_half_characters(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.lines() == []
    data = "häß\nsecond".encode()
    path.write_bytes(data[:2])
    assert tail.lines() == []
    with path.open("ab") as file:
        file.write(data[2:])
    assert tail.lines() == ["häß"]
    with path.open("ab") as file:
        file.write(b" half\nlast of the old file\n")
    path.rename(tmp_path / "log.1")
    path.write_text("first of the new\n")
    assert tail.lines() == ["second half", "last of the old file", "first of the new"]
    path.write_text("cut\n")
    os.truncate(path, 4)
    assert tail.lines() == ["cut"]
    path.write_text("cut\nbar 10 %\rbar 20 %\rno end")
    assert tail.lines() == ["bar 10 %", "bar 20 %"] and tail.lines(is_last=True) == ["no end"]
    tail.close()


def test_an_attempt_names_the_job_that_made_it() -> None:
    assert job_of("j123_4-r2") == "123_4" and job_of("j7-r0") == "7"
    assert job_of("jupiter-c0ffee00-12-r5") == "" and job_of("closing-0001-1") == ""


def test_logs_follow_several_runs_across_a_requeue_to_their_end(slurm_lab: Lab, tmp_path: Path) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a", "b"], base={"epochs": 60, "epoch_s": 0.1})
    job = sent.send("a")
    sent.send("b")
    slurm_lab.wait_for(lambda: "epoch" in sent.events("a"))
    follower = sent.start("logs", "a", "b", "-f")
    slurm_lab.run(["scontrol", "requeue", f"{job}_0"], check=True)
    output, _ = follower.communicate(timeout=120)
    assert follower.returncode == 0, output
    assert output.count("a | training a from step ") == 2 and "a | training a from step 0" in output
    assert output.count("b | training b from step 0") == 1
    assert f"attempt j{job}_0-r1 on c" in output


def test_ctrl_c_ends_the_following_and_not_the_job(slurm_lab: Lab, tmp_path: Path) -> None:
    sent = SentSweep(tmp_path, slurm_lab, ["a"], base={"epochs": 10_000, "epoch_s": 0.1})
    job = sent.send("a")
    slurm_lab.wait_for(lambda: "epoch" in sent.events("a"))
    follower = sent.start("logs", "-f")
    assert follower.stdout is not None
    while "training a from step 0" not in follower.stdout.readline():
        assert follower.poll() is None
    follower.send_signal(signal.SIGINT)
    output, _ = follower.communicate(timeout=30)
    assert follower.returncode == 130
    assert output == "no longer followed; what runs goes on: band-sweep status demo\n"
    assert slurm_lab.job_states()[f"{job}_0"] == "RUNNING"
