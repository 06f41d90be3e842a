"""Files are whole or absent: at every system call a process is killed, the disk fails, or another process is faster."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stepping import DEATHS, AtCall, Held, calls_of, failing, hooked, outcome, race, run_until_killed

from band import files
from band.errors import BandError
from band.files import (
    append_line,
    canonical_json,
    copy_tree_verified,
    copy_verified,
    create_exclusive,
    fsync_folder,
    read_json,
    read_json_object,
    read_lines,
    refuses_to_replace,
    remove_stale_temporaries,
    rename_exclusive,
    sha256_file,
    sync_file_system,
    whole_file,
    write_atomic,
)

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EROFS)
OLD, NEW = b"old" * 2000, b"newer" * 2000


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def each_death(operation: Callable[[], Any], *, check: Callable[[], None], prepare: Callable[[], None]) -> int:
    """Kill a process at every call of an operation, in every way; return how often."""
    hits = 0
    for death in DEATHS:
        number = 0
        while True:
            prepare()
            if not run_until_killed(operation, number=number, death=death):
                break
            check()
            hits += 1
            number += 1
    return hits


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write as a library does that is given a name."""
    with whole_file(path, replace=replace) as temporary:
        temporary.write_bytes(data)


def test_a_file_that_a_library_writes_reaches_the_disk_before_its_name_and_is_whole_at_every_death(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.h5"
    calls = calls_of(lambda: write_whole(path, NEW))
    assert calls.index("fsync") < calls.index("replace") and calls[-1] == "fsync"

    def check() -> None:
        assert path.read_bytes() in (OLD, NEW)

    assert each_death(lambda: write_whole(path, NEW), check=check, prepare=lambda: write_atomic(path, OLD)) >= 9
    assert visible(tmp_path) == ["x.h5"]


@pytest.mark.parametrize("number", ERRNOS)
def test_a_file_that_a_library_writes_is_not_there_when_the_disk_fails_and_never_replaces_unasked(
    tmp_path: Path, number: int
) -> None:
    path = tmp_path / "x.h5"
    for call in range(len(calls_of(lambda: write_whole(tmp_path / "y.h5", NEW))) - 1):
        with hooked(AtCall(call, act=failing(number))), pytest.raises(OSError, match=os.strerror(number)):
            write_whole(path, NEW)
        assert [entry.name for entry in tmp_path.iterdir()] == ["y.h5"]
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "y.h5", OLD, replace=False)
    assert (tmp_path / "y.h5").read_bytes() == NEW and len(list(tmp_path.iterdir())) == 1


def test_a_written_file_reaches_the_disk_before_its_name_and_then_the_name_does(tmp_path: Path) -> None:
    assert calls_of(lambda: write_atomic(tmp_path / "a", NEW)) == ["open", "write", "fsync", "replace", "fsync"]
    assert (tmp_path / "a").read_bytes() == NEW


@pytest.mark.parametrize("had_old", [True, False])
def test_a_process_killed_at_any_call_of_a_write_leaves_all_of_the_old_or_all_of_the_new(
    tmp_path: Path, had_old: bool
) -> None:
    path = tmp_path / "state.json"

    def prepare() -> None:
        write_atomic(path, OLD) if had_old else path.unlink(missing_ok=True)

    def check() -> None:
        assert (path.read_bytes() if path.exists() else None) in (OLD if had_old else None, NEW)
        write_atomic(path, b"afterwards")  # what was left behind does not block
        assert path.read_bytes() == b"afterwards"

    assert each_death(lambda: write_atomic(path, NEW), check=check, prepare=prepare) == 15
    assert visible(tmp_path) == ["state.json"]


