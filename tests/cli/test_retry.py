"""`band-sweep retry` takes up runs by name, by state and by what they died of."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_sweep import LocalSweep, make_sweep
from proc import wait_for

from band.cli import sweep as commands
from band.run_dir import EventWriter
from band.sweep.ledger import new_task, read_ledger, record

ERRORS = {"a": "OutOfMemory", "b": "ValueError", "c": "StageError", "d": "NoHeadway", "e": "OutOfMemoryError"}


@pytest.fixture
def failed(tmp_path: Path) -> LocalSweep:
    """Return a sweep whose runs have all failed, each of something else."""
    sweep = make_sweep(tmp_path, {run: {} for run in ERRORS})
    task = new_task(sweep.sweep)
    record(sweep.sweep, "submit", runs=list(ERRORS), tasks={task: list(ERRORS)})
    events = EventWriter(sweep.sweep.event_file(task, attempt="one"))
    for run, error in ERRORS.items():
        events.write("failed", runs=[run], error=error, message="no")
    events.write("ended", code=1)
    return sweep


def retried(sweep: LocalSweep, *arguments: str) -> set[str]:
    """Run the command and return the runs whose failures it forgave."""
    assert commands.main(["retry", str(sweep.sweep.path), *arguments]) == 0
    return {run for run, attempts in read_ledger(sweep.sweep).forgiven.items() if attempts}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--failed",), set(ERRORS)),
        (("--state", "failed"), set(ERRORS)),
        (("--state", "oom"), {"a", "e"}),
        (("--state", "OUT_OF_MEMORY"), {"a", "e"}),
        (("--state", "exception"), {"b"}),
        (("--state", "timeout", "--state", "staging"), {"c", "d"}),
        (("a", "b"), {"a", "b"}),
    ],
)
def test_runs_are_taken_up_by_name_and_by_what_they_died_of(
    failed: LocalSweep, arguments: tuple[str, ...], expected: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert retried(failed, *arguments) == expected
    said = capsys.readouterr().out
    assert f"{len(expected)} run" in said and "next: band-sweep submit demo" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the runs to retry"),
        (("a", "--failed"), "name the runs to retry"),
        (("--state", "oomm"), "no such state; did you mean oom"),
        (("--state", "diverged"), "would diverge again"),
        (("--state", "sync"), "band-sweep rescue"),
    ],
)
def test_what_cannot_be_tried_again_is_refused_with_a_way_out(
    failed: LocalSweep, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["retry", str(failed.sweep.path), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not read_ledger(failed.sweep).forgiven


def test_with_submit_they_run_at_once_and_nothing_of_the_first_attempt_is_overwritten(failed: LocalSweep) -> None:
    before = {path: path.read_bytes() for path in failed.sweep.events.iterdir()}
    said = failed.band_sweep("retry", "--state", "oom", "--submit")
    assert "2 runs to be tried again" in said and "next:" not in said
    failed.band_sweep("submit", code=4)  # waits for the queue that is there, or finds all of it done
    wait_for(lambda: not {"running", "queued", "interrupted"}.intersection(failed.states().values()))
    assert [run for run, state in failed.states().items() if state == "published"] == ["a", "e"]
    assert {path: path.read_bytes() for path in before} == before
