"""A finished run is published once, whole, and from wherever its bringer was stopped."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stepping import DEATHS, AtCall, Held, failing, hooked, outcome, race, run_until_killed

from band.errors import PublishError
from band.node.job import Timing
from band.node.publish import Publisher, is_published, outcome_of, publish, publish_incoming
from band.run_dir import SweepDir, seal, verify


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    (tmp_path / "home").mkdir()
    return SweepDir(tmp_path / "home")


def finished(folder: Path, *, content: str = "ours", run_id: str = "r") -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(content)
    (folder / "outputs.h5").write_bytes(content.encode() * 1000)
    seal(folder, result={"run_id": run_id, "training": {"outcome": "ok"}})
    return folder


def content_of(sweep: SweepDir, run_id: str = "r") -> str:
    verify(sweep.run(run_id))
    return (sweep.run(run_id) / "metrics.csv").read_text()


def bring(folder: Path, sweep: SweepDir, *, attempt: str = "a") -> str:
    return publish(folder, sweep=sweep, run_id="r", attempt=attempt)[0]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_run_is_there_at_all_only_when_published(tmp_path: Path, sweep: SweepDir) -> None:
    run = finished(tmp_path / "work" / "r")
    assert not is_published(sweep, "r")
    assert bring(run, sweep) == "published" and is_published(sweep, "r")
    assert content_of(sweep) == "ours" and run.exists() and names(sweep.incoming) == []
    assert bring(run, sweep) == "published" and names(sweep.superseded) == []  # the very same: nothing to keep aside


def test_the_second_to_come_is_kept_and_changes_nothing(tmp_path: Path, sweep: SweepDir) -> None:
    bring(finished(tmp_path / "first"), sweep)
    assert bring(finished(tmp_path / "second", content="theirs"), sweep, attempt="b") == "superseded"
    assert content_of(sweep) == "ours" and names(sweep.superseded) == ["r.b"] and names(sweep.incoming) == []
    verify(sweep.superseded_run("r", attempt="b"))


@pytest.mark.parametrize("same", [True, False])
def test_of_many_that_publish_one_run_at_once_exactly_one_is_published_and_no_result_is_lost(
    tmp_path: Path, same: bool
) -> None:
    for seed in range(6):
        sweep = SweepDir(tmp_path / str(seed))
        sweep.path.mkdir()
        runs = [finished(tmp_path / f"{seed}.{n}", content="ours" if same else str(n)) for n in range(4)]
        states = race([lambda n=n, r=r, s=sweep: bring(r, s, attempt=f"a{n}") for n, r in enumerate(runs)], seed=seed)
        kept = [(folder / "metrics.csv").read_text() for folder in sweep.superseded.glob("*")]
        assert states.count("published") == (4 if same else 1) and len(kept) == (0 if same else 3)
        assert sorted([content_of(sweep), *kept]) == (["ours"] if same else ["0", "1", "2", "3"])
        assert names(sweep.incoming) == []


def test_a_published_run_that_cannot_be_read_for_a_moment_is_not_taken_for_a_damaged_one(
    tmp_path: Path, sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(finished(tmp_path / "first"), sweep)
    second = finished(tmp_path / "second", content="theirs")
    real = Path.read_bytes
    for number in range(3):
        reads = 0

        def fail(path: Path, number: int = number) -> bytes:
            nonlocal reads
            if path.parent == sweep.run("r"):
                reads += 1
                if reads == number + 1:
                    raise OSError(errno.ESTALE, "Stale file handle", str(path))
            return real(path)

        with monkeypatch.context() as patch, pytest.raises(OSError, match="Stale"):
            patch.setattr(Path, "read_bytes", fail)
            bring(second, sweep, attempt="b")
        assert content_of(sweep) == "ours" and names(sweep.superseded) == []
    assert bring(second, sweep, attempt="b") == "superseded" and content_of(sweep) == "ours"


@pytest.mark.parametrize("before", ["nothing", "theirs", "damaged"])
def test_a_bringer_killed_at_any_call_loses_nothing_and_the_next_one_publishes(tmp_path: Path, before: str) -> None:
    run = finished(tmp_path / "work" / "r")
    hits = 0
    for death in DEATHS:
        number = 0
        while True:
            sweep = SweepDir(tmp_path / f"{death.__name__}{number}")
            sweep.path.mkdir()
            if before != "nothing":
                bring(finished(tmp_path / f"other-{death.__name__}{number}", content="theirs"), sweep, attempt="b")
            if before == "damaged":
                (sweep.run("r") / "result.json").write_text("{}")
            if not run_until_killed(lambda s=sweep: bring(run, s), number=number, death=death):
                break
            if sweep.run("r").exists() and before != "damaged":
                assert content_of(sweep) in ("ours", "theirs")
            bring(run, sweep, attempt="c")
            assert content_of(sweep) == ("theirs" if before == "theirs" else "ours")
            if before == "damaged":
                assert any((folder / "metrics.csv").read_text() == "theirs" for folder in sweep.superseded.iterdir())
            hits += 1
            number += 1
    assert hits >= 50


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_home_that_fails_at_any_call_shows_no_half_run_and_the_same_attempt_goes_on(
    tmp_path: Path, number: int
) -> None:
    run = finished(tmp_path / "work" / "r")
    failures = 0
    for call in range(25):
        sweep = SweepDir(tmp_path / str(call))
        sweep.path.mkdir()
        with hooked(AtCall(call, act=failing(number))):
            state = outcome(lambda s=sweep: bring(run, s))
        assert state in ("published", "OSError")
        failures += state == "OSError"
        if sweep.run("r").exists():
            assert content_of(sweep) == "ours"
        assert bring(run, sweep) == "published" and content_of(sweep) == "ours"
        assert names(sweep.superseded) == []
    assert failures >= 15


def test_a_bringer_held_at_any_call_until_another_has_published_changes_no_published_byte(tmp_path: Path) -> None:
    stops = 0
    for number in range(30):
        sweep = SweepDir(tmp_path / str(number))
        sweep.path.mkdir()
        ours, theirs = finished(tmp_path / f"ours{number}"), finished(tmp_path / f"theirs{number}", content="theirs")
        slow = Held(lambda r=ours, s=sweep: bring(r, s), number=number, before=True)
        if not slow.has_stopped:
            assert slow.finish() == "published"
            break
        was_there = sweep.run("r").exists()
        state = bring(theirs, sweep, attempt="b")
        inode = sweep.run("r").stat().st_ino
        assert slow.finish() == ("published" if was_there else "superseded")
        assert state == ("superseded" if was_there else "published")
        assert sweep.run("r").stat().st_ino == inode
        assert content_of(sweep) == ("ours" if was_there else "theirs")
        stops += 1
    assert stops >= 15


def test_a_run_that_this_node_once_looked_for_in_vain_is_asked_for_anew(
    tmp_path: Path, sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(finished(tmp_path / "first"), sweep)
    knows_better = False  # a client of NFS does when it opens the folder that the name is in

    def lookup(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if Path(path).is_relative_to(sweep.run("r")) and not knows_better:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
            return real(path, *args, **kwargs)

        return call

    def open_file(path: Any, flags: int, *args: Any) -> int:
        nonlocal knows_better
        knows_better = knows_better or Path(path) == sweep.runs
        return real_open(path, flags, *args)

    real_open = os.open
    for name in ("lstat", "read_bytes"):
        monkeypatch.setattr(Path, name, lookup(getattr(Path, name)))
    monkeypatch.setattr(os, "rename", lookup(os.rename))
    monkeypatch.setattr(os, "open", open_file)
    assert is_published(sweep, "r")
    knows_better = False
    assert bring(finished(tmp_path / "second", content="theirs"), sweep, attempt="b") == "superseded"
    assert names(sweep.superseded) == ["r.b"] and content_of(sweep) == "ours"


def test_of_two_that_find_a_damaged_run_neither_puts_aside_what_the_other_has_published(tmp_path: Path) -> None:
    stops = 0
    for number in range(40):
        sweep = SweepDir(tmp_path / str(number))
        finished(sweep.run("r"), content="first")
        (sweep.run("r") / "result.json").write_text("{}")
        ours, theirs = finished(tmp_path / f"ours{number}"), finished(tmp_path / f"theirs{number}", content="theirs")
        slow = Held(lambda r=ours, s=sweep: bring(r, s), number=number, before=True)
        stops += slow.has_stopped
        state, published = bring(theirs, sweep, attempt="b"), content_of(sweep)
        own = slow.finish()
        own = bring(ours, sweep) if own == "OSError" else own  # both chose one name for what was damaged
        assert (state, own) == (("published", "superseded") if published == "theirs" else ("superseded", "published"))
        assert content_of(sweep) == published and names(sweep.incoming) == []
        kept = [(folder / "metrics.csv").read_text() for folder in sweep.superseded.iterdir()]
        assert sorted([published, *kept]) == ["first", "ours", "theirs"]
        if published == "ours":
            break
    assert stops >= 15


def damage_manifest(run: Path) -> None:
    (run / "metrics.csv").write_text("other")


def unseal(run: Path) -> None:
    (run / "result.json").unlink()


def rename_run(run: Path, name: str = "another") -> None:
    seal(run, result={"run_id": name})


@pytest.mark.parametrize("damage", [damage_manifest, unseal, rename_run, functools.partial(rename_run, name="zebra")])
def test_what_is_not_a_finished_run_is_not_published(
    tmp_path: Path, sweep: SweepDir, damage: Callable[[Path], Any]
) -> None:
    run = finished(tmp_path / "work" / "r")
    damage(run)
    with pytest.raises(PublishError):
        bring(run, sweep)
    assert names(sweep.runs) == []


def test_a_whole_run_that_was_left_on_its_way_in_is_published_and_half_of_one_is_left(
    tmp_path: Path, sweep: SweepDir
) -> None:
    whole = finished(sweep.incoming_run("r", attempt="a"))
    half = finished(sweep.incoming_run("q", attempt="a"), run_id="q")
    (half / "outputs.h5").unlink()
    assert publish_incoming(half, sweep=sweep, run_id="q", attempt="a") is None and half.exists()
    done = publish_incoming(whole, sweep=sweep, run_id="r", attempt="a")
    assert done is not None and done[0] == "published" and content_of(sweep) == "ours"


def test_a_folder_that_was_deleted_half_way_does_not_count_as_published(tmp_path: Path, sweep: SweepDir) -> None:
    run = finished(tmp_path / "work" / "r")
    bring(run, sweep)
    (sweep.run("r") / "outputs.h5").unlink()
    assert bring(run, sweep, attempt="b") in ("published", "superseded")
    shutil.rmtree(sweep.run("r"))
    assert bring(run, sweep, attempt="b") == "published" and content_of(sweep) == "ours"


def test_what_was_damaged_is_kept_each_time(tmp_path: Path, sweep: SweepDir) -> None:
    for content in ("first", "second", "third"):
        bring(finished(tmp_path / content, content=content), sweep)
        assert content_of(sweep) == content
        (sweep.run("r") / "result.json").write_text("{}")
    kept = {(folder / "metrics.csv").read_text() for folder in sweep.superseded.iterdir()}
    assert kept == {"first", "second"} and not is_published(sweep, "r")


@pytest.mark.parametrize("other", ["a", "z"])
def test_a_folder_that_holds_another_run_is_not_a_published_one(tmp_path: Path, sweep: SweepDir, other: str) -> None:
    finished(sweep.run("r"), content="theirs", run_id=other)
    assert not is_published(sweep, "r")
    assert bring(finished(tmp_path / "r"), sweep) == "published" and content_of(sweep) == "ours"


def test_a_run_that_cannot_be_read_now_is_not_said_to_be_published(
    tmp_path: Path, sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    bring(finished(tmp_path / "r"), sweep)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        assert not is_published(sweep, "r")
    assert is_published(sweep, "r")


def test_a_home_that_refuses_is_asked_again_after_a_while_for_one_run_and_then_takes_all(
    tmp_path: Path, sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, tries, reported = [1000.0], [0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    reporter = SimpleNamespace(report=lambda event, *, run, outcome: reported.append((event, run, outcome)))
    attempt = SimpleNamespace(name="a")
    job: Any = SimpleNamespace(sweep=sweep, attempt=attempt, timing=Timing(retry_s=10.0), reporter=reporter)
    publisher = Publisher(job)
    folders = {run: finished(tmp_path / "work" / run, run_id=run) for run in ("q", "r", "s")}

    def refuse(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        tries[0] += 1
        raise OSError(errno.EROFS, "Read-only file system")

    with hooked(refuse):
        for seconds, expected in ((0.0, 1), (0.0, 1), (9.9, 1), (0.2, 2)):
            clock[0] += seconds
            publisher.add("q", folder=folders["q"]) if tries == [0] else publisher.flush()
            assert tries == [expected]
        publisher.add("r", folder=folders["r"])  # no time is lost with a run that has just come
        assert tries == [3] and "Read-only" in publisher.refusal
        publisher.add("s", folder=folders["s"], later=True)
        assert tries == [3]
    assert publisher.waiting == folders and not publisher.done and not reported
    publisher.flush()
    assert not publisher.waiting and publisher.done == {"q", "r", "s"} and publisher.refusal == ""
    assert reported == [("published", run, "ok") for run in "qrs"]
    assert all(is_published(sweep, run) for run in "qrs") and not any(map(Path.exists, folders.values()))


def quiet_publisher(sweep: SweepDir) -> Publisher:
    """Return the publisher of an attempt that reports nothing."""
    reporter = SimpleNamespace(report=lambda event, **fields: None)
    job: Any = SimpleNamespace(sweep=sweep, attempt=SimpleNamespace(name="a"), timing=Timing(), reporter=reporter)
    return Publisher(job)


def test_a_finished_run_that_is_damaged_waits_no_longer_and_is_taken_again_when_made_anew(
    tmp_path: Path, sweep: SweepDir
) -> None:
    publisher = quiet_publisher(sweep)
    run = finished(tmp_path / "r")
    damage_manifest(run)
    publisher.add("r", folder=run)
    assert not publisher.waiting and not publisher.done and "metrics.csv is not what" in publisher.damaged["r"]
    anew = finished(tmp_path / "anew")

    def keep(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if name in ("unlink", "rmdir"):
            raise OSError(errno.EIO, "Input/output error")
        return call()

    with hooked(keep):  # a scratch that does not let go of what is home already
        publisher.add("r", folder=anew)
    assert publisher.done == {"r"} and not publisher.damaged and not publisher.waiting and anew.exists()


def test_whatever_the_digest_of_one_that_comes_later_it_is_kept_aside(tmp_path: Path, sweep: SweepDir) -> None:
    bring(finished(tmp_path / "first"), sweep)
    digest, above = verify(sweep.run("r"))["digest"], set()
    for n in range(8):
        other = finished(tmp_path / f"{n}", content=f"theirs {n}")
        above.add(verify(other)["digest"] > digest)
        assert bring(other, sweep, attempt=f"b{n}") == "superseded"
    assert above == {True, False} and content_of(sweep) == "ours" and len(names(sweep.superseded)) == 8


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({"training": {"outcome": "diverged"}}, "diverged"),
        ({"training": {}}, None),
        ({"training": "ok"}, None),
        ({}, None),
    ],
)
def test_of_a_result_that_tells_no_outcome_none_is_told(result: dict[str, Any], outcome: str | None) -> None:
    assert outcome_of(result) == outcome


def test_what_is_published_already_is_so_though_its_second_copy_cannot_be_removed(
    tmp_path: Path, sweep: SweepDir
) -> None:
    bring(finished(tmp_path / "r"), sweep)
    second = finished(sweep.incoming_run("r", attempt="b"))

    def keep(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if name in ("unlink", "rmdir"):
            raise OSError(errno.EIO, "Input/output error")
        return call()

    for removes in (False, True):
        with hooked(lambda name, call, args: call()) if removes else hooked(keep):
            done = publish_incoming(second, sweep=sweep, run_id="r", attempt="b")
        assert done is not None and done[0] == "published" and second.exists() != removes
    assert content_of(sweep) == "ours" and names(sweep.superseded) == []


def test_a_copy_that_home_garbles_is_told_of_that_run_alone(
    tmp_path: Path, sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = quiet_publisher(sweep)
    run, other = finished(tmp_path / "r"), finished(tmp_path / "q", run_id="q")
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: real(file, bytes(data)[:-1] + b"?"))
        publisher.add("r", folder=run)
    publisher.add("q", folder=other)
    assert "reads back differently" in publisher.damaged["r"] and publisher.done == {"q"} and not publisher.waiting
    assert verify(run)["run_id"] == "r" and not sweep.run("r").exists()
    publisher.add("r", folder=run)
    assert content_of(sweep) == "ours" and not publisher.damaged