@pytest.mark.parametrize("number", ERRNOS)
def test_a_disk_that_fails_at_any_call_of_a_write_leaves_no_torn_file_and_no_rubbish(
    tmp_path: Path, number: int
) -> None:
    path = tmp_path / "state.json"
    for call in range(5):
        write_atomic(path, OLD)
        with hooked(AtCall(call, act=failing(number))), pytest.raises(OSError, match=os.strerror(number)):
            write_atomic(path, NEW)
        assert path.read_bytes() == (NEW if call == 4 else OLD)
        assert list(tmp_path.iterdir()) == [path]


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
        create_exclusive(tmp_path / "b", b"")
        copy_verified(tmp_path / "a", tmp_path / "c")
        append_line(tmp_path / "d", {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_a_link_in_the_place_of_a_file_is_replaced_and_what_it_points_to_is_untouched(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "ours").symlink_to("theirs")
    write_atomic(tmp_path / "ours", NEW)
    assert (tmp_path / "theirs").read_bytes() == b"theirs" and (tmp_path / "ours").read_bytes() == NEW


def test_short_writes_are_carried_on_until_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, bytes(data)[:7]))
    write_atomic(tmp_path / "a", NEW)
    assert (tmp_path / "a").read_bytes() == NEW


def test_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    for name in (".a.0.tmp", ".b.0.tmp", "c.tmp", ".d"):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".b.0.tmp").touch()
    for name, target in ((".e.0.tmp", ".b.0.tmp"), (".f.0.tmp", "nowhere"), (".g.0.tmp", "c.tmp")):
        (tmp_path / name).symlink_to(target)  # of a link its own age counts
        if name != ".g.0.tmp":
            os.utime(tmp_path / name, (0, 0), follow_symlinks=False)
    (tmp_path / ".h.tmp").mkdir()
    os.utime(tmp_path / ".h.tmp", (0, 0))
    remove_stale_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.0.tmp", ".d", ".g.0.tmp", ".h.tmp", "c.tmp"]
    remove_stale_temporaries(tmp_path / "missing")


def test_a_process_killed_at_any_call_of_a_creation_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    path = tmp_path / "claim"

    def check() -> None:
        existed = path.exists()
        assert not existed or path.read_bytes() == NEW
        assert create_exclusive(path, b"mine") is not existed
        assert path.read_bytes() == (NEW if existed else b"mine")

    hits = each_death(lambda: create_exclusive(path, NEW), check=check, prepare=lambda: path.unlink(missing_ok=True))
    assert hits == 18 and visible(tmp_path) == ["claim"]


@pytest.mark.parametrize("number", ERRNOS)
def test_a_disk_that_fails_at_any_call_of_a_creation_leaves_a_whole_file_or_none(tmp_path: Path, number: int) -> None:
    for call in range(6):
        path = tmp_path / f"claim{call}"
        with hooked(AtCall(call, act=failing(number))):
            created = outcome(lambda path=path: create_exclusive(path, NEW))
        assert created == (True if call == 4 else "OSError")  # 4: the temporary name stays, the file is there
        assert not path.exists() or path.read_bytes() == NEW


def test_a_created_file_reaches_the_disk_before_its_name_and_then_the_name_does(tmp_path: Path) -> None:
    calls = calls_of(lambda: create_exclusive(tmp_path / "a", NEW))
    assert calls == ["open", "write", "fsync", "link", "unlink", "fsync"]


def test_of_many_processes_that_create_a_file_exactly_one_does(tmp_path: Path) -> None:
    for seed in range(10):
        path = tmp_path / f"claim{seed}"
        won = race([lambda n=n, path=path: create_exclusive(path, b"%d" % n * 500) for n in range(6)], seed=seed)
        assert sorted(won) == [False] * 5 + [True]
        assert path.read_bytes() == b"%d" % won.index(True) * 500


def test_an_answer_lost_by_the_server_does_not_make_a_creation_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link_asked_twice(source: Any, target: Any) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", link_asked_twice)
    assert create_exclusive(tmp_path / "claim", NEW)
    assert not create_exclusive(tmp_path / "claim", OLD)


