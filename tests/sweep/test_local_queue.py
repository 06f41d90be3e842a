"""The local queue with real processes: the commands a user types, a fake trainer, real signals and real kills."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from local_sweep import LocalSweep, make_sweep
from proc import kill, wait_for
from stepping import Held

from band.cli.sweep import main as band_sweep
from band.sweep.local import start_queue
from band.sweep.pack import Room
from band.sweep.submit import plan, write

SLOW = {"epochs": 30, "epoch_s": 0.05}


def runs(count: int) -> dict[str, dict[str, int]]:
    return {f"run-{number}": {"seed": number} for number in range(count)}


def begun(sweep: LocalSweep, *, epochs: int) -> None:
    """Wait until so many epochs have been trained in all."""
    wait_for(lambda: sum(sweep.epochs().values()) >= epochs, timeout_s=30)


def ended(sweep: LocalSweep) -> None:
    """Wait until no process works on the sweep any more."""
    wait_for(lambda: not sweep.processes(), timeout_s=30)


def assert_trained_once(sweep: LocalSweep, *, members: int, epochs: int) -> None:
    counts = sweep.epochs()
    assert set(counts.values()) == {1} and len(counts) == members * epochs, counts.most_common(3)


def test_submit_trains_everything_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(5))
    output = sweep.band_sweep("submit", "--jobs", "2")
    assert "5 of 5 runs published" in output
    assert sweep.published() == [f"run-{number}" for number in range(5)]
    assert_trained_once(sweep, members=5, epochs=3)
    names = {path.name for path in sweep.sweep.submission("0001").iterdir()}
    assert names == {"intent.json", "receipt.json", "queue.log"}, "what submitit leaves must be swept up"
    for task in sweep.sweep.tasks.iterdir():
        own = [*task.iterdir(), *sweep.sweep.events.glob(f"{task.name}.*"), *sweep.sweep.logs.glob(f"{task.name}.*")]
        assert len(own) <= 4, own
    ended(sweep)
    assert sweep.band_sweep("status").count("complete") == 1
    assert "nothing to do" in sweep.band_sweep("submit")
    assert not (sweep.sweep.submissions / "0002").exists()


def test_a_dry_run_and_status_write_nothing(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(3))
    before = sorted(sweep.sweep.path.rglob("*"))
    assert "3 runs to train" in sweep.band_sweep("submit", "--dry-run")
    sweep.band_sweep("status", code=4)
    assert sorted(sweep.sweep.path.rglob("*")) == before


def test_never_more_tasks_at_once_than_asked_for(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(3), base={"epoch_s": 0.1})
    sweep.band_sweep("submit", "--jobs", "2", "--pack", "1")
    spans = [(e["t"], 1) for e in sweep.events("claimed")] + [(e["t"], -1) for e in sweep.events("ended")]
    running = most = 0
    for _, change in sorted(spans):
        running += change
        most = max(most, running)
    assert len(spans) == 6 and most == 2


def test_the_member_that_raises_stands_alone_and_the_others_finish(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {**runs(4), "run-bad": {"raise_at": 1}})
    output = sweep.band_sweep("submit", "--jobs", "1", code=4)
    assert "1 run failed" in output
    assert sweep.published() == [f"run-{number}" for number in range(4)]
    assert sweep.states()["run-bad"] == "failed"
    status = sweep.band_sweep("status", code=4)
    assert "RuntimeError: run-bad cannot go beyond epoch 1" in status and "retry demo --failed" in status
    logs = sweep.band_sweep("logs")
    assert "Traceback: here" in logs and "run-bad failed: RuntimeError" in logs


def test_a_failed_run_is_tried_again_only_when_asked(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {**runs(1), "run-bad": {"raise_at": 1}})
    sweep.band_sweep("submit", code=4)
    attempts = len(sweep.events("claimed"))
    assert "--retry-failed" in sweep.band_sweep("submit", code=4)
    assert len(sweep.events("claimed")) == attempts
    assert "1 run to be tried again" in sweep.band_sweep("retry", "--failed")
    assert sweep.states()["run-bad"] == "interrupted"
    sweep.band_sweep("submit", code=4)
    assert len(sweep.events("claimed")) == attempts + 1
    assert sweep.states()["run-bad"] == "failed"
    assert sweep.epochs()["epoch run-0 0"] == 1


def test_ctrl_c_saves_a_checkpoint_and_the_next_submit_continues(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(2), base=SLOW)
    process = sweep.start("submit", "--jobs", "2")
    begun(sweep, epochs=8)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "to continue: band-sweep submit demo" in output, output
    ended(sweep)
    assert set(sweep.states().values()) == {"interrupted"}
    sweep.band_sweep("submit")
    assert_trained_once(sweep, members=2, epochs=30)


def test_a_second_ctrl_c_leaves_at_once_and_the_tasks_still_save_their_checkpoint(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(1), base={**SLOW, "epoch_s": 1.0})
    process = sweep.start("submit")
    begun(sweep, epochs=1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
    ended(sweep)
    assert len(sweep.events("interrupted")) == 1
    assert sweep.states() == {"run-0": "interrupted"}


def test_a_detached_queue_outlives_its_terminal_and_a_second_submit_starts_no_other(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(2), base=SLOW)
    session = sweep.start("submit", "--detach", start_new_session=True)
    output, _ = session.communicate(timeout=30)
    assert session.returncode == 0 and "status demo --watch" in output
    begun(sweep, epochs=2)
    assert f"process {sweep.queue_pid()}" in sweep.band_sweep("status", code=4)
    pid = sweep.queue_pid()
    assert "already working on this sweep" in sweep.band_sweep("submit", code=4)
    assert sweep.queue_pid() == pid
    ended(sweep)
    assert_trained_once(sweep, members=2, epochs=30)


def test_two_submits_at_one_moment_train_everything_once(tmp_path: Path) -> None:
    """The first is stopped when it has looked at the sweep and is about to write what it makes of it."""
    sweep = make_sweep(tmp_path, {run: {"epochs": 10, "epoch_s": 0.1} for run in "abcd"})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sweep.environment.items():
            patch.setenv(name, value)
        first = Held(
            lambda: band_sweep(["submit", str(sweep.sweep.path), "--detach", "--jobs", "8"]), number=2, before=True
        )
        second = sweep.start("submit", "--detach", "--jobs", "8")
        time.sleep(1.0)
        assert second.poll() is None and not list(sweep.sweep.submissions.glob("*/intent.json"))
        assert first.finish() == 0
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 4 and "it has all of this already" in said
    ended(sweep)
    assert_trained_once(sweep, members=4, epochs=10)


def test_closing_the_terminal_of_a_foreground_submit_stops_nothing(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(1), base={"epochs": 20, "epoch_s": 0.1})
    process = sweep.start("submit", start_new_session=True, stdout=subprocess.DEVNULL)
    begun(sweep, epochs=1)
    os.killpg(process.pid, signal.SIGHUP)
    process.wait(timeout=10)
    ended(sweep)
    assert sweep.published() == ["run-0"]
    assert_trained_once(sweep, members=1, epochs=20)


def test_after_a_kill_of_the_queue_its_tasks_go_on_and_the_next_queue_adopts_them(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(3), base=SLOW)
    sweep.band_sweep("submit", "--detach", "--jobs", "1", "--pack", "1")
    begun(sweep, epochs=2)
    kill(sweep.queue_pid())
    wait_for(lambda: sorted(sweep.states().values()) == ["new", "new", "running"])
    sweep.band_sweep("submit", "--jobs", "1")
    assert sweep.published() == ["run-0", "run-1", "run-2"]
    assert_trained_once(sweep, members=3, epochs=30)
    assert len(sweep.events("claimed")) == 3, "the running task must not be started a second time"
    assert not list(sweep.sweep.submissions.glob("*/submitit"))
    ended(sweep)


def test_a_foreground_submit_notices_that_its_queue_was_killed(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(1), base={"epochs": 20, "epoch_s": 0.1})
    process = sweep.start("submit")
    begun(sweep, epochs=2)
    kill(sweep.queue_pid())
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 4 and "1 run of it still run" in output, output
    sweep.band_sweep("submit")
    assert_trained_once(sweep, members=1, epochs=20)


@pytest.mark.parametrize(("slots", "shared"), [(2, []), (3, [b"CUDA_VISIBLE_DEVICES=3"])])
def test_each_task_at_once_gets_a_gpu_of_its_own_and_more_of_them_share(
    tmp_path: Path, slots: int, shared: list[bytes]
) -> None:
    sweep = make_sweep(tmp_path, runs(slots), base=SLOW)
    room = Room(slots=slots, threads=1, device="cuda", memory_bytes=0, gpus=(3, 5))
    planned = plan(sweep.survey(), sweep=sweep.sweep, room=room, members=1)
    intent = write(planned, sweep=sweep.sweep, manifest=sweep.survey().manifest)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sweep.environment.items():
            patch.setenv(name, value)
        assert start_queue(sweep.sweep, submission=intent.number)
    wait_for(lambda: len(sweep.supervisor_pids()) == slots, timeout_s=30)
    environments = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in sweep.supervisor_pids()]
    seen = [
        entry for environment in environments for entry in environment if entry.startswith(b"CUDA_VISIBLE_DEVICES=")
    ]
    assert sorted(seen) == sorted([b"CUDA_VISIBLE_DEVICES=3", b"CUDA_VISIBLE_DEVICES=5", *shared])
    sweep.band_sweep("cancel", "--all")
    ended(sweep)


def test_tasks_that_do_not_fit_into_memory_together_run_one_after_the_other(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(2))
    room = Room(slots=2, threads=1, device="cpu", memory_bytes=2**40)
    planned = plan(sweep.survey(), sweep=sweep.sweep, room=room, members=1)
    tight = dataclasses.replace(room, memory_bytes=planned.new[0].memory_bytes * 2 - 1)
    intent = write(dataclasses.replace(planned, room=tight), sweep=sweep.sweep, manifest=sweep.survey().manifest)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sweep.environment.items():
            patch.setenv(name, value)
        assert start_queue(sweep.sweep, submission=intent.number)
    wait_for(lambda: len(sweep.published()) == 2, timeout_s=30)
    ended(sweep)
    (first, second), (end, _) = sweep.events("claimed"), sweep.events("ended")
    assert first["t"] < end["t"] < second["t"]


def test_a_killed_supervisor_is_replaced_and_continues_from_its_checkpoint(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(1), base={"epochs": 15, "epoch_s": 0.1})
    process = sweep.start("submit")
    begun(sweep, epochs=5)
    kill(sweep.supervisor_pids()[0])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    steps = [event["step"] for event in sweep.events("started")]
    assert len(steps) == 2 and steps[1] >= 4
    assert sum(sweep.epochs().values()) <= 16


def test_a_task_that_dies_again_and_again_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(1))
    site = tmp_path / "site"
    site.mkdir()
    fault = "import os, sys\nif b'band.node.call' in open('/proc/self/cmdline', 'rb').read():\n"
    (site / "sitecustomize.py").write_text(fault + "    print('no such library', file=sys.stderr)\n    os._exit(9)\n")
    path = os.pathsep.join([str(site), sweep.environment["PYTHONPATH"]])
    broken = LocalSweep(sweep.sweep, {**sweep.environment, "PYTHONPATH": path})
    assert "1 run failed" in broken.band_sweep("submit", code=4)
    assert "Died: no such library" in broken.band_sweep("status", code=4)
    sweep.band_sweep("retry", "--failed")
    sweep.band_sweep("submit")


def test_a_cancelled_member_stops_and_its_neighbours_finish(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(3), base=SLOW)
    sweep.band_sweep("submit", "--detach", "--jobs", "1")
    begun(sweep, epochs=6)
    assert "cancelled 1 run" in sweep.band_sweep("cancel", "run-1")
    ended(sweep)
    assert sweep.states() == {"run-0": "published", "run-1": "cancelled", "run-2": "published"}
    sweep.band_sweep("submit", code=4)
    assert sweep.states()["run-1"] == "cancelled"
    sweep.band_sweep("retry", "run-1")
    sweep.band_sweep("submit")
    assert_trained_once(sweep, members=3, epochs=30)


def test_cancelling_without_a_queue_reaches_the_supervisor(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(1), base=SLOW)
    sweep.band_sweep("submit", "--detach")
    begun(sweep, epochs=2)
    kill(sweep.queue_pid())
    sweep.band_sweep("cancel", "--all")
    wait_for(lambda: not sweep.supervisor_pids())
    assert sweep.states() == {"run-0": "cancelled"}
    assert len(sweep.events("interrupted")) == 1


def test_logs_follow_a_run_to_its_end(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs(1), base={"epochs": 10, "epoch_s": 0.1})
    sweep.band_sweep("submit", "--detach")
    output = sweep.band_sweep("logs", "run-0", "-f")
    assert "training run-0 from step 0" in output
    assert sweep.published() == ["run-0"]
    ended(sweep)
