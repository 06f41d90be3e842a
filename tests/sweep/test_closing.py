"""Closing jobs at a real Slurm: what ends in whatever way goes on, or is given up, without anybody looking."""

from __future__ import annotations

import time

import pytest
from fake_trainer import expected_state
from lab_sweep import SETTLE_S, make_lab_sweep, told
from slurm_lab.lab import Lab

from band.cli import sweep as commands
from band.node.task import run_task
from band.sweep.closing import close
from band.sweep.hold import hold


def test_a_sweep_ends_with_a_table_a_hook_called_once_and_at_most_four_files_a_task(
    slurm_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = slurm_lab.home / ".config" / "band" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(f"hook: sh -c 'cat >> {slurm_lab.home}/told'\n")
    sweep = make_lab_sweep(slurm_lab, {"a": {}, "b": {}, "bad": {"raise_at": 1}}, monkeypatch=monkeypatch)
    sweep.submit(["a", "b"], ["bad"])
    sweep.wait_until_closed()
    assert sweep.states() == {"a": "published", "b": "published", "bad": "failed"}, sweep.words()
    assert len((sweep.sweep.path / "report" / "results.csv").read_text().splitlines()) == 3
    (content,) = told(slurm_lab)
    assert content["states"] == {"published": 2, "failed": 1} and content["failures"] == {"exception": 1}
    names = [path.name for path in sweep.sweep.task("0001").path.iterdir()]
    names += [path.name for folder in (sweep.sweep.events, sweep.sweep.logs) for path in folder.glob("0001.*")]
    assert len(names) <= 4, names
    assert not (sweep.sweep.submission("0001") / "submitit").exists()


def test_what_lacks_memory_goes_on_in_halves_or_with_more_and_is_given_up_in_the_end(
    slurm_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = {"a": 130, "b": 130, "more": 200, "too-much": 420}
    runs = {run: {"needs_mb": needs_mb} for run, needs_mb in needs.items()}
    sweep = make_lab_sweep(slurm_lab, runs, monkeypatch=monkeypatch)
    sweep.submit(["a", "b"], ["more"], ["too-much"])
    sweep.wait_until_closed(timeout_s=120)
    states = sweep.survey().runs
    assert {run: status.state for run, status in states.items()} == {
        "a": "published", "b": "published", "more": "published", "too-much": "failed",
    }, sweep.words()  # fmt: skip
    assert states["too-much"].error == "OutOfMemory"
    for run in ("a", "b", "more"):
        assert expected_state(run, epochs=3) in (sweep.sweep.run(run) / "metrics.csv").read_text()
    assert [event["parts"] for event in sweep.events("split")] == [[["a"], ["b"]]]
    asked = {intent.runs: intent.options["sbatch"]["mem"] for intent in sweep.submissions()}
    assert asked == {("a", "b", "more", "too-much"): "250M", ("a", "b"): "250M", ("more", "too-much"): "375M"}


def test_a_closing_job_that_was_killed_is_made_good_by_the_next_submit(
    slurm_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_lab_sweep(slurm_lab, {"a": {"needs_mb": 400}}, monkeypatch=monkeypatch)
    sweep.submit(["a"], policy={"out_of_memory": 0})
    (array,) = sweep.arrays()
    slurm_lab.run(["scancel", array.closing_job_id], check=True)
    slurm_lab.wait_for(lambda: slurm_lab.job_states().get(f"{array.job_id}_0") == "FAILED", timeout_s=60)
    time.sleep(SETTLE_S + 1)
    assert not sweep.arrays()[0].is_closed
    for _ in range(2):
        with hold(sweep.sweep, wait_s=30) as claim:
            close(sweep.sweep, claim=claim)
    assert sweep.arrays()[0].is_closed and len(sweep.arrays()) == 1
    assert sweep.survey().runs["a"].error == "OutOfMemory"
    assert len(list(sweep.sweep.events.glob("*closing*"))) == 1


def test_what_slurm_holds_of_an_array_does_not_stay_behind_when_others_have_done_its_work(
    slurm_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {"epochs": 20, "epoch_s": 0.1}
    sweep = make_lab_sweep(slurm_lab, {"a": long, "b": long, "c": long}, monkeypatch=monkeypatch)
    sweep.submit(["a"], ["b"], ["c"], sbatch={"gres": "gpu:2"})  # one at a time on each node
    (array,) = sweep.arrays()
    slurm_lab.wait_for_job(f"{array.job_id}_1", "RUNNING")
    slurm_lab.run(["scontrol", "hold", f"{array.job_id}_2", array.closing_job_id], check=True)
    monkeypatch.setenv("BAND_TRAINER", sweep.exports["BAND_TRAINER"])
    monkeypatch.setenv("FAKE_LEDGER", sweep.exports["FAKE_LEDGER"])
    monkeypatch.setenv("BAND_SCRATCH", str(slurm_lab.home / "scratch"))
    assert run_task(sweep.sweep.task("0003").task_json) == 0
    slurm_lab.wait_for_job(f"{array.job_id}_0", "COMPLETED")
    slurm_lab.wait_for_job(f"{array.job_id}_1", "COMPLETED")
    with hold(sweep.sweep, wait_s=30) as claim:
        close(sweep.sweep, claim=claim)
    sweep.wait_until_closed(timeout_s=20)
    ends = slurm_lab.job_states()
    assert ends[f"{array.job_id}_2"] == ends[array.closing_job_id] == "CANCELLED"
    assert sweep.published() == ["a", "b", "c"]


def test_runs_that_could_not_be_brought_home_are_fetched_from_their_node(
    slurm_lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_lab_sweep(slurm_lab, {"a": {"epochs": 30, "epoch_s": 0.1}}, monkeypatch=monkeypatch)
    sweep.submit(["a"], sbatch={"time": "1"}, time_s=60)
    slurm_lab.wait_for(lambda: sweep.events("started"), timeout_s=60, what="the trainer")
    (claimed,) = sweep.events("claimed")
    node = slurm_lab.nodes[claimed["host"]]
    slurm_lab.update_node(node.name, "DRAIN")  # the closing job runs where home can be written
    node.protect(sweep.sweep.path)
    sweep.wait_until_closed(timeout_s=120)
    assert sweep.states() == {"a": "unsynced"}, sweep.words()
    assert sweep.submissions() == sweep.submissions()[:1]
    assert commands.main(["status", str(sweep.sweep.path)]) == 4
    assert "next: band-sweep rescue demo" in capsys.readouterr().out
    assert commands.main(["rescue", str(sweep.sweep.path)]) == 4
    assert f"{node.name} is" in capsys.readouterr().err  # drained: no job would start there
    assert commands.main(["rescue", str(sweep.sweep.path), "--give-up"]) == 0
    assert sweep.states() == {"a": "interrupted"}, "the next submit would train it again"
    (given_up,) = sweep.sweep.events.glob("*.rescue-*.jsonl")
    given_up.unlink()
    assert sweep.states() == {"a": "unsynced"}
    node.repair()
    slurm_lab.update_node(node.name, "RESUME")
    slurm_lab.wait_for(slurm_lab.is_idle, timeout_s=60, what="the node")
    trained = sweep.epochs()
    assert commands.main(["rescue", str(sweep.sweep.path), "--dry-run"]) == 0
    assert f"--nodelist={node.name}" in capsys.readouterr().out
    assert commands.main(["rescue", str(sweep.sweep.path)]) == 0
    slurm_lab.wait_for(lambda: sweep.states() == {"a": "published"}, timeout_s=60, what="the rescue")
    assert sweep.published() == ["a"] and sweep.epochs() == trained
    slurm_lab.wait_for(lambda: not list(node.scratch.glob("band/work/*/*")), what="an empty scratch")
