"""What the parts of an attempt share: the task file, the runs to be skipped, and what is reported where."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from fake_task import FakeTask, make_task
from stepping import failing, hooked

from band.errors import BandError
from band.node.job import Reporter, Skip, Timing, read_task, say
from band.run_dir import read_events


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTask:
    return make_task(tmp_path, {"a": {}, "b": {}}, monkeypatch=monkeypatch)


def change(task: FakeTask, **values: Any) -> None:
    task.task_json.write_text(json.dumps({**json.loads(task.task_json.read_text()), **values}))


def test_a_task_is_read_whole(task: FakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(task.task_json.parent)
    change(task, threads=3)
    read = read_task(Path("task.json"))
    assert (read.path, read.name, read.run_ids, read.threads) == (task.task_json, "0000", ("a", "b"), 3)
    assert read.populations == (("a", "b"),) and read.folder.path == task.task_json.parent
    assert read.sweep == task.sweep
    assert read.dataset == json.loads(task.task_json.read_text())["dataset"]


@pytest.mark.parametrize(("threads", "read"), [(0, 1), (-3, 1), ("2", 2)])
def test_a_task_has_a_thread_at_least(task: FakeTask, threads: object, read: int) -> None:
    change(task, threads=threads)
    assert read_task(task.task_json).threads == read


def test_an_older_task_file_without_threads_is_for_one(task: FakeTask) -> None:
    values = json.loads(task.task_json.read_text())
    del values["threads"]
    task.task_json.write_text(json.dumps(values))
    assert read_task(task.task_json).threads == 1


@pytest.mark.parametrize(
    "values",
    [
        {"threads": "many"},
        {"threads": 1e999},
        {"runs": [{"id": "a"}, {}]},
        {"populations": 3},
        {"populations": [["a", "z"]]},
        {"populations": [["a", 3]]},
        {"populations": [["a", ["b"]]]},
        {"dataset": {"path": "r.h5", "digest": "d", "file_digest": "f", "size_bytes": "many"}},
    ],
)
def test_a_task_file_with_a_value_of_another_kind_is_named(task: FakeTask, values: dict[str, Any]) -> None:
    change(task, **values)
    with pytest.raises(BandError, match=r"task\.json"):
        read_task(task.task_json)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_a_task_file_of_another_schema_is_refused(task: FakeTask, schema: object) -> None:
    change(task, schema=schema)
    with pytest.raises(BandError, match=rf"task\.json: schema must be 1, got {schema!r}; generate and submit again"):
        read_task(task.task_json)


@pytest.mark.parametrize("folder", ["000", "0001"])
def test_a_task_file_in_the_folder_of_another_task_is_refused(task: FakeTask, folder: str) -> None:
    path = task.sweep.task(folder).task_json
    path.parent.mkdir()
    path.write_bytes(task.task_json.read_bytes())
    with pytest.raises(BandError, match=f"of task 0000, but lies in the folder of task {folder}"):
        read_task(path)


def test_the_runs_to_be_skipped_only_become_more(task: FakeTask) -> None:
    path = task.task_json.with_name("skip.json")
    skip = Skip(read_task(task.task_json))
    assert skip.runs == frozenset()
    for text, runs in (('{"runs": ["a"]}', "a"), ('{"runs": ["b"]}', "ab"), ("{", "ab"), ("{}", "ab"), ("[]", "ab")):
        path.write_text(text)
        skip.look()
        assert skip.runs == set(runs)
    path.unlink()
    path.mkdir()  # cannot be read
    skip.look()
    assert skip.runs == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "is not valid JSON"), ('{"runs": 3}', "must be a list"), ('{"runs": "ab"}', "must be a list")],
)
def test_a_damaged_file_of_runs_to_be_skipped_is_named_before_anything_is_trained(
    task: FakeTask, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    task.task_json.with_name("skip.json").write_text(text)
    assert task.attempt() == 1
    said = capsys.readouterr().err
    assert "skip.json" in said and why in said and not task.events()


def told(tmp_path: Path, events: list[tuple[str, float]], *, epoch_s: float = 5.0) -> tuple[list[Any], list[Any]]:
    """Return what the file has of events and what the listener has heard."""
    heard: list[tuple[str, float]] = []
    path = tmp_path / "events.jsonl"
    reporter = Reporter(path, on_event=lambda e: heard.append((e["event"], e["t"])), epoch_s=epoch_s)
    for event, t in events:
        reporter.forward(json.loads(json.dumps({"event": event, "t": t})))  # as from the trainer's pipe
    return [(event["event"], event["t"]) for event in read_events(path)[0]], heard


def epochs(*times: float) -> list[tuple[str, float]]:
    return [("epoch", t) for t in times]


def test_the_file_gets_an_epoch_now_and_then_and_a_listener_all(tmp_path: Path) -> None:
    events = epochs(100, 101, 104.9, 105, 106, 110)
    assert told(tmp_path, events) == (epochs(100, 105, 110), events)


@pytest.mark.parametrize("ending", ["failed", "interrupted", "split", "restarted"])
def test_before_an_ending_the_file_gets_the_last_epoch(tmp_path: Path, ending: str) -> None:
    others = [("checkpoint", 102), ("published", 102)]
    events = [*epochs(100, 101, 102), *others, (ending, 103), (ending, 104)]
    expected = [*epochs(100), *others, *epochs(102), (ending, 103), (ending, 104)]
    assert told(tmp_path, events) == (expected, events)


def test_an_epoch_that_a_later_one_has_overtaken_is_not_told_again(tmp_path: Path) -> None:
    events = [*epochs(100, 101, 105), ("failed", 106)]
    assert told(tmp_path, events)[0] == [*epochs(100, 105), ("failed", 106)]


def test_messages_are_printed_where_nobody_listens_and_a_full_disk_for_them_harms_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for on_event, printed in ((None, "hello\n"), (print, "")):
        Reporter(tmp_path / "events.jsonl", on_event=on_event, epoch_s=0.0).say("hello")
        assert capsys.readouterr().err == printed
    with Path("/dev/full").open("w", buffering=1) as full:  # by lines, as the standard error is
        monkeypatch.setattr("sys.stderr", full)
        say("hello")
        monkeypatch.undo()
        with hooked(failing(errno.ENOSPC)):
            Reporter(tmp_path / "other.jsonl", on_event=None, epoch_s=0.0).report("kept")
        with pytest.raises(OSError, match="No space"):
            full.close()


def test_the_usual_times_are_those_that_the_pages_tell_and_slurm_grants() -> None:
    pages = Path(__file__).parents[2] / "docs"
    assert "(every two minutes)" in (pages / "failures.md").read_text() and Timing().mirror_s == 120
    assert "ten minutes as tasks do" in (pages / "reliability.md").read_text() and Timing().home_wait_s == 600
    assert Timing().stop_s + 5 <= 30, "KillWait: Slurm kills so long after it has asked, and something is to be written"
    assert 0 < Timing().tick_s < 1
