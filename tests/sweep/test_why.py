"""Why a run is where it is: each state has its paragraph, with the node, and the command to type next."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_sweep import make_sweep

from band.sweep import why
from band.sweep.ledger import read_ledger
from band.sweep.manifest import read_manifest
from band.sweep.status import STATES, RunStatus, Survey
from band.sweep.why import explain

AT = {"task": "0001", "job": "12_3", "node": "c1"}
OVER = {**AT, "epoch": 7, "max_epochs": 40}
CASES: dict[str, tuple[dict[str, object], str, str]] = {
    "published": ({"outcome": "diverged"}, "is published (diverged)", "band-sweep report demo"),
    "unsynced": (AT, "still on c1: home could not be written", "band-sweep rescue demo"),
    "running": ({**OVER, "epochs_per_s": 1.5}, "job 12_3 on c1. It is at epoch 7", "band-sweep logs demo a -f"),
    "interrupted": ({**OVER, "end": "NODE_FAIL", "words": "NODE_FAIL"}, "NODE_FAIL", "band-sweep submit demo"),
    "queued": ({**AT, "scheduled": "running"}, "12_3 on c1 and has yet to come", "band-sweep status demo --watch"),
    "held": ({"words": "PENDING (JobHeldUser)"}, "is held", "band-sweep status demo"),
    "planned": ({"words": "no room\n  fewer"}, "refused it so far: no room.", "band-sweep submit demo"),
    "cancelled": ({**OVER, "blamed": "0001.12_3"}, "12_3 was cancelled at Slurm", "band-sweep retry demo a"),
    "failed": ({**OVER, "error": "OutOfMemory", "message": "no room"}, "(out of memory) as", "band-sweep logs demo a"),
    "lost": ({**AT, "words": "COMPLETED"}, "12_3 on c1 left no last word", "band-sweep submit demo"),
    "submit_unknown": ({}, "sbatch gave no answer", "band-sweep reconcile demo"),
    "retired": ({}, "no longer in the sweep file", ""),
    "new": ({}, "has not been submitted", "band-sweep submit demo"),
}


def explained(folder: Path, status: RunStatus, monkeypatch: pytest.MonkeyPatch) -> why.Explanation:
    monkeypatch.setattr(why, "show", lambda *args, **kwargs: {})
    sweep = make_sweep(folder, {"a": {}}).sweep
    survey = Survey(read_manifest(sweep.path), read_ledger(sweep), {"a": status})
    return explain(survey, "a", sweep=sweep)


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_a_reason_and_a_next_command(
    tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, words, command = CASES[state]
    found = explained(tmp_path, RunStatus(state=state, **values), monkeypatch)  # type: ignore[arg-type]
    assert words in found.text and found.text.startswith("a ") and found.text.endswith(".")
    assert found.command == command


@pytest.mark.parametrize(("epochs_per_s", "words"), [(2.0, "At most 1 min are left"), (0.1, "At most 6 min are left")])
def test_what_is_left_is_never_rounded_down(
    tmp_path: Path, epochs_per_s: float, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = RunStatus(state="running", epoch=7, max_epochs=40, epochs_per_s=epochs_per_s)
    assert words in explained(tmp_path, status, monkeypatch).text
