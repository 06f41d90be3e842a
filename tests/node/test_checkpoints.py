"""Which checkpoints an attempt goes on from, and which of them are brought home into which slot."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stepping import failing, hooked

from band.errors import BandError
from band.files import sha256_file
from band.node import checkpoints
from band.node.checkpoints import Checkpoints, task_events
from band.node.job import Reporter
from band.run_dir import SweepDir, TaskDir, read_events


class Node:
    """A node, the task's folder at home, and what one attempt knows of checkpoints."""

    def __init__(self, place: Path) -> None:
        self.here, self.home = place / "here", TaskDir(place / "home" / "sweep" / "tasks" / "0001")
        self.here.mkdir()
        self.home.path.mkdir(parents=True)
        self.stream = place / "events.jsonl"
        self.told: list[Any] = []
        self.reporter = Reporter(self.stream, on_event=self.told.append, epoch_s=0.0)
        self.checkpoints = self.attempt()

    def attempt(self, *, claim: int = 0) -> Checkpoints:
        """Return what an attempt knows that has just begun."""
        task, held = SimpleNamespace(folder=self.home), SimpleNamespace(number=claim)
        job: Any = SimpleNamespace(task=task, claim=held, reporter=self.reporter)
        return Checkpoints(job)

    def take_over(self, *, claim: int) -> Checkpoints:
        """Go on as another attempt, on a node that has nothing; return what the one before knows."""
        before, self.checkpoints = self.checkpoints, self.attempt(claim=claim)
        self.here = self.here.with_name(f"here-{claim}")
        self.here.mkdir()
        self.checkpoints.learn(read_events(self.stream)[0])
        self.checkpoints.look_at_home()
        return before

    def train(self, step: int, runs: str, *, slot: int = 0) -> None:
        """Have a trainer write and report a checkpoint of the runs, a letter each."""
        path = self.here / f"population.{slot}.pt"
        path.write_text(f"{step} {runs}")
        event = {"event": "checkpoint", "step": step, "slot": slot, "sha256": sha256_file(path), "runs": list(runs)}
        self.checkpoints.add({"t": 1.0, **event}, folder=self.here, runs=list(runs))

    def at_home(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted(self.home.path.iterdir())}

    def mirrored(self) -> list[tuple[int, int]]:
        return [(event["step"], event["slot"]) for event in self.told if event["event"] == "mirrored"]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_copies_at_home_alternate_and_none_is_brought_twice(node: Node) -> None:
    assert node.checkpoints.is_home([["a", "b"]])  # there is none that could be
    for step in range(1, 5):
        node.train(step, "ab", slot=step % 2)
        assert not node.checkpoints.is_home([["a", "b"]])
        node.checkpoints.mirror([["a", "b"]])
        node.checkpoints.mirror([["a", "b"]])
        assert node.checkpoints.is_home([["a", "b"]])
    assert node.mirrored() == [(1, 0), (2, 1), (3, 0), (4, 1)]
    assert node.at_home() == {"population.0.pt": "3 ab", "population.1.pt": "4 ab"}


