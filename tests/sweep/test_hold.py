"""One process at a time changes what Slurm has of a sweep; a dead one does not block the others for ever."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest

from band.attempts import Attempt, take
from band.errors import ClaimError
from band.files import canonical_json
from band.run_dir import SweepDir
from band.sweep import hold as holding
from band.sweep.hold import hold

ELSEWHERE = dataclasses.replace(Attempt.current(), host="login2", boot_id="b" * 32)


def taken(folder: Path, attempt: Attempt) -> SweepDir:
    sweep = SweepDir(folder / "demo")
    sweep.submissions.mkdir(parents=True)
    take(sweep.submissions, attempt=attempt)
    return sweep


def parent_ticks() -> int:
    return int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19])


def refused(sweep: SweepDir) -> bool:
    try:
        with hold(sweep):
            return False
    except ClaimError:
        return True


def test_it_is_given_back_at_the_end_whatever_happens(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path / "demo")
    with pytest.raises(RuntimeError), hold(sweep) as claim:
        assert claim.still_mine()
        raise RuntimeError
    with hold(sweep) as second:
        assert second.number > claim.number and not claim.still_mine()


def test_a_living_process_here_keeps_it_and_a_dead_one_does_not(tmp_path: Path) -> None:
    assert not refused(taken(tmp_path / "dead", dataclasses.replace(Attempt.current(), start_ticks=1)))
    sweep = taken(
        tmp_path / "alive", dataclasses.replace(Attempt.current(), pid=os.getppid(), start_ticks=parent_ticks())
    )
    assert refused(sweep)


def test_one_on_another_machine_that_notes_nothing_for_long_is_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = taken(tmp_path, ELSEWHERE)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + holding.STALE_S - 5)
    assert refused(sweep)
    monkeypatch.setattr(time, "time", lambda: now + holding.STALE_S + 5)
    assert not refused(sweep)


def test_a_local_queue_on_another_machine_is_never_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = taken(tmp_path, ELSEWHERE)
    sweep.submission("0001").mkdir()
    (sweep.submission("0001") / "receipt.json").write_bytes(canonical_json({"attempt": ELSEWHERE.name}))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10 * holding.STALE_S)
    assert refused(sweep)


def test_a_job_keeps_it_until_slurm_says_that_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = taken(tmp_path, dataclasses.replace(ELSEWHERE, job_id="123"))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10 * holding.STALE_S)
    monkeypatch.setattr(holding, "slurm_says_over", lambda attempt: False)
    assert refused(sweep)
    monkeypatch.setattr(holding, "slurm_says_over", lambda attempt: attempt.job_id == "123")
    assert not refused(sweep)
