"""Names stay in their folders, a sealed run proves itself, and a stream of events survives what befalls it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepping import DEATHS, AtCall, failing, hooked, outcome, run_until_killed

from band.errors import BandError, PublishError, SweepError
from band.files import canonical_json
from band.run_dir import (
    EventWriter,
    ScratchDir,
    SweepDir,
    TaskDir,
    absent_files,
    check_name,
    code_digest,
    is_altered,
    manifest_digests,
    mark_absent,
    read_events,
    read_result,
    read_task_json,
    seal,
    signed,
    user_name,
    verify,
)

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    ".hidden",
    "-rf",
    "a\0b",
    "a\nb",
    "a b",
    "ä",
    "x" * 161,
    None,
    7,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_its_folder(name: Any) -> None:
    sweep, scratch = SweepDir(Path("/home/x/sweeps/demo")), ScratchDir(Path("/scratch"))
    for make in (
        sweep.run,
        sweep.task,
        sweep.submission,
        lambda name: sweep.incoming_run(name, attempt="a"),
        lambda name: sweep.incoming_run("run", attempt=name),
        lambda name: sweep.superseded_run(name, attempt="a"),
        lambda name: sweep.superseded_run("run", attempt=name),
        lambda name: sweep.differing_run(name, sha256="a"),
        lambda name: sweep.differing_run("run", sha256=name),
        sweep.event_files,
        lambda name: sweep.event_file("0001", attempt=name),
        lambda name: sweep.event_file(name, attempt="a"),
        lambda name: sweep.log_file("0001", attempt=name),
        lambda name: sweep.log_file(name, attempt="a"),
        lambda name: scratch.work(sweep, task=name, attempt="a"),
        lambda name: scratch.work(sweep, task="0001", attempt=name),
        scratch.dataset,
    ):
        with pytest.raises(SweepError, match="must be 1 to 160 of the characters"):
            make(name)


def test_every_path_is_where_other_versions_and_other_machines_look_for_it() -> None:
    sweep, scratch = SweepDir(Path("/home/x/sweeps/demo")), ScratchDir(Path("/scratch"))
    places = {
        "sweep.yaml": sweep.sweep_yaml,
        "manifest.jsonl": sweep.manifest,
        "tasks/0001/task.json": sweep.task("0001").task_json,
        "tasks/0001/population.1.pt": sweep.task("0001").population(1),
        "submissions/0002": sweep.submission("0002"),
        "code": sweep.code,
        "index": sweep.index,
        "events/0001.one.jsonl": sweep.event_file("0001", attempt="one"),
        "logs/0001.one.log": sweep.log_file("0001", attempt="one"),
        "runs/a-s0": sweep.run("a-s0"),
        "runs/.incoming/a-s0.one": sweep.incoming_run("a-s0", attempt="one"),
        "runs/.superseded/a-s0.one": sweep.superseded_run("a-s0", attempt="one"),
        "runs/.differs/a-s0.0123456789ab": sweep.differing_run("a-s0", sha256="0123456789abcdef"),
        "sync": sweep.sync,
    }
    assert {name: path.relative_to(sweep.path).as_posix() for name, path in places.items()} == {n: n for n in places}
    assert sweep.task("0001").sweep == sweep and sweep.name == "demo"
    place = hashlib.sha256(b"/home/x/sweeps/demo").hexdigest()[:8]  # another sweep of that name has another
    assert scratch.dataset("ab12") == Path("/scratch/data/ab12")
    assert scratch.work(sweep, task="0001", attempt="one") == Path(f"/scratch/work/demo-{place}/0001.one")


@given(st.text(max_size=20))
def test_every_name_that_is_accepted_is_one_part_of_a_path(name: str) -> None:
    try:
        check_name(name)
    except SweepError:
        return
    path = Path("/folder") / name
    assert path.parent == Path("/folder") and path.name == name and not name.startswith((".", "-"))
    assert Path(os.path.normpath(path)) == path


def test_the_paths_are_those_of_the_contract() -> None:
    sweep = SweepDir(Path("/home/sweeps/demo"))
    task = sweep.task("0007")
    names = {
        sweep.sweep_yaml: "sweep.yaml",
        sweep.manifest: "manifest.jsonl",
        task.task_json: "tasks/0007/task.json",
        task.population(1): "tasks/0007/population.1.pt",
        sweep.submission("0001"): "submissions/0001",
        sweep.event_file("0007", attempt="j1_2-r0"): "events/0007.j1_2-r0.jsonl",
        sweep.log_file("0007", attempt="j1_2-r0"): "logs/0007.j1_2-r0.log",
        sweep.run("r"): "runs/r",
        sweep.incoming_run("r", attempt="a"): "runs/.incoming/r.a",
        sweep.superseded_run("r", attempt="a"): "runs/.superseded/r.a",
    }
    assert {str(path.relative_to(sweep.path)) for path in names} == set(names.values())
    assert TaskDir(task.path).sweep == sweep and sweep.name == "demo"


def test_scratch_is_named_by_the_environment_and_else_by_the_user() -> None:
    assert ScratchDir.from_environment({"BAND_SCRATCH": "/x/y"}).path == Path("/x/y")
    assert ScratchDir.from_environment({"USER": "ada"}).path == Path("/tmp/band-ada")
    assert ScratchDir.from_environment({"USER": "../ada"}).path == Path("/tmp/band-..-ada")
    assert ScratchDir.from_environment({}).path == Path(f"/tmp/band-{os.getuid()}")


def finished_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "metrics.csv").write_text("epoch\n1\n")
    (folder / "outputs.h5").write_bytes(os.urandom(3000))
    return folder


def test_a_sealed_run_proves_itself_wherever_it_is_moved(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    seal(folder, result={"schema": 1, "run_id": "r"})
    result = verify(folder.rename(tmp_path / "elsewhere"))
    assert result["run_id"] == "r" and set(result["manifest"]) == {"metrics.csv", "outputs.h5"}
    assert result["manifest"]["metrics.csv"]["size"] == 8


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link_away(path: Path) -> None:
    target = path.with_name(".moved")
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["metrics.csv", "outputs.h5", "result.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 5), link_away])
def test_any_damage_to_any_file_of_a_sealed_run_is_found_and_named(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    folder = finished_run(tmp_path / "run")
    seal(folder, result={"run_id": "r"})
    damage(folder / name)
    with pytest.raises(PublishError, match=name):
        verify(folder)


def test_a_result_that_was_edited_is_found(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    seal(folder, result={"run_id": "r", "scores": {"test": {"bits": 0.1}}})
    path = folder / "result.json"
    values = json.loads(path.read_text())
    for bits in range(2, 10):
        values["scores"]["test"]["bits"] = bits / 10
        path.write_bytes(canonical_json(values))
        with pytest.raises(PublishError, match=r"result\.json .*altered or is damaged"):
            read_result(folder)


def test_a_manifest_cannot_name_what_lies_outside_its_folder(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="manifest"):
        manifest_digests({"run_id": "r", "manifest": {"../../secret": {"sha256": "0"}}})
    folder = finished_run(tmp_path / "run")
    (folder / "link").symlink_to("/etc/passwd")
    assert outcome(lambda: seal(folder, result={})) == "BandError"


def test_a_process_killed_at_any_call_of_sealing_leaves_a_run_that_is_finished_or_not(tmp_path: Path) -> None:
    hits = 0
    for death in DEATHS:
        number = 0
        while True:
            folder = finished_run(tmp_path / f"{death.__name__}{number}")
            if not run_until_killed(lambda f=folder: seal(f, result={"run_id": "r"}), number=number, death=death):
                break
            if (folder / "result.json").exists():
                verify(folder)
            seal(folder, result={"run_id": "again"})
            assert verify(folder)["run_id"] == "again"
            hits += 1
            number += 1
    assert hits == 15


def test_sealing_again_does_not_take_up_the_old_digest(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    seal(folder, result={"run_id": "r"})
    seal(folder, result=read_result(folder))
    assert verify(folder)["run_id"] == "r"


def test_events_are_read_in_order_and_half_a_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "events" / "0001.a.jsonl"
    writer = EventWriter(path)
    assert writer.write("claimed", host="h") and writer.write("started", runs=["a"])
    events, offset = read_events(path)
    assert [event["event"] for event in events] == ["claimed", "started"]
    with path.open("ab") as file:
        file.write(b'{"t":1,"event":"ep')
    assert read_events(path, offset=offset) == ([], offset)
    writer.write("ended", code=0)
    assert [event["event"] for event in read_events(path, offset=offset)[0]] == ["ended"]
    assert read_events(tmp_path / "missing.jsonl") == ([], 0)


def test_what_is_no_event_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"t":1,"event":"a"}\n{"t":"x","event":"b"}\n{"event":"c"}\n7\n\xff\n{"t":2,"event":3}\n')
    assert [event["event"] for event in read_events(path)[0]] == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_events_wait_while_home_cannot_be_written_and_keep_their_order(tmp_path: Path, number: int) -> None:
    for call in range(3):
        writer = EventWriter(tmp_path / f"{call}.jsonl")
        writer.write("claimed")
        with hooked(AtCall(call, act=failing(number))):
            first = writer.write("started")
            second = writer.write("epoch")
        assert (first, second) == ((False, True) if call < 2 else (True, False))
        assert writer.write("ended")
        names = [event["event"] for event in read_events(writer.path)[0]]
        assert names == ["claimed", "started", "epoch", "ended"]


def test_a_home_that_is_gone_for_long_does_not_fill_the_memory(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("")  # no folder
    writer = EventWriter(tmp_path / "events" / "a.jsonl")
    writer.MAX_WAITING = 50
    assert not writer.write("claimed")
    writer.write("published", run="a")
    epoch = json.loads('"epoch"')  # another object than any that is written in a program
    for _ in range(500):
        writer.write(epoch)
    (tmp_path / "events").unlink()
    assert writer.write("ended")
    names = [event["event"] for event in read_events(writer.path)[0]]
    assert len(names) <= 51 and [name for name in names if name != "epoch"] == ["claimed", "published", "ended"]


def test_the_digest_of_code_tells_any_change_of_a_source_file_and_of_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "band"
    (package / "node").mkdir(parents=True)
    (package / "a.py").write_text("a = 1\n")
    (package / "node" / "b.py").write_text("b = 1\n")
    found = [code_digest(package)]
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_text("compiled")
    (package / "README.md").write_text("text")
    assert code_digest(package) == found[0]
    for change in (
        lambda: (package / "a.py").write_text("a = 2\n"),
        lambda: (package / "a.py").rename(package / "c.py"),
        lambda: (package / "c.py").rename(package / "node" / "a.py"),
        lambda: (package / "node" / "b.py").unlink(),
        lambda: (package / "a.cpp").write_text("// compiled where it runs"),
    ):
        change()
        found.append(code_digest(package))
    assert len(set(found)) == 6


def test_two_sweeps_of_one_name_do_not_share_a_place_on_scratch(tmp_path: Path) -> None:
    scratch = ScratchDir(tmp_path)
    mine, theirs = (scratch.work(SweepDir(Path(home) / "maze"), task="0001", attempt="a") for home in ("/a", "/b"))
    assert mine != theirs and mine.name == theirs.name == "0001.a"
    assert mine == scratch.work(SweepDir(Path("/a/maze")), task="0001", attempt="a")


def test_files_that_were_left_elsewhere_on_purpose_are_named_as_long_as_they_are_not_here(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    seal(folder, result={"run_id": "r"})
    assert absent_files(folder) == frozenset()
    mark_absent(folder, ["outputs.h5", "metrics.csv"])
    values = json.loads((folder / ".absent.json").read_bytes())
    assert values == {"schema": 1, "files": ["metrics.csv", "outputs.h5"]}
    assert absent_files(folder) == frozenset(), "they are here all the same"
    (folder / "outputs.h5").unlink()
    assert absent_files(folder) == {"outputs.h5"}
    with pytest.raises(PublishError, match=r"outputs\.h5 is missing, .* names it; it was left where the run is from"):
        verify(folder)
    assert verify(folder, may_lack=absent_files(folder))["run_id"] == "r"
    (folder / "outputs.h5").symlink_to("nowhere")
    assert absent_files(folder) == frozenset(), "a link in its place is no file that was left"
    (folder / "outputs.h5").unlink()
    for _ in range(2):
        mark_absent(folder, [])
        assert not (folder / ".absent.json").exists()
    with pytest.raises(PublishError, match=r"outputs\.h5 is missing, though the run's manifest names it$"):
        verify(folder)
    with pytest.raises(PublishError, match=r"outputs\.h5 is missing"):
        verify(folder, may_lack=["metrics.csv"])
    mark_absent(folder, ["metrics.csv"])
    (folder / "metrics.csv").write_text("other")
    with pytest.raises(PublishError, match=r"metrics\.csv is not what"):
        verify(folder, may_lack=["metrics.csv", "outputs.h5"])
    (folder / "metrics.csv").unlink()
    (folder / "outputs.h5").write_text("other")
    with pytest.raises(PublishError, match=r"outputs\.h5 is not what"):
        verify(folder, may_lack=["metrics.csv"])


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"files":3}', b'{"files":null}'])
def test_a_damaged_list_of_what_is_elsewhere_names_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".absent.json").write_bytes(content)
    assert absent_files(tmp_path) == frozenset()


def test_all_files_but_those_that_begin_with_a_dot_are_parts_of_a_run(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    for name in (".nfs0001", "a.csv", "result.json", "result.jsonl", "z.csv"):
        (folder / name).write_bytes(b"")
    seal(folder, result={"run_id": "r"})
    (folder / ".nfs0001").unlink()
    assert list(verify(folder)["manifest"]) == ["a.csv", "metrics.csv", "outputs.h5", "result.jsonl", "z.csv"]


def resigned(**values: Any) -> bytes:
    """Return a result as `seal` would sign it, by the words of the contract: sha256 over sorted keys, no blanks."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return json.dumps({**values, "digest": hashlib.sha256(text.encode()).hexdigest()}).encode()