@pytest.mark.parametrize("mirrors", [1, 2, 3])
def test_a_copy_that_comes_home_late_takes_the_place_of_none_of_the_attempt_that_took_over(
    node: Node, mirrors: int
) -> None:
    node.train(1, "a")
    node.checkpoints.mirror([["a"]])

    def be_held(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        """Stop before the copy gets its name, and wake up when the next attempt has brought home newer ones."""
        if name == "replace" and Path(args[1]).parent == node.home.path and node.checkpoints is first:
            node.take_over(claim=2)
            for step in range(mirrors):
                node.train(10 + step, "a", slot=step % 2)
                node.checkpoints.mirror([["a"]])
        return call()

    first = node.checkpoints
    node.train(2, "a", slot=1)
    with hooked(be_held):
        first.mirror([["a"]])
    assert node.checkpoints is not first
    node.take_over(claim=4)
    assert node.checkpoints.newest_step("a") == 9 + mirrors


def test_copies_of_earlier_attempts_go_once_there_are_two_newer_ones(node: Node) -> None:
    for attempt in range(4):
        node.take_over(claim=2 * attempt)
        before = node.at_home()
        node.checkpoints.mirror([["a"]])
        assert node.at_home() == before, "it has nothing of its own yet"
        for step in range(3):
            node.train(3 * attempt + step, "a", slot=step % 2)
            node.checkpoints.mirror([["a"]])
            newest = 3 * attempt + step
            expected = [newest, newest - 1][: step + 1] + ([newest - 1, newest - 2] if attempt and not step else [])
            assert sorted((int(text.split()[0]) for text in node.at_home().values()), reverse=True) == expected
    node.checkpoints.clear_home()
    assert node.at_home() == {}


def test_each_attempt_has_a_thousand_slots_and_no_two_have_one_in_common(node: Node) -> None:
    slots = [slot for claim in range(30) for slot in node.attempt(claim=claim)._own]
    assert len(slots) == len(set(slots)) == 30 * 1000


def test_each_part_keeps_its_newest_copy_at_home_while_others_go_on(node: Node) -> None:
    node.train(9, "cd", slot=1)
    parts = [["a", "b"], ["c", "d"]]
    for step in range(1, 6):
        node.train(step, "ab")
        node.checkpoints.mirror(parts)
        assert node.checkpoints.is_home(parts)
        kept = node.at_home().values()
        assert "9 cd" in kept and f"{step} ab" in kept and len(kept) <= 3
    assert len(node.mirrored()) == 6


def test_a_checkpoint_of_more_runs_serves_a_part_of_them_and_one_of_fewer_does_not(node: Node) -> None:
    node.train(3, "abc")
    node.train(7, "a", slot=1)
    node.checkpoints.mirror([["a", "b"]])
    assert node.at_home() == {"population.0.pt": "3 abc"} and node.checkpoints.is_home([["a", "b"]])
    assert node.checkpoints.newest_step(["a", "b"]) == 7 and node.checkpoints.newest_step(["b"]) == 3
    assert node.checkpoints.newest_step(["z"]) == -1
    assert node.checkpoints.covered(["a", "b"]) == ["a"] and node.checkpoints.covered(["b", "c"]) == ["b", "c"]
    assert node.checkpoints.covered(["y", "z"]) == ["y", "z"]


def test_a_copy_that_two_runs_go_on_from_is_not_given_up_for_a_newer_one_of_one_of_them(node: Node) -> None:
    node.train(3, "ab")
    node.checkpoints.mirror([["a", "b"]])
    node.train(7, "a", slot=1)
    node.checkpoints.mirror([["a", "b"], ["a"]])
    node.train(1, "z", slot=2)
    node.checkpoints.mirror([["a", "b"], ["z"]])
    assert node.at_home() == {"population.0.pt": "3 ab", "population.1.pt": "1 z"}


def test_nothing_is_mirrored_before_home_knows_what_it_is(node: Node) -> None:
    node.train(1, "a")
    with hooked(failing(errno.EROFS)):
        node.reporter.report("note")
        with pytest.raises(OSError, match="event stream"):
            node.checkpoints.mirror([["a"]])
    assert node.at_home() == {}
    node.checkpoints.mirror([["a"]])
    assert node.at_home() == {"population.0.pt": "1 a"}
    assert [event["event"] for event in read_events(node.stream)[0]] == ["checkpoint", "note", "mirrored"]


def test_a_file_that_the_trainer_has_just_replaced_is_left_for_its_next_event(node: Node) -> None:
    node.train(1, "a")
    (node.here / "population.0.pt").write_text("2 a")  # whose event has not come yet
    node.checkpoints.mirror([["a"]])
    assert node.at_home() == {} and node.mirrored() == []
    node.train(2, "a")
    assert not node.checkpoints.is_home([["a"]])
    node.checkpoints.mirror([["a"]])
    assert node.at_home() == {"population.0.pt": "2 a"}


def test_what_scratch_has_lost_is_not_waited_for_and_the_next_older_comes_home(node: Node) -> None:
    node.train(1, "a", slot=0)
    node.train(2, "a", slot=1)
    (node.here / "population.1.pt").unlink()
    for _ in range(2):
        assert not node.checkpoints.is_home([["a"]])
        node.checkpoints.mirror([["a"]])
    assert node.at_home() == {"population.0.pt": "1 a"} and node.checkpoints.is_home([["a"]])


def test_a_checkpoint_that_home_cannot_hold_is_not_forgotten(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.train(1, "a")
    real = checkpoints.copy_verified

    def damage(source: Path, target: Path, *, sha256: str) -> str:
        raise BandError(f"{target}: the copy of {source} reads back differently")

    monkeypatch.setattr(checkpoints, "copy_verified", damage)
    node.checkpoints.mirror([["a"]])
    assert not node.checkpoints.is_home([["a"]])
    monkeypatch.setattr(checkpoints, "copy_verified", real)
    node.checkpoints.mirror([["a"]])
    assert node.at_home() == {"population.0.pt": "1 a"}


def seeded(node: Node, runs: str, folder: Path) -> tuple[int, list[str]]:
    folder.mkdir()
    step = node.checkpoints.seed(folder, runs=list(runs))
    return step, [path.read_text() for path in sorted(folder.iterdir())]


def test_a_trainer_starts_with_the_two_newest_checkpoints_that_have_all_its_runs(node: Node, tmp_path: Path) -> None:
    assert seeded(node, "ab", tmp_path / "none") == (-1, [])
    for slot, step in enumerate((2, 5, 3)):
        node.train(step, "ab", slot=slot)
    node.train(8, "a", slot=3)
    assert seeded(node, "ab", tmp_path / "first") == (5, ["5 ab", "3 ab"])
    assert seeded(node, "a", tmp_path / "second") == (8, ["8 a", "5 ab"])
    for copy in ("first", "second"):
        (tmp_path / copy / "population.0.pt").write_text("damaged")
    (node.here / "population.1.pt").write_text("damaged")
    assert seeded(node, "ab", tmp_path / "third") == (5, ["5 ab", "3 ab"])  # from the copy in "second"
    assert node.checkpoints.newest_step("ab") == 8


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("damaged")])
def test_a_checkpoint_that_was_damaged_since_makes_way_for_the_next(node: Node, tmp_path: Path, damage: Any) -> None:
    for slot, step in enumerate((4, 2, 3)):
        node.train(step, "a", slot=slot)
    damage(node.here / "population.0.pt")
    assert seeded(node, "a", tmp_path / "folder") == (3, ["3 a", "2 a"])