@pytest.fixture(params=["renameat2", "rename"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stand for a file system with a rename that refuses to replace, and for one without, such as NFS."""
    if request.param == "rename":

        def unsupported(source: Path, target: Path) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr(files, "_renameat2", unsupported)
    return str(request.param)


def folder_with(path: Path, content: bytes) -> Path:
    path.mkdir()
    (path / "file").write_bytes(content)
    return path


def test_a_taken_name_is_not_taken_again(tmp_path: Path, file_system: str) -> None:
    assert rename_exclusive(folder_with(tmp_path / "a", b"a"), tmp_path / "target")
    assert not rename_exclusive(folder_with(tmp_path / "b", b"b"), tmp_path / "target")
    assert (tmp_path / "target/file").read_bytes() == b"a" and (tmp_path / "b/file").read_bytes() == b"b"
    (tmp_path / "file").write_bytes(b"")
    assert not rename_exclusive(tmp_path / "b", tmp_path / "file")
    (tmp_path / "link").symlink_to("nowhere")
    assert not rename_exclusive(tmp_path / "b", tmp_path / "link")


def test_it_is_known_whether_a_disk_refuses_to_replace_and_nothing_is_left_of_trying(
    tmp_path: Path, file_system: str
) -> None:
    assert refuses_to_replace(tmp_path) == (file_system == "renameat2")
    assert not list(tmp_path.iterdir())


def test_a_missing_source_is_an_error(tmp_path: Path, file_system: str) -> None:
    with pytest.raises(FileNotFoundError):
        rename_exclusive(tmp_path / "nothing", tmp_path / "target")
    folder_with(tmp_path / "a", b"")
    for flush in (True, False):
        with pytest.raises(FileNotFoundError):
            rename_exclusive(tmp_path / "a", tmp_path / "nowhere" / "target", flush=flush)
    assert visible(tmp_path) == ["a"]


def test_of_many_processes_that_rename_to_one_name_exactly_one_does(tmp_path: Path, file_system: str) -> None:
    for seed in range(8):
        target = tmp_path / f"target{seed}"
        sources = [folder_with(tmp_path / f"{seed}.{n}", b"%d" % n) for n in range(5)]
        won = race([lambda s=s, target=target: rename_exclusive(s, target) for s in sources], seed=seed)
        assert sorted(won) == [False] * 4 + [True]
        assert (target / "file").read_bytes() == b"%d" % won.index(True)
        assert sum(source.exists() for source in sources) == 4


def test_a_process_killed_at_any_call_of_a_rename_leaves_the_folder_under_one_name(
    tmp_path: Path, file_system: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"

    def prepare() -> None:
        for path in (source, target):
            if path.exists():
                (path / "file").unlink()
                path.rmdir()
        folder_with(source, NEW)

    def check() -> None:
        (only,) = tmp_path.iterdir()
        assert (only / "file").read_bytes() == NEW
        if only == source:
            assert rename_exclusive(source, target)

    assert each_death(lambda: rename_exclusive(source, target), check=check, prepare=prepare) >= 9


def test_an_answer_lost_by_the_server_does_not_make_a_rename_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename_asked_twice(source: Path, target: Path) -> None:
        os.rename(source, target)
        os.rename(source, target)

    monkeypatch.setattr(files, "_renameat2", rename_asked_twice)
    assert rename_exclusive(folder_with(tmp_path / "a", b"a"), tmp_path / "target")
    assert (tmp_path / "target/file").read_bytes() == b"a"


def test_a_process_killed_at_any_call_of_a_copy_leaves_a_whole_copy_or_what_was_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    content = os.urandom(files.CHUNK_BYTES + 1000)  # two writes
    source.write_bytes(content)

    def check() -> None:
        assert target.read_bytes() in (OLD, content)
        assert copy_verified(source, target) == hashlib.sha256(content).hexdigest()
        assert target.read_bytes() == content

    hits = each_death(lambda: copy_verified(source, target), check=check, prepare=lambda: write_atomic(target, OLD))
    assert hits == 18


@pytest.mark.parametrize("number", ERRNOS)
def test_a_disk_that_fails_at_any_call_of_a_copy_leaves_no_torn_copy_and_no_rubbish(
    tmp_path: Path, number: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(NEW)
    for call in range(4):
        with hooked(AtCall(call, act=failing(number))), pytest.raises(OSError, match=os.strerror(number)):
            copy_verified(source, target)
        assert list(tmp_path.iterdir()) == [source]


def test_a_copy_that_the_disk_garbles_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(NEW)
    real = os.write
    for number in range(8):
        wrong = bytes([number])
        monkeypatch.setattr(os, "write", lambda file, data, wrong=wrong: real(file, bytes(data)[:-1] + wrong))
        with pytest.raises(BandError, match="reads back differently"):
            copy_verified(tmp_path / "source", tmp_path / "target")
        assert visible(tmp_path) == ["source"]


def test_a_source_that_is_not_what_it_should_be_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(OLD)
    for wrong in (hashlib.sha256(NEW).hexdigest(), "0" * 64, "f" * 64):
        with pytest.raises(BandError, match=r"source has sha256 .* expected .*changed or is damaged"):
            copy_verified(tmp_path / "source", tmp_path / "target", sha256=wrong)
    assert visible(tmp_path) == ["source"]


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "missing"])
def test_only_regular_files_are_copied(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "link":
        (tmp_path / "secret").write_bytes(b"secret")
        source.symlink_to("secret")
    elif kind == "folder":
        source.mkdir()
    elif kind == "pipe":
        os.mkfifo(source)
    with pytest.raises(FileNotFoundError if kind == "missing" else BandError):
        copy_verified(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_tree_copy_broken_off_at_any_call_is_taken_up_again(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    contents = {"a": OLD, "b": NEW}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}

    def prepare() -> None:
        if target.exists():
            for path in target.iterdir():
                path.unlink()
            target.rmdir()

    def check() -> None:
        left = {path.name: path.read_bytes() for path in target.glob("[!.]*")}
        assert all(contents[name] == content for name, content in left.items())
        copy_tree_verified(source, target, sha256=digests)
        assert {path.name: path.read_bytes() for path in target.glob("[!.]*")} == contents

    hits = each_death(lambda: copy_tree_verified(source, target, sha256=digests), check=check, prepare=prepare)
    assert hits >= 33


def test_a_tree_copy_does_not_send_twice_what_is_there(tmp_path: Path) -> None:
    source, target = folder_with(tmp_path / "source", NEW), tmp_path / "not" / "yet" / "there"
    digests = {"file": sha256_file(source / "file")}
    copy_tree_verified(source, target, sha256=digests)
    inode = (target / "file").stat().st_ino
    copy_tree_verified(source, target, sha256=digests)
    assert (target / "file").stat().st_ino == inode
    damaged = [b"damaged %d" % n for n in range(16)]
    above = [hashlib.sha256(content).hexdigest() > digests["file"] for content in damaged]
    assert set(above) == {True, False}
    for content in damaged:
        (target / "file").write_bytes(content)
        copy_tree_verified(source, target, sha256=digests)
        assert (target / "file").read_bytes() == NEW


@pytest.mark.parametrize("name", ["../x", "a/b", "/", "", ".", ".."])
def test_a_tree_copy_takes_nothing_for_a_file_of_its_folder_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssertionError, match="is no file name"):
        copy_tree_verified(tmp_path, tmp_path / "target", sha256={name: "0" * 64})


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_a_file_that_cannot_be_opened_now_is_not_called_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "file").write_bytes(OLD)

    def fail(path: Path, flags: int) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        sha256_file(tmp_path / "file")


def test_a_process_killed_at_any_call_of_an_append_harms_no_line_but_its_own(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    before = [{"n": 0}, {"n": 1, "text": "ä\n"}]

    def prepare() -> None:
        path.unlink(missing_ok=True)
        for value in before:
            append_line(path, value)

    def check() -> None:
        append_line(path, {"n": 3})
        values, end = read_lines(path)
        assert [value for value in values if value != {"n": 2, "text": "x" * 500}] == [*before, {"n": 3}]
        assert end == path.stat().st_size

    hits = each_death(lambda: append_line(path, {"n": 2, "text": "x" * 500}), check=check, prepare=prepare)
    assert hits == 6


def test_half_a_last_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"n":1}\n{"n"')
    values, offset = read_lines(path)
    assert (values, offset) == ([{"n": 1}], 8)
    path.write_bytes(b'{"n":1}\n{"n":2}\nrubbish\n[1]\n\n{"n":NaN}\n{"n":3}\n')
    assert read_lines(path, offset=offset)[0] == [{"n": 2}, {"n": 3}]


def test_a_reader_that_goes_on_where_it_was_gets_every_line_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    offset = 0
    for n in range(30):
        append_line(path, {"n": n})
        values, offset = read_lines(path, offset=offset)
        assert values == [{"n": n}] and offset == path.stat().st_size


def test_a_full_disk_in_the_middle_of_a_line_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_line(path, {"n": 1})
    with hooked(AtCall(1, act=failing(errno.ENOSPC))), pytest.raises(OSError, match="No space"):
        append_line(path, {"n": 2})
    append_line(path, {"n": 3})
    assert read_lines(path)[0] == [{"n": 1}, {"n": 3}]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_canonical_json_is_read_back_as_it_was_and_does_not_depend_on_order(value: Any) -> None:
    data = canonical_json(value)
    assert json.loads(data) == value and b"\n" not in data
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == data


def test_canonical_json_has_keys_in_order_no_blanks_and_ascii_alone() -> None:
    value = {"b": [1, {"d": None, "c": "ä"}], "a": 0.5}
    assert canonical_json(value) == b'{"a":0.5,"b":[1,{"c":"\\u00e4","d":null}]}'


def test_canonical_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"score": float("nan")})


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b"null", b"[]"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "task.json").write_bytes(content)
    with pytest.raises(BandError, match=r"task\.json"):
        read_json_object(tmp_path / "task.json")


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_whatever_bytes_a_json_file_holds_the_only_error_is_ours(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(content)
    try:
        read_json(path)
    except BandError as error:
        assert "fuzz.json" in str(error)
    assert all(isinstance(value, dict) for value in read_lines(path)[0])


def test_a_reader_sees_only_whole_files_while_they_are_written_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"0" * 4000)

    def write() -> bool:
        for n in range(100):
            write_atomic(path, b"%d" % (n % 10) * 4000)
        return True

    def read() -> bool:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            data = path.read_bytes()
            if data != data[:1] * 4000:
                return False
        return True

    assert race([write, read, read], seed=0) == [True, True, True]


def test_a_creation_held_at_any_call_loses_to_one_that_was_not(tmp_path: Path) -> None:
    for before in (True, False):
        for number in range(3):
            path = tmp_path / f"claim{number}{before}"
            held = Held(lambda path=path: create_exclusive(path, OLD), number=number, before=before)
            assert held.has_stopped
            assert create_exclusive(path, NEW)
            assert held.finish() is False
            assert path.read_bytes() == NEW


@pytest.mark.parametrize("half", [b"{", b'{"n": 1', b'{"n": 1\0\0'])  # zeros: after a power cut
def test_a_line_never_goes_on_where_another_was_cut_off(tmp_path: Path, half: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(half)
    append_line(path, {"n": 2})
    lines = path.read_bytes().split(b"\n")
    assert lines[0] == half and json.loads(lines[1]) == {"n": 2} and lines[2:] == [b""]


def test_whole_lines_follow_one_another_without_any_between(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for n in range(4):
        append_line(path, {"n": n})
    assert path.read_bytes() == b'{"n":0}\n{"n":1}\n{"n":2}\n{"n":3}\n'


def test_a_name_as_long_as_names_can_be_is_written_too(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_atomic(path, NEW)
    assert path.read_bytes() == NEW and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_renamed_under_a_relative_path_too(
    tmp_path: Path, file_system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_with(tmp_path / "a", NEW)
    monkeypatch.chdir(tmp_path)
    assert rename_exclusive(Path("a"), Path("b"))
    assert (tmp_path / "b/file").read_bytes() == NEW


def test_a_file_system_that_cannot_be_flushed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def syncfs(self, file: int) -> int:
            ctypes.set_errno(errno.EDQUOT)
            return -1

    sync_file_system(tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, use_errno: Library())
    with pytest.raises(OSError, match="quota exceeded"):
        sync_file_system(tmp_path)


def test_why_a_file_system_cannot_be_flushed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: real(path, flags | os.O_PATH))  # which the kernel flushes not
    with pytest.raises(OSError, match="Bad file descriptor"):
        sync_file_system(tmp_path)


def test_a_line_is_not_appended_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(OLD)
    (tmp_path / "events.jsonl").symlink_to("theirs")
    with pytest.raises(OSError, match="symbolic links"):
        append_line(tmp_path / "events.jsonl", {"n": 1})
    assert (tmp_path / "theirs").read_bytes() == OLD


def test_new_files_are_as_open_as_the_umask_lets_them_be(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomic(tmp_path / "a", NEW)
        create_exclusive(tmp_path / "b", NEW)
        copy_verified(tmp_path / "a", tmp_path / "c")
        append_line(tmp_path / "d", {"n": 1})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_temporary_name_that_is_taken_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda length: "0" * 2 * length)
    (tmp_path / "source").write_bytes(NEW)
    theirs = tmp_path / ".a.000000000000.tmp"
    (tmp_path / "theirs").write_bytes(OLD)
    theirs.symlink_to("theirs") if kind == "link" else theirs.write_bytes(OLD)
    for act in (
        lambda: write_atomic(tmp_path / "a", NEW),
        lambda: create_exclusive(tmp_path / "a", NEW),
        lambda: copy_verified(tmp_path / "source", tmp_path / "a"),
    ):
        with pytest.raises(FileExistsError):
            act()
        theirs.unlink(missing_ok=True)
        theirs.symlink_to("theirs") if kind == "link" else theirs.write_bytes(OLD)
    assert (tmp_path / "theirs").read_bytes() == OLD and not (tmp_path / "a").exists()


def test_a_disk_that_replaces_though_asked_not_to_is_known_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_renameat2", os.rename)
    assert not refuses_to_replace(tmp_path) and not list(tmp_path.iterdir())


def test_a_disk_that_makes_no_folder_does_not_tell_whether_it_would_replace(tmp_path: Path) -> None:
    for call in range(3):
        with hooked(AtCall(call, act=failing(errno.EROFS))), pytest.raises(OSError, match="Read-only"):
            refuses_to_replace(tmp_path)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "is_passed_over"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)]
)
def test_a_folder_that_cannot_be_flushed_is_passed_over_where_no_folder_can_be(
    tmp_path: Path, number: int, is_passed_over: bool
) -> None:
    with hooked(AtCall(0, act=failing(number))):
        assert outcome(lambda: fsync_folder(tmp_path)) == (None if is_passed_over else "OSError")


def test_nothing_stays_open_of_what_was_done_or_failed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(NEW)
    before = sorted(os.listdir("/proc/self/fd"))
    for act in (
        lambda: write_atomic(tmp_path / "b", NEW),
        lambda: write_whole(tmp_path / "c", NEW),
        lambda: copy_verified(tmp_path / "a", tmp_path / "d"),
        lambda: append_line(tmp_path / "e", {"n": 1}),
        lambda: sync_file_system(tmp_path),
        lambda: sha256_file(tmp_path),
        lambda: sha256_file(tmp_path / "a"),
    ):
        outcome(act)
        for call in range(6):
            with hooked(AtCall(call, act=failing(errno.EIO))):
                outcome(act)
        assert sorted(os.listdir("/proc/self/fd")) == before