def test_a_result_that_others_wrote_by_the_contract_is_read_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    digest = hashlib.sha256(b"x").hexdigest()
    path.write_bytes(resigned(run_id="r", manifest={"x": {"sha256": digest, "size": 1}}))
    (tmp_path / "x").write_bytes(b"x")
    assert verify(tmp_path)["run_id"] == "r"
    for content in (
        resigned(run_id="r", manifest=["x"]),
        resigned(run_id="r"),
        b'{"run_id":"r","manifest":{}}',
        b'{"run_id":"r","manifest":{},"digest":null}',
        b'{"run_id":"r","manifest":{},"digest":"~"}',
        b"[]",
    ):
        path.write_bytes(content)
        with pytest.raises(PublishError, match=r"result\.json"):
            read_result(tmp_path)
    for manifest in ({"x": {}}, {"x": 3}, {"x": None}, {"a/b": {"sha256": digest}}):
        path.write_bytes(resigned(run_id="r", manifest=manifest))
        with pytest.raises(PublishError, match="the manifest of run 'r' is damaged"):
            verify(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(PublishError, match=r"result\.json is not a regular file"):
        read_result(tmp_path)


def test_a_signed_object_is_altered_by_any_change_and_an_unsigned_one_is_anybodys() -> None:
    values = json.loads(signed({"a": 1, "z": 2, "digest": "an older one"}))
    assert json.loads(resigned(a=1, z=2)) == values
    assert not is_altered(values) and not is_altered({"a": 1})
    for changed in (
        {"a": 2},
        {"z": 1},
        {"b": 1},
        {"digest": ""},
        {"digest": "0" * 64},
        {"digest": "g" * 64},
        {"digest": None},
    ):
        assert is_altered({**values, **changed})


def test_a_task_file_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    for content in (signed({"task": "0001"}), b'{"task":"0001"}'):
        path.write_bytes(content)
        assert read_task_json(path)["task"] == "0001"
    path.write_bytes(signed({"task": "0001"}).replace(b"0001", b"0002"))
    with pytest.raises(SweepError, match=r"task\.json is not what its own digest says.* submit again"):
        read_task_json(path)
    path.write_bytes(b"[]")
    with pytest.raises(BandError, match=r"task\.json must hold a JSON object"):
        read_task_json(path)


def test_events_are_read_from_the_offset_on_and_need_a_time_and_a_name(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_events(path, offset=7) == ([], 7)
    path.write_bytes(b'{"t":1,"event":"a"}\n{"t":1.5,"event":"b"}\n{"t":null,"event":"c"}\n')
    events, end = read_events(path, offset=20)
    assert [event["event"] for event in events] == ["b"] and end == path.stat().st_size
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        read_events(path)


def test_a_name_in_the_way_of_an_event_stream_is_not_an_error_and_as_many_wait_as_may(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("")
    writer = EventWriter(tmp_path / "events" / "a.jsonl")
    writer.MAX_WAITING = 3
    assert [writer.write("epoch", n=n) for n in range(3)] == [False] * 3
    (tmp_path / "events").unlink()
    assert writer.flush()
    assert [event["n"] for event in read_events(writer.path)[0]] == [0, 1, 2]
    before = time.time()
    assert writer.write("ended") and before <= read_events(writer.path)[0][-1]["t"] <= time.time()


def test_a_folder_of_events_that_is_there_a_moment_later_takes_them_at_once(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "a.jsonl")
    with hooked(AtCall(0, act=failing(errno.ENOENT))):  # as where another attempt has just made it
        assert writer.write("claimed")
    assert [event["event"] for event in read_events(writer.path)[0]] == ["claimed"]


def test_a_folder_with_the_name_of_a_source_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    before = code_digest(tmp_path)
    (tmp_path / "b.py").mkdir()
    assert code_digest(tmp_path) == before


def test_a_user_whose_name_is_no_part_of_a_path_still_has_one() -> None:
    assert [user_name({"USER": name}) for name in ("ada", "a b/ä", "")] == ["ada", "a-b--", str(os.getuid())]


def test_an_unknown_name_is_quoted_no_longer_than_it_helps() -> None:
    with pytest.raises(SweepError) as caught:
        check_name("/" * 5000, what="run id")
    assert "run id must be" in str(caught.value) and len(str(caught.value)) < 300
