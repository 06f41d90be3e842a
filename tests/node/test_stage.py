"""One verified copy of a dataset a node, whoever else needs it, is killed, or fills the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stepping import DEATHS, AtCall, die_within, failing, hooked, race, run_until_killed

from band.errors import StageError
from band.files import sha256_file
from band.node import stage
from band.node.scratch import find_scratch, prepare
from band.node.stage import Interrupted, default_max_bytes, evict, staged
from band.run_dir import ScratchDir, SweepDir


@pytest.fixture
def scratch(tmp_path: Path) -> ScratchDir:
    made = ScratchDir(tmp_path / "scratch")
    prepare(made)
    return made


def recording(folder: Path, name: str = "recording.h5", *, content: bytes = b"spikes" * 5000) -> dict[str, Any]:
    path = folder / name
    path.write_bytes(content)
    return {"path": str(path), "digest": "d", "file_digest": sha256_file(path), "size_bytes": len(content)}


def stage_once(dataset: dict[str, Any], scratch: ScratchDir) -> tuple[bool, str]:
    with staged(dataset, scratch=scratch) as data:
        assert sha256_file(data.path) == dataset["file_digest"]
        return data.copied, data.fallback


def copies(scratch: ScratchDir) -> list[str]:
    return sorted(path.parent.name for path in scratch.data.glob("*/recording.h5"))


def test_the_first_copies_and_the_second_finds_the_copy(tmp_path: Path, scratch: ScratchDir) -> None:
    dataset = recording(tmp_path)
    assert stage_once(dataset, scratch) == (True, "")
    assert stage_once(dataset, scratch) == (False, "")
    with staged(dataset, scratch=scratch) as data:
        assert data.path == scratch.dataset(dataset["file_digest"]) / "recording.h5"
    assert (scratch.data / f"{dataset['file_digest']}.lock").stat().st_mode & 0o777 == 0o600


def test_of_many_tasks_that_start_together_one_copies(tmp_path: Path) -> None:
    dataset = recording(tmp_path)
    for seed in range(5):
        scratch = ScratchDir(tmp_path / str(seed))
        prepare(scratch)
        outcomes = race([lambda s=scratch: stage_once(dataset, s) for _ in range(6)], seed=seed)
        assert sorted(outcomes) == [[False, ""]] * 5 + [[True, ""]]


def test_a_task_that_waited_for_the_copy_reads_it_while_the_one_that_made_it_still_trains(
    tmp_path: Path, scratch: ScratchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = recording(tmp_path)
    digest, try_lock = dataset["file_digest"], stage._try_lock
    waits_for_exclusive, has_it = threading.Event(), threading.Event()

    def watched(lock: int, *, how: int) -> bool:
        got = try_lock(lock, how=how)
        if how == fcntl.LOCK_EX and not got:
            waits_for_exclusive.set()
        return got

    def wait_and_read() -> None:
        with staged(dataset, scratch=scratch) as data:
            assert not data.copied and not data.fallback
            has_it.set()

    monkeypatch.setattr(stage, "_try_lock", watched)
    task = threading.Thread(target=wait_and_read, daemon=True)
    with stage._open_lock(scratch, digest=digest) as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # both tasks have seen that there is no copy …
        task.start()
        assert waits_for_exclusive.wait(10)
        fcntl.flock(other, fcntl.LOCK_EX)  # … the other one gets to make it …
        stage._make_copy(dataset, folder=scratch.dataset(digest), scratch=scratch, max_bytes=10**9)
        fcntl.flock(other, fcntl.LOCK_SH)  # … and trains.
        assert has_it.wait(10), "a task must not wait until another one has trained"
    task.join(10)


def test_a_task_killed_at_any_call_of_staging_leaves_a_node_where_the_next_one_can(tmp_path: Path) -> None:
    dataset = recording(tmp_path)
    hits = 0
    for death in DEATHS:
        number = 0
        while True:
            scratch = ScratchDir(tmp_path / f"{death.__name__}{number}")
            prepare(scratch)
            if not run_until_killed(lambda s=scratch: stage_once(dataset, s), number=number, death=death):
                break
            assert stage_once(dataset, scratch)[1] == ""
            assert [path.name for path in scratch.dataset(dataset["file_digest"]).glob(".*")] == []
            hits += 1
            number += 1
    assert hits >= 25


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_scratch_that_fails_at_any_call_is_passed_over_for_home_and_said(tmp_path: Path, number: int) -> None:
    dataset = recording(tmp_path)
    fallbacks = 0
    for call in range(12):
        scratch = ScratchDir(tmp_path / str(call))
        prepare(scratch)
        with hooked(AtCall(call, act=failing(number))), staged(dataset, scratch=scratch) as data:
            assert sha256_file(data.path) == dataset["file_digest"]
            if data.fallback:
                fallbacks += 1
                assert data.path == Path(dataset["path"]) and os.strerror(number) in data.fallback
        assert stage_once(dataset, scratch)[1] == ""
    assert fallbacks >= 5


def test_a_copy_that_was_damaged_is_made_again(tmp_path: Path, scratch: ScratchDir) -> None:
    dataset = recording(tmp_path, content=b"spikes" * 500)
    stage_once(dataset, scratch)
    path = scratch.dataset(dataset["file_digest"]) / "recording.h5"
    is_above = set()
    for number in range(8):
        modified = path.stat().st_mtime_ns
        path.write_bytes(b"%d" % number + path.read_bytes()[1:])
        os.utime(path, ns=(modified, modified + (number % 2 or -1)))  # later, or earlier as from a backup
        is_above.add(sha256_file(path) > dataset["file_digest"])
        assert stage_once(dataset, scratch) == (True, "")
    assert is_above == {True, False}
    path.write_bytes(path.read_bytes())  # touched, not changed
    assert stage_once(dataset, scratch) == (False, "")


@pytest.mark.parametrize("with_scratch", [True, False])
def test_a_recording_that_is_missing_or_another_is_refused(
    tmp_path: Path, scratch: ScratchDir, with_scratch: bool
) -> None:
    dataset = recording(tmp_path)
    place = scratch if with_scratch else None
    for other in range(8):
        Path(dataset["path"]).write_bytes(b"another %d" % other)
        with (
            pytest.raises(StageError, match=r"recording\.h5 is not the recording that the sweep was generated for"),
            staged(dataset, scratch=place),
        ):
            pass
    Path(dataset["path"]).unlink()
    with pytest.raises(StageError, match=r"recording\.h5 is missing; put"), staged(dataset, scratch=place):
        pass
    assert copies(scratch) == []


@pytest.mark.parametrize("with_scratch", [True, False])
def test_a_recording_that_cannot_be_read_is_named(tmp_path: Path, scratch: ScratchDir, with_scratch: bool) -> None:
    (tmp_path / "folder/recording.h5").mkdir(parents=True)
    (tmp_path / "file").write_text("no folder")
    for place in ("folder", "file"):
        dataset = {"path": str(tmp_path / place / "recording.h5"), "file_digest": "d" * 64, "size_bytes": 9}
        with (
            pytest.raises(StageError, match=rf"/{place}/recording\.h5 cannot be read: "),
            staged(dataset, scratch=scratch if with_scratch else None),
        ):
            pass


def test_a_copy_is_not_locked_through_a_link(tmp_path: Path, scratch: ScratchDir) -> None:
    dataset = recording(tmp_path)
    (scratch.data / f"{dataset['file_digest']}.lock").symlink_to(tmp_path / "theirs")
    copied, fallback = stage_once(dataset, scratch)
    assert not copied and "symbolic links" in fallback and not (tmp_path / "theirs").exists()


def kill_while_it_copies(dataset: dict[str, Any], scratch: ScratchDir) -> None:
    """Have a task leave what it had of a copy."""
    number, folder = 0, scratch.dataset(dataset["file_digest"])
    while not any(path.stat().st_size for path in folder.glob(".*")):
        assert run_until_killed(lambda: stage_once(dataset, scratch), number=number, death=die_within)
        number += 1


def test_what_a_task_left_that_was_killed_while_it_copied_is_evicted_as_copies_are(
    tmp_path: Path, scratch: ScratchDir
) -> None:
    dataset = recording(tmp_path)
    kill_while_it_copies(dataset, scratch)
    (left,) = scratch.dataset(dataset["file_digest"]).iterdir()
    assert evict(scratch, max_bytes=left.stat().st_size) == []
    assert evict(scratch, max_bytes=left.stat().st_size - 1) == [dataset["file_digest"]] and not left.parent.exists()


def test_what_was_left_of_its_own_copy_has_a_task_give_up_no_other(tmp_path: Path, scratch: ScratchDir) -> None:
    first, second = (recording(tmp_path, f"{n}.h5", content=bytes([n]) * 1000) for n in range(2))
    stage_once(first, scratch)
    kill_while_it_copies(second, scratch)
    with staged(second, scratch=scratch, max_bytes=2000):
        assert copies(scratch) == sorted([first["file_digest"], second["file_digest"]])


def test_copies_are_evicted_oldest_first_but_never_while_they_are_leased(tmp_path: Path, scratch: ScratchDir) -> None:
    datasets = [recording(tmp_path, f"{n}.h5", content=bytes([n]) * 1000) for n in range(4)]
    for age, dataset in zip((400, 300, 200, 100), datasets, strict=True):
        stage_once(dataset, scratch)
        lock = scratch.data / f"{dataset['file_digest']}.lock"
        os.utime(lock, (lock.stat().st_atime, lock.stat().st_mtime - age))
    digests = [dataset["file_digest"] for dataset in datasets]
    (scratch.data / "empty").mkdir()
    assert evict(scratch, max_bytes=4000) == []
    with staged(datasets[0], scratch=scratch):  # in use, and now the youngest
        assert evict(scratch, max_bytes=2500) == ["empty", digests[1], digests[2]]
        assert copies(scratch) == sorted([digests[0], digests[3]])
        assert evict(scratch, max_bytes=0) == [digests[3]]
    assert evict(scratch, max_bytes=0) == [digests[0]]


def test_a_copy_that_another_task_evicts_meanwhile_is_passed_over(
    tmp_path: Path, scratch: ScratchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(2):
        stage_once(recording(tmp_path, f"{n}.h5", content=bytes([n]) * 1000), scratch)
    first, real = scratch.dataset(copies(scratch)[0]), Path.iterdir

    def evicted(path: Path) -> Iterator[Path]:
        if path == first:
            shutil.rmtree(first)
        return real(path)

    monkeypatch.setattr(Path, "iterdir", evicted)
    assert evict(scratch, max_bytes=1000) == [] and not first.exists()


def test_a_folder_that_the_disk_does_not_let_go_keeps_no_other_from_being_evicted(
    tmp_path: Path, scratch: ScratchDir
) -> None:
    datasets = [recording(tmp_path, f"{n}.h5", content=bytes([n]) * 1000) for n in range(2)]
    for dataset in datasets:
        stage_once(dataset, scratch)

    def refuse(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        return failing(errno.EBUSY)(name, call, args) if name == "rmdir" else call()

    with hooked(refuse):
        assert sorted(evict(scratch, max_bytes=0)) == sorted(dataset["file_digest"] for dataset in datasets)
    assert copies(scratch) == []


def test_a_new_copy_makes_room_for_itself_under_the_cap(tmp_path: Path, scratch: ScratchDir) -> None:
    first, second = (recording(tmp_path, f"{n}.h5", content=bytes([n]) * 1000) for n in range(2))
    for dataset in (first, second):
        with staged(dataset, scratch=scratch, max_bytes=1500):
            pass
    assert copies(scratch) == [second["file_digest"]]


def test_a_cap_leaves_as_many_copies_as_go_under_it(tmp_path: Path, scratch: ScratchDir) -> None:
    datasets = [recording(tmp_path, f"{n}.h5", content=bytes([n]) * 1000) for n in range(5)]
    for age, dataset in zip((500, 400, 300, 200, 100), datasets, strict=True):
        with staged(dataset, scratch=scratch, max_bytes=3000):
            pass
        os.utime(scratch.data / f"{dataset['file_digest']}.lock", (time.time() - age,) * 2)
    assert copies(scratch) == sorted(dataset["file_digest"] for dataset in datasets[2:])


def test_a_copy_that_nobody_has_touched_is_not_read_again(
    tmp_path: Path, scratch: ScratchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = recording(tmp_path)
    stage_once(dataset, scratch)

    def read(path: Path) -> str:
        raise AssertionError(f"{path} was read, which takes minutes where it is large")

    monkeypatch.setattr(stage, "sha256_file", read)
    with staged(dataset, scratch=scratch) as data:
        assert not data.copied and not data.fallback


def test_a_full_scratch_gives_up_copies_that_nobody_uses(
    tmp_path: Path, scratch: ScratchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (recording(tmp_path, f"{n}.h5", content=bytes([n]) * 1000) for n in range(2))
    stage_once(first, scratch)
    real = os.write

    def write_if_room(file: int, data: bytes) -> int:
        if sum(path.stat().st_size for path in scratch.data.glob("*/*")) + len(data) > 1500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data)

    monkeypatch.setattr(os, "write", write_if_room)
    assert stage_once(second, scratch) == (True, "")
    assert copies(scratch) == [second["file_digest"]]


def test_the_wait_for_another_tasks_copy_ends_when_this_one_shall_stop(
    tmp_path: Path, scratch: ScratchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(stage, "POLL_S", 0.01)
    dataset = recording(tmp_path)
    lock = os.open(scratch.data / f"{dataset['file_digest']}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    asked = iter([False, False, True])
    try:
        with pytest.raises(Interrupted), staged(dataset, scratch=scratch, should_stop=lambda: next(asked)):
            pass
    finally:
        os.close(lock)


def test_the_cap_comes_from_the_environment_or_the_disk(scratch: ScratchDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAND_SCRATCH_MAX_BYTES", "12345")
    assert default_max_bytes(scratch) == 12345
    monkeypatch.delenv("BAND_SCRATCH_MAX_BYTES")
    assert 0 < default_max_bytes(scratch) <= stage.DEFAULT_MAX_BYTES
    for total, most in ((1001, 500), (10**15, 200 * 2**30)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, total=total: SimpleNamespace(total=total))
        assert default_max_bytes(scratch) == most


def make_link(path: Path) -> None:
    other = path.with_name("theirs")
    other.mkdir()
    path.symlink_to(other)


def make_open(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


@pytest.mark.parametrize(("make", "why"), [(make_link, "not a link"), (make_open, "writable by others")])
def test_a_scratch_that_others_could_have_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, why: str
) -> None:
    path = tmp_path / "scratch"
    make(path)
    monkeypatch.setenv("BAND_SCRATCH", str(path))
    found = find_scratch(SweepDir(tmp_path / "home"))
    assert found.scratch.path == tmp_path / "home" / ".scratch" and why in found.why_home


def test_scratch_is_made_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAND_SCRATCH", str(tmp_path / "a" / "b" / "scratch"))
    found = find_scratch(SweepDir(tmp_path / "home"))
    assert found.scratch.path.stat().st_mode & 0o777 == 0o700 and not found.why_home
    assert sorted(path.name for path in found.scratch.path.iterdir()) == ["data"]  # the probe is gone
