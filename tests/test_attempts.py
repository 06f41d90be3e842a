"""At most one attempt holds a task, wherever its rivals are stopped; and one that ended for certain never blocks it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stepping import DEATHS, AtCall, Held, failing, hooked, outcome, race, run_until_killed

from band.attempts import Attempt, Claim, ended_here, read_claim, release_for, take
from band.errors import BandError, ClaimError
from band.run_dir import check_name


def attempt_of(pid: int, **changes: Any) -> Attempt:
    """Return an attempt that this machine cannot see: its word alone says whether it is over."""
    values = {"host": "elsewhere", "boot_id": "b" * 32, "pid_namespace": "1", "start_ticks": 1}
    return Attempt(**{**values, "pid": pid, **changes})


def over(*pids: int) -> Callable[[Claim], bool]:
    return lambda claim: claim.attempt.pid in pids


def claim_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("claim.*"))


def takes(folder: Path, pid: int, *, is_over: Callable[[Claim], bool] = ended_here) -> int:
    return take(folder, attempt=attempt_of(pid), is_over=is_over).number


def test_a_task_is_taken_held_and_given_back(tmp_path: Path) -> None:
    first = take(tmp_path, attempt=attempt_of(1))
    assert first.still_mine() and read_claim(tmp_path) == first
    with pytest.raises(
        ClaimError, match=r"held by attempt elsewhere-bbbbbbbb-1-1 on elsewhere since .*delete .*claim.0"
    ):
        take(tmp_path, attempt=attempt_of(2))
    first.release()
    assert not first.still_mine()
    second = take(tmp_path, attempt=attempt_of(2))
    assert second.still_mine() and claim_files(tmp_path) == ["claim.2.json"]


def test_a_claim_is_broken_where_its_attempt_is_over_and_its_holder_sees_that(tmp_path: Path) -> None:
    first = take(tmp_path, attempt=attempt_of(1))
    second = take(tmp_path, attempt=attempt_of(2), is_over=over(1))
    assert second.still_mine() and not first.still_mine()
    first.release()  # says nothing about the claim of another
    assert second.still_mine() and claim_files(tmp_path) == ["claim.1.json"]


def test_a_restart_of_the_same_array_task_takes_over_and_its_predecessor_never_does(tmp_path: Path) -> None:
    slurm = {"job_id": "77", "array_task": 3}
    take(tmp_path, attempt=attempt_of(1, **slurm, restart=1))
    for changes in ({"restart": 0}, {"restart": 1}, {"restart": 2, "array_task": 4}, {"restart": 2, "job_id": "78"}):
        with pytest.raises(ClaimError):
            take(tmp_path, attempt=attempt_of(2, **{**slurm, **changes}))
    assert take(tmp_path, attempt=attempt_of(2, **slurm, restart=2)).still_mine()


def test_attempts_of_no_job_are_not_restarts_of_each_other() -> None:
    assert not attempt_of(1, restart=1).is_restart_of(attempt_of(2))


def test_of_many_that_take_or_break_at_once_exactly_one_holds_the_task(tmp_path: Path) -> None:
    for seed in range(16):
        folder = tmp_path / str(seed)
        folder.mkdir()
        if seed % 2:
            take(folder, attempt=attempt_of(99))
        rivals = [lambda n=n, folder=folder: takes(folder, n, is_over=over(99)) for n in range(5)]
        outcomes = race(rivals, seed=seed)
        winners = [n for n, number in enumerate(outcomes) if isinstance(number, int)]
        assert len(winners) == 1 and outcomes.count("ClaimError") == 4
        claim = read_claim(folder)
        assert claim is not None and claim.attempt.pid == winners[0]
        assert claim_files(folder) == [f"claim.{outcomes[winners[0]]}.json"]


def test_a_claim_from_an_old_listing_may_be_gone_before_it_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(claim: Claim) -> bool:
        claim.path.unlink()  # as whoever holds a higher number does
        return False

    monkeypatch.setattr(Claim, "still_mine", overtaken)
    with pytest.raises(ClaimError, match="taken by another attempt at this moment"):
        take(tmp_path, attempt=attempt_of(1))


def test_attempts_that_take_and_give_back_again_and_again_never_hold_the_task_together(tmp_path: Path) -> None:
    inside = tmp_path / "inside"

    def work(pid: int) -> int:
        done = 0
        while done < 6:
            try:
                claim = take(tmp_path, attempt=attempt_of(pid))
            except ClaimError:
                continue
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another is inside
            os.unlink(inside)
            claim.release()
            done += 1
        return done

    assert race([lambda n=n: work(n) for n in range(3)], seed=1) == [6, 6, 6]


@pytest.mark.parametrize("start", ["free", "held by one that is over", "given back"])
def test_an_attempt_killed_at_any_call_of_taking_holds_the_task_or_not_and_blocks_nobody(
    tmp_path: Path, start: str
) -> None:
    hits = 0
    for death in DEATHS:
        number = 0
        while True:
            folder = tmp_path / f"{death.__name__}{number}"
            folder.mkdir()
            if start != "free":
                old = take(folder, attempt=attempt_of(1))
                if start == "given back":
                    old.release()
            is_over = over(1)
            if not run_until_killed(lambda f=folder: takes(f, 2, is_over=over(1)), number=number, death=death):
                break
            holder = read_claim(folder)
            if holder is not None and holder.attempt.pid == 2:  # it holds the task until it is known to be over
                with pytest.raises(ClaimError):
                    takes(folder, 3)
                is_over = over(2)
            claim = take(folder, attempt=attempt_of(3), is_over=is_over)
            assert claim.still_mine() and claim_files(folder) == [f"claim.{claim.number}.json"]
            hits += 1
            number += 1
    assert hits >= 18


def test_an_attempt_killed_at_any_call_of_giving_back_blocks_nobody(tmp_path: Path) -> None:
    hits = 0
    for death in DEATHS:
        number = 0
        while True:
            folder = tmp_path / f"{death.__name__}{number}"
            folder.mkdir()
            claim = take(folder, attempt=attempt_of(1))
            if not run_until_killed(claim.release, number=number, death=death):
                break
            assert take(folder, attempt=attempt_of(2), is_over=over(1)).still_mine()
            assert len(claim_files(folder)) == 1
            hits += 1
            number += 1
    assert hits >= 18


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_home_that_fails_at_any_call_of_taking_or_giving_back_leaves_a_task_that_can_be_taken(
    tmp_path: Path, number: int
) -> None:
    for call in range(7):
        folder = tmp_path / str(call)
        folder.mkdir()
        with hooked(AtCall(call, act=failing(number))):
            taken = outcome(lambda folder=folder: takes(folder, 1))
        assert taken in (0, "OSError")
        claim = take(folder, attempt=attempt_of(1))  # an attempt may take what is its own already
        with hooked(AtCall(call, act=failing(number))):
            assert outcome(claim.release) in (None, "OSError")
        assert take(folder, attempt=attempt_of(2), is_over=over(1)).still_mine()


def test_an_attempt_held_at_any_call_while_others_take_and_give_back_never_holds_the_task_beside_them(
    tmp_path: Path,
) -> None:
    """The slow one may have read the folder long ago; the number it creates may have been used and removed since."""

    def nothing(folder: Path) -> None:
        pass

    def two_changes(folder: Path) -> None:
        take(folder, attempt=attempt_of(2), is_over=over(1, 9)).release()

    def holder_stays(folder: Path) -> None:
        take(folder, attempt=attempt_of(2), is_over=over(1, 9)).release()
        take(folder, attempt=attempt_of(3), is_over=over(9))

    stops = 0
    for meanwhile in (nothing, two_changes, holder_stays):
        for before in (True, False):
            for number in range(9):
                folder = tmp_path / f"{meanwhile.__name__}{before}{number}"
                folder.mkdir()
                take(folder, attempt=attempt_of(1))
                slow = Held(lambda f=folder: takes(f, 9, is_over=over(1)), number=number, before=before)
                if slow.has_stopped:
                    stops += 1
                    meanwhile(folder)
                number_of_slow = slow.finish()
                claim = read_claim(folder)
                assert claim is not None
                if meanwhile is holder_stays and slow.has_stopped:
                    assert claim.attempt.pid == 3 and not claim.is_released
                if isinstance(number_of_slow, int) and claim.number == number_of_slow:
                    assert claim.attempt.pid == 9
                assert len(claim_files(folder)) == 1
    assert stops >= 30


def test_a_claim_made_from_an_old_listing_is_no_error_of_the_disk_where_the_holder_was_quicker_to_remove_it(
    tmp_path: Path,
) -> None:
    newer = take(tmp_path, attempt=attempt_of(2))
    data = newer.path.read_bytes()
    newer.path.unlink()

    def be_quicker(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        result = call()
        if name == "link":
            (tmp_path / "claim.7.json").write_bytes(data)
            Path(args[1]).unlink()
        return result

    with hooked(be_quicker), pytest.raises(ClaimError, match="taken by another attempt"):
        take(tmp_path, attempt=attempt_of(1))
    assert claim_files(tmp_path) == ["claim.7.json"]


def test_two_attempts_step_by_step_never_both_hold_a_task(tmp_path: Path) -> None:
    """One is held at each call while the other runs through: exactly one of them is told that it has it."""
    for before in (True, False):
        for number in range(8):
            folder = tmp_path / f"{before}{number}"
            folder.mkdir()
            take(folder, attempt=attempt_of(1))
            slow = Held(lambda f=folder: takes(f, 2, is_over=over(1)), number=number, before=before)
            fast = outcome(lambda f=folder: takes(f, 3, is_over=over(1)))
            outcomes = [slow.finish(), fast]
            assert sum(isinstance(value, int) for value in outcomes) == 1
            claim = read_claim(folder)
            assert claim is not None and claim.attempt.pid == (2 if isinstance(outcomes[0], int) else 3)


def test_a_damaged_claim_is_named_and_not_broken(tmp_path: Path) -> None:
    for content in (b"", b"{}", b"[]", b'{"attempt": {"pid": 1}, "t": 1, "is_released": false}'):
        (tmp_path / "claim.0.json").write_bytes(content)
        with pytest.raises(BandError, match=r"claim\.0\.json"):
            take(tmp_path, attempt=attempt_of(1), is_over=lambda claim: True)


def test_a_folder_moved_away_is_no_longer_held(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    claim = take(folder, attempt=attempt_of(1))
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        claim.still_mine()
    folder.mkdir()
    assert not claim.still_mine()


def test_this_machine_knows_that_a_process_has_ended_and_that_it_has_not() -> None:
    current = Attempt.current()
    assert not current.has_ended_here()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ticks = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    theirs = dataclasses.replace(current, pid=child.pid, start_ticks=ticks)
    assert not theirs.has_ended_here()
    assert dataclasses.replace(theirs, start_ticks=ticks - 1).has_ended_here()  # another process of that id, before
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert theirs.has_ended_here()  # a zombie does nothing any more
    child.wait()
    assert theirs.has_ended_here()
    assert dataclasses.replace(current, boot_id="0" * 32).has_ended_here()


def test_this_machine_does_not_judge_attempts_of_other_machines_and_containers() -> None:
    current = dataclasses.replace(Attempt.current(), pid=2**22 + 1)
    assert current.has_ended_here()
    assert not dataclasses.replace(current, host="elsewhere", boot_id="0" * 32).has_ended_here()
    assert not dataclasses.replace(current, pid_namespace="1").has_ended_here()
    claim = Claim(folder=Path("x"), number=0, attempt=current, t=0.0)
    assert ended_here(claim)


def test_an_attempt_in_a_job_is_named_by_array_task_and_restart_and_elsewhere_by_its_process() -> None:
    array = {"SLURM_JOB_ID": "103", "SLURM_ARRAY_JOB_ID": "100", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2"}
    assert Attempt.current(array).name == "j100_3-r2"
    assert Attempt.current({"SLURM_JOB_ID": "103"}).name == "j103-r0"
    local = Attempt.current({})
    assert str(os.getpid()) in local.name.split("-") and "." not in local.name
    assert local.name != dataclasses.replace(local, start_ticks=local.start_ticks + 1).name
    hostile = Attempt.current({"SLURM_JOB_ID": "../../x", "SLURM_ARRAY_TASK_ID": "1/2"})
    assert hostile.job_id == ""
    for attempt in (
        local,
        hostile,
        dataclasses.replace(local, host="../a.b c\n" * 20),
        dataclasses.replace(local, host=""),
    ):
        assert "." not in check_name(attempt.name)


def test_a_claim_file_tells_a_reader_who_holds_the_task(tmp_path: Path) -> None:
    claim = take(tmp_path, attempt=attempt_of(5))
    values = json.loads(claim.path.read_text())
    assert values["name"] == claim.attempt.name and values["attempt"]["pid"] == 5 and not values["is_released"]


def test_a_task_is_given_back_for_an_attempt_that_is_over_and_for_no_other(tmp_path: Path) -> None:
    assert release_for(tmp_path), "nobody ever held it"
    take(tmp_path, attempt=attempt_of(5))
    assert not release_for(tmp_path, is_over=over(6))
    assert release_for(tmp_path, is_over=over(5)) and release_for(tmp_path, is_over=over())
    assert takes(tmp_path, 7) > 0


def test_giving_a_task_back_never_takes_it_from_an_attempt_that_has_followed(tmp_path: Path) -> None:
    take(tmp_path, attempt=attempt_of(5))
    held = Held(lambda: release_for(tmp_path, is_over=over(5)), number=0, before=True)
    assert takes(tmp_path, 6, is_over=over(5)) == 1
    assert held.finish() is False
    claim = read_claim(tmp_path)
    assert claim is not None and claim.attempt.pid == 6 and not claim.is_released