def test_what_earlier_attempts_left_here_and_at_home_counts_if_a_trainer_vouched_for_it(
    node: Node, tmp_path: Path
) -> None:
    node.train(1, "a")
    node.train(2, "a", slot=1)
    node.checkpoints.mirror([["a"]])
    (node.here / "checkpoints.jsonl").write_text(
        "rubbish\n" + json.dumps({"event": "checkpoint", "step": "x", "sha256": "0", "runs": []}) + "\n"
        '{"event": "checkpoint", "step": 1e999, "sha256": "0", "runs": []}\n'
    )
    (node.here / "population.1.pt").unlink()
    (node.here / "population.7.pt").write_text("unknown")
    (node.here / "population.7.pt.old").write_text("no checkpoint")
    later = node.checkpoints = node.attempt()
    later.learn(read_events(node.stream)[0])
    assert later.newest_step("a") == -1
    digest = sha256_file(node.here / "population.7.pt")
    later.learn({"event": name, "step": 9, "sha256": digest, "runs": ["a"]} for name in ("a", "z"))  # no checkpoints
    later.look_at(node.here)
    assert later.newest_step("a") == 1
    later.look_at_home()
    assert later.newest_step("a") == 2
    assert seeded(node, "a", tmp_path / "folder") == (2, ["2 a", "1 a"])
    later.clear_home()
    assert node.at_home() == {} and later.is_home([["z"]])


def test_copies_that_were_cleared_away_come_home_anew_though_somebody_had_deleted_one(node: Node) -> None:
    for step in (1, 2):
        node.train(step, "a", slot=step % 2)
        node.checkpoints.mirror([["a"]])
    next(node.home.path.iterdir()).unlink()
    node.checkpoints.clear_home()
    assert node.at_home() == {} and not node.checkpoints.is_home([["a"]])
    node.checkpoints.mirror([["a"]])
    assert list(node.at_home().values()) == ["2 a"]


def test_a_checkpoint_whose_line_came_before_the_trainer_died_is_found_without_its_event(
    node: Node, tmp_path: Path
) -> None:
    path = node.here / "population.1.pt"
    path.write_text("4 a")
    line = {"event": "checkpoint", "step": 4, "sha256": sha256_file(path), "runs": ["a"], "slot": 1}
    (node.here / "checkpoints.jsonl").write_text(json.dumps(line) + "\n")
    node.checkpoints.look_at(node.here)
    assert seeded(node, "a", tmp_path / "folder") == (4, ["4 a"])


@pytest.mark.parametrize("wrong", [{"runs": 3}, {"runs": None}, {"runs": [["a"]]}, {"step": "last"}, {"slot": "first"}])
def test_a_trainers_word_of_a_checkpoint_that_makes_no_sense_is_passed_on_and_not_counted_on(
    node: Node, wrong: dict[str, Any]
) -> None:
    node.train(1, "a")
    event = {"t": 2.0, "event": "checkpoint", "step": 5, "slot": 1, "sha256": "0" * 64, **wrong}
    node.checkpoints.add(event, folder=node.here, runs=["a"])
    assert node.told[-1] == {"runs": ["a"], **event}
    assert node.checkpoints.newest_step("a") == 1


def test_streams_come_in_the_order_of_their_claims_those_of_judges_first(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path / "sweep")
    sweep.events.mkdir(parents=True)
    for attempt, claims in {"a": [None, 1], "b": [3, 99], "c": ["x", 4], "d": [], "e": ["x"], "f": [2]}.items():
        events = [{"t": 1.0, "event": attempt, **({} if claim is None else {"claim": claim})} for claim in claims]
        lines = [json.dumps(event) + "\n" for event in events or [{"t": 1.0, "event": attempt}]]
        sweep.event_file("0001", attempt=attempt).write_text("".join(lines))
    sweep.event_file("0002", attempt="g").write_text('{"t": 1.0, "event": "g", "claim": 1}\n')
    job: Any = SimpleNamespace(task=SimpleNamespace(name="0001"), sweep=sweep)
    assert "".join(events[0]["event"] for events in task_events(job)) == "deafbc"
