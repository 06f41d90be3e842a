"""States of runs from hand-made folders: events, claims, requests and a scheduler that says what it is told."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_sweep import make_sweep
from signed import signed

from band.errors import SweepError
from band.files import append_line, canonical_json
from band.run_dir import EventWriter, SweepDir, seal
from band.sweep.control import match_runs, retry
from band.sweep.fold import AttemptFold, by_task, fold_stream, index_line, read_folds
from band.sweep.ledger import fold_intents, new_task, read_intents, record
from band.sweep.manifest import read_manifest
from band.sweep.status import STATES, Survey, TaskState, states, take_survey

SEAL = {"schema": 1, "training": {"outcome": "diverged"}}


@dataclass
class Told:
    """A scheduler that says what it is told."""

    answers: Mapping[str, str] = field(default_factory=dict)

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        return {task: TaskState(state=state) for task, state in self.answers.items() if task in tasks}

    def endings(self, tasks: Mapping[str, object]) -> Mapping[str, TaskState]:
        return {}


def sweep_of(folder: Path, *runs: str) -> SweepDir:
    return make_sweep(folder, {run: {} for run in runs}).sweep


def survey(sweep: SweepDir, **answers: str) -> Survey:
    return take_survey(sweep, read_manifest(sweep.path), scheduler=Told({k.lstrip("t"): v for k, v in answers.items()}))


def submit(sweep: SweepDir, *runs: str) -> str:
    task = new_task(sweep)
    record(sweep, "submit", runs=runs, tasks={task: runs})
    return task


def tell(sweep: SweepDir, task: str, attempt: str, *events: tuple[str, dict[str, Any]]) -> None:
    writer = EventWriter(sweep.event_file(task, attempt=attempt))
    for name, fields in events:
        assert writer.write(name, **fields)


def publish(sweep: SweepDir, run: str) -> None:
    sweep.run(run).mkdir(parents=True)
    seal(sweep.run(run), result={**SEAL, "run_id": run})


STARTED = ("started", {"runs": ["a", "b"], "step": 0})
FAILED = ("failed", {"runs": ["a"], "error": "ValueError", "message": "no", "traceback": "…"})


@pytest.mark.parametrize(
    ("events", "scheduled", "expected"),
    [
        ([], {}, {"a": "new", "b": "new"}),
        ([], {"t0001": "queued"}, {"a": "queued", "b": "queued"}),
        ([], {"t0001": "held"}, {"a": "held", "b": "held"}),
        ([], {"t0001": "planned"}, {"a": "planned", "b": "planned"}),
        ([], {"t0001": "lost"}, {"a": "lost", "b": "lost"}),
        ([], {"t0001": "submit_unknown"}, {"a": "submit_unknown", "b": "submit_unknown"}),
        ([], {"t0001": "running"}, {"a": "running", "b": "running"}),
        ([STARTED], {"t0001": "running"}, {"a": "running", "b": "running"}),
        ([STARTED], {}, {"a": "interrupted", "b": "interrupted"}),
        ([STARTED], {"t0001": "queued"}, {"a": "interrupted", "b": "interrupted"}),
        ([STARTED, FAILED], {"t0001": "running"}, {"a": "failed", "b": "running"}),
        ([STARTED, FAILED, ("ended", {"code": 1})], {}, {"a": "failed", "b": "interrupted"}),
        ([STARTED, ("run_finished", {"run": "a", "outcome": "ok"})], {}, {"a": "unsynced", "b": "interrupted"}),
        ([STARTED, ("run_finished", {"run": "a"})], {"t0001": "running"}, {"a": "running", "b": "running"}),
        ([("failed", {**FAILED[1], "runs": ["a", "b"]})], {}, {"a": "failed", "b": "failed"}),
        (
            [STARTED, ("split", {"runs": ["a", "b"], "parts": [["a"], ["b"]]})],
            {},
            {"a": "interrupted", "b": "interrupted"},
        ),
    ],
)
def test_a_run_is_in_the_first_state_that_holds(
    tmp_path: Path, events: list[Any], scheduled: dict[str, str], expected: dict[str, str]
) -> None:
    sweep = sweep_of(tmp_path, "a", "b")
    tell(sweep, submit(sweep, "a", "b"), "one", *events)
    assert {run: status.state for run, status in survey(sweep, **scheduled).runs.items()} == expected


def test_attempts_follow_each_other_by_their_claims_where_the_clocks_of_their_nodes_differ(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a")
    task, started = submit(sweep, "a"), {"event": "started", "runs": ["a"], "step": 0}
    first = [{"event": "claimed", "claim": 0}, started, {"event": "interrupted", "reason": "x"}]
    second = [{"event": "claimed", "claim": 1}, started, {**FAILED[1], "event": "failed"}]
    sweep.events.mkdir()
    for attempt, events, code, ahead_s in (("j7_0-r0", first, 4, 240.0), ("j7_0-r1", second, 1, 60.0)):
        for event in [*events, {"event": "ended", "code": code}]:
            append_line(sweep.event_file(task, attempt=attempt), {"t": 1000.0 + ahead_s, **event})
    tell(sweep, task, "rescue-x", ("ended", {"code": 0}))  # one that has no claim stands where its time puts it
    found = survey(sweep)
    assert [fold.attempt for fold in by_task(found.folds.values())[task]] == ["j7_0-r0", "j7_0-r1", "rescue-x"]
    assert found.runs["a"].state == "failed" and found.runs["a"].error == "ValueError"


def test_what_is_published_is_published_whatever_else_is_said(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a", "b")
    tell(sweep, submit(sweep, "a", "b"), "one", STARTED, FAILED)
    record(sweep, "cancel", runs=["a"])
    publish(sweep, "a")
    found = survey(sweep, t0001="running").runs["a"]
    assert (found.state, found.outcome, found.error) == ("published", "diverged", "")


def test_a_run_on_its_way_in_is_not_published(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a")
    sweep.incoming_run("a", attempt="one").mkdir(parents=True)
    assert survey(sweep).runs["a"].state == "new"


def test_cancelled_stays_cancelled_until_it_is_retried(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a", "b")
    tell(sweep, submit(sweep, "a", "b"), "one", STARTED, ("interrupted", {"reason": "SIGTERM"}), ("ended", {"code": 4}))
    record(sweep, "cancel", runs=["a"])
    assert [survey(sweep, t0001="queued").runs[run].state for run in "ab"] == ["cancelled", "interrupted"]
    submit(sweep, "b")
    assert survey(sweep).runs["a"].state == "cancelled"
    record(sweep, "retry", runs=["a"])
    assert survey(sweep).runs["a"].state == "interrupted"
    record(sweep, "cancel", runs=["a"])
    assert survey(sweep).runs["a"].state == "cancelled"


def test_a_retry_forgives_the_failures_it_names_and_no_later_one(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a", "b")
    task = submit(sweep, "a", "b")
    tell(sweep, task, "one", STARTED, FAILED, ("ended", {"code": 1}))
    record(sweep, "retry", runs=["a"], failures={"a": [f"{task}.one"]})
    assert survey(sweep).runs["a"].state == "interrupted"
    tell(sweep, task, "two", STARTED, FAILED, ("ended", {"code": 1}))
    assert survey(sweep).runs["a"].state == "failed"


def test_a_failed_member_that_a_later_attempt_leaves_out_stays_failed(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a", "b")
    task = submit(sweep, "a", "b")
    tell(sweep, task, "one", STARTED, FAILED)
    tell(sweep, task, "two", ("started", {"runs": ["b"], "step": 7}))
    assert [survey(sweep, t0001="running").runs[run].state for run in "ab"] == ["failed", "running"]


def test_retired_runs_are_kept_apart_and_not_waited_for(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a", "b")
    head, first, second = sweep.manifest.read_text().splitlines()
    retired = second.replace('"retired": false', '"retired": true')
    sweep.manifest.write_text(signed("\n".join([head, first, retired])))
    publish(sweep, "a")
    found = survey(sweep)
    assert found.runs["b"].state == "retired" and found.is_complete


def test_counts_come_in_the_order_of_the_states_and_add_up(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a", "b", "c")
    publish(sweep, "c")
    tell(sweep, submit(sweep, "a", "b"), "one", STARTED, FAILED)
    counts = survey(sweep, t0001="running").counts()
    assert counts == {"published": 1, "running": 1, "failed": 1}
    assert list(counts) == [state for state in STATES if state in counts]
    assert states(sweep, read_manifest(sweep.path), scheduler=Told()) == {
        "a": "failed",
        "b": "interrupted",
        "c": "published",
    }


# --- how Slurm ended a job


@dataclass
class Ended:
    """A scheduler whose one job is over."""

    found: TaskState

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        return {"0001": TaskState(job=self.found.job, end=self.found.end)}

    def endings(self, tasks: Mapping[str, object]) -> Mapping[str, TaskState]:
        return dict.fromkeys(tasks, self.found)


INTERRUPTED = [("interrupted", {"reason": "SIGTERM"}), ("ended", {"code": 4})]
FINISHED = ("run_finished", {"run": "a", "outcome": "ok"})


@pytest.mark.parametrize(
    ("events", "found", "expected", "error"),
    [
        ([], {"end": "TIMEOUT"}, "failed failed", "TimeLimit"),
        ([STARTED], {"end": "TIMEOUT"}, "failed failed", "TimeLimit"),
        ([STARTED], {"end": "OUT_OF_MEMORY"}, "failed failed", "OutOfMemory"),
        ([STARTED, FINISHED], {"end": "OUT_OF_MEMORY"}, "unsynced failed", ""),
        ([STARTED, FAILED], {"end": "OUT_OF_MEMORY"}, "failed failed", "ValueError"),
        ([], {"end": "FAILED", "last_line": "module: not found"}, "failed failed", "Died"),
        ([STARTED], {"end": "FAILED", "exit_code": 75}, "unsynced unsynced", ""),
        ([STARTED], {"end": "NODE_FAIL"}, "interrupted interrupted", ""),
        ([], {"end": "NODE_FAIL"}, "lost lost", ""),
        ([], {"end": "PREEMPTED"}, "lost lost", ""),
        ([STARTED, *INTERRUPTED], {"end": "FAILED", "exit_code": 4}, "interrupted interrupted", ""),
        ([STARTED, *INTERRUPTED], {"end": "CANCELLED", "state": "cancelled"}, "cancelled cancelled", ""),
        ([STARTED, FAILED], {"end": "CANCELLED", "state": "cancelled"}, "failed cancelled", "ValueError"),
        ([STARTED, FAILED], {"state": "lost"}, "failed lost", "ValueError"),
        ([STARTED], {"end": "TIMEOUT", "state": "planned"}, "interrupted interrupted", ""),
        ([], {"end": "TIMEOUT", "state": "planned"}, "planned planned", ""),
    ],
)
def test_how_slurm_ended_a_job_that_left_no_word_decides(
    tmp_path: Path, events: list[Any], found: dict[str, Any], expected: str, error: str
) -> None:
    sweep = sweep_of(tmp_path, "a", "b")
    tell(sweep, submit(sweep, "a", "b"), "j7_0-r0", *events)
    ended = Ended(TaskState(job="7_0", node="c1", words=str(found.get("end", "")), **found))
    runs = take_survey(sweep, read_manifest(sweep.path), scheduler=ended).runs
    assert " ".join(status.state for status in runs.values()) == expected
    assert runs["a"].error == error and runs["a"].job == "7_0"
    assert "module: not found" in runs["a"].message or "last_line" not in found


def test_a_retry_forgives_what_slurm_did_to_a_job_and_no_later_job(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a", "b")
    task = submit(sweep, "a", "b")
    tell(sweep, task, "j7_0-r0", STARTED)
    tell(sweep, task, "closing-0001-1", ("failed", {"runs": ["a"], "error": "TimeLimit", "message": "no"}))
    for job, state in (("7_0", "interrupted"), ("8_0", "failed")):
        ended = Ended(TaskState(job=job, end="TIMEOUT"))
        before = take_survey(sweep, read_manifest(sweep.path), scheduler=ended)
        if job == "7_0":
            assert retry(sweep, before, runs=["a", "b"]) == ["a", "b"]
        after = take_survey(sweep, read_manifest(sweep.path), scheduler=ended)
        assert [status.state for status in after.runs.values()] == [state, state]


# --- folding

RUN_IDS = st.sampled_from(["a", "b", "c"])
SOME = st.lists(RUN_IDS, min_size=1, max_size=3, unique=True)


def epoch_event(runs: list[str], epoch: int) -> dict[str, Any]:
    return {"event": "epoch", "runs": {run: {"epoch": epoch, "max_epochs": 9} for run in runs}, "steps_per_s": 2.0}


EVENT = st.one_of(
    st.builds(lambda runs, step: {"event": "started", "runs": runs, "step": step}, SOME, st.integers(0, 99)),
    st.builds(epoch_event, SOME, st.integers(0, 9)),
    st.builds(lambda run: {"event": "published", "run": run, "outcome": "ok"}, RUN_IDS),
    st.builds(lambda runs: {"event": "failed", "runs": runs, "error": "E", "message": "m"}, SOME),
    st.builds(lambda step: {"event": "checkpoint", "step": step}, st.integers(0, 99)),
    st.just({"event": "of a later release", "runs": 7}),
    st.just({"event": "epoch", "runs": None}),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(EVENT, max_size=20), st.lists(st.integers(0, 3000), max_size=5))
def test_a_stream_read_in_pieces_comes_to_the_same_as_read_at_once(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, Any]], cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("stream") / "0001.one.jsonl"
    data = b"".join(canonical_json({**event, "t": 100.0 + n}) + b"\n" for n, event in enumerate(events))
    pieces = AttemptFold("0001", "one")
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        fold_stream(path, fold=pieces)
    path.write_bytes(data)
    fold_stream(path, fold=pieces)
    whole = AttemptFold("0001", "one")
    fold_stream(path, fold=whole)
    oracle = AttemptFold("0001", "one", offset=len(data))
    for line in data.splitlines():
        try:
            oracle.add(json.loads(line))
        except (AttributeError, TypeError):
            continue
    for fold in (whole, oracle):
        assert pieces.epochs.keys() == fold.epochs.keys() or any(e["event"] == "epoch" for e in events)
        assert (pieces.phases, pieces.failures, pieces.outcomes) == (fold.phases, fold.failures, fold.outcomes)
        assert (pieces.checkpoint_step, pieces.offset, pieces.first_t) == (
            fold.checkpoint_step,
            fold.offset,
            fold.first_t,
        )


def test_progress_and_pace_are_those_of_the_newest_epoch(tmp_path: Path) -> None:
    path = tmp_path / "0001.one.jsonl"
    lines = [
        {"event": "epoch", "runs": {"a": {"epoch": n, "max_epochs": 100}}, "steps_per_s": 1.0, "t": 1000.0 + 2 * n}
        for n in range(1, 41)
    ]
    path.write_bytes(b"".join(canonical_json(line) + b"\n" for line in lines) + b'{"event":"epo')
    fold = AttemptFold("0001", "one")
    fold_stream(path, fold=fold)
    assert fold.epochs["a"] == [40, 100] and fold.epochs_per_s("a") == pytest.approx(0.5)


def test_garbage_in_a_stream_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "0001.one.jsonl"
    path.write_bytes(
        b'\xff\xfe\n[1]\n{"event":"started"}\n{"t":1,"event":"started","runs":["a"],"step":0}\n{"event":1}\n'
    )
    fold = AttemptFold("0001", "one")
    fold_stream(path, fold=fold)
    assert fold.phases == {"a": "started"}


def test_the_index_stands_for_the_streams_of_ended_attempts(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a", "b")
    task = submit(sweep, "a", "b")
    tell(sweep, task, "one", STARTED, FAILED, ("ended", {"code": 1}))
    folds = read_folds(sweep)
    sweep.index.mkdir()
    (sweep.index / "0001.jsonl").write_bytes(canonical_json(index_line(folds[f"{task}.one"])) + b"\n[broken")
    sweep.event_file(task, attempt="one").write_bytes(b"")
    assert survey(sweep).runs["a"].message == "no"


# --- requests


def test_requests_get_numbers_of_their_own_and_an_unfinished_one_does_not_count(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a")
    first, second = record(sweep, "cancel", runs=["a"]), record(sweep, "retry", runs=["a"])
    (sweep.submissions / "0003").mkdir()
    assert [intent.number for intent in read_intents(sweep)] == ["0001", "0002"] == [first.number, second.number]
    assert record(sweep, "cancel", runs=["a"]).number == "0004"
    assert fold_intents(read_intents(sweep)).cancelled == {"a"}


def test_a_damaged_request_is_named(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "a")
    record(sweep, "cancel", runs=["a"])
    path = sweep.submission("0001") / "intent.json"
    for content in ("{", "[]", "{}", '{"action": 1}'):
        path.write_text(content)
        with pytest.raises(SweepError, match=str(path)):
            read_intents(sweep)


def test_runs_are_named_by_id_by_beginning_or_by_pattern(tmp_path: Path) -> None:
    manifest = read_manifest(sweep_of(tmp_path, "lfads-s0-ab", "lfads-s1-cd", "band-s0-ef").path)
    assert match_runs(manifest, ["band", "lfads-s0-ab"]) == ["lfads-s0-ab", "band-s0-ef"]
    assert match_runs(manifest, ["*-s0-*"]) == ["lfads-s0-ab", "band-s0-ef"]
    with pytest.raises(SweepError, match="begins 2 run ids"):
        match_runs(manifest, ["lfads"])
    with pytest.raises(SweepError, match="no run of demo is named 'gru'"):
        match_runs(manifest, ["gru"])


# --- commands


def test_status_as_json_says_what_the_text_says(tmp_path: Path) -> None:
    local = make_sweep(tmp_path, {"a": {}, "b": {}, "c": {}})
    task = submit(local.sweep, "a", "b", "c")
    message = {"error": "ValueError", "message": "bad \x1b[31m value 17", "traceback": ""}
    tell(local.sweep, task, "one", *(("failed", {"runs": [run], **message}) for run in "ab"), ("ended", {"code": 1}))
    values = json.loads(local.band_sweep("status", "--json", code=4))
    assert values["counts"] == {"failed": 2, "new": 1} and values["runs"]["a"]["state"] == "failed"
    assert values["failures"][0]["runs"] == ["a", "b"] and values["queue"] is None
    text = local.band_sweep("status", code=4)
    assert "2 runs: ValueError: bad \\x1b[31m value 17" in text and "\x1b" not in text


def test_status_of_ten_thousand_runs_is_quick(tmp_path: Path) -> None:
    local = make_sweep(tmp_path, {f"run-{n:05d}": {"hyper.lr": 1e-3, "seed": n} for n in range(10_000)})
    sweep = local.sweep
    tasks = {f"{n // 8:04d}": [f"run-{m:05d}" for m in range(n, n + 8)] for n in range(0, 10_000, 8)}
    record(sweep, "submit", tasks=tasks, runs=[run for runs in tasks.values() for run in runs])
    sweep.runs.mkdir()
    for runs in list(tasks.values())[:625]:
        for run in runs:
            (sweep.runs / run).mkdir()
    sweep.index.mkdir()
    with (sweep.index / "0001.jsonl").open("wb") as file:
        for task, runs in list(tasks.items())[:625]:
            fold = AttemptFold(
                task, "one", phases=dict.fromkeys(runs, "published"), outcomes=dict.fromkeys(runs, "ok"), code=0
            )
            file.write(canonical_json(index_line(fold)) + b"\n")
    for task, runs in list(tasks.items())[625:660]:
        epochs = [
            ("epoch", {"runs": {run: {"epoch": n, "max_epochs": 700} for run in runs}, "steps_per_s": 1.0})
            for n in range(20)
        ]
        tell(sweep, task, "one", ("started", {"runs": runs, "step": 0}), *epochs)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "band.cli.sweep", "status", str(sweep.path)]
    done = subprocess.run(command, env=dict(local.environment), capture_output=True, text=True, timeout=60)
    assert "published        5000" in done.stdout and "interrupted       280" in done.stdout, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU time: the machine may have other things to do meanwhile.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_the_commands_start_without_torch_numpy_submitit_or_rich(tmp_path: Path) -> None:
    local = make_sweep(tmp_path, {"a": {}})
    code = (
        "import sys; from band.cli.sweep import main; main(sys.argv[1:]); "
        "print(sorted(set(sys.modules) & {'torch', 'numpy', 'h5py', 'submitit', 'rich', 'omegaconf'}))"
    )
    for command in (["status"], ["submit", "--dry-run"], ["cancel", "a"], ["retry", "a"]):
        arguments = [sys.executable, "-c", code, command[0], str(local.sweep.path), *command[1:]]
        done = subprocess.run(arguments, env=dict(local.environment), capture_output=True, text=True, timeout=30)
        assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
